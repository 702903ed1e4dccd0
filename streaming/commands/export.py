"""`trendcast export features OUT.parquet`, `forecasts OUT.parquet`, `facts OUT.jsonl` and `context OUT.jsonl`."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.commands import load_settings
from streaming.errors import UserError

if TYPE_CHECKING:
    from streaming.export import Exported
    from streaming.export_forecasts import ExportedForecasts

Out = Annotated[Path, typer.Argument(metavar="OUT.parquet", help="File to write; one that is there is replaced.", dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="What is stored, as files.", no_args_is_help=True)

    @group.callback()
    def export() -> None:
        pass

    group.command("features")(export_features)
    group.command("forecasts")(export_forecasts)
    group.command("facts")(export_facts)
    group.command("context")(export_context)
    app.add_typer(group, name="export", rich_help_panel="Operators")


def export_features(
    out: Out,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON: rows, and the totals of all measures.")] = False,
) -> None:
    """Write all products' closed steps, and the tiles of steps that are not closed yet, without overlap.

    Columns: product_id, start_ms, end_ms, closed, units, orders, revenue, cancelled_units, returned_units, views, carts, uncarts, favourites,
    netted_units, netted_orders, in natural units. Rows come by shard, product and time. Workers may go on meanwhile: each product is seen as it is
    at one moment.
    """
    settings = load_settings()
    _need_folder(out)
    from streaming import export
    from streaming.operators import opened

    async def go() -> "Exported":
        async with opened(settings) as store:
            with _progress() as update:
                return await export.export_features(store, settings, out, update)

    exported = asyncio.run(go())
    if as_json:
        typer.echo(json.dumps(exported.summary(), ensure_ascii=False))
    else:
        typer.echo(
            f"{exported.products} products: {exported.closed_steps} closed steps and {exported.open_tiles} open tiles written to {out}"
        )


def export_forecasts(
    out: Out,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON: products, rows, model, as-of.")] = False,
) -> None:
    """Write the forecasts of all products at this moment, as the forecast workers would publish them now. Nothing is changed.

    Columns: product_id, interval (step or sum), start_ms, end_ms, mean, q05 … q95 (one a quantile level of the model), observed, kind, quality, trend,
    trend_strength, revision_step, revision_sequence, as_of_ms, complete_through_ms. A row for each step of the horizon, then one for the sum of 7 and one
    for that of 14 days. Workers may go on meanwhile. The model is the promoted one; where none was promoted, that of TRENDCAST_MODEL_DIR.
    """
    settings = load_settings()
    _need_folder(out)
    from streaming.operators import moment_text, opened

    async def go() -> "ExportedForecasts":
        async with opened(settings) as store:
            from streaming import export_forecasts as exports  # TensorFlow's seconds come after the namespace was found
            from streaming.serving import load

            model = load(settings, await store.model())
            with _progress() as update:
                return await exports.export_forecasts(store, settings, model, out, update)

    exported = asyncio.run(go())
    if as_json:
        typer.echo(json.dumps(exported.summary(), ensure_ascii=False))
    else:
        left_out = f"; {exported.unusable} left out, for their numbers are not finite" if exported.unusable else ""
        typer.echo(f"{exported.products} products' forecasts as of {moment_text(exported.as_of_ms)} written to {out}{left_out}")


Lines = Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="File to write; one that is there is replaced.", dir_okay=False)]


def export_facts(out: Lines) -> None:
    """Write what the topic of facts (TRENDCAST_FACTS_TOPIC) holds, a line of JSON for each record, with `at`, the time from which it holds.

    Kafka keeps only the newest of a product's facts for long: files of every week, given to `--facts` together, know the older ones too.
    """
    from streaming.training_log import FACTS

    _export_said(load_settings().facts_topic, "TRENDCAST_FACTS_TOPIC", FACTS, "products", out)


def export_context(out: Lines) -> None:
    """Write what the topic of series (TRENDCAST_CONTEXT_TOPIC) holds; the same."""
    from streaming.training_log import CONTEXT

    _export_said(load_settings().context_topic, "TRENDCAST_CONTEXT_TOPIC", CONTEXT, "series", out)


def _export_said(topic: str | None, setting: str, kind: int, what: str, out: Path) -> None:
    from streaming import said_files

    if topic is None:
        raise UserError(f"no such topic is read; name it in {setting}")
    _need_folder(out)
    with _progress() as update:
        written = said_files.write(load_settings(), topic, kind, out, update)
    unusable = f"; {written.rejected} records say nothing, and are left out" if written.rejected else ""
    typer.echo(f"{written.lines} records of {written.named} {what} written to {out}{unusable}")


def _need_folder(out: Path) -> None:
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent}")


@contextmanager
def _progress() -> Iterator[Callable[[float], object]]:
    """A bar on stderr, where that is a terminal; yields what moves it to a share."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("exporting", total=1.0)
        yield lambda share: bars.update(task, completed=share)
