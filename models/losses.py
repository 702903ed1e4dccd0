"""What training minimises, in `keras.ops`: pinball loss of the quantiles and Tweedie deviance of the mean, weighted by scale."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from keras import ops

Tensor = Any

# Between Poisson (1) and gamma (2): demand of baskets, many zeros and few large numbers.
_TWEEDIE_POWER: Final = 1.3
_DEVIANCE_SHARE: Final = 0.25
# A product's weight is its scale to this power: neither do the few large ones rule, nor the many tiny ones.
_WEIGHT_POWER: Final = 0.5
_SMALLEST_SCALE: Final = 0.05


def loss(demand: Tensor, known: Tensor, scale: Tensor, mean: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """Mean over the known targets, relative to their mean demand, so that shops of any size weigh alike.

    `demand`, `known` (0 or 1) and `mean`: (n, rows); `scale`: (n,); `quantiles`: (n, rows, levels).
    """
    total = ops.sum(known) + 1e-9
    level = ops.convert_to_tensor(np.asarray(levels, np.float32))
    error = demand[..., None] - quantiles
    pinball = ops.mean(ops.maximum(level * error, (level - 1) * error), axis=-1)
    rest = 2 - _TWEEDIE_POWER
    positive = ops.maximum(mean, 1e-3)
    deviance = demand * positive ** (1 - _TWEEDIE_POWER) / (_TWEEDIE_POWER - 1) + positive**rest / rest
    typical = ops.sum(demand * known) / total + 0.1
    floored = ops.maximum(scale, _SMALLEST_SCALE)[:, None]
    by_pinball = _relative(floored ** (_WEIGHT_POWER - 1), known, total)
    by_deviance = _relative(floored ** (_WEIGHT_POWER - rest), known, total)
    return (
        ops.sum(pinball * by_pinball * known) / total / typical
        + _DEVIANCE_SHARE * ops.sum(deviance * by_deviance * known) / total / typical**rest
    )


def _relative(weight: Tensor, known: Tensor, total: Tensor) -> Tensor:
    return weight / (ops.sum(weight * known) / total + 1e-9)
