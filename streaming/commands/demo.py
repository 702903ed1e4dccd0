"""`trendcast demo`: the main job on this machine."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Start here")(demo)


def demo(
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="End after so many minutes of the live part, with a summary; else Ctrl-C.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Replay real orders (Online Retail .parquet, .xlsx, .csv) instead of a simulated shop.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=1, help="Shop time per real time: 480 live; a real log goes as fast as it can unless this is given.")
    ] = None,
    products: Annotated[int, typer.Option(min=10, max=100_000, help="Products of the simulated shop.")] = 1_000,
    lines_per_hour: Annotated[float, typer.Option(min=1, help="Order lines an hour of the simulated shop.")] = 600.0,
    history: Annotated[float, typer.Option(min=1, help="Days that are fed first, as fast as they go.")] = 28.0,
    clicks: Annotated[float, typer.Option(min=0, help="Synthetic clicks for real orders, as a multiple of Taobao's ratios.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same shop.")] = 0,
) -> None:
    """Show all of it on this machine: Kafka, Redis, a shop, two ingest and two forecast workers, the dashboard, and a live view.

    Ends with a summary; exit status 1 if what was counted differs from what is true, product by product.
    """
    from simulator.demo.run import Options, run

    raise typer.Exit(
        run(
            Options(
                minutes=minutes,
                data=data,
                speed=speed,
                products=products,
                lines_per_hour=lines_per_hour,
                history_days=history,
                click_scale=clicks,
                seed=seed,
            )
        )
    )
