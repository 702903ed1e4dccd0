"""`trendcast ingest`."""

import os
import signal

import typer

from streaming.commands import load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Workers")(ingest)


def ingest() -> None:
    """Count orders and clicks into Redis, exactly once. Any number of these may run; partitions are shared out among them.

    Ends on SIGTERM or Ctrl-C with status 0, and with status 1 where it cannot go on: start it again then, it resumes from what Redis holds.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the worker is loaded there is nothing to end
    settings = load_settings()
    from streaming.ingest import CONDITIONS, IngestWorker
    from streaming.worker import run_worker

    raise typer.Exit(run_worker(settings, "ingest", IngestWorker, CONDITIONS))
