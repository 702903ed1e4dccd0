"""Rolling-origin backtest with the real product: trained up to the first cut-off, then streamed on with frozen weights and carried state."""

from typing import Final

import numpy as np

from models import metrics
from models.artefact import Artefact
from models.bench import BacktestForecasts, Bench, Progress, no_progress
from models.dataset import UnusableData
from models.features import F32
from models.forecaster import Forecaster
from models.seasons import DAY_MS

# Lead times whose sums have quantiles of their own.
SUM_DAYS: Final = (7, 14)


def stream(bench: Bench, artefact: Artefact, progress: Progress = no_progress) -> BacktestForecasts:
    """Forecasts of the model as it serves: every product advanced step by step, read out at each cut-off."""
    forecaster = Forecaster(artefact, bench.spec.timezone)
    n, horizon = len(bench.panel.product_ids), bench.horizon
    if horizon > forecaster.horizon:
        raise UnusableData(f"the model reaches {forecaster.horizon} steps, the bench asks for {horizon}")
    forecasts = BacktestForecasts.nothing(bench)
    features, state = forecaster.fresh(n)
    sums = np.array(sorted({min(max(days * DAY_MS // bench.spec.step_ms, 1), forecaster.longest_sum) for days in SUM_DAYS}), np.int64)
    shape = forecasts.mean.shape[:2]
    forecasts.sums.update({int(steps): {level: np.full(shape, np.nan) for level in metrics.LEVELS} for steps in sums})
    wanted = [forecaster.levels.index(level) for level in metrics.LEVELS]
    for column in range(bench.cutoffs[-1] + 1):
        alive = bench.alive(column)
        step = np.full(alive, bench.panel.first_step + column, np.int64)
        demand = np.ascontiguousarray(bench.panel.demand[:alive, column])
        covariates = None if bench.panel.covariates is None else bench.panel.covariates[:alive, column]
        forecaster.advance(features[:alive], state[:alive], demand, step, covariates=covariates, in_place=True)
        if column in bench.cutoffs:
            k = bench.cutoffs.index(column)
            nothing = np.zeros_like(demand)
            ahead = _ahead(bench, column, alive, max(forecaster.horizon, int(sums.max())))
            out = forecaster.read_out(features[:alive], state[:alive], step, nothing, nothing[:, 0], sums, ahead=ahead)
            forecasts.mean[k, :alive] = out.mean[:, :horizon]
            for level, index in zip(metrics.LEVELS, wanted, strict=True):
                forecasts.quantiles[level][k, :alive] = out.quantiles[:, index, :horizon]
                for s, steps in enumerate(sums):
                    forecasts.sums[int(steps)][level][k, :alive] = out.cumulative_quantiles[:, s, index]
        progress(column + 1, bench.cutoffs[-1] + 1)
    return forecasts


def _ahead(bench: Bench, cutoff: int, alive: int, span: int) -> F32 | None:
    """Covariates of the `span` steps after a cut-off, (alive, span, covariates); NaN beyond the panel."""
    if bench.panel.covariates is None:
        return None
    known = bench.panel.covariates[:alive, cutoff + 1 : cutoff + 1 + span]
    return np.pad(known, ((0, 0), (0, span - known.shape[1]), (0, 0)), constant_values=np.nan)
