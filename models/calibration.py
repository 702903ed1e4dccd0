"""Calibration of quantiles from their outcomes: which factor on each quantile would have served best lately.

Of every product one forecast at a time is on trial: when a step closes that it spoke of, its quantile for that step is compared with what came, and when its
horizon has ended, a new one takes its place. Products take turns, so that every step judges every distance. Sums of the losses are kept by day, volume
class and level, each for a grid of factors on the model's own quantile; the factor with the least loss over the last weeks, drawn towards 1, goes on
the quantiles that are published. (A tracker in the sense of conformal
prediction under drift, see Angelopoulos, Candès and Tibshirani 2023, with pinball loss instead of coverage, which lumpy counts hide.)

Sums are integers: they do not depend on the order in which products close, and a replay gives them again. What is on trial is held as it is stored,
rounded, so that it does not matter whether it was stored in between.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from models import cold_start
from models.cold_start import Launches
from models.features import F32, I64
from models.metrics import VOLUMES, pinball
from models.seasons import DAY_MS

F16 = npt.NDArray[np.float16]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Candidates, from less than half to more than double, evenly spaced in logarithm; 1 is the middle one.
FACTORS: Final = np.exp(np.linspace(-0.8, 0.8, 33)).astype(np.float32)
# Outcomes older than this many days say nothing any more.
MEMORY_DAYS: Final = 28
# A product may close a day's first step before others have closed the last of the day before: that day's sums are used a day later.
LAG_DAYS: Final = 2
# The share of the way to the best factor that is gone, as a power: it was the best of the past. 0.5 and 1 did equally well on the daily panel of Online Retail.
_TRUST: Final = 0.5
# With as many outcomes half of that trust is there.
_HALF_TRUST: Final = 200.0
# Losses are kept in thousandths of a unit.
RESOLUTION: Final = 1000
CLASSES: Final = len(VOLUMES)
NO_TRIAL: Final = int(np.iinfo(np.int64).min)
# Columns of `Outcomes` before those by level.
_HEAD: Final = 4
# No forecast of a step means more units; sums of a day's losses stay exact.
_LARGEST: Final = 1e9
# Outcomes are compared with all candidates in blocks that stay in the processor's cache.
_BLOCK: Final = 128


def volume_class(scale: F32, limits: Sequence[float]) -> I64:
    """0, 1 or 2 for products whose typical demand per step is below the first limit, the second, or above: (n,).

    >>> volume_class(np.float32([0.1, 3, 1]), (0.5, 2)).tolist()
    [0, 2, 1]
    """
    return np.searchsorted(np.asarray(limits, np.float32), scale).astype(np.int64)


def turn(product_ids: Iterable[str], horizon: int) -> I64:
    """When a product's trials begin: after steps whose index is this modulo the horizon, (n,)."""
    return np.array([crc32(name.encode()) % horizon for name in product_ids], np.int64)


def day_of(step: int, step_ms: int) -> int:
    """The UTC day, counted from 1970, in which a step begins."""
    return step * step_ms // DAY_MS


def known_through(closed: int, step_ms: int) -> int:
    """The last step whose factors rest on nothing but steps up to `closed`: later ones have to wait until more is closed.

    >>> known_through(47, 3_600_000), known_through(46, 3_600_000), known_through(5, DAY_MS)
    (95, 71, 7)
    """
    return -(-(day_of(closed + 1, step_ms) + LAG_DAYS) * DAY_MS // step_ms) - 1


@dataclass(frozen=True, slots=True)
class Trials:
    """Forecasts on trial; row i of each array belongs to product i. Means and quantiles are shares of the largest of them."""

    step: I64  # (n,) the last consumed step when it was made; NO_TRIAL: there is none
    group: I64  # (n,) volume class then
    factors: F32  # (n, levels) that are in the quantiles
    peak: F32  # (n,) what the shares are of
    mean: F16  # (n, horizon)
    quantiles: F16  # (n, horizon, levels) calibrated, not yet in whole units

    @classmethod
    def of(cls, step: I64, group: I64, mean: F32, quantiles: F32, factors: F32) -> Self:
        """Rounded to eleven bits; a forecast that is not finite, or absurd, is none."""
        peak = np.maximum(np.abs(mean).max(axis=1), np.abs(quantiles).max(axis=(1, 2)))
        usable = peak <= _LARGEST  # not so where it is not a number
        of = np.where(usable & (peak > 0), peak, np.float32(1))
        shares = np.where(usable[:, None, None], quantiles / of[:, None, None], 0).astype(np.float16)
        return cls(
            step=np.where(usable, step, NO_TRIAL),
            group=group,
            factors=factors,
            peak=of,
            mean=np.where(usable[:, None], mean / of[:, None], 0).astype(np.float16),
            quantiles=np.ascontiguousarray(shares),
        )

    def at(self, rows: npt.NDArray[np.intp]) -> "Trials":
        return Trials(*(part[rows] for part in self.parts()))

    def copy(self) -> "Trials":
        return Trials(*(part.copy() for part in self.parts()))

    def put(self, rows: npt.NDArray[np.intp], others: "Trials") -> None:
        """Replace the trials of `rows` in place."""
        for mine, theirs in zip(self.parts(), others.parts(), strict=True):
            mine[rows] = theirs

    def parts(self) -> tuple[npt.NDArray[Any], ...]:
        return self.step, self.group, self.factors, self.peak, self.mean, self.quantiles


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Sums over outcomes, by volume class: all integers, so that `+` does not depend on order."""

    sums: I64  # (classes, columns): count, demand, means, naive forecast's errors; by level: published losses, below, at most; by level and factor: losses

    @classmethod
    def none(cls, levels: int) -> Self:
        """Nothing yet."""
        return cls(np.zeros((CLASSES, _columns(levels)), np.int64))

    @classmethod
    def from_list(cls, numbers: Sequence[int]) -> Self:
        """The inverse of `to_list`."""
        return cls(np.array(numbers, np.int64).reshape(CLASSES, -1))

    def to_list(self) -> list[int]:
        """As it is stored."""
        numbers: list[int] = self.sums.ravel().tolist()
        return numbers

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(self.sums + other.sums)

    @property
    def levels(self) -> int:
        return int((self.sums.shape[1] - _columns(0)) // (_columns(1) - _columns(0)))

    @property
    def count(self) -> I64:
        """(classes,)"""
        return self.sums[:, 0]

    @property
    def demand(self) -> I64:
        """(classes,) in thousandths"""
        return self.sums[:, 1]

    @property
    def mean(self) -> I64:
        """(classes,) of the forecast means, in thousandths"""
        return self.sums[:, 2]

    @property
    def naive(self) -> I64:
        """(classes,) absolute errors of the naive forecast, in thousandths: its weighted quantile loss over levels around the median, too"""
        return self.sums[:, 3]

    @property
    def published(self) -> I64:
        """(classes, levels) pinball loss as published, in thousandths"""
        return self._of_levels(0)

    @property
    def below(self) -> I64:
        """(classes, levels) outcomes below the published quantile"""
        return self._of_levels(1)

    @property
    def at_most(self) -> I64:
        """(classes, levels)"""
        return self._of_levels(2)

    @property
    def losses(self) -> I64:
        """(classes, levels, factors) pinball loss of the model's quantile times each factor, in thousandths"""
        return self.sums[:, _HEAD + 3 * self.levels :].reshape(-1, self.levels, len(FACTORS))

    def _of_levels(self, place: int) -> I64:
        return self.sums[:, _HEAD + place * self.levels : _HEAD + (place + 1) * self.levels]


def _columns(levels: int) -> int:
    return _HEAD + levels * (3 + len(FACTORS))


def no_trials(n: int, horizon: int, levels: int) -> Trials:
    """Of products that were never forecast."""
    nothing = np.zeros((n, horizon, levels), np.float32)
    return Trials.of(np.full(n, NO_TRIAL, np.int64), np.zeros(n, np.int64), nothing[..., 0], nothing, np.ones((n, levels), np.float32))


def on_trial(trials: Trials, step: I64) -> npt.NDArray[np.bool_]:
    """(n,) products whose forecast on trial speaks of `step`."""
    return np.asarray((trials.step < step) & (step - trials.mean.shape[1] <= trials.step))


def outcomes(trials: Trials, step: I64, demand: F32, naive: F32, levels: Sequence[float], *, whole_units: bool) -> Outcomes:
    """Compare forecasts on trial, and naive ones, with the demand of `step`, (n,) each.

    Demand of NaN (a gap, or a step that the product is not at) judges nobody.

    `naive`: see `features.seasonal_naive`. `whole_units`: see the artefact's.
    """
    found = outcomes_by_pool(trials, step, demand, naive, levels, np.zeros(len(step), np.int64), whole_units=whole_units)
    return found.get(0, Outcomes.none(len(levels)))


def outcomes_by_pool(
    trials: Trials, step: I64, demand: F32, naive: F32, levels: Sequence[float], pool: I64, *, whole_units: bool
) -> dict[int, Outcomes]:
    """The same apart for products of each `pool`, (n,) counted from 0; pools without an outcome are absent."""
    rows = np.flatnonzero(np.isfinite(demand) & on_trial(trials, step))
    if not len(rows):
        return {}
    place = pool[rows] * CLASSES + trials.group[rows]
    order = np.argsort(place, kind="stable")
    rows, place = rows[order], place[order]
    table = np.zeros(((int(pool[rows].max()) + 1) * CLASSES, _columns(len(levels))), np.int64)
    for start in range(0, len(rows), _BLOCK):
        some, at = rows[start : start + _BLOCK], place[start : start + _BLOCK]
        begins = np.flatnonzero(np.r_[True, at[1:] != at[:-1]])
        # Whole numbers below 2**53: their sums are exact in any order.
        compared = _compared(trials, some, step[some], demand[some], naive[some], levels, whole_units)
        table[at[begins]] += np.add.reduceat(compared, begins).astype(np.int64)
    by_pool = table.reshape(-1, CLASSES, table.shape[1])
    return {int(p): Outcomes(by_pool[p]) for p in np.unique(pool[rows])}


def _compared(
    trials: Trials, rows: npt.NDArray[np.intp], step: I64, demand: F32, naive: F32, levels: Sequence[float], whole_units: bool
) -> F64:
    """What each outcome adds to the columns of `Outcomes`, (rows, columns) whole numbers."""
    n, k, level = len(rows), len(levels), np.asarray(levels)
    ahead, peak = step - trials.step[rows] - 1, trials.peak[rows].astype(np.float64)
    came, quantiles = demand.astype(np.float64), trials.quantiles[rows, ahead] * peak[:, None]
    model, published = quantiles / trials.factors[rows], np.rint(quantiles) if whole_units else quantiles
    values = np.empty((n, _columns(k)))
    values[:, 0], values[:, 1], values[:, 2] = 1, came * RESOLUTION, trials.mean[rows, ahead] * peak * RESOLUTION
    values[:, 3] = np.abs(came - naive) * RESOLUTION
    values[:, _HEAD : _HEAD + k] = pinball(came[:, None], published, level) * RESOLUTION
    values[:, _HEAD + k : _HEAD + 2 * k] = came[:, None] < published
    values[:, _HEAD + 2 * k : _HEAD + 3 * k] = came[:, None] <= published
    losses = pinball(came[:, None, None], model[..., None] * FACTORS, level[:, None])
    np.multiply(losses.reshape(n, -1), RESOLUTION, out=values[:, _HEAD + 3 * k :])
    return np.rint(values, out=values)


def best_factors(found: Outcomes) -> F32:
    """Factor for each class and level, (classes, levels): the one of least loss, of equals the nearest to 1, and part of the way to it."""
    least = found.losses == found.losses.min(axis=-1, keepdims=True)
    best = FACTORS[np.where(least, np.abs(np.log(FACTORS)), np.inf).argmin(axis=-1)]
    trust = _TRUST * found.count / (found.count + _HALF_TRUST)
    factors: F32 = best ** trust[:, None].astype(np.float32)
    return factors


def summed(by_day: Mapping[int, Outcomes], days: range, levels: int) -> Outcomes:
    """What came of forecasts on these days."""
    return sum((by_day[day] for day in days if day in by_day), Outcomes.none(levels))


def factors_of(by_day: Mapping[int, Outcomes], day: int, levels: int) -> F32:
    """Factor for each class and level, (classes, levels), of forecasts made on a day, by the outcomes of the days before."""
    return best_factors(summed(by_day, range(day - LAG_DAYS - MEMORY_DAYS + 1, day - LAG_DAYS + 1), levels))


def launches_of(by_day: Mapping[int, cold_start.Sums], day: int, step_ms: int) -> Launches | None:
    """What forecasts made on a day know of products after their birth: of the days before, up to the same one as `factors_of`."""
    days = range(day - LAG_DAYS - cold_start.MEMORY_DAYS + 1, day - LAG_DAYS + 1)
    return Launches.of({each: by_day[each] for each in days if each in by_day}, DAY_MS / step_ms)


Hold = Callable[[Mapping[int, Outcomes], int], Bools]  # from outcomes by day and a day: classes whose alerts are held back on it


def never(_: Mapping[int, Outcomes], __: int) -> Bools:
    """No class's alerts are held back."""
    return np.zeros(CLASSES, np.bool_)


@dataclass(slots=True)
class Memory:
    """Outcomes of one pool by day, and what its products lived through; the factors, holds and launches that follow from them, worked out once a day."""

    levels: int
    by_day: Mapping[int, Outcomes]
    hold: Hold = never
    lived: Mapping[int, cold_start.Sums] = field(default_factory=dict)  # by day
    step_ms: int = DAY_MS
    _factors: dict[int, F32] = field(default_factory=dict)
    _held: dict[int, Bools] = field(default_factory=dict)
    _launches: dict[int, Launches | None] = field(default_factory=dict)

    def factors(self, day: int) -> F32:
        """(classes, levels) of forecasts made on a day."""
        found = self._factors.get(day)
        if found is None:
            found = self._factors[day] = factors_of(self.by_day, day, self.levels)
        return found

    def held(self, day: int) -> Bools:
        """(classes,) whose alerts are held back on a day."""
        found = self._held.get(day)
        if found is None:
            found = self._held[day] = self.hold(self.by_day, day)
        return found

    def launches(self, day: int) -> Launches | None:
        """What is known on a day of products after their birth."""
        if day not in self._launches:
            self._launches[day] = launches_of(self.lived, day, self.step_ms)
        return self._launches[day]


@dataclass(frozen=True, slots=True)
class Pools:
    """Which products share their factors, when it is their turn, and the factors, holds and launches in force."""

    pool: I64  # (n,) counted from 0
    turn: I64  # (n,) see `turn`
    first_day: int
    factors: F32  # (pools, days, classes, levels)
    held: Bools  # (pools, days, classes) alerts are held back
    launches: tuple[tuple[Launches | None, ...], ...] = ()  # (pools, days); empty: nothing is known of any

    @classmethod
    def of(cls, pool: I64, turn: I64, memories: Sequence[Memory], first_day: int, last_day: int) -> Self:
        """With the factors and holds of these days, both included."""
        days = range(first_day, last_day + 1)
        factors = np.array([[memory.factors(day) for day in days] for memory in memories], np.float32)
        held = np.array([[memory.held(day) for day in days] for memory in memories])
        return cls(pool, turn, first_day, factors, held, tuple(tuple(memory.launches(day) for day in days) for memory in memories))

    def of_class(self, rows: npt.NDArray[np.intp], day: I64, group: I64) -> F32:
        """Factors of the products in `rows`, of these days and volume classes, (rows, levels)."""
        return self.factors[self.pool[rows], day - self.first_day, group]

    def held_back(self, rows: npt.NDArray[np.intp], day: int, group: I64) -> Bools:
        """Whether alerts of the products in `rows`, of these volume classes, are held back on a day, (rows,)."""
        return np.asarray(self.held[self.pool[rows], day - self.first_day, group])

    def launched(self, rows: npt.NDArray[np.intp], day: I64) -> list[Launches | None]:
        """What is known, on these days, of launches beside the products in `rows`."""
        if not self.launches:
            return [None] * len(rows)
        return [self.launches[p][d] for p, d in zip(self.pool[rows].tolist(), (day - self.first_day).tolist(), strict=True)]
