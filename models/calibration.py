"""Calibration of quantiles from their outcomes: which factor on each quantile would have served best lately.

Of every product one forecast at a time is on trial: when a step closes that it spoke of, its quantile for that step is compared with what came, and when its
horizon has ended, a new one takes its place. Products take turns, so that every step judges every distance. Sums of the losses are kept by day, volume
class and level, each for a grid of factors on the model's own quantile; the factor with the least loss over the last weeks, drawn towards 1, goes on
the quantiles that are published. Only on them: on the mean it makes large errors larger. (A tracker in the sense of conformal
prediction under drift, see Angelopoulos, Candès and Tibshirani 2023, with pinball loss instead of coverage, which lumpy counts hide.)

Sums are integers: they do not depend on the order in which products close, and a replay gives them again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from models.features import F32, I64
from models.metrics import pinball

# Candidates, from less than half to more than double, evenly spaced in logarithm; 1 is the middle one.
FACTORS: Final = np.exp(np.linspace(-0.8, 0.8, 33)).astype(np.float32)
# Outcomes older than this many days say nothing any more.
MEMORY_DAYS: Final = 28
# A product may close a day's first step before others have closed the last of the day before: that day's sums are used a day later.
LAG_DAYS: Final = 2
# The share of the way to the best factor that is gone, as a power: it was the best of the past. ACCURACY: 0.5 and 1 did equally well.
_TRUST: Final = 0.5
# With as many outcomes half of that trust is there.
_HALF_TRUST: Final = 200.0
# Losses are kept in thousandths of a unit.
_RESOLUTION: Final = 1000
CLASSES: Final = 3


def volume_class(scale: F32, limits: Sequence[float]) -> I64:
    """0, 1 or 2 for products whose typical demand per step is below the first limit, the second, or above: (n,).

    >>> volume_class(np.float32([0.1, 3, 1]), (0.5, 2)).tolist()
    [0, 2, 1]
    """
    return np.searchsorted(np.asarray(limits, np.float32), scale).astype(np.int64)


def turn(product_ids: Iterable[str], horizon: int) -> I64:
    """When a product's trials begin: after steps whose index is this modulo the horizon, (n,)."""
    return np.array([crc32(name.encode()) % horizon for name in product_ids], np.int64)


@dataclass(frozen=True, slots=True)
class Trials:
    """Forecasts on trial; row i of each array belongs to product i."""

    step: I64  # (n,) the last consumed step when it was made; NO_TRIAL: there is none
    group: I64  # (n,) volume class then
    mean: F32  # (n, horizon)
    quantiles: F32  # (n, horizon, levels) calibrated, not yet in whole units
    factors: F32  # (n, levels) that are in them

    def at(self, rows: npt.NDArray[np.intp]) -> "Trials":
        return Trials(self.step[rows], self.group[rows], self.mean[rows], self.quantiles[rows], self.factors[rows])

    def put(self, rows: npt.NDArray[np.intp], others: "Trials") -> None:
        """Replace the trials of `rows` in place."""
        self.step[rows], self.group[rows], self.mean[rows] = others.step, others.group, others.mean
        self.quantiles[rows], self.factors[rows] = others.quantiles, others.factors


NO_TRIAL: Final = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Sums over outcomes, by volume class: all integers, so that `+` does not depend on order."""

    count: I64  # (classes,)
    demand: I64  # (classes,) in thousandths
    mean: I64  # (classes,) of the forecast means, in thousandths
    losses: I64  # (classes, levels, factors) pinball loss of the model's quantile times each factor, in thousandths
    published: I64  # (classes, levels) pinball loss as published, in thousandths
    below: I64  # (classes, levels) outcomes below the published quantile
    at_most: I64  # (classes, levels)

    @classmethod
    def none(cls, levels: int) -> Self:
        """Nothing yet."""
        shapes = ((), (), (), (levels, len(FACTORS)), (levels,), (levels,), (levels,))
        return cls(*(np.zeros((CLASSES, *shape), np.int64) for shape in shapes))

    def parts(self) -> tuple[I64, ...]:
        return self.count, self.demand, self.mean, self.losses, self.published, self.below, self.at_most

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(*(a + b for a, b in zip(self.parts(), other.parts(), strict=True)))


def no_trials(n: int, horizon: int, levels: int) -> Trials:
    """Of products that were never forecast."""
    step, group = np.full(n, NO_TRIAL, np.int64), np.zeros(n, np.int64)
    return Trials(
        step, group, np.zeros((n, horizon), np.float32), np.zeros((n, horizon, levels), np.float32), np.ones((n, levels), np.float32)
    )


def on_trial(trials: Trials, step: I64) -> npt.NDArray[np.bool_]:
    """(n,) products whose forecast on trial speaks of `step`."""
    return np.asarray((trials.step < step) & (step - trials.mean.shape[1] <= trials.step))


def outcomes(trials: Trials, step: I64, demand: F32, levels: Sequence[float], *, whole_units: bool) -> Outcomes:
    """Compare forecasts on trial with the demand of `step`, (n,) each; demand of NaN (a gap) judges nobody. `whole_units`: see the artefact's."""
    rows = np.flatnonzero(np.isfinite(demand) & on_trial(trials, step))
    ahead = (step - trials.step)[rows] - 1
    quantiles, came, level = trials.quantiles[rows, ahead].astype(np.float64), demand[rows].astype(np.float64), np.asarray(levels)
    raw, published = quantiles / trials.factors[rows], np.rint(quantiles) if whole_units else quantiles
    values = (
        np.ones(len(rows)),
        came * _RESOLUTION,
        trials.mean[rows, ahead].astype(np.float64) * _RESOLUTION,
        pinball(came[:, None, None], raw[..., None] * FACTORS, level[:, None]) * _RESOLUTION,
        pinball(came[:, None], published, level) * _RESOLUTION,
        came[:, None] < published,
        came[:, None] <= published,
    )
    sums = Outcomes.none(len(level))
    for total, value in zip(sums.parts(), values, strict=True):
        np.add.at(total, trials.group[rows], np.rint(value).astype(np.int64))
    return sums


def best_factors(found: Outcomes) -> F32:
    """Factor for each class and level, (classes, levels): the one of least loss, of equals the nearest to 1, and part of the way to it."""
    least = found.losses == found.losses.min(axis=-1, keepdims=True)
    best = FACTORS[np.where(least, np.abs(np.log(FACTORS)), np.inf).argmin(axis=-1)]
    trust = _TRUST * found.count / (found.count + _HALF_TRUST)
    factors: F32 = best ** trust[:, None].astype(np.float32)
    return factors


def factors_of(by_day: Mapping[int, Outcomes], day: int, levels: int) -> F32:
    """Factor for each class and level, (classes, levels), of forecasts made on a day, by the outcomes of the days before."""
    remembered = range(day - LAG_DAYS - MEMORY_DAYS + 1, day - LAG_DAYS + 1)
    return best_factors(sum((by_day[past] for past in remembered if past in by_day), Outcomes.none(levels)))
