"""Whether forecasts have become different from what they were: a control chart over the sums of each day's outcomes. Pure.

Per volume class three numbers a day: the logarithm of the MWQL (`loss`; only a rise counts), the relative error of the means (`bias`), and the share of
outcomes below the upper quantile (`coverage`, that of ties halved). Neither their level nor their spread is known beforehand, and a class of a shard has
28 days at most. Hence a self-starting CUSUM (Hawkins 1987, The Statistician 36, 299-315): each day is standardised by the mean and deviation of the days
before it, brought to a normal score by Wallace's approximation of Student's t, and added up by Page's rule. It is worked out anew from the stored days
each time, so that it is a function of them alone: it does not depend on who looks, or on when a worker was started.

No library: river's detectors need a scale beforehand and carry state; statsmodels' tests ask whether a whole window has a break, and see least at its end.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from models.accuracy import ALL, accuracy
from models.calibration import F64, MEMORY_DAYS, Bools, Outcomes
from models.metrics import VOLUMES

MEASURES: Final = ("loss", "bias", "coverage")
CLASSES: Final = (*VOLUMES, ALL)
# Set to shifts of a deviation and more. Of 20,000 series that did not change, 1 % went off within 28 days; of a change by two deviations 85 % were found
# within ten days, by three 63 % within four and all within ten (normal values, 18 days known before).
ALLOWANCE: Final = 0.5
LEVEL: Final = 6.0
# One strange day is not a change: three at least must agree.
LARGEST: Final = 3.0
# Days that teach what is usual before one is judged.
WARM_UP_DAYS: Final = 7
# A class of which less came in a day says nothing of it.
FEWEST_OUTCOMES: Final = 50
UPPER: Final = 0.9


def drifting(by_day: Mapping[int, Outcomes], day: int, levels: Sequence[float]) -> dict[str, tuple[str, ...]]:
    """By volume (of CLASSES) those of MEASURES that have drifted by the end of a day, as of the four weeks that it ends; volumes without any are absent."""
    days = range(day - MEMORY_DAYS + 1, day + 1)
    seen = np.array([_of_day(by_day.get(each), levels) for each in days])
    found = chart(seen.reshape(len(days), -1), np.tile(np.array(MEASURES) != "loss", len(CLASSES))).reshape(len(CLASSES), len(MEASURES))
    named = {volume: tuple(np.array(MEASURES)[row].tolist()) for volume, row in zip(CLASSES, found, strict=True)}
    return {volume: measures for volume, measures in named.items() if measures}


def chart(series: F64, two_sided: Bools) -> Bools:
    """Which of the series, (days, k), NaN where nothing is known, are off their usual course on the last day, (k,).

    One goes off when its walk up (or down, where it is two-sided) reaches LEVEL, and is back when that has fallen by half: six usual days. Days on
    which it is off do not teach what is usual; when the usual ones have left the window, what was a drift is the usual.
    """
    k = series.shape[1]
    n, mean, squares = np.zeros(k), np.zeros(k), np.zeros(k)
    up, down, off = np.zeros(k), np.zeros(k), np.zeros(k, np.bool_)
    for values in series:
        known = np.isfinite(values)
        value = np.where(known, values, 0.0)
        judged = known & (n >= WARM_UP_DAYS)
        score = np.where(judged, _normal_score(value, n, mean, squares), 0.0)
        up = np.where(judged, np.clip(up + score - ALLOWANCE, 0.0, LEVEL), up)
        down = np.where(judged & two_sided, np.clip(down - score - ALLOWANCE, 0.0, LEVEL), down)
        furthest = np.maximum(up, down)
        off = np.where(furthest >= LEVEL, True, off & (furthest > LEVEL / 2))
        learns = known & ~off
        n = n + learns
        step = np.where(learns, value - mean, 0.0)
        mean = mean + step / np.maximum(n, 1)
        squares = squares + step * np.where(learns, value - mean, 0.0)
    return off


def _normal_score(value: F64, n: F64, mean: F64, squares: F64) -> F64:
    """How unusual a value is after n others, (k,), as a standard normal one: Student's t with n - 1 degrees of freedom, by Wallace (1959)."""
    freedom = np.maximum(n - 1, 1)
    # Days that are all alike leave no deviation: the least one that counts is a thousandth of the level.
    spread = np.maximum(np.sqrt(squares / freedom), 1e-3 * np.maximum(np.abs(mean), 1e-3))
    t = (value - mean) / (spread * np.sqrt(1 + 1 / np.maximum(n, 1)))
    score = np.sign(t) * (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(t**2 / freedom))
    clipped: F64 = np.clip(score, -LARGEST, LARGEST)
    return clipped


def _of_day(found: Outcomes | None, levels: Sequence[float]) -> npt.NDArray[np.float64]:
    """(classes, measures)"""
    values = np.full((len(CLASSES), len(MEASURES)), np.nan)
    upper = int(np.argmin(np.abs(np.asarray(levels) - UPPER)))
    for volume, one in (accuracy(found, levels) if found is not None else {}).items():
        if one.outcomes >= FEWEST_OUTCOMES and one.demand and one.mwql > 0:
            values[CLASSES.index(volume)] = np.log(one.mwql), one.bias, (one.below[upper] + one.at_most[upper]) / 2
    return values
