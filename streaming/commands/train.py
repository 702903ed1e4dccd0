"""`trendcast train`: a model from logs, a simulated shop, or exported features."""

import math
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streaming.commands import cleaning
from streaming.commands.recording import Iterations, RecipeFile, Seed, recipe_of, registry_if_any
from streaming.commands.showing import need_plots, print_table, progress_bar
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

if TYPE_CHECKING:
    from rich.console import Console

    from models.artefact import Artefact
    from models.batches import Recipe
    from models.bench import BacktestForecasts, Bench
    from models.checkpoints import Checkpoints
    from models.cleaning import Change, Policy
    from models.dataset import Panel
    from models.features import FeatureSpec
    from models.registry import Measured, Registry, Version
    from models.train import Progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Models")(train)


def train(
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory for the model; one that is there is replaced.")],
    log: Logs = None,
    simulate: Simulate = 0,
    export: Exports = None,
    name: Annotated[str, typer.Option(help="The model's name.")] = "lstm",
    step: StepLength = Step.HOUR,
    streams: Streams = "orders,views,carts",
    products: Products = 800,
    covariates: Covariates = "",
    country: Country = None,
    subdivision: Subdivision = None,
    events: EventsFile = None,
    facts: FactsFiles = None,
    context: ContextFiles = None,
    held_back: Annotated[int, typer.Option(min=0, help="Newest days kept back and forecast afterwards, as a test; 0: none.")] = 14,
    clean: Annotated[bool, typer.Option(help="Clean what is learned from, and report each change (docs/cleaning.md).")] = True,
    skip_rule: Annotated[list[str] | None, typer.Option(help="A rule of cleaning to leave out; may be given several times.")] = None,
    adjustment_ids: Annotated[str | None, typer.Option(help="Regular expression: ids of what is no product, as postage.")] = None,
    outliers: Annotated[
        float | None, typer.Option(min=1, help="Cut demand so many spreads above the product's median; not cut else.")
    ] = None,
    recipe: RecipeFile = None,
    iterations: Iterations = None,
    seed: Seed = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Where an interrupted training is kept, which the same command then ends; OUT/.checkpoint.",
            show_default=False,
        ),
    ] = None,
    curves: Annotated[Path | None, typer.Option(dir_okay=False, help="Picture of the losses, .svg or .png.")] = None,
    report: Annotated[
        Path | None, typer.Option(file_okay=False, help="Directory for reports on the test, a page of HTML for each source.")
    ] = None,
) -> None:
    """Train a model, test it against simple forecasts on the newest days, and write it to a directory.

    Killed, it goes on where it was when the same command runs again. The run and the model are recorded (TRENDCAST_MLFLOW_URI).
    """
    from rich.console import Console

    from models.checkpoints import Checkpoints
    from models.dataset import UnusableData

    if report is not None:
        need_plots()
    spec = features_of(step, streams, covariates)
    sources = Sources(log or (), simulate, export or (), AheadOptions(country, subdivision, events, (*(facts or ()),), (*(context or ()),)))
    sources.check(spec.covariates)
    console = Console(stderr=True)
    policy = cleaning.policy(skip_rule or [], adjustment_ids, outliers) if clean else None
    chosen_recipe = recipe_of(recipe, spec, iterations, seed)
    kept = Checkpoints(checkpoint or out / ".checkpoint", lambda line: console.print(line, markup=False))
    try:
        panels, read = panels_of(sources, spec, products, chosen_recipe.seed, console)
        artefact = trained(panels, spec, chosen_recipe, name, held_back, policy, read, kept, console, country)
        registry = registry_if_any(console)
        artefact, rivals = compared(panels, artefact, held_back, registry, console, report) if held_back else (artefact, {})
    except UnusableData as error:
        raise UserError(f"cannot train: {error}") from error
    except KeyboardInterrupt:
        raise UserError("interrupted; the same command goes on from the training's last look") from None
    from models.artefact import write

    write(artefact, out)
    kept.clear()
    if curves is not None:
        _draw(curves, artefact)
    console.print(f"{artefact.name} {artefact.version} written to {out}; serve it with TRENDCAST_MODEL_DIR={out}")
    if registry is not None:
        _record(registry, artefact, rivals, curves, report, console)


def trained(
    panels: "dict[str, Panel]",
    spec: "FeatureSpec",
    recipe: "Recipe",
    name: str,
    held_back: int,
    policy: "Policy | None",
    read: "dict[str, list[Change]]",
    kept: "Checkpoints",
    console: "Console",
    country: str | None,
) -> "Artefact":
    """A model of all but the newest days, of one source or several, which knows the holidays of `country`."""
    from dataclasses import asdict, replace

    from models import train as training
    from models.cleaning import clean
    from models.seasons import DAY_MS

    newest = held_back * DAY_MS // spec.step_ms
    learning = {source: panel.until(panel.columns - newest) for source, panel in panels.items()}
    report: list[dict[str, Any]] = []
    if policy is not None:
        for source, panel in learning.items():
            learning[source], changes = clean(panel, spec, policy)
            changes = read.get(source, []) + changes
            cleaning.print_changes(f"cleaning of {source}", changes, console)
            report += [{"source": source, **asdict(change), "examples": list(change.examples)} for change in changes]
    console.print("loading TensorFlow …")
    with progress_bar("training", recipe.iterations, console) as update:

        def show(look: "Progress") -> None:
            update(look.iteration)
            console.print(
                f"{look.iteration:>6}  loss {look.loss:.4f}  held-out products {look.held_out_loss:.4f}{'  kept' if look.kept else ''}"
            )

        artefact = training.train(list(learning.values()), spec, recipe, name=name, progress=show, checkpoints=kept)
    return replace(artefact, training={"sources": list(panels), "cleaning": report, **artefact.training, "country": country})


def compared(
    panels: "dict[str, Panel]",
    artefact: "Artefact",
    held_back: int,
    registry: "Registry | None",
    console: "Console",
    report: Path | None = None,
) -> "tuple[Artefact, dict[str, Measured]]":
    """The artefact with its rows on the newest days, and those of the registered model that serves under its name, by bench.

    `report`: directory for a page on each source.
    """
    from dataclasses import replace

    from models.backtest import stream
    from models.bench import no_progress, of_panel, score
    from models.contenders import BASELINES
    from models.metrics import MAIN
    from models.registry import Measured
    from models.seasons import DAY_MS

    newest = held_back * DAY_MS // artefact.spec.step_ms
    tables: dict[str, Any] = {}
    benches: dict[str, str] = {}
    rivals: dict[str, Measured] = {}
    for source, panel in panels.items():
        bench = of_panel(panel, artefact.spec, artefact.horizon, panel.columns - newest)
        with progress_bar(f"test on {source}", bench.cutoffs[-1] + 1, console) as update:
            answers = {artefact.name: stream(bench, artefact, lambda done, _: update(done))}
        answers |= {rival: contender(bench, no_progress) for rival, contender in BASELINES.items()}
        rows = {model: score(bench, answer) for model, answer in answers.items()}
        tables[source], benches[source] = _finite(rows), bench.fingerprint
        serving = _serving(registry, artefact.name, bench, console)
        if serving is not None:
            beside = f"{artefact.name} {serving.version}, serves"
            answers[beside] = stream(bench, serving)
            row = score(bench, answers[beside])
            rivals[bench.fingerprint] = Measured(source, {**rows, artefact.name: row})
            rows = {**rows, beside: row}
        if report is not None:
            _write_page(report / f"{source}.html", f"Newest {held_back} days of {source}", source, bench, answers, artefact)
        print_table(f"newest {held_back} days of {source}, {len(bench.cutoffs)} cut-offs", rows, MAIN, console)
    return replace(artefact, backtest=tables, training={**artefact.training, "benches": benches}), rivals


def _serving(registry: "Registry | None", name: str, bench: "Bench", console: "Console") -> "Artefact | None":
    """The registered model that serves under a name, if it can be measured on the bench."""
    from models.artefact import UnusableArtefact, read
    from models.backtest import unfit
    from models.registry import NoRegistry

    try:
        serving = registry.serving(name) if registry is not None else None
        if registry is None or serving is None:
            return None
        model = read(registry.files(serving))
    except (NoRegistry, UnusableArtefact) as error:
        console.print(f"the model that serves is not measured: {error}", markup=False)
        return None
    reason = unfit(bench, model)
    if reason is not None:
        console.print(f"{serving.label}, which serves, is not measured: {reason}", markup=False)
    return None if reason else model


def _record(
    registry: "Registry",
    artefact: "Artefact",
    rivals: "dict[str, Measured]",
    curves: Path | None,
    report: Path | None,
    console: "Console",
) -> None:
    from models.registry import NoRegistry

    pages = sorted(report.glob("*.html")) if report is not None else []
    try:
        with TemporaryDirectory() as scratch:
            version = registered(registry, "train", artefact, rivals, [*([curves] if curves else drawn(Path(scratch), artefact)), *pages])
    except NoRegistry as error:
        console.print(f"not recorded: {error}", markup=False)
        return
    console.print(f"recorded as {version.label}; let it serve with `trendcast models promote {version.label}`", markup=False)


def registered(registry: "Registry", kind: str, artefact: "Artefact", rivals: "dict[str, Measured]", files: list[Path]) -> "Version":
    """A run, and a version with what it and the serving one were measured at. Raises NoRegistry."""
    from models.registry import backtests_of

    backtests = backtests_of(artefact)
    version = registry.add_backtests(registry.register(artefact, registry.record(kind, artefact, backtests, files)), backtests)
    serving = registry.serving(artefact.name)
    if serving is not None:
        registry.add_backtests(serving, rivals)
    return version


def drawn(directory: Path, artefact: "Artefact") -> list[Path]:
    """The picture of the losses in a directory; none without matplotlib."""
    if find_spec("matplotlib") is None or not artefact.training.get("curve"):
        return []
    _draw(directory / "curve.svg", artefact)
    return [directory / "curve.svg"]


def _write_page(path: Path, title: str, source: str, bench: "Bench", answers: "dict[str, BacktestForecasts]", artefact: "Artefact") -> None:
    from models.report import Study, write

    changes = [
        {name: ", ".join(value) if name == "examples" else value for name, value in change.items() if name != "source"}
        for change in artefact.training.get("cleaning", [])
        if change["source"] == source
    ]
    try:
        write(Study(title, bench, answers, chosen=artefact.name, curve=artefact.training["curve"], changes=changes), path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def _draw(path: Path, artefact: "Artefact") -> None:
    try:
        from models.curves import draw_training

        draw_training(path, artefact.training["curve"], f"{artefact.name} {artefact.version}")
    except ImportError as error:
        raise UserError("no picture without matplotlib; pip install 'trendcast[training]'") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be drawn: {error}") from error


def _finite(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Without the metrics that have no value, which JSON cannot hold.

    >>> _finite({"lstm": {"MWQL": 0.5, "MASE": float("nan")}})
    {'lstm': {'MWQL': 0.5}}
    """
    return {model: {name: value for name, value in row.items() if math.isfinite(value)} for model, row in rows.items()}
