"""`trendcast bench`: one's own data as a bench for `trendcast tune` and `trendcast backtest`."""

from pathlib import Path
from typing import Annotated

import typer

from streaming.commands.sources import (
    AheadOptions,
    ContextFiles,
    Country,
    Covariates,
    EventsFile,
    Exports,
    FactsFiles,
    Logs,
    Products,
    Simulate,
    Sources,
    Step,
    StepLength,
    Streams,
    Subdivision,
    features_of,
    panels_of,
)
from streaming.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Models")(bench)


def bench(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Directory for panel.parquet, cutoffs.json and, of what was known ahead, known.npz.", file_okay=False
        ),
    ],
    log: Logs = None,
    simulate: Simulate = 0,
    export: Exports = None,
    step: StepLength = Step.HOUR,
    streams: Streams = "orders,views,carts",
    products: Products = 800,
    covariates: Covariates = "",
    country: Country = None,
    subdivision: Subdivision = None,
    events: EventsFile = None,
    facts: FactsFiles = None,
    context: ContextFiles = None,
    test: Annotated[int, typer.Option(min=1, help="Newest days to be forecast.")] = 28,
    cutoffs: Annotated[int, typer.Option(min=1, help="Origins of forecasts, evenly spread over them.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated shop and of a log's synthetic clicks.")] = 1,
) -> None:
    """Write a log, an export or a simulated shop as a bench: what `trendcast tune` searches on and `trendcast backtest` scores on."""
    from rich.console import Console

    from models import bench as benches
    from models.dataset import UnusableData
    from models.seasons import DAY_MS

    spec = features_of(step, streams, covariates)
    sources = Sources(log or (), simulate, export or (), AheadOptions(country, subdivision, events, (*(facts or ()),), (*(context or ()),)))
    sources.check(spec.covariates)
    console = Console(stderr=True)
    try:
        panels, _ = panels_of(sources, spec, products, seed, console)
        if len(panels) > 1:
            raise UserError("a bench is of one source; give --log, --simulate or --export once")
        (panel,) = panels.values()
        horizon = 24 if spec.step_ms < DAY_MS else 14
        made = benches.of_panel(panel, spec, horizon, panel.columns - test * DAY_MS // spec.step_ms, cutoffs)
        benches.write(made, directory)
    except (UnusableData, OSError) as error:
        raise UserError(f"no bench: {error}") from error
    console.print(
        f"{len(panel.product_ids):,} products, {panel.columns:,} steps, {len(made.cutoffs)} cut-offs written to {directory}", markup=False
    )
