"""`trendcast features PRODUCT`."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.commands import load_settings

if TYPE_CHECKING:
    from streaming.inspection import ProductFeatures


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operators")(features)


def features(
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help="The product's id.")],
    as_of: Annotated[
        str | None,
        typer.Option(
            help="A moment, like 2026-01-05T12:00 (UTC), epoch ms, or 30m, 2h ago; that which the product's shard has reached by default."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; undefined features are null.")] = False,
) -> None:
    """Show the rolling features of a product, from its tiles and steps in Redis. docs/features.md says what each is."""
    settings = load_settings()
    from streaming.inspection import features_of
    from streaming.operators import moment_ms, opened

    moment = None if as_of is None else moment_ms(as_of)

    async def go() -> "ProductFeatures":
        async with opened(settings) as store:
            return await features_of(store, settings, product, moment)

    found = asyncio.run(go())
    if as_json:
        typer.echo(json.dumps(_document(found), indent=2, ensure_ascii=False))
    else:
        _show(found)


def _document(found: "ProductFeatures") -> dict[str, object]:
    return {
        "product_id": found.product_id,
        "shard": found.shard,
        "as_of": found.as_of_ms,
        "last_event": found.last_event_ms,
        "complete_through": found.complete_through_ms,
        "features": found.features,
    }


def _show(found: "ProductFeatures") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from feature_store.rolling import FEATURES
    from streaming.operators import moment_text, printable

    through = "no step yet" if found.complete_through_ms is None else moment_text(found.complete_through_ms)
    name = printable(found.product_id.encode())
    title = f"{name} as of {moment_text(found.as_of_ms)}; last event {moment_text(found.last_event_ms)}, steps closed through {through}"
    table = Table("feature", title=Text(title), title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for feature in FEATURES:
        value = found.features[feature.name]
        table.add_row(feature.name, "–" if value is None else f"{value:,.6g}", feature.unit)
    Console().print(table)
