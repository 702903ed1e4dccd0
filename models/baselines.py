"""Forecasts that a model must beat: simple, and without parameters."""

from typing import Final

import numpy as np
import numpy.typing as npt

from models.metrics import SCORED_LEVELS
from models.seasons import DAY_MS

Floats = npt.NDArray[np.floating]

_WINDOW_MS: Final = 28 * DAY_MS
# Of a standard normal, at SCORED_LEVELS.
_NORMAL: Final = np.array([-1.2815515655446004, 0.0, 1.2815515655446004])


def window_mean(history: Floats, horizon: int, step_ms: int) -> tuple[Floats, dict[float, Floats]]:
    """Mean and empirical quantiles of the last 28 days, the same for every step; `history`: (n, steps), NaN before a product is born."""
    window = history[:, -max(_WINDOW_MS // step_ms, 1) :]
    mean = np.nanmean(window, axis=1)
    quantiles = np.nanquantile(window, SCORED_LEVELS, axis=1)
    shape = (len(history), horizon)
    return np.broadcast_to(mean[:, None], shape), {
        level: np.broadcast_to(q[:, None], shape) for level, q in zip(SCORED_LEVELS, quantiles, strict=True)
    }


def seasonal_naive(history: Floats, horizon: int, season: int) -> tuple[Floats, dict[float, Floats]]:
    """The last season again; quantiles from the normal spread of season-to-season changes, growing with the seasons ahead."""
    n, steps = history.shape
    known = history if steps >= season else np.concatenate([np.zeros((n, season - steps)), history], axis=1)
    ahead = np.arange(horizon)
    mean = np.nan_to_num(known[:, -season:][:, ahead % season])
    changes = known[:, season:] - known[:, :-season]
    defined = np.isfinite(changes)
    variance = np.where(defined, changes, 0.0) ** 2
    spread = np.sqrt(variance.sum(axis=1) / np.maximum(defined.sum(axis=1), 1))
    sigma = spread[:, None] * np.sqrt(ahead // season + 1)
    return mean, {level: np.maximum(mean + z * sigma, 0) for level, z in zip(SCORED_LEVELS, _NORMAL, strict=True)}
