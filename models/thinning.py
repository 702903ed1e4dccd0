"""A part of an interval's demand: its quantiles from those of the whole interval's.

Demand that comes in independent pieces is much like a gamma process, in which a share r of an interval has r times the whole's shape, and the same
scale. So a quantile shrinks as that of a gamma distribution with the forecast's own relative variance does: with the root of the share around the mean
where many small orders come, and to nothing where there are one or two, most parts having none.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv, gammaln

from models.features import F32

F64 = npt.NDArray[np.float64]

# Shapes of the table, evenly spaced in logarithm: about as many orders come in an interval.
_LOG_SHAPES: Final = np.linspace(math.log(1e-3), math.log(1e4), 240)
# No forecast is surer than that of so many orders, nor less sure than that of so few.
_FEWEST, _MOST = 1e-2, 1e4
# Below, a quantile is its logarithm's first term: the next one is smaller by as much again.
_TINY_LOG: Final = -50.0


def level_shares(levels: Sequence[float]) -> F32:
    """Probability that each quantile stands for, (levels,): they sum to 1.

    >>> level_shares((0.25, 0.5, 0.75)).tolist()
    [0.375, 0.25, 0.375]
    """
    ends = np.concatenate([[0.0], (np.array(levels[1:]) + np.array(levels[:-1])) / 2, [1.0]])
    return np.diff(ends).astype(np.float32)


def moments(quantiles: F32, levels: Sequence[float]) -> tuple[F32, F32]:
    """Mean and variance of the distributions that quantiles describe, whose levels are the last axis; (...,) each."""
    weighted = quantiles * level_shares(levels)  # no matrix product: its last bits would depend on a product's batch-mates
    mean = weighted.sum(axis=-1)
    return mean, np.maximum((quantiles * weighted).sum(axis=-1) - mean * mean, 0)


def part(quantiles: F32, share: F32, shape: F32, levels: Sequence[float]) -> F32:
    """Quantiles, (n, levels), of what a `share`, (n,), of an interval's demand brings; `quantiles`, (n, levels), are those of the whole.

    `shape`, (n,): of the gamma distribution as wide as the whole. Rises with the share, which may be above 1, and with the level. A share of 1 changes no bit.
    """
    logs = np.log(np.clip(shape, _FEWEST, _MOST).astype(np.float64))
    of_part = logs + np.log(np.clip(share, 1e-30, 1).astype(np.float64))
    out = np.empty_like(quantiles)
    for i, table in enumerate(_log_quantiles(tuple(levels))):
        out[:, i] = quantiles[:, i] * np.exp(np.interp(of_part, _LOG_SHAPES, table) - np.interp(logs, _LOG_SHAPES, table))
    # Below the table's end next to nothing is left, and above the whole nothing is known but the scale.
    out *= np.where(share > 0, np.exp(np.minimum(of_part - _LOG_SHAPES[0], 0)), 0).astype(np.float32)[:, None]
    return np.asarray(np.where(share[:, None] >= 1, quantiles * share[:, None], out))


def gamma_quantiles(mean: F64, shape: F64, levels: Sequence[float]) -> F64:
    """Quantiles of gamma distributions, (..., levels), of this mean and shape (mean² over variance), (...) each; rise with the level."""
    logs = np.clip(np.log(shape), _LOG_SHAPES[0], _LOG_SHAPES[-1])
    tables = _log_quantiles(tuple(levels))
    return np.stack([mean * np.exp(np.interp(logs, _LOG_SHAPES, table) - logs) for table in tables], axis=-1)


@lru_cache(maxsize=8)
def _log_quantiles(levels: tuple[float, ...]) -> F64:
    """Logarithms of the gamma distribution's quantiles, (levels, shapes)."""
    return np.stack([gamma_log_quantile(level, np.exp(_LOG_SHAPES)) for level in levels])


def gamma_log_quantile(level: float, shape: F64) -> F64:
    """Logarithm of the quantile of gamma distributions with scale 1, (n,).

    >>> np.exp(gamma_log_quantile(0.5, np.array([1.0, 100.0]))).round(3).tolist()
    [0.693, 99.667]
    """
    tiny = (math.log(level) + gammaln(1 + shape)) / shape  # the first term of the distribution's series at 0, where float64 ends
    return np.asarray(np.where(tiny < _TINY_LOG, tiny, np.log(np.maximum(gammaincinv(shape, level), math.exp(_TINY_LOG)))))
