"""Rolling-origin backtest with the real product: trained up to the first cut-off, then streamed on with frozen weights and carried state."""

from collections.abc import Sequence

import numpy as np

from models import metrics
from models.artefact import Artefact
from models.bench import STREAM_PREFIX, BacktestForecasts, Bench, Progress, no_progress
from models.dataset import UnusableData
from models.forecaster import Forecaster


def stream(bench: Bench, artefact: Artefact, progress: Progress = no_progress) -> BacktestForecasts:
    """Forecasts of the model as it serves: every product advanced step by step, read out at each cut-off."""
    forecaster = Forecaster(artefact, bench.spec.timezone)
    n, horizon = len(bench.panel.product_ids), bench.horizon
    if horizon > forecaster.horizon:
        raise UnusableData(f"the model reaches {forecaster.horizon} steps, the bench asks for {horizon}")
    forecasts = BacktestForecasts.nothing(bench)
    features, state = forecaster.fresh(n)
    wanted = [forecaster.levels.index(level) for level in metrics.LEVELS]
    for column in range(bench.cutoffs[-1] + 1):
        alive = bench.alive(column)
        step = np.full(alive, bench.panel.first_step + column, np.int64)
        demand = np.ascontiguousarray(bench.panel.demand[:alive, column])
        forecaster.advance(features[:alive], state[:alive], demand, step, in_place=True)
        if column in bench.cutoffs:
            k = bench.cutoffs.index(column)
            nothing = np.zeros_like(demand)
            out = forecaster.read_out(features[:alive], state[:alive], step, nothing, nothing[:, 0], np.empty(0, np.int64))
            forecasts.mean[k, :alive] = out.mean[:, :horizon]
            for level, index in zip(metrics.LEVELS, wanted, strict=True):
                forecasts.quantiles[level][k, :alive] = out.quantiles[:, index, :horizon]
        progress(column + 1, bench.cutoffs[-1] + 1)
    return forecasts


def unfit(bench: Bench, artefact: Artefact) -> str | None:
    """Why a model that is trained already cannot be measured on a bench; None where it can.

    A panel that it learned from must not reach into the time in which it would be tested, whatever shop it is of.
    """
    taken, offered = (_plain(spec.streams) for spec in (artefact.spec, bench.spec))
    if (artefact.spec.step_ms, taken) != (bench.spec.step_ms, offered):
        steps = f"steps of {artefact.spec.step_ms} ms", f"of {bench.spec.step_ms} ms"
        return (
            f"it takes {', '.join(taken) or 'no streams'} in {steps[0]}; the bench has {', '.join(offered) or 'none'} in steps {steps[1]}"
        )
    if artefact.horizon < bench.horizon:
        return f"it reaches {artefact.horizon} steps, and the bench asks for {bench.horizon}"
    first, last = bench.panel.first_step + bench.cutoffs[0] + 1, bench.panel.first_step + bench.cutoffs[-1] + bench.horizon
    for panel in artefact.training.get("panels", []):
        if panel["first_step"] <= last and panel["first_step"] + panel["steps"] > first:
            return "it learned from the time in which it would be tested"
    return None


def _plain(streams: Sequence[str]) -> tuple[str, ...]:
    """Names without the mark of a bench's columns."""
    return tuple(name.removeprefix(STREAM_PREFIX) for name in streams)
