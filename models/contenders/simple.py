"""Forecasts that a model must beat: simple, and without parameters."""

from statistics import NormalDist
from typing import Final

import numpy as np

from models.bench import BacktestForecasts, Bench, Progress
from models.metrics import LEVELS
from models.seasons import DAY_MS

_WINDOW_MS: Final = 28 * DAY_MS
_NORMAL: Final = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def window_mean(bench: Bench, progress: Progress) -> BacktestForecasts:
    """Mean and empirical quantiles of the last 28 days, the same for every step."""
    forecasts = BacktestForecasts.nothing(bench)
    for k, cutoff in enumerate(bench.cutoffs):
        window = bench.history(cutoff)[:, -max(_WINDOW_MS // bench.spec.step_ms, 1) :]
        forecasts.mean[k, : len(window)] = np.nanmean(window, axis=1)[:, None]
        for level, quantile in zip(LEVELS, np.nanquantile(window, LEVELS, axis=1), strict=True):
            forecasts.quantiles[level][k, : len(window)] = quantile[:, None]
        progress(k + 1, len(bench.cutoffs))
    return forecasts


def seasonal_naive(bench: Bench, progress: Progress) -> BacktestForecasts:
    """The last season again; quantiles from the normal spread of season-to-season changes, growing with the seasons ahead."""
    forecasts = BacktestForecasts.nothing(bench)
    season, ahead = bench.season, np.arange(bench.horizon)
    for k, cutoff in enumerate(bench.cutoffs):
        history = bench.history(cutoff)
        n, steps = history.shape
        known = history if steps >= season else np.concatenate([np.zeros((n, season - steps)), history], axis=1)
        mean = np.nan_to_num(known[:, -season:][:, ahead % season])
        changes = known[:, season:] - known[:, :-season]
        defined = np.isfinite(changes)
        spread = np.sqrt((np.where(defined, changes, 0.0) ** 2).sum(axis=1) / np.maximum(defined.sum(axis=1), 1))
        sigma = spread[:, None] * np.sqrt(ahead // season + 1)
        forecasts.mean[k, :n] = mean
        for level, z in zip(LEVELS, _NORMAL, strict=True):
            forecasts.quantiles[level][k, :n] = np.maximum(mean + z * sigma, 0)
        progress(k + 1, len(bench.cutoffs))
    return forecasts
