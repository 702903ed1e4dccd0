"""`trendcast forecast`."""

import typer

from streaming.commands import load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Workers")(forecast)


def forecast() -> None:
    """Keep forecasts and alerts up to date. Any number of these may run; shards are shared out among them.

    Ends on SIGTERM or Ctrl-C with status 0, and with status 1 where it cannot go on: start it again then, Redis knows what is to be done.
    """
    settings = load_settings()
    from streaming.forecast import CONDITIONS, ForecastWorker
    from streaming.worker import run_worker

    raise typer.Exit(run_worker(settings, "forecast", ForecastWorker, CONDITIONS))
