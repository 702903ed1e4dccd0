"""`trendcast gateway`."""

import typer

from streaming.commands import load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Workers")(gateway)


def gateway() -> None:
    """Serve what is known now over HTTP: snapshots, a live stream, and the dashboard. Any number of these may run; each of them knows everything.

    Ends on SIGTERM or Ctrl-C with status 0, and with status 1 where it cannot go on: start it again then, it reads its topics anew.
    """
    settings = load_settings()
    from gateway.server import run
    from streaming import logs

    logs.configure(settings.log_level)
    raise typer.Exit(run(settings))
