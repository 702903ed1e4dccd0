"""Where demand comes from that models learn from, and what was known ahead of it: the options of all commands that read it, and the panels."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streaming.commands import cleaning, load_settings
from streaming.commands.showing import progress_bar
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.cleaning import Change
    from models.dataset import Panel
    from models.features import FeatureSpec
    from models.known_future import Place
    from streaming.training_log import Ahead, Dated

# Clicks of a log without any are synthetic, and carry little: a tenth of the usual ratios makes a year's log ten times as quick to read.
CLICK_SCALE: Final = 0.1
# 2025-01-06, a Monday: simulated shops open then, so that the same options give the same data on any day.
SIMULATION_START_MS: Final = 1_736_121_600_000


class Step(StrEnum):
    """Length of the model's step."""

    HOUR = "hour"
    DAY = "day"


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
        "days_to_event, weekend, context:SERIES."
    ),
]
Country = Annotated[str | None, typer.Option(help="Whose public holidays count (ISO 3166).")]
Subdivision = Annotated[str | None, typer.Option(help="The part of the country, where its holidays differ.")]
EventsFile = Annotated[Path | None, typer.Option(dir_okay=False, help="The shop's events, TOML; the program's own list else.")]
FactsFiles = Annotated[
    list[Path] | None,
    typer.Option(
        dir_okay=False,
        help="What the shop said of its products, lines of `trendcast export facts`; several files are joined in order of time.",
    ),
]
ContextFiles = Annotated[
    list[Path] | None, typer.Option(dir_okay=False, help="Series that are no product's, lines of `trendcast export context`; the same.")
]


@dataclass(frozen=True, slots=True)
class AheadOptions:
    """What a shop knew ahead, beside what a source says itself: whose calendar counts, and files of facts and context."""

    country: str | None = None
    subdivision: str | None = None
    events: Path | None = None
    facts: tuple[Path, ...] = ()
    context: tuple[Path, ...] = ()

    def place(self, timezone: str) -> "Place":
        """The calendar in a time zone. Raises UserError."""
        from streaming.known_ahead import place_of

        own = {"country": self.country, "subdivision": self.subdivision, "events_file": self.events, "timezone": timezone}
        return place_of(load_settings().model_copy(update=own))

    def said(self, step_ms: int) -> "list[Dated]":
        """What the files say. Raises UserError that names the line that says nothing."""
        from streaming import said_files
        from streaming.training_log import CONTEXT, FACTS

        return said_files.read(self.facts, FACTS, step_ms) + said_files.read(self.context, CONTEXT, step_ms)


@dataclass(frozen=True, slots=True)
class Sources:
    """What a command reads."""

    logs: Sequence[Path] = ()
    days: int = 0  # of a simulated shop
    exports: Sequence[Path] = ()
    ahead: AheadOptions = AheadOptions()

    def check(self, covariates: Sequence[str]) -> None:
        """Raises UserError where there is nothing to read, or somebody does not say what is asked for."""
        if not (self.logs or self.days or self.exports):
            raise UserError("nothing to read; give --log FILE, --simulate DAYS or --export FILE")
        files = bool(self.ahead.facts), bool(self.ahead.context)
        if self.logs or self.exports:
            check_said(covariates, "logs and exports do not hold {}; give {}", facts=files[0], context=files[1])
        elif any(files):
            raise UserError("--facts and --context speak of --log and --export; a simulated shop says itself what it knows")


def check_said(covariates: Sequence[str], message: str, *, facts: bool, context: bool) -> None:
    """Raises UserError with the message, filled with covariates that nobody speaks of and the options that would, where there are any.

    >>> check_said(("holiday", "price"), "{} by {}", facts=True, context=False)
    """
    from models.known_future import CONTEXT, OF_FACTS

    unsaid = {
        "--facts FILE": [name for name in covariates if name in OF_FACTS and not facts],
        "--context FILE": [name for name in covariates if name.startswith(CONTEXT) and not context],
    }
    if any(unsaid.values()):
        names = ", ".join(name for found in unsaid.values() for name in found)
        raise UserError(message.format(names, " and ".join(option for option, found in unsaid.items() if found)))


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
    sources: Sources, spec: "FeatureSpec", products: int, seed: int, console: "Console"
) -> "tuple[dict[str, Panel], dict[str, list[Change]]]":
    """The panel of each source, by a name for the report, and what reading it left out."""
    from streaming.training_log import Ahead

    panels: dict[str, Panel] = {}
    read: dict[str, list[Change]] = {}
    said = sources.ahead.said(spec.step_ms)
    for path in sources.logs:
        panels[path.stem], unusable = _logged(path, said, sources.ahead, spec, products, seed, console)
        read[path.stem] = [unusable]
    if sources.days:
        panels["simulated"] = _simulated(sources.days, sources.ahead, spec, products, seed, console)
    if sources.exports:
        panels["export"], repeated = _exported(sources.exports, spec, products)
        panels["export"] = knowing(panels["export"], spec, Ahead.of(said), sources.ahead)
        read["export"] = [repeated]
    return panels, read


def knowing(panel: "Panel", spec: "FeatureSpec", ahead: "Ahead", calendar: AheadOptions) -> "Panel":
    """The panel with what its shop knew ahead, and gaps where it had nothing to sell."""
    from models.dataset import with_known

    if not (spec.covariates or ahead.said_anything):
        return panel
    return with_known(panel, ahead.known(spec.covariates, spec.step_ms, calendar.place(panel.timezone), panel.product_ids))


def _logged(
    path: Path, said: "list[Dated]", calendar: AheadOptions, spec: "FeatureSpec", products: int, seed: int, console: "Console"
) -> "tuple[Panel, Change]":
    from simulator.replay import load, recognise
    from streaming.training_log import Ahead

    source = load(path, click_scale=CLICK_SCALE, seed=seed)
    timezone = "Europe/London" if recognise(path) == "retail" else "Asia/Shanghai"
    chunks = source.chunks(source.feed(partitions=_one_partition()))
    span = (source.start_ms, source.last_event_ms + 1)
    panel = _fold(path.name, chunks, source.rules, span, spec, timezone, products, console, Ahead.of(said), calendar)
    return panel, cleaning.unusable_rows(source.log.skipped, panel)


def _simulated(days: int, calendar: AheadOptions, spec: "FeatureSpec", products: int, seed: int, console: "Console") -> "Panel":
    from models.seasons import DAY_MS
    from simulator.demand import ShopConfig, speaking
    from simulator.dirt import Dirt
    from simulator.shop import Shop
    from streaming.training_log import Ahead

    config = ShopConfig(products=products, lines_per_hour=float(products), opened_ms=SIMULATION_START_MS)
    config = speaking(config) if spec.covariates else config
    shop = Shop(config, seed, dirt=Dirt.none())
    end_ms = SIMULATION_START_MS + days * DAY_MS
    chunks = shop.chunks(SIMULATION_START_MS, end_ms, partitions=_one_partition(ahead=bool(spec.covariates)))
    span = (SIMULATION_START_MS, end_ms)
    return _fold("simulated shop", chunks, shop.rules, span, spec, "UTC", products, console, Ahead(), calendar)


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
    ahead: "Ahead",
    calendar: AheadOptions,
) -> "Panel":
    from feature_store.tiles import Grid
    from models.dataset import from_cells, part_ms
    from streaming.training_log import cells

    grid = Grid(load_settings().tile_ms, spec.step_ms)
    of_part = part_ms(spec.step_ms, grid.tile_ms)
    with progress_bar(title, span[1] - span[0], console) as update:
        pieces = cells(chunks, rules, grid, of_part, progress=lambda end_ms: update(end_ms - span[0]), ahead=ahead)
        panel = from_cells(pieces, spec, timezone, end=span[1] // spec.step_ms, limit=products, per_step=spec.step_ms // of_part)
    return knowing(panel, spec, ahead, calendar)


def _exported(paths: Sequence[Path], spec: "FeatureSpec", products: int) -> "tuple[Panel, Change]":
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
