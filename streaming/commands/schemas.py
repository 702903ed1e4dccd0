"""`trendcast schemas OUT`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Set-up")(schemas)


def schemas(out: Annotated[Path, typer.Argument(help="Folder to write into; made where it does not exist.", file_okay=False)]) -> None:
    """Write the JSON Schemas of all messages and the AsyncAPI document."""
    import streaming.schemas as generated

    for path in generated.write(out):
        typer.echo(path)
