"""A rolling-origin bench: what is to be forecast, from which cut-offs, what models answered, and how well.

A model of any kind is a `Contender`: a function of the bench. It may fit itself on the columns up to the first cut-off; of a later
cut-off's newer columns it may only read what lies before that cut-off.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models import metrics
from models.dataset import Panel, UnusableData, panel
from models.features import FeatureSpec
from models.known_arrays import from_arrays, to_arrays
from models.known_future import KnownFuture
from models.seasons import DAY_MS

Floats = npt.NDArray[np.floating]

_PANEL: Final = "panel.parquet"
_CUTOFFS: Final = "cutoffs.json"
_KNOWN: Final = "known.npz"
# Of rows of which nothing is known, as of a product out of stock; `y` is 0 there.
_GAP: Final = "gap"
# Of columns that are known of the past only.
STREAM_PREFIX: Final = "hist_"
# Of columns that are known of the horizon too.
COVARIATE_PREFIX: Final = "futr_"


@dataclass(frozen=True, eq=False)
class Bench:
    """What is to be forecast: a panel beyond the last cut-off, its dates, and the columns of the cut-offs. Equal to itself alone."""

    panel: Panel
    spec: FeatureSpec
    dates: Any  # pandas.DatetimeIndex, one a column
    cutoffs: tuple[int, ...]  # the last column known, rising
    horizon: int
    season: int

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over what is forecast from where: scores of models with the same one stand side by side."""
        facts = (self.panel.fingerprint, self.spec.step_ms, self.cutoffs, self.horizon, self.season)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def history(self, cutoff: int) -> Floats:
        """Demand up to a cut-off of the products born by then, (alive, cutoff + 1); NaN before a product is born, 0 in gaps."""
        alive = self.alive(cutoff)
        known = np.nan_to_num(self.panel.demand[:alive, : cutoff + 1, 0])
        return np.where(np.arange(cutoff + 1) >= self.panel.born[:alive, None], known, np.nan)

    def alive(self, cutoff: int) -> int:
        """How many products are born by a cut-off; they are the first ones of the panel."""
        return int(np.searchsorted(self.panel.born, cutoff, side="right"))


@dataclass(frozen=True)
class BacktestForecasts:
    """Forecasts of one model for all cut-offs; NaN for products that are not born yet."""

    mean: Floats  # (cutoffs, products, horizon)
    quantiles: dict[float, Floats]  # by metrics.LEVELS: (cutoffs, products, horizon)
    sums: dict[int, dict[float, Floats]] = field(default_factory=dict)  # by steps, then level: quantiles of sums, (cutoffs, products)

    @classmethod
    def nothing(cls, bench: Bench) -> "BacktestForecasts":
        """All NaN, to be filled."""
        shape = (len(bench.cutoffs), len(bench.panel.product_ids), bench.horizon)
        return cls(np.full(shape, np.nan), {level: np.full(shape, np.nan) for level in metrics.LEVELS})


Progress = Callable[[int, int], None]  # done, of


def no_progress(done: int, of: int) -> None:
    """For those who do not look."""


Contender = Callable[[Bench, Progress], BacktestForecasts]


def load(directory: Path) -> Bench:
    """A directory of `panel.parquet` (`unique_id, ds, y`, any `hist_…` and `futr_…`, `gap`) and `cutoffs.json`. Raises UnusableData.

    `known.npz`, where it is there, says what was known of the `futr_…` at each cut-off; else they were always known.
    """
    try:
        frame = pd.read_parquet(directory / _PANEL)
        plan = json.loads((directory / _CUTOFFS).read_text(encoding="utf-8"))
        cutoffs = pd.to_datetime(plan["cutoffs"])
        horizon, season, freq = int(plan["horizon"]), int(plan["season"]), str(plan["freq"])
        timezone = str(plan.get("timezone", "UTC"))
        ids, dates = frame["unique_id"].astype(str), pd.to_datetime(frame["ds"])
        every = pd.date_range(dates.min(), dates.max(), freq=freq)
    except FileNotFoundError as error:
        raise UnusableData(f"{error.filename} is missing; DIR must hold {_PANEL} and {_CUTOFFS}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableData(f"{directory} cannot be read as a bench ({error!r})") from error
    column = every.get_indexer(dates)
    at = every.get_indexer(cutoffs)
    if (column < 0).any() or (at < 0).any() or len(every) < 2:
        raise UnusableData(f"dates of {_PANEL} or {_CUTOFFS} are not on the grid of frequency {freq!r} that begins at {dates.min()}")
    streams = [name for name in frame.columns if name.startswith(STREAM_PREFIX)]
    # Calendar units vary in length; the usual one decides which features suit.
    step_ms = int(np.median(np.diff(every.as_unit("ms").asi8)))
    known_ahead = [name for name in frame.columns if name.startswith(COVARIATE_PREFIX)]
    spec = FeatureSpec.for_step(step_ms, streams, timezone, known_ahead)
    names, product = np.unique(ids.to_numpy(str), return_inverse=True)
    first = int(every.as_unit("ms").asi8[0]) // step_ms  # a Timestamp's own `value` is in nanoseconds, whatever its unit
    values = frame[["y", *streams]].fillna(0).to_numpy(np.float64)
    whole = panel(names.tolist(), product, column.astype(np.int64) + first, values, first + len(every), spec.timezone)
    if known_ahead:
        covariates = _by_product(whole, names, product, column, frame[known_ahead].to_numpy(np.float32))
        whole = replace(whole, covariates=covariates, known=_known(directory / _KNOWN, whole, names, known_ahead))
    if _GAP in frame.columns:
        gaps = _by_product(whole, names, product, column, frame[[_GAP]].to_numpy(np.float32))[..., 0] > 0
        whole.demand[gaps, 0] = np.nan
    return Bench(whole, spec, every, tuple(sorted(int(cutoff) for cutoff in at)), horizon, season)


def _known(path: Path, whole: Panel, names: Any, columns: list[str]) -> KnownFuture | None:
    """What was known ahead of the panel's products; None where the bench does not say when it was."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            known = from_arrays({name: stored[name] for name in stored.files})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UnusableData(f"{path} cannot be read ({error})") from error
    if known.names != tuple(name.removeprefix(COVARIATE_PREFIX) for name in columns):
        raise UnusableData(f"{path} speaks of {', '.join(known.names)}, {_PANEL} of {', '.join(columns)}")
    return known.only(np.searchsorted(names, whole.product_ids))


def _by_product(whole: Panel, names: Any, product: Any, column: Any, values: Any) -> npt.NDArray[np.float32]:
    """(n, columns, values) in the order of the panel; NaN where the frame has no row."""
    place = {name: i for i, name in enumerate(whole.product_ids)}
    row = np.array([place.get(name, -1) for name in names])[product]
    kept = row >= 0
    out = np.full((len(whole.product_ids), whole.columns, values.shape[1]), np.nan, np.float32)
    out[row[kept], column[kept]] = values[kept]
    return out


def write(bench: Bench, directory: Path) -> None:
    """The files that `load` reads; dates are the starts of steps, UTC, and hours and weekdays those of the bench's time zone."""
    directory.mkdir(parents=True, exist_ok=True)
    panel = bench.panel
    product, column = np.nonzero(np.arange(panel.columns) >= panel.born[:, None])
    rows = panel.demand[product, column]
    columns = {STREAM_PREFIX + name.removeprefix(STREAM_PREFIX): rows[:, 1 + k] for k, name in enumerate(bench.spec.streams)}
    if panel.covariates is not None:
        known = {COVARIATE_PREFIX + name.removeprefix(COVARIATE_PREFIX): k for k, name in enumerate(bench.spec.covariates)}
        columns |= {name: panel.covariates[product, column, k] for name, k in known.items()}
    gap = np.isnan(rows[:, 0])
    if gap.any():
        columns[_GAP] = gap
    frame = {"unique_id": np.array(panel.product_ids)[product], "ds": bench.dates[column], "y": np.where(gap, 0, rows[:, 0]), **columns}
    pd.DataFrame(frame).to_parquet(directory / _PANEL, index=False)
    (directory / _KNOWN).unlink(missing_ok=True)
    if panel.known is not None:
        by_name = np.argsort(panel.product_ids)  # as `load` numbers them
        np.savez_compressed(directory / _KNOWN, allow_pickle=False, **to_arrays(panel.known.only(by_name)))
    plan = {
        "cutoffs": [bench.dates[cutoff].isoformat() for cutoff in bench.cutoffs],
        "horizon": bench.horizon,
        "season": bench.season,
        "freq": bench.dates.freqstr,
        "timezone": bench.spec.timezone,
    }
    (directory / _CUTOFFS).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def of_panel(source: Panel, spec: FeatureSpec, horizon: int, known: int, cutoffs: int = 4) -> Bench:
    """A bench of the columns of a panel after the first `known`: as many cut-offs, evenly spread, as far as the horizon lets them."""
    last = source.columns - horizon - 1
    if known < 1:
        raise UnusableData(f"{source.columns} steps are too few: none would be left before the test")
    if last < known - 1:
        raise UnusableData(f"{source.columns - known} steps are too few to test a horizon of {horizon} on")
    at = np.unique(np.linspace(known - 1, last, cutoffs).round().astype(int))
    spec = replace(spec, timezone=source.timezone)
    season = max((period for period in spec.periods if period <= 24), default=1)
    start = pd.Timestamp(source.first_step * spec.step_ms, unit="ms")
    dates = pd.date_range(start, periods=source.columns, freq=pd.Timedelta(spec.step_ms, unit="ms"))
    return Bench(source, spec, dates, tuple(at.tolist()), horizon, season)


def earlier(bench: Bench, cutoffs: int = 3) -> Bench:
    """The same question some time ago: up to so many cut-offs, a horizon apart, whose horizons have all ended by the first cut-off.

    Its panel ends at that cut-off: what is fitted on it knows nothing of the test. Raises UnusableData where less than half the history would
    be left.
    """
    first = bench.cutoffs[0]
    at = [first - back * bench.horizon for back in range(cutoffs, 0, -1)]
    ended = tuple(cutoff for cutoff in at if cutoff >= (first + 1) // 2 and bench.alive(cutoff))
    if not ended:
        raise UnusableData(f"{first + 1} steps before the first cut-off are too few to test a horizon of {bench.horizon} within them")
    return replace(bench, panel=bench.panel.until(first + 1), dates=bench.dates[: first + 1], cutoffs=ended)


def outcomes(bench: Bench) -> Floats:
    """Demand after each cut-off, (cutoffs, products, horizon); NaN in gaps, and for products that are not born by it. Raises UnusableData."""
    if bench.cutoffs[-1] + bench.horizon >= bench.panel.columns:
        raise UnusableData("the panel ends before the last cut-off's horizon: nothing to score against")
    after = [bench.panel.demand[:, cutoff + 1 : cutoff + 1 + bench.horizon, 0] for cutoff in bench.cutoffs]
    born = [(bench.panel.born <= cutoff)[:, None] for cutoff in bench.cutoffs]
    return np.where(np.stack(born), np.stack(after).astype(np.float64), np.nan)


def score(bench: Bench, forecasts: BacktestForecasts) -> dict[str, float]:
    """`metrics.table_row` over all products born by the cut-off without a gap in the horizon; values that have no meaning for the bench are NaN."""
    truth = outcomes(bench)
    known = np.isfinite(truth).all(axis=-1)
    of_each = {
        "naive": [_change(bench, cutoff, 1, 2) for cutoff in bench.cutoffs],
        "seasonal": [_change(bench, cutoff, bench.season, 1) for cutoff in bench.cutoffs],
        "units": [recent_units(bench, cutoff) for cutoff in bench.cutoffs],
    }
    history = metrics.History(**{name: np.stack(values)[known] for name, values in of_each.items()})
    quantiles = {level: values[known] for level, values in forecasts.quantiles.items()}
    return metrics.table_row(truth[known], forecasts.mean[known], quantiles, history)


def _change(bench: Bench, cutoff: int, lag: int, power: int) -> Floats:
    """Mean change from step to `lag`-th next step, absolute, to a power, since each product's first sale, (products,); 0 where there is none."""
    history = np.nan_to_num(bench.panel.demand[:, : cutoff + 1, 0]).astype(np.float64)
    started = np.maximum.accumulate(history > 0, axis=1)[:, : max(cutoff + 1 - lag, 0)]
    changes = np.abs(history[:, lag:] - history[:, : started.shape[1]]) ** power * started
    return np.asarray(changes.sum(axis=1) / np.maximum(started.sum(axis=1), 1))


def recent_units(bench: Bench, cutoff: int) -> Floats:
    """Demand of the newest 28 days or four seasons, whichever is longer, up to a cut-off, (products,)."""
    steps = max(28 * DAY_MS // bench.spec.step_ms, 4 * bench.season)
    return np.asarray(np.nansum(bench.panel.demand[:, max(cutoff + 1 - steps, 0) : cutoff + 1, 0], axis=1, dtype=np.float64))


def volume_classes(bench: Bench) -> npt.NDArray[np.int64]:
    """Index into metrics.VOLUMES of each product, (products,): terciles of recent units at the first cut-off, equals together.

    Products that are born later are slow ones.
    """
    units = recent_units(bench, bench.cutoffs[0])
    return np.searchsorted(np.sort(units), units) * len(metrics.VOLUMES) // len(units)


def external(bench: Bench, forecasts: BacktestForecasts) -> Any:
    """A pandas frame (`unique_id, cutoff, ds, mean, q10, q25, q50, q75, q90`) of the forecasts, for other benches' tables."""
    k, n, horizon = forecasts.mean.shape
    dates = [_dates_after(bench, cutoff) for cutoff in bench.cutoffs]
    return pd.DataFrame(
        {
            "unique_id": np.tile(np.repeat(bench.panel.product_ids, horizon), k),
            "cutoff": np.repeat(bench.dates[list(bench.cutoffs)], n * horizon),
            "ds": np.concatenate([np.tile(after, n) for after in dates]),
            "mean": forecasts.mean.ravel(),
            **{f"q{round(level * 100)}": values.ravel() for level, values in forecasts.quantiles.items()},
        }
    ).dropna()


def _dates_after(bench: Bench, cutoff: int) -> Any:
    whole = pd.date_range(bench.dates[0], periods=cutoff + 1 + bench.horizon, freq=bench.dates.freq)
    return whole[cutoff + 1 :]
