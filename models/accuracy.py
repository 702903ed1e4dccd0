"""How good forecasts were lately, from the sums of their outcomes: as published, by volume class and of all products together. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.calibration import RESOLUTION, Outcomes
from models.metrics import SCORED_LEVELS, VOLUMES

ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of at least one outcome; relative errors are not a number where nothing was sold."""

    outcomes: int
    demand: float  # units
    mwql: float  # see `models.metrics.mwql`
    naive: float  # the same of the naive forecast (`features.seasonal_naive`)
    bias: float  # mean error relative to demand; negative: too low
    below: tuple[float, ...]  # (levels,) share of outcomes below the published quantile
    at_most: tuple[float, ...]  # (levels,) a level is met where it lies between the two


def accuracy(found: Outcomes, levels: Sequence[float]) -> dict[str, Accuracy]:
    """By volume, ALL last; without those that nothing came of."""
    sums = [(name, found.sums[i]) for i, name in enumerate(VOLUMES)]
    each = [(name, Outcomes(row[None])) for name, row in [*sums, (ALL, found.sums.sum(axis=0))] if row[0]]
    return {name: _of_class(one, levels) for name, one in each}


def _of_class(found: Outcomes, levels: Sequence[float]) -> Accuracy:
    count, demand, mean = (int(column[0]) for column in (found.count, found.demand, found.mean))
    scored = [i for i, level in enumerate(levels) if level in SCORED_LEVELS]
    return Accuracy(
        outcomes=count,
        demand=demand / RESOLUTION,
        mwql=float(2 * found.published[0, scored].mean() / demand) if demand and scored else float("nan"),
        naive=int(found.naive[0]) / demand if demand else float("nan"),
        bias=(mean - demand) / demand if demand else float("nan"),
        below=tuple((found.below[0] / count).tolist()),
        at_most=tuple((found.at_most[0] / count).tolist()),
    )
