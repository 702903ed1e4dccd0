"""How far what the network sees has moved from what it was trained on, by group of inputs. Pure; sums of one day's closed steps.

Inputs are standardised by the training's mean and deviation, so that at home their mean is 0 and their spread 1.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from models.calibration import F64
from models.features import F32, FeatureSpec
from models.input_groups import groups
from models.weights import CLIP


@dataclass(frozen=True, slots=True)
class InputSums:
    """Over products and steps; (inputs,) each."""

    count: int
    total: F64
    squares: F64
    clipped: F64  # values that the network sees cut off

    @classmethod
    def of(cls, standardised: F32) -> Self:
        """Of inputs (n, inputs); rows that are not finite are left out.

        >>> InputSums.of(np.float32([[0, 7], [2, -7], [np.nan, 0]])).clipped.tolist()
        [0.0, 2.0]
        """
        values = standardised[np.isfinite(standardised).all(axis=1)].astype(np.float64)
        clipped = (np.abs(values) > CLIP).sum(axis=0).astype(np.float64)
        seen = np.clip(values, -CLIP, CLIP)
        return cls(len(values), seen.sum(axis=0), (seen**2).sum(axis=0), clipped)

    def __add__(self, other: "InputSums") -> "InputSums":
        return InputSums(self.count + other.count, self.total + other.total, self.squares + other.squares, self.clipped + other.clipped)


@dataclass(frozen=True, slots=True)
class Shift:
    """Of the input of a group that has moved furthest; 0, 1 and 0 at home."""

    mean: float  # training deviations between the means
    spread: float  # times the training's deviation
    clipped: float  # share of the values


def shifts(spec: FeatureSpec, sums: InputSums) -> dict[str, Shift]:
    """By group of `input_groups.groups`; nothing where nothing was seen."""
    if not sums.count:
        return {}
    mean = sums.total / sums.count
    spread = np.sqrt(np.maximum(sums.squares / sums.count - mean**2, 0))
    clipped = sums.clipped / sums.count
    found = {}
    for name, group in groups(spec).items():
        columns = np.array(group.encoder, np.int64)
        if len(columns):
            furthest = columns[np.abs(mean[columns]).argmax()]
            widest = columns[np.abs(np.log(np.maximum(spread[columns], 1e-6))).argmax()]
            found[name] = Shift(float(mean[furthest]), float(spread[widest]), float(clipped[columns].max()))
    return found
