"""Feature rows as they were some steps ago: `features.advance` undone, as far as the steps since then are known. Pure.

EWMAs and profiles are linear recursions, so going back is exact but for rounding, which grows as fast as they forget; those that forget within the
steps converge, when the steps are replayed, from any start.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from models import features as rows
from models.features import F32, I64, FeatureSpec, layout

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# An EWMA is wound back where its rounding errors do not grow by more than this on the way; one that forgets faster begins at the mean of the next slower one.
_MOST_GROWTH: Final = 1024.0


def steps_lived(spec: FeatureSpec, features: F32, step: I64, k: int) -> I64:
    """How many of the last `k` steps each product has lived through, (n,): gaps are lived through, what was before its birth is not."""
    known = np.isfinite(rows.recent(spec, features, step))
    since_first = np.arange(known.shape[1]) >= known.argmax(axis=1)[:, None]
    gaps = (since_first & ~known).sum(axis=1)
    age = np.fmin(np.fmax(rows.ages(spec, features), 0), k)  # a product's broken row must not stop its neighbours
    return np.asarray(np.minimum(age.astype(np.int64) + gaps, k))


def with_gaps(spec: FeatureSpec, features: F32, step: I64, demand: F32) -> F32:
    """Demand in which steps that nothing is known of are NaN, as far back as the row remembers them."""
    known = np.isfinite(rows.recent(spec, features, step))
    span = min(known.shape[1], demand.shape[1])
    out = demand.copy()
    out[:, -span:, 0][~known[:, -span:]] = np.nan
    return out


def before(spec: FeatureSpec, features: F32, step: I64, demand: F32, lived: I64) -> F32:
    """Feature rows as they stood before the steps of `demand`, (n, k, 1 + streams), or before a product's first step, where that is among them.

    Exact but for rounding, except that nobody knows how long a product had been silent before its first sale in these steps: about as long as until then.
    The ring of recent demands, the newest values of streams and covariates stay as they are: the first steps overwrite what is read of them.
    """
    k, where = demand.shape[1], layout(spec)
    observed = (np.arange(k) >= k - lived[:, None]) & np.isfinite(demand[..., 0])
    values = np.where(observed[..., None], np.maximum(demand, 0), 0).astype(np.float64)
    row = features.astype(np.float64)
    row[:, where.age] -= observed.sum(axis=1)
    _wind_back_profiles(spec, row, rows.ages(spec, features), step, values[..., 0], observed)
    _wind_back_means(spec, row, values, observed)
    sold = values[..., 0] > 0
    silent = np.maximum(row[:, where.since] - observed.sum(axis=1), 0)
    row[:, where.since] = np.where(sold.any(axis=1), sold.argmax(axis=1), silent)
    # Covariates are taken to have been what they usually are: only the sum of their means' weights is another.
    slowest = np.log1p(-rows.weights(spec)[0][-1, 0].astype(np.float64))
    summed_then, summed_now = (np.expm1(np.maximum(age, 1) * slowest) for age in (row[:, where.age], rows.ages(spec, features)))
    row[:, where.usual] *= (summed_then / summed_now)[:, None]
    born = row[:, where.age] <= 0
    row[born] = rows.fresh(spec, int(born.sum()))
    return row.astype(np.float32)


def _wind_back_means(spec: FeatureSpec, row: F64, values: F64, observed: Bools) -> None:
    """EWMAs in place: `m` after weight `w` was given to each value in turn is `(1 - w)^n m₀ + Σ w (1 - w)^(values after it) value`."""
    where = layout(spec)
    newest = rows.weights(spec)[0][:, 0].astype(np.float64)
    levels, streams = newest[: len(spec.half_lives)], newest[len(spec.half_lives) :]
    later = observed[:, ::-1].cumsum(axis=1)[:, ::-1] - observed
    n_observed, age = observed.sum(axis=1), np.maximum(row[:, where.age], 1)
    groups = [(where.levels.start, levels, values[..., 0])]
    groups += [(where.streams.start + 3 * s, streams, values[..., 1 + s]) for s in range(len(spec.streams))]
    for start, weights, value in groups:
        slower = None
        for i in reversed(range(len(weights))):  # the slowest first
            keep, total = 1 - weights[i], -np.expm1(age * np.log1p(-weights[i]))  # the sum of all weights by then
            growth = keep ** -n_observed.astype(np.float64)
            gained = (weights[i] * observed * keep**later * value).sum(axis=1)
            mean = np.maximum((row[:, start + i] - gained) * growth, 0) / total
            slower = mean if slower is None else np.where(growth <= _MOST_GROWTH, mean, slower)
            row[:, start + i] = slower * total


def _wind_back_profiles(spec: FeatureSpec, row: F64, age: F32, step: I64, units: F64, observed: Bools) -> None:
    """Profiles in place, newest step first; a slot that its first visit filled was empty before."""
    spans, each, k = layout(spec).profiles, np.arange(len(row)), units.shape[1]
    visits = age.astype(np.float64)
    for place in reversed(range(k)):
        visits -= observed[:, place]
        for period, span, phase in zip(spec.periods, spans, rows.phases(spec, step - (k - 1 - place)), strict=True):
            slot, rate = span.start + phase, rows.profile_rate(period, visits)
            after, first = row[each, slot], rate >= 1
            undone = np.where(first, 0, (after - rate * units[:, place]) / np.where(first, 1, 1 - rate))
            row[each, slot] = np.where(observed[:, place], np.maximum(undone, 0), after)
