"""`trendcast train`: a model from logs, a simulated shop, or exported features."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streaming.commands import cleaning, load_settings
from streaming.commands.recording import Iterations, RecipeFile, Seed, recipe_of, registry_if_any
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
    from models.known_future import Place
    from models.registry import Measured, Registry, Version
    from models.train import Progress
    from streaming.training_log import Ahead

# Clicks of a log without any are synthetic, and carry little: a tenth of the usual ratios makes a year's log ten times as quick to read.
CLICK_SCALE: Final = 0.1
# 2025-01-06, a Monday: simulated shops open then, so that the same options give the same data on any day.
SIMULATION_START_MS: Final = 1_736_121_600_000


class Step(StrEnum):
    """Length of the model's step."""

    HOUR = "hour"
    DAY = "day"


# Options of all commands that read demand.
Logs = Annotated[list[Path] | None, typer.Option(help="A log that `trendcast replay` reads; may be given several times.")]
Simulate = Annotated[int, typer.Option(min=0, help="Days of a simulated shop to learn from too.")]
Exports = Annotated[list[Path] | None, typer.Option(help="Parquet of `trendcast export features`; several parts are joined.")]
StepLength = Annotated[Step, typer.Option(help="Length of a step.")]
Streams = Annotated[str, typer.Option(help="Measures used beside units, separated by commas.")]
Products = Annotated[int, typer.Option(min=2, help="Products taken from each source, those with the most demand.")]


Covariates = Annotated[
    str,
    typer.Option(
        help="What is known ahead and the model looks at, separated by commas: price, discount, holiday, day_before, day_after, event, "
        "days_to_event, weekend, context:SERIES. Facts and context are those of the simulated shop."
    ),
]
Country = Annotated[str | None, typer.Option(help="Whose public holidays count (ISO 3166).")]
Subdivision = Annotated[str | None, typer.Option(help="The part of the country, where its holidays differ.")]
EventsFile = Annotated[Path | None, typer.Option(dir_okay=False, help="The shop's events, TOML; the program's own list else.")]


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
    from dataclasses import replace

    from rich.console import Console

    from models.checkpoints import Checkpoints
    from models.dataset import UnusableData

    if report is not None:
        need_plots()
    spec = spec_of(step, streams, log, simulate, export, covariates)
    calendar = CalendarOptions(country, subdivision, events)
    console = Console(stderr=True)
    policy = cleaning.policy(skip_rule or [], adjustment_ids, outliers) if clean else None
    chosen_recipe = recipe_of(recipe, spec, iterations, seed)
    kept = Checkpoints(checkpoint or out / ".checkpoint", lambda line: console.print(line, markup=False))
    try:
        panels, read = panels_of(log or [], simulate, export or [], spec, products, chosen_recipe.seed, console, calendar)
        artefact = trained(panels, spec, chosen_recipe, name, held_back, policy, read, kept, console)
        artefact = replace(artefact, training={**artefact.training, "country": country})
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


@dataclass(frozen=True, slots=True)
class CalendarOptions:
    """Whose calendar a model learns from."""

    country: str | None = None
    subdivision: str | None = None
    events: Path | None = None

    def place(self, timezone: str) -> "Place":
        """In a time zone. Raises UserError."""
        from streaming.known_ahead import place_of

        own = {"country": self.country, "subdivision": self.subdivision, "events_file": self.events, "timezone": timezone}
        return place_of(load_settings().model_copy(update=own))


NO_CALENDAR: Final = CalendarOptions()


def spec_of(
    step: Step, streams: str, log: list[Path] | None, simulate: int, export: list[Path] | None, covariates: str = ""
) -> "FeatureSpec":
    """The features that the options ask for. Raises UserError for unknown streams and covariates, and where there is nothing to read."""
    from models.calendar import COLUMNS

    spec = features_of(step, streams, covariates)
    if not (log or simulate or export):
        raise UserError("nothing to learn from; give --log FILE, --simulate DAYS or --export FILE")
    said = [name for name in spec.covariates if name not in COLUMNS]
    if said and (log or export):
        raise UserError(f"logs and exports do not hold {', '.join(said)}; only --simulate does (of the calendar, all know)")
    return spec


def features_of(step: Step, streams: str, covariates: str = "") -> "FeatureSpec":
    """Features of steps, streams and what is known ahead. Raises UserError for unknown names."""
    from feature_store.measures import MEASURES
    from models.features import FeatureSpec
    from models.known_future import UnknownCovariate, check_names
    from models.seasons import DAY_MS, HOUR_MS

    chosen = tuple(part.strip() for part in streams.split(",") if part.strip())
    unknown = sorted(set(chosen) - set(MEASURES[1:]))
    if unknown:
        raise UserError(f"there is no stream {', '.join(unknown)}; choose from {', '.join(MEASURES[1:])}")
    known = tuple(dict.fromkeys(part.strip() for part in covariates.split(",") if part.strip()))
    try:
        check_names(known)
    except UnknownCovariate as error:
        raise UserError(str(error)) from error
    return FeatureSpec.for_step(HOUR_MS if step is Step.HOUR else DAY_MS, chosen, covariates=known)


def panels_of(
    logs: list[Path],
    days: int,
    exports: list[Path],
    spec: "FeatureSpec",
    products: int,
    seed: int,
    console: "Console",
    calendar: CalendarOptions = NO_CALENDAR,
) -> "tuple[dict[str, Panel], dict[str, list[Change]]]":
    """The panel of each source, by a name for the report, and what reading it left out."""
    from models.dataset import Panel
    from streaming.training_log import Ahead

    panels: dict[str, Panel] = {}
    read: dict[str, list[Change]] = {}
    for path in logs:
        from simulator.replay import load, recognise

        source = load(path, click_scale=CLICK_SCALE, seed=seed)
        timezone = "Europe/London" if recognise(path) == "retail" else "Asia/Shanghai"
        chunks = source.chunks(source.feed(partitions=_one_partition()))
        span = (source.start_ms, source.last_event_ms + 1)
        panels[path.stem] = _fold(path.name, chunks, source.rules, span, spec, timezone, products, console, calendar)
        read[path.stem] = [cleaning.unusable_rows(source.log.skipped, panels[path.stem])]
    if days:
        from models.seasons import DAY_MS
        from simulator.demand import ShopConfig, speaking
        from simulator.dirt import Dirt
        from simulator.shop import Shop

        config = ShopConfig(products=products, lines_per_hour=float(products), opened_ms=SIMULATION_START_MS)
        config = speaking(config) if spec.covariates else config
        shop = Shop(config, seed, dirt=Dirt.none())
        end_ms = SIMULATION_START_MS + days * DAY_MS
        chunks = shop.chunks(SIMULATION_START_MS, end_ms, partitions=_one_partition(ahead=bool(spec.covariates)))
        span = (SIMULATION_START_MS, end_ms)
        panels["simulated"] = _fold("simulated shop", chunks, shop.rules, span, spec, "UTC", products, console, calendar)
    if exports:
        panels["export"], repeated = _exported(exports, spec, products)
        panels["export"] = _knowing(panels["export"], spec, Ahead(), calendar)
        read["export"] = [repeated]
    return panels, read


def _one_partition(*, ahead: bool = False) -> Any:
    from simulator.feed import Partitions

    return Partitions(1, 1, int(ahead), int(ahead))


def _fold(
    title: str,
    chunks: Any,
    rules: Any,
    span: tuple[int, int],
    spec: "FeatureSpec",
    timezone: str,
    products: int,
    console: "Console",
    calendar: CalendarOptions,
) -> "Panel":
    from feature_store.tiles import Grid
    from models.dataset import from_cells, part_ms
    from streaming.training_log import Ahead, cells

    ahead = Ahead()
    grid = Grid(load_settings().tile_ms, spec.step_ms)
    of_part = part_ms(spec.step_ms, grid.tile_ms)
    with progress_bar(title, span[1] - span[0], console) as update:
        pieces = cells(chunks, rules, grid, of_part, progress=lambda end_ms: update(end_ms - span[0]), ahead=ahead)
        panel = from_cells(pieces, spec, timezone, end=span[1] // spec.step_ms, limit=products, per_step=spec.step_ms // of_part)
    return _knowing(panel, spec, ahead, calendar)


def _knowing(panel: "Panel", spec: "FeatureSpec", ahead: "Ahead", calendar: CalendarOptions) -> "Panel":
    """The panel with what its shop knew ahead, and gaps where it had nothing to sell."""
    from models.dataset import with_known

    if not (spec.covariates or ahead.said_anything):
        return panel
    return with_known(panel, ahead.known(spec.covariates, spec.step_ms, calendar.place(panel.timezone), panel.product_ids))


def _exported(paths: list[Path], spec: "FeatureSpec", products: int) -> "tuple[Panel, Change]":
    import pandas as pd

    from models.cleaning import repeated_rows, with_stock
    from models.dataset import from_export

    try:
        frame = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    except (OSError, ValueError) as error:
        raise UserError(f"an export cannot be read: {error}") from error
    panel = from_export(frame, spec, load_settings().timezone, products)
    frame, repeated = repeated_rows(frame[frame["closed"].astype(bool)])
    if "stock" in frame.columns:
        frame = frame.sort_values("start_ms")
        panel = with_stock(panel, frame["product_id"].astype(str).tolist(), frame["start_ms"] // spec.step_ms, frame["stock"])
    return panel, repeated


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
) -> "Artefact":
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
    return replace(artefact, training={"sources": list(panels), "cleaning": report, **artefact.training})


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


def need_plots() -> None:
    """Before minutes are spent on training."""
    from models.report import require

    try:
        require()
    except ImportError as error:
        raise UserError(str(error)) from error


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


def print_table(title: str, rows: dict[str, dict[str, float]], columns: Sequence[str], console: "Console") -> None:
    """Models by metrics, the best MWQL first."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for model, row in sorted(rows.items(), key=lambda item: item[1]["MWQL"]):
        table.add_row(model, *(f"{row[column]:.3f}" for column in columns))
    console.print(table)


@contextmanager
def progress_bar(title: str, total: float, console: "Console") -> Iterator[Any]:
    """A progress bar; yields the function that moves it to a value."""
    from rich.progress import Progress as Bars

    with Bars(console=console) as bars:
        task = bars.add_task(title, total=total)
        yield lambda completed: bars.update(task, completed=completed)
