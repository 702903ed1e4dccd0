"""Forecasts, and how the part of the running step that is already known changes them. Pure arithmetic over arrays.

What has come is added, what is still to come shrinks with the share of the step's demand that is expected to have come, and the product's rate is
corrected by what came: a linear Bayes (credibility) estimate, in which an observation counts for less the more a product's demand comes in few large
orders. The forecast's own quantiles tell how lumpy it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.features import F32, I64
from models.thinning import moments, part

Bools = npt.NDArray[np.bool_]

# Below this mean a forecast says "none"; keeps ratios finite.
_LEAST: Final = np.float32(1e-6)
# More than this many typical orders, and times what was expected, above the expectation is a bulk order: it says no more of the rate than these.
_SURPRISE: Final = np.float32(2)


@dataclass(frozen=True, slots=True)
class Running:
    """The running step: what was to be expected until now, and what it will be at its end."""

    by_now_mean: F32  # (n,)
    by_now_quantiles: F32  # (n, levels)
    step_mean: F32  # (n,)
    step_quantiles: F32  # (n, levels)


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Demand in units. The first step of the horizon is the running one; sums begin with it too."""

    mean: F32  # (n, horizon)
    quantiles: F32  # (n, levels, horizon), rising with the level
    cumulative_mean: F32  # (n, sums)
    cumulative_quantiles: F32  # (n, sums, levels), rising with the level
    running: Running

    def at(self, rows: npt.NDArray[np.intp]) -> "Forecasts":
        r = self.running
        running = Running(r.by_now_mean[rows], r.by_now_quantiles[rows], r.step_mean[rows], r.step_quantiles[rows])
        return Forecasts(self.mean[rows], self.quantiles[rows], self.cumulative_mean[rows], self.cumulative_quantiles[rows], running)

    def whole(self) -> "Forecasts":
        """With the steps' quantiles in whole units, as those of counts are; for sums, which are larger, it would only widen intervals."""
        r = self.running
        running = Running(r.by_now_mean, np.rint(r.by_now_quantiles), r.step_mean, np.rint(r.step_quantiles))
        return Forecasts(self.mean, np.rint(self.quantiles), self.cumulative_mean, self.cumulative_quantiles, running)

    def finite(self) -> Bools:
        """(n,) products all of whose numbers are finite."""
        r = self.running
        parts = (self.mean, self.quantiles, self.cumulative_mean, self.cumulative_quantiles, r.by_now_mean, r.by_now_quantiles)
        n = len(self.mean)
        whole = [np.isfinite(part.reshape(n, -1)).all(axis=1) for part in (*parts, r.step_mean, r.step_quantiles)]
        return np.asarray(np.logical_and.reduce(whole))


@dataclass(frozen=True, slots=True)
class NowcastRule:
    """How the running step's observed part moves the rest; fitted on parts of steps whose outcomes are known."""

    weight: float = 128.0  # typical orders that the forecast is worth: the more, the less an observation moves it
    independent: float = 1.0  # share of a forecast's relative variance that is chance within the step, not doubt about the product's rate
    carry: float = 0.2  # share of the rate's change that the next step has
    persistence: float = 0.9  # share of it that is left a step later, 0 to below 1


def change(rule: NowcastRule, observed: F32, expected: F32, lumpiness: F32) -> F32:
    """The product's rate relative to its forecast, given `observed` units where `expected` were, (n,).

    `lumpiness`: variance relative to the mean, in units: how large an order is that makes the demand what it is; 1 for single units.
    The linear Bayes estimate (Bühlmann 1967); with a lumpiness of 1 the posterior mean of a gamma-Poisson rate.

    >>> change(NowcastRule(weight=4), np.float32([0, 4, 12, 999]), np.float32([0, 4, 4, 4]), np.float32([1, 1, 1, 1])).tolist()
    [1.0, 1.0, 2.0, 2.25]
    """
    order = np.maximum(lumpiness, 1)
    weight = np.float32(rule.weight) * order
    return (weight + np.minimum(observed, expected + _SURPRISE * (order + expected))) / (weight + expected)


def nowcast(
    rule: NowcastRule, levels: Sequence[float], decoded: tuple[F32, F32], horizon: int, lengths: I64, observed: F32, passed: F32
) -> Forecasts:
    """Forecasts from the decoder's rows given what the running step brought so far.

    `decoded`: mean (n, horizon + sums) and quantiles (n, horizon + sums, levels), of whole targets. `lengths`: (n, sums) in steps.
    `observed`: (n,) units; `passed`: (n,) share of the running step's demand that is expected to have come (`models.pace`). With both 0 the decoded
    rows come back unchanged, and with a share of 1 the step is what was observed. What is observed raises every number, or leaves it.
    """
    mean, quantiles = decoded[0][:, :horizon], decoded[1][:, :horizon]
    first, of_first = mean[:, 0], quantiles[:, 0]
    centre, variance = moments(of_first, levels)
    shape = _shape(rule, centre, variance)
    expected = first * passed
    rate = change(rule, observed, expected, (variance / np.maximum(first, _LEAST)).astype(np.float32))
    left = (1 - passed) * rate
    step_mean = observed + first * left
    step_quantiles = observed[:, None] + part(of_first, left, shape, levels)
    by_now = Running(expected, part(of_first, passed, shape, levels), step_mean, step_quantiles)

    later = rule.carry * np.power(rule.persistence, np.arange(-1, horizon - 1))
    factor = 1 + (rate[:, None] - 1) * later.astype(np.float32)
    all_means, all_quantiles = mean * factor, quantiles * factor[..., None]
    all_means[:, 0], all_quantiles[:, 0] = step_mean, step_quantiles
    sums = decoded[0][:, horizon:], decoded[1][:, horizon:]
    sum_mean, sum_quantiles = _sums(rule, levels, sums, lengths, first, left, rate, observed)
    return Forecasts(all_means, np.ascontiguousarray(all_quantiles.transpose(0, 2, 1)), sum_mean, sum_quantiles, by_now)


def _shape(rule: NowcastRule, mean: F32, variance: F32) -> F32:
    """Of the gamma process that demand is like: its relative variance by chance, inverted."""
    return np.asarray(mean * mean / np.maximum(rule.independent * variance, _LEAST), np.float32)


def _sums(
    rule: NowcastRule, levels: Sequence[float], decoded: tuple[F32, F32], lengths: I64, first: F32, left: F32, rate: F32, observed: F32
) -> tuple[F32, F32]:
    """What was observed, plus the rest of each sum: of the running step what is `left`, (n,), of the later ones as their rates change."""
    mean, quantiles = decoded
    n, k = mean.shape
    running = np.where(lengths == 1, mean, np.minimum(first[:, None], mean))
    later = rule.carry * (1 - np.power(rule.persistence, lengths - 1)) / ((1 - rule.persistence) * np.maximum(lengths - 1, 1))
    factor = (rate[:, None] - 1) * later.astype(np.float32)
    share = 1 + (running * (left[:, None] - 1) + (mean - running) * factor) / np.maximum(mean, _LEAST)
    shares: F32 = np.maximum(share, 0).astype(np.float32)
    flat = quantiles.reshape(n * k, len(levels))
    rest = part(flat, shares.reshape(-1), _shape(rule, *moments(flat, levels)), levels).reshape(quantiles.shape)
    return np.asarray(observed[:, None] + mean * shares), np.asarray(observed[:, None, None] + rest)
