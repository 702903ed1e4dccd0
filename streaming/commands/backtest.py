"""`trendcast backtest`: the model as it serves, on a rolling-origin bench."""

from pathlib import Path
from typing import Annotated

import typer

from streaming.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Models")(backtest)


def backtest(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Holds panel.parquet (unique_id, ds, y, any hist_…) and cutoffs.json (cutoffs, horizon, freq, season)."
        ),
    ],
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="Parquet for the forecasts: unique_id, cutoff, ds, mean, q10, q25, q50, q75, q90.")
    ],
    iterations: Annotated[int, typer.Option(min=1, help="Longest training.")] = 1_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, data and machine give the same forecasts.")] = 1,
    contenders: Annotated[
        str, typer.Option(help="Other models beside it in the table: all, baselines, none, or names separated by commas.")
    ] = "baselines",
) -> None:
    """Train up to the first cut-off, then stream on with frozen weights and carried state, forecasting at every cut-off.

    Any frequency. Prints the errors beside those of other models, which see the same history.
    """
    from rich.console import Console

    from models.batches import Recipe
    from models.contenders import chosen
    from models.dataset import UnusableData

    try:
        rivals = chosen(contenders)
    except UnusableData as error:
        raise UserError(str(error)) from error
    console = Console(stderr=True)
    console.print("loading TensorFlow …")
    from models import bench as benches
    from models import train as training
    from models.backtest import stream
    from streaming.commands.train import print_table, progress_bar

    try:
        bench = benches.load(directory)
        recipe = Recipe.for_spec(bench.spec, iterations=iterations, seed=seed)
        known = bench.panel.until(bench.cutoffs[0] + 1)
        with progress_bar("training", iterations, console) as update:
            artefact = training.train(
                [known], bench.spec, recipe, name="lstm", horizon=bench.horizon, progress=lambda look: update(look.iteration)
            )
        with progress_bar("forecasting", bench.cutoffs[-1] + 1, console) as update:
            forecasts = stream(bench, artefact, lambda done, _: update(done))
        out.parent.mkdir(parents=True, exist_ok=True)
        benches.external(bench, forecasts).to_parquet(out, index=False)
        rows = {"lstm": benches.score(bench, forecasts)}
        for name, contender in rivals.items():
            with progress_bar(name, 1, console) as update:
                answer = contender(bench, lambda done, of: update(done / of))
            rows[name] = benches.score(bench, answer)
    except (UnusableData, OSError) as error:
        raise UserError(f"cannot backtest {directory}: {error}") from error
    print_table(f"{directory}, {len(bench.cutoffs)} cut-offs, {len(bench.panel.product_ids):,} products", rows, console)
    console.print(f"forecasts written to {out}")
