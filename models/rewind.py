"""Feature rows as they were some steps ago: `features.advance` undone, as far as the steps since then are known. Pure.

A slow average keeps most of what it was, and is solved for; a fast one has forgotten it, and starts from the slow one: by the end of the steps it
comes to the same value from wherever it started. So do the recurrent inputs that are replayed from there.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from models.features import F32, I64, FeatureSpec, ages, fresh, layout, newest_weights, phases, profile_rate

# An average that has kept less of its start than this can't be solved for it: the row's float32 has lost it.
LEAST_KEPT: Final = 1e-3


def rewind(spec: FeatureSpec, rows: F32, demand: F32, step: I64) -> F32:
    """Rows, (n, size), before they consumed `demand`, (n, steps, 1 + streams), of steps that end with `step`, (n,), each observed.

    Rows no older than that are fresh. Covariates are taken as they are now; the recent demands before these steps are not known.
    """
    where = layout(spec)
    n, steps = demand.shape[:2]
    values = np.maximum(demand.astype(np.float64), 0)
    before = rows.astype(np.float64)
    age = ages(spec, rows).astype(np.float64)
    weights = newest_weights(spec)
    n_levels = len(spec.half_lives)
    first_age = np.maximum(age - steps, 1)
    before[:, where.levels] = _solved(before[:, where.levels], values[:, :, 0], weights[:n_levels], first_age)
    for s in range(len(spec.streams)):
        span = slice(where.streams.start + 3 * s, where.streams.start + 3 * s + 3)
        before[:, span] = _solved(before[:, span], values[:, :, 1 + s], weights[n_levels:], first_age)
    slowest = 1 - weights[-1]
    before[:, where.usual] *= ((1 - slowest**first_age) / (1 - slowest ** np.maximum(age, 1)))[:, None]
    each = np.arange(n)
    for back in range(steps):
        units = values[:, steps - 1 - back, 0]
        visits = np.maximum(age - back - 1, 0)
        for period, span, phase in zip(spec.periods, where.profiles, phases(spec, step - back), strict=True):
            rate = profile_rate(period, visits)
            after = before[each, span.start + phase]
            solved = np.maximum((after - rate * units) / np.where(rate < 1, 1 - rate, 1), 0)
            before[each, span.start + phase] = np.where(rate < 1, solved, 0)
    sold = (values[:, :, 0] > 0).any(axis=1)
    before[:, where.since] = np.where(sold, 0, np.maximum(before[:, where.since] - steps, 0))
    before[:, where.age] = age - steps
    before[:, where.recent] = np.nan
    return np.where((age <= steps)[:, None], fresh(spec, n), before.astype(np.float32))


def _solved(
    after: npt.NDArray[np.float64], values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], first_age: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Averages, (n, k), not yet divided by the sums of their weights, before `values`, (n, steps), came; the last of them is the slowest."""
    steps = values.shape[1]
    keep = 1 - weights
    kept = keep**steps
    gained = values @ (weights * keep ** np.arange(steps - 1, -1, -1)[:, None])
    solved = np.maximum((after - gained) / np.maximum(kept, LEAST_KEPT), 0)
    summed = 1 - keep ** first_age[:, None]
    slow = solved[:, -1:] / summed[:, -1:]
    return np.where(kept >= LEAST_KEPT, solved, slow * summed)
