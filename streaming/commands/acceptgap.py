"""`trendcast accept-gap`."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.commands import load_settings
from streaming.errors import UserError

if TYPE_CHECKING:
    from streaming.gaps import Loss


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("accept-gap", rich_help_panel="Operators")(accept_gap)


def accept_gap(yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False) -> None:
    """Go on where records were lost before they were counted: deleted from a log, or lost with its end.

    `trendcast ingest` stops at such a gap, because its sums would be wrong without anybody's knowing. This shows each gap, asks, notes it in Redis,
    moves the position of the source, and forecasts say `quality: gap` until no stored step can lack the lost records. Start the workers again then.
    """
    settings = load_settings()
    from streaming import gaps
    from streaming.operators import moment_text, opened

    async def look() -> "tuple[list[Loss], int]":
        async with opened(settings) as store:
            return await gaps.find(store, settings)

    async def accept(found: "list[Loss]") -> "list[Loss]":
        async with opened(settings) as store:
            return [loss for loss in found if not await gaps.accept(store, settings, loss)]

    found, sources = asyncio.run(look())
    if not found:
        typer.echo(f"nothing to do: the next record of each of the {sources} sources is in its log, or yet to come")
        return
    for loss in found:
        typer.echo(loss)
    until_ms = [until for loss in found if (until := gaps.gap_until_ms(loss, settings.step_retention_ms)) is not None]
    if until_ms:
        typer.echo(f"Forecasts will say quality: gap until {moment_text(max(until_ms))} of event time.")
    if not yes:
        typer.confirm("Accept that these records are lost?", abort=True)
    if moved := asyncio.run(accept(found)):
        names = ", ".join(loss.name for loss in moved)
        raise UserError(
            f"{names}: counting went on meanwhile, so that some shards were left as they were; run `trendcast accept-gap` again"
        )
    typer.echo(f"accepted {len(found)} {'gap' if len(found) == 1 else 'gaps'}; start workers that have stopped again")
