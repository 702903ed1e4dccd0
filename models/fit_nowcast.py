"""Fits the nowcast rule to forecasts whose outcomes are known."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from models.batches import Batch
from models.features import F32
from models.nowcast import NowcastRule, ratio

# Most cautious first: of rules that do equally well, the one that moves forecasts least.
_WEIGHTS: Final = (1024.0, 512.0, 256.0, 128.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5)
# Without any persistence the weight could not be told from later steps, and it also rules the rest of the running one.
_PERSISTENCES: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


def fit_nowcast(decoded: Sequence[tuple[Batch, F32]], horizon: int) -> NowcastRule:
    """The rule by which knowing a whole step best corrects the later ones: least quasi-Poisson deviance over a grid.

    A step observed as a whole (elapsed 1) is what panels show; the gamma-Poisson form carries over to parts of it.
    """
    demand = np.concatenate([batch.demand[:, :horizon] for batch, _ in decoded]).astype(np.float64)
    mean = np.concatenate([mean[:, :horizon] for _, mean in decoded]).astype(np.float64)
    known = np.concatenate([batch.known[:, :horizon].all(axis=1) for batch, _ in decoded])  # no gap in the horizon
    demand, mean = demand[known], mean[known]
    if not len(demand) or horizon < 2:
        return NowcastRule()
    lags = np.arange(1, horizon)

    def deviance(rule: NowcastRule) -> float:
        change = ratio(rule, demand[:, 0].astype(np.float32), mean[:, 0].astype(np.float32)).astype(np.float64)
        corrected = np.maximum(mean[:, 1:] * (1 + (change[:, None] - 1) * rule.persistence**lags), 1e-6)
        # Divided by the product's size, so that no few large ones decide.
        size = np.maximum(mean.mean(axis=1, keepdims=True), 0.05)
        return float(np.mean((corrected - demand[:, 1:] * np.log(corrected)) / size))

    rules = [NowcastRule(weight, persistence) for weight in _WEIGHTS for persistence in _PERSISTENCES]
    return min(rules, key=deviance)
