"""How the long-running processes log: one line an event on standard error, JSON, or plain text on a terminal."""

import functools
import logging
import sys
from typing import Any

import structlog


def configure(level: str, expected: tuple[type[BaseException], ...] = ()) -> None:
    """From now on. Libraries speak from warnings on, but not of `expected` errors, which the process tells itself at its end."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    render = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, last]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=render))
    handler.addFilter(functools.partial(_is_news, expected))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger("trendcast").setLevel(level.upper())
    logging.getLogger("mode.timers").setLevel(logging.ERROR)  # complains of every timer that a busy machine delays


def _is_news(expected: tuple[type[BaseException], ...], record: logging.LogRecord) -> bool:
    """Faust logs an error with its traceback at every service that it passes; ours is logged once, at the end.

    Nor is it news that a thread of Faust's, which such an error has ended, cannot be told to end.
    """
    error = record.exc_info[1] if record.exc_info else None
    ended = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    return record.name == "trendcast" or not (ended or isinstance(error, expected))
