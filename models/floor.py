"""The floor below which a model's alerts are not worth a page: while it forecasts worse than the day before did. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from models.calibration import CLASSES, LAG_DAYS, Bools, Outcomes, summed
from models.metrics import SCORED_LEVELS

# A whole week: no weekday hides in it, and what is mended counts within days.
FLOOR_DAYS: Final = 7
# Fewer outcomes say nothing: a day of eight products, by the hour.
FEWEST_OUTCOMES: Final = 200


def held(by_day: Mapping[int, Outcomes], day: int, levels: Sequence[float], floor: float) -> Bools:
    """Volume classes whose alerts are held back on a day, (classes,): over the week whose sums were whole when the day could begin, the published
    quantiles' loss was more than `floor` times that of the naive forecast. A floor of 0 holds nothing back.

    The same days before as for factors (`calibration.factors_of`): who looks, and when, makes no difference. The naive forecast's quantiles are all
    one number, of which the loss over levels around .5 is the absolute error.
    """
    if not floor:
        return np.zeros(CLASSES, np.bool_)
    found = summed(by_day, range(day - LAG_DAYS - FLOOR_DAYS + 1, day - LAG_DAYS + 1), len(levels))
    scored = [i for i, level in enumerate(levels) if level in SCORED_LEVELS]
    loss = 2 * found.published[:, scored].mean(axis=1)
    return np.asarray((found.count >= FEWEST_OUTCOMES) & (found.demand > 0) & (loss > floor * found.naive))
