"""Regressions over the shared table: ridge, support vectors, random forest. They forecast means.

Their quantiles come from a fifth of the products, which they do not learn from: how demand turned out there, by volume (`spread`).
All columns that they see of either end at the first cut-off; later cut-offs bring newer features only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from models.bench import BacktestForecasts, Bench, Contender, Progress
from models.contenders import simple, table
from models.contenders.libraries import library
from models.contenders.spread import spread
from models.contenders.table import F64, Known, Reach
from models.features import F32

Predict = Callable[[F32], F64]
Fit = Callable[[F32, F64, F64], Predict]  # features, targets, weights; all scaled

_SEED: Final = 1
# Fewer rows teach less than the mean of a month says.
FEWEST_ROWS: Final = 100
# Deviations beyond which a feature says nothing more; keeps lines from running away.
_FARTHEST: Final = 8.0


def ridge(bench: Bench, progress: Progress) -> BacktestForecasts:
    """Linear regression, a little shrunk."""

    def fit(features: F32, target: F64, weight: F64) -> Predict:
        model = library("sklearn.linear_model").Ridge(alpha=10.0)
        return _predict(model.fit(features, target, sample_weight=weight))

    return _forecast(bench, progress, fit, 200_000)


def support_vectors(bench: Bench, progress: Progress) -> BacktestForecasts:
    """Support vector regression with radial kernels, of few rows: its cost grows with their square.

    It aims at a middle rather than the mean, and so lies low where demand is mostly zero.
    """

    def fit(features: F32, target: F64, weight: F64) -> Predict:
        model = library("sklearn.svm").SVR(C=1.0, epsilon=0.1, gamma="scale", cache_size=500)
        # A weight is how dear an error is here: large sellers' would be followed into every corner.
        return _predict(model.fit(features, target, sample_weight=np.sqrt(weight)))

    return _forecast(bench, progress, fit, 3_000)


def random_forest(trees: int = 50) -> Contender:
    """A contender: trees with large leaves, each of half of the rows and a third of the features a split."""

    def fit(features: F32, target: F64, weight: F64) -> Predict:
        model = library("sklearn.ensemble").RandomForestRegressor(
            trees, min_samples_leaf=20, max_features=0.33, max_samples=0.5, n_jobs=-1, random_state=_SEED
        )
        model.fit(features, target, sample_weight=weight)
        # Trees that answer side by side are summed in any order: the last bits would change from run to run.
        model.n_jobs = 1
        return _predict(model)

    return lambda bench, progress: _forecast(bench, progress, fit, 50_000)


def _predict(model: object) -> Predict:
    return lambda features: np.asarray(model.predict(features), np.float64)  # type: ignore[attr-defined]  # scikit-learn carries no types


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and deviation of each feature."""

    mean: F64  # (features,)
    deviation: F64  # (features,)

    @classmethod
    def of(cls, features: F32) -> Self:
        known = np.isfinite(features)
        count = np.maximum(known.sum(axis=0), 1)
        values = np.where(known, features, 0).astype(np.float64)
        mean = values.sum(axis=0) / count
        return cls(mean, np.sqrt((np.where(known, features - mean, 0) ** 2).sum(axis=0) / count) + 1e-6)

    def scaled(self, features: F32) -> F32:
        """Standardised; what is not known becomes the mean."""
        scaled = np.clip((features - self.mean) / self.deviation, -_FARTHEST, _FARTHEST)
        return np.nan_to_num(scaled).astype(np.float32)


def _forecast(bench: Bench, progress: Progress, fit: Fit, limit: int) -> BacktestForecasts:
    rng = np.random.default_rng(_SEED)
    reach = Reach.of(bench)
    rows = table.sample(bench, reach, limit, rng)
    if len(rows) < FEWEST_ROWS:
        return simple.window_mean(bench, progress)
    out = table.held_out(rows.product, rng)
    learnt, checked = rows.only(~out), rows.only(out)
    standard = Standard.of(learnt.features)
    # Weighted by scale, so that sums of units come out right: errors of ratios alone are ruled by those who hardly sell.
    predict = fit(standard.scaled(learnt.features), learnt.demand / learnt.scale, learnt.scale)
    progress(1, len(bench.cutoffs) + 1)
    seen = spread(np.maximum(predict(standard.scaled(checked.features)), 0) * checked.scale, checked.demand)
    forecasts = BacktestForecasts.nothing(bench)
    for k, cutoff in enumerate(bench.cutoffs):
        known = Known.at(bench, cutoff)
        ratio = predict(standard.scaled(table.rows(bench, reach, known, range(1, bench.horizon + 1))))
        mean = np.maximum(ratio, 0).reshape(bench.horizon, -1).T * table.scales(known, reach)[:, None]
        forecasts.mean[k, : len(mean)] = mean
        for level, quantile in seen.quantiles(mean).items():
            forecasts.quantiles[level][k, : len(mean)] = quantile
        progress(k + 2, len(bench.cutoffs) + 1)
    return forecasts
