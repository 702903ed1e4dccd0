"""`trendcast export features OUT.parquet`."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.commands import load_settings
from streaming.errors import UserError

if TYPE_CHECKING:
    from streaming.export import Exported


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="What is stored, as files.", no_args_is_help=True)

    @group.callback()
    def export() -> None:
        pass

    group.command("features")(export_features)
    app.add_typer(group, name="export", rich_help_panel="Operators")


def export_features(
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="File to write; one that is there is replaced.", dir_okay=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON: rows, and the totals of all measures.")] = False,
) -> None:
    """Write all products' closed steps, and the tiles of steps that are not closed yet, without overlap.

    Columns: product_id, start_ms, end_ms, closed, units, orders, revenue, cancelled_units, returned_units, views, carts, uncarts, favourites,
    netted_units, netted_orders, in natural units. Rows come by shard, product and time. Workers may go on meanwhile: each product is seen as it is
    at one moment.
    """
    settings = load_settings()
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent}")
    from rich.console import Console
    from rich.progress import Progress

    from streaming import export
    from streaming.operators import opened

    console = Console(stderr=True)

    async def go() -> "Exported":
        async with opened(settings) as store:
            with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
                task = bars.add_task("exporting", total=1.0)
                return await export.export_features(store, settings, out, lambda share: bars.update(task, completed=share))

    exported = asyncio.run(go())
    if as_json:
        typer.echo(json.dumps(exported.summary(), ensure_ascii=False))
    else:
        typer.echo(
            f"{exported.products} products: {exported.closed_steps} closed steps and {exported.open_tiles} open tiles written to {out}"
        )
