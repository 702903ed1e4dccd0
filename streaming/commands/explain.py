"""`trendcast explain PRODUCT`."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streaming.commands import load_settings

if TYPE_CHECKING:
    from streaming.explanations import ExplainedForecast

BAR_WIDTH: Final = 30


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operators")(explain)


def explain(
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help="The product's id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what moved a product's present forecast: units more or fewer than at its long-run level, by driver. docs/explanations.md says how."""
    settings = load_settings()
    from feature_store.sharding import shard_of
    from streaming.explanations import explained_forecast
    from streaming.operators import opened
    from streaming.serving import load

    async def go() -> "ExplainedForecast":
        async with opened(settings) as store:
            model = load(settings, await store.model())
            return await explained_forecast(store, settings, model, (shard_of(product, settings.shards), product))

    found = asyncio.run(go())
    if as_json:
        typer.echo(json.dumps(_document(found), indent=2, ensure_ascii=False))
    else:
        _show(found)


def _document(found: "ExplainedForecast") -> dict[str, object]:
    return {
        "product_id": found.product_id,
        "as_of": found.as_of_ms,
        "first_step": found.first_step_ms,
        "step_ms": found.step_ms,
        "horizon": found.horizon,
        "model": {"name": found.model, "version": found.version},
        "base": found.base,
        "drivers": [{"name": name, "effect": effect} for name, effect in found.drivers],
        "forecast": found.total,
    }


def _show(found: "ExplainedForecast") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from streaming.explanations import MEANING
    from streaming.operators import moment_text, printable

    name = printable(found.product_id.encode())
    hours = found.horizon * found.step_ms / 3_600_000
    title = f"{name} as of {moment_text(found.as_of_ms)}: units in the {hours:g} h from {moment_text(found.first_step_ms)} on"
    table = Table("driver", title=Text(title), title_justify="left")
    table.add_column("units", justify="right")
    table.add_column("")
    table.add_column("what it is")
    table.add_row("base", f"{found.base:,.2f}", "", "at its long-run level, on any day")
    greatest = max(abs(effect) for _, effect in found.drivers)
    for driver, effect in found.drivers:
        bar = Text("█" * round(BAR_WIDTH * abs(effect) / greatest) if greatest else "", style="green" if effect > 0 else "red")
        table.add_row(driver, f"{effect:+,.2f}", bar, MEANING.get(driver, ""))
    table.add_row("forecast", f"{found.total:,.2f}", "", f"by model {printable(found.model.encode())} {found.version}", style="bold")
    Console().print(table)
