"""`trendcast backtest`: the model as it serves, on a rolling-origin bench, beside other models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.commands.recording import Iterations, RecipeFile, Seed, recipe_of, registry_if_any
from streaming.commands.showing import need_plots, print_table, progress_bar
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.artefact import Artefact
    from models.batches import Recipe
    from models.bench import BacktestForecasts, Bench, Contender
    from models.cleaning import Change


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Models")(backtest)


def backtest(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Holds panel.parquet (unique_id, ds, y, any hist_… and futr_…) and cutoffs.json (cutoffs, horizon, freq, season).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="Parquet for the forecasts: unique_id, cutoff, ds, mean, q10, q25, q50, q75, q90.")
    ],
    clean: Annotated[bool, typer.Option(help="Clean what is learned from, and report each change (docs/cleaning.md).")] = False,
    model: Annotated[
        Path | None, typer.Option(file_okay=False, help="Directory of a model to measure as it is, instead of training one.")
    ] = None,
    recipe: RecipeFile = None,
    iterations: Iterations = None,
    seed: Seed = None,
    contenders: Annotated[
        str, typer.Option(help="Other models beside it in the table: all, baselines, none, or names separated by commas.")
    ] = "baselines",
    report: Annotated[Path | None, typer.Option(dir_okay=False, help="HTML for a report, one file with plots and all.")] = None,
) -> None:
    """Train up to the first cut-off, then stream on with frozen weights and carried state, forecasting at every cut-off.

    A bench is taken as it was prepared unless `--clean` is given; forecasts always see, and are judged by, the panel as it is.

    Any frequency. Prints the errors beside those of other models, which see the same history. The run is recorded
    (TRENDCAST_MLFLOW_URI); with --model, as a backtest of that model, by which it may be promoted.
    """
    from rich.console import Console

    from models.dataset import UnusableData
    from models.metrics import MAIN

    if report is not None:
        need_plots()
    rivals = _chosen(contenders)
    console = Console(stderr=True)
    console.print("loading TensorFlow …")
    from models import bench as benches
    from models.backtest import stream

    changes: list[Change] = []
    try:
        bench = benches.load(directory)
        if model is not None:
            artefact = _measurable(model, bench)
        else:
            artefact, changes = _trained(bench, recipe_of(recipe, bench.spec, iterations, seed), console, clean=clean)
        with progress_bar("forecasting", bench.cutoffs[-1] + 1, console) as update:
            forecasts = stream(bench, artefact, lambda done, _: update(done))
        out.parent.mkdir(parents=True, exist_ok=True)
        benches.external(bench, forecasts).to_parquet(out, index=False)
        answers = {artefact.name: forecasts}
        for name, contender in rivals.items():
            with progress_bar(name, 1, console) as update:
                answers[name] = contender(bench, lambda done, of: update(done / of))
        rows = {name: benches.score(bench, answer) for name, answer in answers.items()}
    except (UnusableData, OSError) as error:
        raise UserError(f"cannot backtest {directory}: {error}") from error
    print_table(f"{directory}, {len(bench.cutoffs)} cut-offs, {len(bench.panel.product_ids):,} products", rows, MAIN, console)
    console.print(f"forecasts written to {out}")
    if report is not None:
        _write_report(report, f"Backtest on {directory.name}", bench, answers, artefact, changes)
        console.print(f"report written to {report}")
    _record(bench, directory.name, artefact, rows, [report] if report else [], console, trained=model is not None)


def _chosen(contenders: str) -> "Mapping[str, Contender]":
    from models.contenders import chosen
    from models.dataset import UnusableData

    try:
        return chosen(contenders)
    except UnusableData as error:
        raise UserError(str(error)) from error


def _trained(bench: "Bench", recipe: "Recipe", console: "Console", *, clean: bool) -> "tuple[Artefact, list[Change]]":
    """A model of what was known at the first cut-off, and what cleaning changed of that."""
    from models import cleaning
    from models import train as training
    from streaming.commands.cleaning import print_changes

    known = bench.panel.until(bench.cutoffs[0] + 1)
    changes: list[Change] = []
    if clean:
        known, changes = cleaning.clean(known, bench.spec)
        print_changes("cleaning", changes, console)
    with progress_bar("training", recipe.iterations, console) as update:
        artefact = training.train(
            [known], bench.spec, recipe, name="lstm", horizon=bench.horizon, progress=lambda look: update(look.iteration)
        )
    return artefact, changes


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


def _write_report(
    path: Path,
    title: str,
    bench: "Bench",
    answers: "Mapping[str, BacktestForecasts]",
    artefact: "Artefact",
    changes: "Sequence[Change]",
) -> None:
    from dataclasses import asdict

    import numpy as np

    from models.importance import importance
    from models.report import Study, write

    found = importance(bench, artefact, np.random.default_rng(1))
    cleaned = [{**asdict(change), "examples": ", ".join(change.examples)} for change in changes]
    try:
        write(Study(title, bench, answers, curve=artefact.training["curve"], importance=found, changes=cleaned), path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def _record(
    bench: "Bench",
    source: str,
    artefact: "Artefact",
    rows: dict[str, dict[str, float]],
    files: list[Path],
    console: "Console",
    *,
    trained: bool,
) -> None:
    """A run; of a model that was `trained` before also a backtest of its version."""
    from models.registry import Measured, NoRegistry

    registry = registry_if_any(console)
    if registry is None:
        return
    backtests = {bench.fingerprint: Measured(source, rows)}
    try:
        run = registry.record("backtest", artefact, backtests, files, notes={"bench": bench.fingerprint})
        version = registry.add_backtests(registry.register(artefact, run), backtests) if trained else None
    except NoRegistry as error:
        console.print(f"not recorded: {error}", markup=False)
        return
    console.print(f"recorded as a backtest of {version.label}" if version else f"recorded as run {run}", markup=False)
