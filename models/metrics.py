"""Errors of forecasts whose outcomes are known. Pure; sums over everything given, one expression each."""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

# Levels that every model of a backtest forecasts: their calibration is reported.
LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
# The levels over which MWQL is taken.
SCORED_LEVELS: Final = (0.1, 0.5, 0.9)


def pinball(demand: Floats, quantile: Floats, level: float | Floats) -> Floats:
    """Loss of a quantile forecast, element by element.

    >>> pinball(np.array([4.0, 0.0]), np.array([2.0, 2.0]), 0.9).round(3).tolist()
    [1.8, 0.2]
    """
    error = demand - quantile
    return np.maximum(level * error, (level - 1) * error)


def wql(demand: Floats, quantile: Floats, level: float) -> float:
    """Weighted quantile loss: twice the pinball loss relative to demand (GluonTS' convention)."""
    return float(2 * pinball(demand, quantile, level).sum() / demand.sum())


def mwql(demand: Floats, quantiles: dict[float, Floats]) -> float:
    """Mean of `wql` over SCORED_LEVELS; `quantiles` by level, each of the shape of `demand`."""
    return float(np.mean([wql(demand, quantiles[level], level) for level in SCORED_LEVELS]))


def wape(demand: Floats, forecast: Floats) -> float:
    """Absolute error relative to demand."""
    return float(np.abs(demand - forecast).sum() / demand.sum())


def sumw(demand: Floats, mean: Floats) -> float:
    """`wape` of the sums over the horizon, the last axis: what replenishment needs."""
    return wape(demand.sum(axis=-1), mean.sum(axis=-1))


def bias(demand: Floats, mean: Floats) -> float:
    """Mean error relative to demand; negative: too low."""
    return float((mean - demand).sum() / demand.sum())


def rmsse(demand: Floats, mean: Floats, naive: Floats) -> float:
    """Mean over series of the root of squared error relative to `naive`, (series,), the mean squared step-to-step change in history.

    `demand` and `mean`: (series, horizon). Series whose history never changed do not count. Formula of the M5 competition.
    """
    counts = naive > 0
    squared = ((demand - mean) ** 2).mean(axis=-1)
    return float(np.sqrt(squared[counts] / naive[counts]).mean())


def coverage(demand: Floats, quantile: Floats) -> tuple[float, float]:
    """Shares of outcomes below, and at or below, a quantile: around its level where it is calibrated, counts being lumpy."""
    return float((demand < quantile).mean()), float((demand <= quantile).mean())


def table_row(demand: Floats, mean: Floats, quantiles: dict[float, Floats], naive: Floats) -> dict[str, float]:
    """All of the above for the series of one model; shapes (series, horizon), `naive` (series,)."""
    below, at_most = coverage(demand, quantiles[0.9])
    return {
        "MWQL": mwql(demand, quantiles),
        "WQL.9": wql(demand, quantiles[0.9], 0.9),
        "RMSSE": rmsse(demand, mean, naive),
        "WAPE": wape(demand, quantiles[0.5]),
        "SUMW": sumw(demand, mean),
        "bias": bias(demand, mean),
        "P(y<q90)": below,
        "P(y<=q90)": at_most,
    }
