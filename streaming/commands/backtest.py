"""`trendcast backtest`: the model as it serves, on a rolling-origin bench."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.errors import UserError

if TYPE_CHECKING:
    from models.artefact import Artefact
    from models.bench import BacktestForecasts, Bench


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
    clean: Annotated[bool, typer.Option(help="Clean what is learned from, and report each change (docs/cleaning.md).")] = False,
    iterations: Annotated[int, typer.Option(min=1, help="Longest training.")] = 1_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, data and machine give the same forecasts.")] = 1,
    report: Annotated[Path | None, typer.Option(dir_okay=False, help="HTML for a report, one file with plots and all.")] = None,
    contenders: Annotated[
        str, typer.Option(help="Other models beside it in the table: all, baselines, none, or names separated by commas.")
    ] = "baselines",
) -> None:
    """Train up to the first cut-off, then stream on with frozen weights and carried state, forecasting at every cut-off.

    A bench is taken as it was prepared unless `--clean` is given; forecasts always see, and are judged by, the panel as it is.

    Any frequency. Prints the errors beside those of other models, which see the same history.
    """
    from rich.console import Console

    from models.batches import Recipe
    from models.contenders import chosen
    from models.dataset import UnusableData
    from models.metrics import MAIN

    if report is not None:
        _need_plots()
    try:
        rivals = chosen(contenders)
    except UnusableData as error:
        raise UserError(str(error)) from error
    console = Console(stderr=True)
    console.print("loading TensorFlow …")
    from models import bench as benches
    from models import train as training
    from models.backtest import stream
    from models.cleaning import clean as cleaned
    from streaming.commands.cleaning import print_changes
    from streaming.commands.train import print_table, progress_bar

    try:
        bench = benches.load(directory)
        recipe = Recipe.for_spec(bench.spec, iterations=iterations, seed=seed)
        known = bench.panel.until(bench.cutoffs[0] + 1)
        if clean:
            known, changes = cleaned(known, bench.spec)
            print_changes(f"cleaning of {directory}", changes, console)
        with progress_bar("training", iterations, console) as update:
            artefact = training.train(
                [known], bench.spec, recipe, name="lstm", horizon=bench.horizon, progress=lambda look: update(look.iteration)
            )
        with progress_bar("forecasting", bench.cutoffs[-1] + 1, console) as update:
            forecasts = stream(bench, artefact, lambda done, _: update(done))
        out.parent.mkdir(parents=True, exist_ok=True)
        benches.external(bench, forecasts).to_parquet(out, index=False)
        answers = {"lstm": forecasts}
        for name, contender in rivals.items():
            with progress_bar(name, 1, console) as update:
                answers[name] = contender(bench, lambda done, of: update(done / of))
        rows = {name: benches.score(bench, answer) for name, answer in answers.items()}
    except (UnusableData, OSError) as error:
        raise UserError(f"cannot backtest {directory}: {error}") from error
    print_table(f"{directory}, {len(bench.cutoffs)} cut-offs, {len(bench.panel.product_ids):,} products", rows, MAIN, console)
    console.print(f"forecasts written to {out}")
    if report is not None:
        _write_report(report, f"Backtest on {directory.name}", bench, answers, artefact)
        console.print(f"report written to {report}")


def _need_plots() -> None:
    """Before minutes are spent on training."""
    from models.report import require

    try:
        require()
    except ImportError as error:
        raise UserError(str(error)) from error


def _write_report(path: Path, title: str, bench: "Bench", answers: "Mapping[str, BacktestForecasts]", artefact: "Artefact") -> None:
    import numpy as np

    from models.importance import importance
    from models.report import Study, write

    found = importance(bench, artefact, np.random.default_rng(1))
    try:
        write(Study(title, bench, answers, curve=artefact.training["curve"], importance=found), path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
