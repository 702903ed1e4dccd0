"""Errors of forecasts whose outcomes are known. Pure; over everything given, one expression each; NaN where nothing can be said."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

# Levels that every model of a backtest forecasts: their calibration is reported.
LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
# The levels over which MWQL is taken.
SCORED_LEVELS: Final = (0.1, 0.5, 0.9)
# Classes of products by how much they sell, least first.
VOLUMES: Final = ("slow", "medium", "fast")
# What a reader compares models by first; `table_row` holds more.
MAIN: Final = ("MWQL", "WQL.9", "RMSSE", "WAPE", "SUMW", "bias", "P(y<q90)", "P(y<=q90)")


def _mean(values: npt.NDArray[np.floating | np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def pinball(demand: Floats, quantile: Floats, level: float | Floats) -> Floats:
    """Loss of a quantile forecast, element by element.

    >>> pinball(np.array([4.0, 0.0]), np.array([2.0, 2.0]), 0.9).round(3).tolist()
    [1.8, 0.2]
    """
    error = demand - quantile
    return np.maximum(level * error, (level - 1) * error)


def wql(demand: Floats, quantile: Floats, level: float) -> float:
    """Weighted quantile loss: twice the pinball loss relative to demand (GluonTS' convention)."""
    return _ratio(2 * pinball(demand, quantile, level).sum(), demand.sum())


def mwql(demand: Floats, quantiles: dict[float, Floats]) -> float:
    """Mean of `wql` over SCORED_LEVELS; `quantiles` by level, each of the shape of `demand`."""
    return float(np.mean([wql(demand, quantiles[level], level) for level in SCORED_LEVELS]))


def wape(demand: Floats, forecast: Floats) -> float:
    """Absolute error relative to demand."""
    return _ratio(np.abs(demand - forecast).sum(), demand.sum())


def sumw(demand: Floats, mean: Floats) -> float:
    """`wape` of the sums over the horizon, the last axis: what replenishment needs."""
    return wape(demand.sum(axis=-1), mean.sum(axis=-1))


def bias(demand: Floats, mean: Floats) -> float:
    """Mean error relative to demand; negative: too low."""
    return _ratio((mean - demand).sum(), demand.sum())


def mse(demand: Floats, mean: Floats) -> float:
    """Mean squared error, in units squared: the few largest products decide it."""
    return _mean((demand - mean) ** 2)


def rmse(demand: Floats, mean: Floats) -> float:
    """Root of `mse`, in units."""
    return float(np.sqrt(mse(demand, mean)))


def mae(demand: Floats, median: Floats) -> float:
    """Mean absolute error, in units; medians minimise it."""
    return _mean(np.abs(demand - median))


def mape(demand: Floats, median: Floats) -> float:
    """Mean absolute error relative to the demand of the same step, over steps *with* demand: without any it has no value.

    >>> round(mape(np.array([2.0, 0.0, 4.0]), np.array([1.0, 9.0, 4.0])), 3)
    0.25
    """
    sold = demand > 0
    return _mean(np.abs(demand - median)[sold] / demand[sold])


def r_squared(demand: Floats, mean: Floats) -> float:
    """Share of demand's variance, over all series and steps together, that the forecast explains; at most 1, below 0: worse than one mean for all."""
    return 1 - _ratio(((demand - mean) ** 2).sum(), ((demand - _mean(demand)) ** 2).sum())


def rmsse(demand: Floats, mean: Floats, naive: Floats, weight: Floats | None = None) -> float:
    """Mean over series of the root of squared error relative to `naive`, (series,), the mean squared step-to-step change in history.

    `demand` and `mean`: (series, horizon). Series whose history never changed do not count; the others by `weight`, (series,), alike
    without. Formula of the M5 competition, whose weights are sales.
    """
    counts = naive > 0
    squared = ((demand - mean) ** 2).mean(axis=-1)
    weighted = (np.ones(naive.shape) if weight is None else weight)[counts]
    return _ratio((np.sqrt(squared[counts] / naive[counts]) * weighted).sum(), weighted.sum())


def mase(demand: Floats, median: Floats, seasonal: Floats) -> float:
    """Mean over series of absolute error relative to `seasonal`, (series,), the mean absolute season-to-season change in history.

    Series whose history never changed do not count (Hyndman and Koehler 2006, with the season's lag as in the M4 competition).
    """
    counts = seasonal > 0
    return _mean(np.abs(demand - median).mean(axis=-1)[counts] / seasonal[counts])


def coverage(demand: Floats, quantile: Floats) -> tuple[float, float]:
    """Shares of outcomes below, and at or below, a quantile: around its level where it is calibrated, counts being lumpy."""
    return _mean(demand < quantile), _mean(demand <= quantile)


def inside(demand: Floats, low: Floats, high: Floats) -> float:
    """Share of outcomes in an interval, its ends included; counts being lumpy, it may rightly be above the nominal one."""
    return _mean((low <= demand) & (demand <= high))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often outcomes were below, and at or below, the quantile of a level."""

    level: float
    below: float
    at_most: float

    @property
    def distance(self) -> float:
        """Of the level from the interval of both shares; 0 inside, where the quantile of a count can be no better.

        >>> Calibration(0.9, below=0.5, at_most=0.95).distance, round(Calibration(0.9, below=0.5, at_most=0.88).distance, 3)
        (0.0, 0.02)
        """
        return float(np.maximum(np.maximum(self.below - self.level, self.level - self.at_most), 0))


def calibration(demand: Floats, quantiles: dict[float, Floats]) -> tuple[Calibration, ...]:
    """One entry for each of LEVELS."""
    return tuple(Calibration(level, *coverage(demand, quantiles[level])) for level in LEVELS)


def pit(demand: Floats, quantiles: dict[float, Floats], rng: np.random.Generator) -> Floats:
    """Randomised probability integral transform, in the shape of `demand`: uniform on 0 .. 1 where forecasts are calibrated.

    A count is spread evenly over the unit around it, and the distribution function is linear between the quantiles; it begins at -½ and
    ends as far above the highest quantile as that lies above the middle one, at least ½ (after Czado, Gneiting and Held 2009).
    """
    levels = sorted(quantiles)
    rising = np.maximum.accumulate(np.stack([quantiles[level] for level in levels], axis=-1), axis=-1)
    highest, middle = rising[..., -1:], rising[..., len(levels) // 2, None]
    knots = np.concatenate([np.full_like(highest, -0.5), rising, highest + np.maximum(highest - middle, 0.5)], axis=-1)
    shares = np.array([0.0, *levels, 1.0])
    low, high = (_interpolated(demand + shift, knots, shares) for shift in (-0.5, 0.5))
    return low + rng.random(demand.shape) * (high - low)


def _interpolated(at: Floats, knots: Floats, shares: Floats) -> Floats:
    """The broken line through (knots, shares), `knots` (..., k) rising, at one place each; flat beyond both ends."""
    below = np.clip((knots <= at[..., None]).sum(axis=-1) - 1, 0, len(shares) - 2)
    left, right = (np.take_along_axis(knots, (below + i)[..., None], axis=-1)[..., 0] for i in (0, 1))
    part = np.clip((at - left) / np.where(right > left, right - left, 1), 0, 1)
    return np.asarray(shares[below] + part * (shares[below + 1] - shares[below]))


@dataclass(frozen=True)
class History:
    """What the errors of each series are set in relation to, from its history up to the cut-off; (series,) each."""

    naive: Floats  # mean squared step-to-step change
    seasonal: Floats  # mean absolute season-to-season change
    units: Floats  # sold lately


def table_row(demand: Floats, mean: Floats, quantiles: dict[float, Floats], history: History) -> dict[str, float]:
    """All of the above for the series of one model; shapes (series, horizon)."""
    median = quantiles[0.5]
    below, at_most = coverage(demand, quantiles[0.9])
    return {
        "MWQL": mwql(demand, quantiles),
        "WQL.9": wql(demand, quantiles[0.9], 0.9),
        "RMSSE": rmsse(demand, mean, history.naive),
        "wRMSSE": rmsse(demand, mean, history.naive, history.units),
        "MASE": mase(demand, median, history.seasonal),
        "WAPE": wape(demand, median),
        "SUMW": sumw(demand, mean),
        "bias": bias(demand, mean),
        "MSE": mse(demand, mean),
        "RMSE": rmse(demand, mean),
        "MAE": mae(demand, median),
        "MAPE": mape(demand, median),
        "R2": r_squared(demand, mean),
        "cov80": inside(demand, quantiles[0.1], quantiles[0.9]),
        "P(y<q90)": below,
        "P(y<=q90)": at_most,
    }
