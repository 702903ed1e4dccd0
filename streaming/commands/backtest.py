"""`trendcast backtest`: the model as it serves, on a rolling-origin bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.commands.recording import Iterations, RecipeFile, Seed, recipe_of, registry_if_any
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.artefact import Artefact
    from models.batches import Recipe
    from models.bench import Bench


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
    model: Annotated[
        Path | None, typer.Option(file_okay=False, help="Directory of a model to measure as it is, instead of training one.")
    ] = None,
    recipe: RecipeFile = None,
    iterations: Iterations = None,
    seed: Seed = None,
) -> None:
    """Train up to the first cut-off, then stream on with frozen weights and carried state, forecasting at every cut-off.

    Any frequency. Prints the errors beside those of simple forecasts. The run is recorded (TRENDCAST_MLFLOW_URI); with --model, as a
    backtest of that model, by which it may be promoted.
    """
    from rich.console import Console

    from models.dataset import UnusableData

    console = Console(stderr=True)
    console.print("loading TensorFlow …")
    from models import bench as benches
    from models.backtest import stream
    from models.contenders import BASELINES
    from streaming.commands.train import print_table, progress_bar

    try:
        bench = benches.load(directory)
        if model is not None:
            artefact = _measurable(model, bench)
        else:
            artefact = _trained(bench, recipe_of(recipe, bench.spec, iterations, seed), console)
        with progress_bar("forecasting", bench.cutoffs[-1] + 1, console) as update:
            forecasts = stream(bench, artefact, lambda done, _: update(done))
        out.parent.mkdir(parents=True, exist_ok=True)
        benches.external(bench, forecasts).to_parquet(out, index=False)
        answers = {artefact.name: forecasts, **{name: contender(bench, benches.no_progress) for name, contender in BASELINES.items()}}
        rows = {name: benches.score(bench, answer) for name, answer in answers.items()}
    except (UnusableData, OSError) as error:
        raise UserError(f"cannot backtest {directory}: {error}") from error
    print_table(f"{directory}, {len(bench.cutoffs)} cut-offs, {len(bench.panel.product_ids):,} products", rows, console)
    console.print(f"forecasts written to {out}")
    _record(bench, directory.name, artefact, rows, console, trained=model is not None)


def _trained(bench: "Bench", recipe: "Recipe", console: "Console") -> "Artefact":
    from models import train as training
    from streaming.commands.train import progress_bar

    known = bench.panel.until(bench.cutoffs[0] + 1)
    with progress_bar("training", recipe.iterations, console) as update:
        return training.train([known], bench.spec, recipe, name="lstm", horizon=bench.horizon, progress=lambda look: update(look.iteration))


def _measurable(directory: Path, bench: "Bench") -> "Artefact":
    """The model in a directory. Raises UserError where it cannot be measured on the bench."""
    from models.artefact import UnusableArtefact, read
    from models.backtest import unfit

    try:
        artefact = read(directory)
    except UnusableArtefact as error:
        raise UserError(str(error)) from error
    reason = unfit(bench, artefact)
    if reason is not None:
        raise UserError(f"{directory} cannot be measured on this bench: {reason}")
    return artefact


def _record(
    bench: "Bench", source: str, artefact: "Artefact", rows: dict[str, dict[str, float]], console: "Console", *, trained: bool
) -> None:
    """A run; of a model that was `trained` before also a backtest of its version."""
    from models.registry import Measured, NoRegistry

    registry = registry_if_any(console)
    if registry is None:
        return
    backtests = {bench.fingerprint: Measured(source, rows)}
    try:
        run = registry.record("backtest", artefact, backtests, notes={"bench": bench.fingerprint})
        version = registry.add_backtests(registry.register(artefact, run), backtests) if trained else None
    except NoRegistry as error:
        console.print(f"not recorded: {error}", markup=False)
        return
    console.print(f"recorded as a backtest of {version.label}" if version else f"recorded as run {run}", markup=False)
