"""Forecasts, and how the part of the running step that is already known changes them. Pure arithmetic over arrays."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.features import F32, I64

Bools = npt.NDArray[np.bool_]

# Below this mean a forecast says "none"; keeps ratios finite.
_LEAST: Final = np.float32(1e-6)


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
    """How strongly the running step's observed part moves the rest; fitted on products that the network was not trained on.

    The product's rate relative to its forecast is taken as Gamma(`weight`, `weight`) beforehand; the observed count updates it
    (the conjugate gamma-Poisson posterior mean). The change fades by `persistence` per step.
    """

    weight: float = 4.0  # expected units that the forecast is worth
    persistence: float = 0.8  # share of the change that is left a step later, 0 to 1


def ratio(rule: NowcastRule, observed: F32, expected: F32) -> F32:
    """Posterior mean of the rate relative to its forecast, (n,).

    >>> ratio(NowcastRule(weight=4), np.float32([0, 4, 12]), np.float32([0, 4, 4])).tolist()
    [1.0, 1.0, 2.0]
    """
    weight = np.float32(rule.weight)
    return (weight + observed) / (weight + expected)


def part(mean: F32, quantiles: F32, share: F32) -> tuple[F32, F32]:
    """Mean and quantiles of a share of an interval, the last axis of `quantiles` being the levels.

    As in a process whose parts are independent, the mean shrinks with the share and the deviations from it with its square root.
    """
    centre = (mean * share)[..., None]
    return mean * share, np.maximum(centre + (quantiles - mean[..., None]) * np.sqrt(share)[..., None], 0)


def nowcast(rule: NowcastRule, decoded: tuple[F32, F32], horizon: int, lengths: I64, observed: F32, elapsed: F32) -> Forecasts:
    """Forecasts from the decoder's rows given what the running step brought so far.

    `decoded`: mean (n, horizon + sums) and quantiles (n, horizon + sums, levels), of whole targets. `lengths`: (n, sums) in steps.
    `observed`: (n,) units; `elapsed`: (n,) share of the running step that has passed. With both 0 the decoded rows come back unchanged.
    """
    mean, quantiles = decoded[0][:, :horizon], decoded[1][:, :horizon]
    first = mean[:, 0]
    by_now_mean, by_now_quantiles = part(first, quantiles[:, 0], elapsed)
    change = ratio(rule, observed, by_now_mean)
    rest_mean, rest_quantiles = part(first, quantiles[:, 0], 1 - elapsed)
    step_mean = observed + rest_mean * change
    step_quantiles = observed[:, None] + rest_quantiles * change[:, None]

    fading = np.power(np.float32(rule.persistence), np.arange(horizon, dtype=np.float32))
    factor = 1 + (change[:, None] - 1) * fading
    all_means = mean * factor
    all_quantiles = quantiles * factor[..., None]
    all_means[:, 0] = step_mean
    all_quantiles[:, 0] = step_quantiles
    sum_mean, sum_quantiles = _sums(rule, (decoded[0][:, horizon:], decoded[1][:, horizon:]), lengths, change, first * elapsed, observed)
    running = Running(by_now_mean, by_now_quantiles, step_mean, step_quantiles)
    return Forecasts(all_means, np.ascontiguousarray(all_quantiles.transpose(0, 2, 1)), sum_mean, sum_quantiles, running)


def _sums(rule: NowcastRule, decoded: tuple[F32, F32], lengths: I64, change: F32, passed: F32, observed: F32) -> tuple[F32, F32]:
    """Observed part plus the rest of each sum, scaled by the mean change over its steps."""
    mean, quantiles = decoded
    persistence = min(rule.persistence, 1 - 1e-6)
    fade = ((1 - np.power(persistence, lengths)) / ((1 - persistence) * lengths)).astype(np.float32)  # mean of persistence**i
    share = 1 - np.minimum(passed[:, None] / np.maximum(mean, _LEAST), 1)
    rest_mean, rest_quantiles = part(mean, quantiles, share)
    factor = 1 + (change[:, None] - 1) * fade
    return observed[:, None] + rest_mean * factor, observed[:, None, None] + rest_quantiles * factor[..., None]
