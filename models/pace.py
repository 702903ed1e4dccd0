"""How much of a step's demand usually has come when a part of its time has passed: a day has hours, and a shop sleeps.

A pace is demand by local hour of the week, relative to its mean. Steps of up to an hour are taken as even: there the clock is as good.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from models.features import F32, I64, distinct
from models.seasons import HOUR_MS, season

HOURS: Final = 168
# No hour is so quiet that nothing at all is expected of it: a step is never over before its end.
_LEAST: Final = 1e-4
# An hour of the week is drawn towards the same hour of all days by so many days' worth of demand: few weeks say little of one weekday.
_PRIOR_WEEKS: Final = 4.0


def even() -> F32:
    """The pace of a shop that nothing is known of."""
    return np.ones(HOURS, np.float32)


def fit(hour: I64, units: npt.NDArray[np.float64], timezone: str) -> F32:
    """The pace, (168,), of a shop that sold `units` in these hours since 1970, (n,) each, which may repeat.

    >>> weekday = fit(np.arange(12, 24 * 28, 24), np.ones(28), "UTC")  # always between noon and one
    >>> round(float(weekday[12] / weekday.sum()) * 7, 2)
    1.0
    """
    if not len(hour) or not units.sum() > 0:
        return even()
    first, last = int(hour.min()), int(hour.max())
    by_hour = np.bincount(hour - first, weights=units, minlength=last - first + 1)
    phase = season(first, len(by_hour), step_ms=HOUR_MS, periods=(HOURS,), timezone=timezone).phases[0]
    seen = np.bincount(phase, minlength=HOURS)
    total = np.bincount(phase, weights=by_hour, minlength=HOURS)
    of_day = total.reshape(7, 24).sum(axis=0) / np.maximum(seen.reshape(7, 24).sum(axis=0), 1)
    mean = (total.reshape(7, 24) + _PRIOR_WEEKS * of_day) / (seen.reshape(7, 24) + _PRIOR_WEEKS)
    floor = _LEAST * mean.mean()
    return np.asarray((np.maximum(mean, floor) / np.maximum(mean, floor).mean()).ravel(), np.float32)


def passed(pace: F32, step: I64, elapsed: F32, step_ms: int, timezone: str) -> F32:
    """Share of the demand of each `step`, (n,), that is expected in the first `elapsed` of its time, (n,): rising from 0 to 1.

    >>> slow_morning = np.tile(np.repeat(np.float32([0.5, 1.5]), 12), 7)
    >>> passed(slow_morning, np.array([4, 4, 4]), np.float32([0, 0.5, 1]), 24 * HOUR_MS, "UTC").tolist()
    [0.0, 0.25, 1.0]
    """
    if step_ms <= HOUR_MS:
        return elapsed
    hours = -(-step_ms // HOUR_MS)
    steps, inverse = distinct(step)
    out = np.empty(len(step), np.float32)
    for i, one in enumerate(steps.tolist()):
        rows = slice(None) if len(steps) == 1 else np.flatnonzero(inverse == i)
        weights = pace[season(one * step_ms // HOUR_MS, hours, step_ms=HOUR_MS, periods=(HOURS,), timezone=timezone).phases[0]]
        before = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])
        out[rows] = np.interp(elapsed[rows], np.linspace(0, 1, hours + 1), before / before[-1])
    return out
