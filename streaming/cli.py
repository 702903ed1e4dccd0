"""`trendcast`: the command line. Exit status 0 done, 1 something failed, 2 wrong use."""

import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Final

import typer

from streaming.errors import UserError

# In the order of the help; each module of streaming.commands has `register(app)`.
COMMANDS: Final = (
    "demo",
    "stack",
    "topics",
    "check",
    "ingest",
    "forecast",
    "gateway",
    "shadow",
    "simulate",
    "replay",
    "train",
    "bench",
    "backtest",
    "tune",
    "fitnowcast",
    "retrain",
    "models",
    "features",
    "explain",
    "export",
    "deadletters",
    "acceptgap",
    "schemas",
)

HELP: Final = """
Streaming forecaster of product demand: orders and clicks in from Kafka, exact features in Redis, forecasts and alerts out to Kafka.

[bold]trendcast demo[/bold] shows all of it on this machine. For your own Kafka and Redis: set TRENDCAST_KAFKA_BOOTSTRAP and TRENDCAST_REDIS_URL,
then [bold]trendcast check[/bold], [bold]trendcast topics create[/bold], [bold]trendcast ingest[/bold] and [bold]trendcast forecast[/bold].

Exit status: 0 done, 1 something failed, 2 wrong use.
"""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trendcast {version('trendcast')}")
        raise typer.Exit


def build() -> typer.Typer:
    """The command line with every command."""
    app = typer.Typer(
        name="trendcast",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,  # its tracebacks show variables, and those may hold secrets
        add_completion=False,
    )

    @app.callback()
    def options(
        _version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
        ] = False,
    ) -> None:
        pass

    for name in COMMANDS:
        if find_spec(f"streaming.commands.{name}") is not None:
            import_module(f"streaming.commands.{name}").register(app)
    return app


def main() -> None:
    """Entry point of the `trendcast` script."""
    try:
        build()(prog_name="trendcast")
    except UserError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
