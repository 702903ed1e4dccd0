"""Gradient-boosted trees over the shared table (LightGBM): one model a quantile, and a Tweedie mean."""

from typing import Any, Final

import numpy as np

from models.bench import BacktestForecasts, Bench, Contender, Progress
from models.contenders import simple, table
from models.contenders.libraries import library
from models.contenders.regression import FEWEST_ROWS
from models.contenders.table import Known, Reach, Sample
from models.metrics import LEVELS

_SEED: Final = 1
_ROWS: Final = 150_000
_TWEEDIE_POWER: Final = 1.2
# Rows of a leaf, at least.
_LEAF: Final = 100
_PARAMETERS: Final[dict[str, Any]] = {
    "learning_rate": 0.1,
    "num_leaves": 63,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.7,
    "random_state": _SEED,
    "deterministic": True,
    "force_row_wise": True,
    "n_jobs": 0,  # as many threads as OpenMP is told; waiting for each other is dear where cores are shared
    "verbose": -1,
}


def boosted_trees(trees: int = 120) -> Contender:
    """A contender: quantiles and mean of demand relative to each product's scale, learnt on columns up to the first cut-off."""
    return lambda bench, progress: _forecast(bench, progress, trees)


def _forecast(bench: Bench, progress: Progress, trees: int) -> BacktestForecasts:
    reach = Reach.of(bench)
    rows = table.sample(bench, reach, _ROWS, np.random.default_rng(_SEED))
    if len(rows) < FEWEST_ROWS:
        return simple.window_mean(bench, progress)
    of = len(LEVELS) + 1 + len(bench.cutoffs)
    tweedie = {"objective": "tweedie", "tweedie_variance_power": _TWEEDIE_POWER}
    models = []
    for objective in (tweedie, *({"objective": "quantile", "alpha": level} for level in LEVELS)):
        models.append(_fit(rows, objective, trees))
        progress(len(models), of)
    forecasts = BacktestForecasts.nothing(bench)
    for k, cutoff in enumerate(bench.cutoffs):
        known = Known.at(bench, cutoff)
        features = table.rows(bench, reach, known, range(1, bench.horizon + 1))
        scale = table.scales(known, reach)[:, None]
        mean, *quantiles = (np.maximum(model.predict(features), 0).reshape(bench.horizon, -1).T * scale for model in models)
        forecasts.mean[k, : len(mean)] = mean
        for level, quantile in zip(LEVELS, np.sort(quantiles, axis=0), strict=True):
            forecasts.quantiles[level][k, : len(mean)] = quantile
        progress(len(models) + k + 1, of)
    return forecasts


def _fit(rows: Sample, objective: dict[str, Any], trees: int) -> Any:
    """A booster; few rows get leaves that suit them."""
    leaf = min(_LEAF, max(len(rows) // 50, 5))
    model = library("lightgbm").LGBMRegressor(n_estimators=trees, min_child_samples=leaf, **_PARAMETERS, **objective)
    return model.fit(rows.features, rows.demand / rows.scale, sample_weight=np.sqrt(rows.scale)).booster_
