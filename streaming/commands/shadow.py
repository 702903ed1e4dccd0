"""`trendcast shadow`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from streaming.commands import load_settings
from streaming.commands.models import registered
from streaming.commands.recording import registry
from streaming.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Workers")(shadow)


def shadow(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A directory, NAME/NUMBER, or the version's hexadecimal digits.")],
) -> None:
    """Run a challenger beside the model that serves, and tell how good its forecasts would have been: scores and metrics, nothing else.

    One process follows the whole shop. Reads Redis and writes nothing there. Ends on SIGTERM or Ctrl-C with status 0, and with status 1 where it cannot go on.
    """
    settings = load_settings()
    directory = Path(model) if Path(model).is_dir() else _files(model)
    from streaming.shadow import CONDITIONS, ShadowWorker
    from streaming.worker import run_worker

    raise typer.Exit(run_worker(settings, "shadow", partial(ShadowWorker, directory=directory), CONDITIONS, consumes=False))


def _files(model: str) -> Path:
    from models.registry import NoRegistry

    record = registry()
    try:
        return record.files(registered(record, model))
    except NoRegistry as error:
        raise UserError(str(error)) from error
