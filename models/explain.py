"""What moved a forecast: its sum over the horizon against a base, split over groups of inputs by exact Shapley values, in units.

**The base** is what the model says of the product at its long-run level: the stored steps (some days) sold, and clicked, at the mean rates of the weeks
before, in the season's shape; the coming days like the mean of all days; covariates at their usual values. **A driver's effect** is the Shapley value
(Shapley 1953; Lundberg and Lee 2017) of its group being as it is: the mean, over all orders in which groups may be put in, of what it changes.
All 2^groups coalitions go through the network, so that effects add up to the forecast without an approximation.

**History** (recent demand, clicks) is replayed: rows are rewound to before the stored steps, and each coalition lives through its own version of them.
The LSTM's memory from before is not known then; what a coalition's replay changes, against the replay of what happened, is added to the present state.
**Season and calendar** are changed where the coming steps are asked for, not where the past is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_store.measures import MEASURES
from models import features as rows
from models import targets
from models.cold_start import Prior
from models.features import F32, I64, FeatureSpec
from models.forecaster import SUMS, Forecaster
from models.rewind import before, steps_lived, with_gaps
from models.seasons import DAY_MS, n_waves

F64 = npt.NDArray[np.float64]

CLICKS: Final = ("views", "carts", "uncarts", "favourites")
RECENT_DEMAND, RECENT_CLICKS, SEASON, SHOP, CALENDAR, RUNNING, LAUNCHES = (
    "recent_demand",
    "clicks",
    "season",  # which weekdays are coming, by the product's own profile
    "shop_season",  # by the shop's
    "calendar",  # day of the month, weekend, and what the model makes of weekdays beside the profiles
    "running_step",  # what the running step has brought so far
    "launches",  # what is known of products after their birth, while this one is young
)
# Younger at the first stored step, a product's own mean of all its life is its long-run level.
SETTLED_MS: Final = 7 * DAY_MS
# The mean over so many days is what the calendar is usually like.
CALENDAR_DAYS: Final = 364
_TINY: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of n products: `base + effects.sum(axis=1) == total`, the mean units forecast over the horizon."""

    names: tuple[str, ...]
    base: F64  # (n,)
    effects: F64  # (n, names)
    total: F64  # (n,)


def explain(
    model: Forecaster,
    features: F32,
    state: F32,
    step: I64,
    history: F32,
    running: F32,
    elapsed: F32,
    *,
    ahead: F32 | None = None,
    factors: F32 | None = None,
    prior: Prior | None = None,
) -> Explanation:
    """Explains what `model.read_out` says of these products with the same arguments. What `prior` changes is a driver of its own, where any product is young.

    `history`: (n, steps, 1 + streams) natural units of the stored steps that end with `step`, oldest first, zeros where nothing happened. Steps before
    a product's first are not looked at. Not thread-safe, as the model is not.
    """
    spec, n = model.spec, len(step)
    groups = _Groups.of(spec)
    versions = _lived(model, features, state, step, history, groups)
    values = np.empty((1 << len(groups.names), n))
    for given in range(1 << len(groups.history) + len(groups.covariates)):
        lived, known = given % (1 << len(groups.history)), given >> len(groups.history)
        some, coming = _with_covariates(spec, versions[lived][0], ahead, known)
        for places, sums in _totals(model, some, versions[lived][1], step, coming, factors):
            values[given | places << len(groups.history) + len(groups.covariates)] = sums
    said, no_sums = (features, state, step, running, elapsed), np.empty(0, np.int64)
    alone = model.read_out(*said, no_sums, ahead=ahead, factors=factors).mean.sum(axis=1, dtype=np.float64)
    names, effects = (*groups.names, RUNNING), np.column_stack((shapley(values), alone - values[-1]))
    if prior is None or not len(prior.rows):
        return Explanation(names, values[0], effects, alone)
    total = model.read_out(*said, no_sums, ahead=ahead, factors=factors, prior=prior).mean.sum(axis=1, dtype=np.float64)
    return Explanation((*names, LAUNCHES), values[0], np.column_stack((effects, total - alone)), total)


def shapley(values: F64) -> F64:
    """Shapley values, (n, k), from the worth of every coalition, (2^k, n); bit i of a coalition's number says that player i is in it.

    >>> shapley(np.array([[0.0], [1.0], [2.0], [5.0]])).tolist()
    [[2.0, 3.0]]
    """
    k = len(values).bit_length() - 1
    numbers = np.arange(len(values))
    sizes = np.array([int(number).bit_count() for number in numbers])
    weights = np.array([factorial(size) * factorial(k - size - 1) / factorial(k) for size in range(k)])
    found = np.empty((values.shape[1], k))
    for player in range(k):
        without = numbers[numbers >> player & 1 == 0]
        found[:, player] = weights[sizes[without]] @ (values[without | 1 << player] - values[without])
    return found


@dataclass(frozen=True, slots=True)
class _Groups:
    """Players in the order of their bits: history, covariates, then the three of the coming steps."""

    history: dict[str, list[int]]  # columns of the history
    covariates: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, spec: FeatureSpec) -> "_Groups":
        history: dict[str, list[int]] = {RECENT_DEMAND: [0]}
        for column, stream in enumerate(spec.streams, 1):
            name = RECENT_CLICKS if stream in CLICKS else RECENT_DEMAND if stream in MEASURES else stream.removeprefix("hist_")
            history.setdefault(name, []).append(column)
        covariates = tuple(name.removeprefix("futr_") for name in spec.covariates)
        return cls(history, covariates, (*history, *covariates, SEASON, SHOP, CALENDAR))


def _lived(model: Forecaster, features: F32, state: F32, step: I64, history: F32, groups: _Groups) -> list[tuple[F32, F32]]:
    """Rows and state after each combination of history as it was and as it usually is; the last is the present."""
    spec, (n, steps) = model.spec, history.shape[:2]
    known, lived = with_gaps(spec, features, step, history), steps_lived(spec, features, step, steps)
    back = before(spec, features, step, known, lived)
    unborn = np.arange(steps)[None, :] < steps - lived[:, None]
    combinations = 1 << len(groups.history)
    lives = np.repeat(usual_history(spec, back, features, step, steps, model.artefact.profiles)[None], combinations, axis=0)
    for bit, columns in enumerate(groups.history.values()):
        there = [number for number in range(combinations) if number >> bit & 1]
        lives[np.ix_(there, range(n), range(steps), columns)] = history[..., columns]
    lives[:, unborn | np.isnan(known[..., 0]), 0] = np.nan
    demand = lives.reshape(combinations * n, steps, -1)
    reached, states = np.tile(back, (combinations, 1)), np.zeros((combinations * n, state.shape[1]), np.float32)
    for i in range(steps):
        at = np.tile(step - steps + 1 + i, combinations)
        model.advance(reached, states, np.ascontiguousarray(demand[:, i]), at, in_place=True)
        states[np.tile(unborn[:, i], combinations)] = 0
    by_life = states.reshape(combinations, n, -1)
    changed = reached.reshape(combinations, n, -1)
    return [*((changed[i], state + (by_life[i] - by_life[-1])) for i in range(combinations - 1)), (features, state)]


def usual_history(spec: FeatureSpec, before: F32, now: F32, step: I64, steps: int, shop: Sequence[F32]) -> F32:
    """(n, steps, 1 + streams): the steps that end with `step` had all been as usual: long-run means by the product's season, in whole orders and clicks.

    `before`, `now`: rows before and after them. Orders hold the usual units; without a stream of them, one.
    """
    settled = rows.ages(spec, before) * spec.step_ms >= SETTLED_MS
    level, streams = rows.long_run(spec, np.where(settled[:, None], before, now))
    shape = _season(spec, before, step, steps, shop)
    out = np.empty((len(step), steps, 1 + len(spec.streams)), np.float32)
    for column, mean in enumerate(streams.T, 1):
        out[:, :, column] = _counts(mean[:, None] * shape)
    size = np.ones(len(step))
    if "orders" in spec.streams:
        orders = streams[:, spec.streams.index("orders")]
        size = np.where(orders > _TINY, level / np.maximum(orders, _TINY), 1.0)
    size = np.maximum(size, _TINY)
    out[:, :, 0] = size[:, None] * _counts(level[:, None] / size[:, None] * shape)
    return out


def _counts(rates: F64) -> F64:
    """Whole numbers whose running sums follow those of `rates`, (n, steps)."""
    reached = np.floor(np.cumsum(rates, axis=1) + 0.5)
    return np.diff(reached, axis=1, prepend=0)


def _season(spec: FeatureSpec, before: F32, step: I64, steps: int, shop: Sequence[F32]) -> F64:
    """The product's usual shape over the steps that end with `step`, (n, steps), mean 1: its profiles', the shop's where it has none yet."""
    n, shapes = len(step), []
    each = np.arange(n)[:, None]
    whens = step[:, None] + np.arange(1 - steps, 1)
    flat = rows.phases(spec, whens.ravel())
    for phase, own, general in zip(flat, rows.layout(spec).profiles, shop, strict=True):
        profile = before[:, own].astype(np.float64)
        mean = profile.mean(axis=1, keepdims=True)
        lived = (rows.ages(spec, before) >= profile.shape[1])[:, None] & (mean > _TINY)
        profile = np.where(lived, profile / np.maximum(mean, _TINY), general[None] / general.mean())
        shapes.append(profile[each, phase.reshape(n, steps)])
    shape = np.mean(shapes, axis=0) if shapes else np.ones((n, steps))
    return np.asarray(shape / np.maximum(shape.mean(axis=1, keepdims=True), _TINY))


def _with_covariates(spec: FeatureSpec, features: F32, ahead: F32 | None, known: int) -> tuple[F32, F32 | None]:
    """Rows and coming covariates where only those whose bit is in `known` are as they are, the others as usual."""
    if not spec.covariates:
        return features, ahead
    now = rows.layout(spec).now
    usual, _ = rows.covariates(spec, features)
    off = np.array([not known >> bit & 1 for bit in range(len(spec.covariates))])
    some = features.copy()
    some[:, now] = np.where(off, usual, some[:, now])
    return some, None if ahead is None else np.where(off, usual[:, None], ahead)


def _totals(model: Forecaster, features: F32, state: F32, step: I64, ahead: F32 | None, factors: F32 | None) -> list[tuple[int, F64]]:
    """Units over the horizon, (n,), for each combination (season 1, shop's 2, calendar 4) of what is known of the coming steps."""
    spec, horizon, n = model.spec, model.horizon, len(step)
    shop = model.artefact.profiles
    inputs = rows.encoder_inputs(spec, features, step, shop)
    scale = rows.scales(spec, features)
    even = features.copy()
    for own in rows.layout(spec).profiles:
        even[:, own] = _any_day(spec, features[:, own])
    even_shop = [_any_day(spec, profile[None])[0] for profile in shop]
    nothing = np.ones((n, SUMS), np.int64)
    first_wave = 2 * len(spec.periods) + 3
    waves = slice(first_wave, first_wave + n_waves(spec.step_ms))
    usual_waves = _usual_waves(spec, step, horizon)
    wanted = []
    for combination in range(8):
        some, general = features if combination & 1 else even, shop if combination & 2 else even_shop
        asked = targets.decoder_inputs(spec, some, step, horizon, nothing, general, ahead=ahead)
        if not combination & 4:
            asked[:, :horizon, waves] = usual_waves
        wanted.append(asked)
    on_quantiles = None if factors is None else np.tile(factors, (8, 1))
    mean, _ = model.decode(np.tile(inputs, (8, 1)), np.tile(state, (8, 1)), np.concatenate(wanted), np.tile(scale, 8), on_quantiles)
    sums = mean[:, :horizon].sum(axis=1, dtype=np.float64).reshape(8, n)
    return list(enumerate(sums))


def _a_day(spec: FeatureSpec) -> int:
    """Steps."""
    return max(DAY_MS // spec.step_ms, 1)


def _any_day(spec: FeatureSpec, profile: F32) -> F32:
    """Profiles, (n, period), in which all days are alike: each hour is its mean over the days."""
    n, period = profile.shape
    if period % _a_day(spec):
        return np.broadcast_to(profile.mean(axis=1, keepdims=True), profile.shape)
    days = profile.reshape(n, -1, _a_day(spec))
    return np.broadcast_to(days.mean(axis=1, keepdims=True), days.shape).reshape(n, period)


def _usual_waves(spec: FeatureSpec, step: I64, horizon: int) -> F32:
    """Mean of the calendar's waves at the hours of the steps after `step`, over a year of whole weeks, (n, horizon, waves)."""
    day = _a_day(spec)
    steps = CALENDAR_DAYS * day
    year = int(step.max()) // steps * steps
    mean = spec.season(year, steps).waves.reshape(CALENDAR_DAYS, day, -1).mean(axis=0)
    return np.asarray(mean[(step[:, None] + 1 + np.arange(horizon)) % day])
