"""Quantiles for models that forecast means only: from how demand turned out where they forecast as much before."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.metrics import LEVELS

Floats = npt.NDArray[np.floating]

# Forecasts below this are as good as none; ratios to them say nothing.
_LEAST_MEAN: Final = 0.02
_CLASSES: Final = 12
# Outcomes of a class: the outer quantiles rest on a tenth of them.
_FEWEST: Final = 60


@dataclass(frozen=True, slots=True)
class Spread:
    """Ratios of demand's quantiles to the forecast mean, by classes of the mean."""

    mean: Floats  # (classes,) typical forecast of each class, rising
    ratio: Floats  # (levels, classes)

    def quantiles(self, mean: Floats) -> dict[float, Floats]:
        """By level, of the shape of `mean`; ratios between classes are interpolated over the mean's logarithm. NaN where it is NaN."""
        mean = np.maximum(mean, _LEAST_MEAN)
        place, classes = np.log(mean), np.log(self.mean)
        return {level: mean * np.interp(place, classes, ratio) for level, ratio in zip(LEVELS, self.ratio, strict=True)}


def spread(mean: Floats, demand: Floats) -> Spread:
    """The spread of past demand, (k,), around what was forecast for it, (k,); k must be at least 1.

    >>> seen = spread(np.full(100, 2.0), np.arange(100.0) / 25)
    >>> float(seen.quantiles(np.array([4.0]))[0.5][0])
    3.96
    """
    mean = np.maximum(mean, _LEAST_MEAN)
    order = np.argsort(mean, kind="stable")
    classes = np.array_split(order, max(min(_CLASSES, len(order) // _FEWEST), 1))
    typical = np.array([np.exp(np.log(mean[one]).mean()) for one in classes])
    ratios = np.stack([np.quantile(demand[one] / mean[one], LEVELS) for one in classes], axis=1)
    return Spread(typical, ratios)
