"""Products' way through time: tiles are judged and steps consumed strictly in order, whatever the batches in which they were gathered.

Everything here is a pure function of a product's stored records and its sums, so that a run with crashes, replays and other batches comes to the
same states, alerts and decisions to publish as one without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from feature_store.measures import CARTS, MEASURES, NETTED_ORDERS, NETTED_UNITS, ORDERS, SCALES, UNITS, VIEWS, natural
from models import alerts, calibration, cold_start
from models.alert_evidence import COARSE
from models.alerts import AlertPolicy, Transitions
from models.announcing import announce
from models.calibration import Outcomes, Pools, Trials
from models.cold_start import Facts, Launches, Lived, Prior
from models.features import F32, I64, FeatureSpec, scales, seasonal_naive
from models.known_future import KnownFuture
from models.nowcast import Forecasts

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
DAY_MS: Final = 86_400_000

# Columns of the scores record before the alerts' own.
EXPECTED, PUBLISHED_STEP, PUBLISHED_SCALE, SAID, OWN_COLUMNS = range(5)  # SAID: 1 while an alert is open that was announced
SCORE_COLUMNS: Final = OWN_COLUMNS + alerts.SCORE_SIZE
COARSE_SCORES: Final = OWN_COLUMNS + COARSE.start  # from this column on they are of float32
NEVER: Final = -1.0

# A silent product's forecast is sent again when its typical demand per step has moved by more than a fifth since.
MATERIAL_SHARE: Final = 0.2


class Model(Protocol):
    """What is asked of a forecaster (`models.forecaster.Forecaster`)."""

    spec: FeatureSpec
    levels: tuple[float, ...]
    horizon: int
    volume_limits: tuple[float, float]
    whole_units: bool

    def advance(self, features: F32, state: F32, demand: F32, step: I64, *, covariates: F32 | None = None) -> tuple[F32, F32]: ...
    def expect(self, features: F32, state: F32, step: I64, *, ahead: F32 | None = None) -> F32: ...
    def read_out(
        self,
        features: F32,
        state: F32,
        step: I64,
        running: F32,
        elapsed: F32,
        sums: I64,
        *,
        ahead: F32 | None = None,
        factors: F32 | None = None,
        prior: Prior | None = None,
    ) -> Forecasts: ...


@dataclass(frozen=True, slots=True)
class Timelines:
    """Where products stand; row i of each array belongs to product i."""

    step: I64  # (n,) last consumed
    tile: I64  # (n,) last judged
    features: F32  # (n, features)
    state: F32  # (n, state)
    scores: F64  # (n, SCORE_COLUMNS)
    trials: Trials

    def __len__(self) -> int:
        return len(self.step)

    def at(self, rows: npt.NDArray[np.intp]) -> "Timelines":
        return Timelines(self.step[rows], self.tile[rows], self.features[rows], self.state[rows], self.scores[rows], self.trials.at(rows))


@dataclass(frozen=True, slots=True)
class Advanced:
    """What came of the tiles given to `advance`."""

    timelines: Timelines
    transitions: list[Transitions]  # to be said, in order of tiles
    held: list[Transitions]  # the rest: below the floor
    publish: Bools  # (n,) whether a closed step asks for the forecast to be sent
    tried: Bools  # (n,) whether another forecast is on trial than before
    outcomes: dict[tuple[int, int], Outcomes]  # by pool and day
    lived: dict[tuple[int, int], dict[str, I64]]  # by pool and day, and in these by category, what steps brought: see `cold_start.Lived`


@dataclass(frozen=True, slots=True)
class Closed:
    """A step that products have consumed, and those whose turn it is to have a new forecast on trial after it."""

    step: int
    came: F32  # (n,) demand; NaN: the product did not close it now
    naive: F32  # (n,) what the naive forecast said
    due: npt.NDArray[np.intp]  # (d,) rows
    features: F32  # (d, features) after the step
    state: F32  # (d, state)


def fresh_scores(n: int) -> F64:
    """Score rows of products never judged, (n, SCORE_COLUMNS)."""
    rows = np.zeros((n, SCORE_COLUMNS))
    rows[:, EXPECTED] = np.nan
    rows[:, PUBLISHED_STEP] = NEVER
    rows[:, OWN_COLUMNS:] = alerts.fresh(n)
    return rows


def demand(spec: FeatureSpec, sums: F64) -> F32:
    """Units and streams, (n, 1 + streams) in natural units, of integer sums (n, N_MEASURES)."""
    columns = [UNITS, *(MEASURES.index(stream) for stream in spec.streams)]
    return natural(sums)[:, columns].astype(np.float32)


def placed(sums: F64) -> tuple[F64, F64]:
    """Units and orders placed, cancelled since or not, (n,) each in natural units, of integer sums (n, N_MEASURES).

    Tiles are judged by these. A cancellation nets its tile until the tile's step ends, which may be after the tile was judged: what is left then
    depends on when the tile is read, and alerts must not. What was placed does not depend on it.

    >>> [both.tolist() for both in placed(np.array([[1_500.0, 1, 0, 0, 0, 0, 0, 0, 0, 500, 1], [2_000, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]]))]
    [[2.0, 2.0], [2.0, 2.0]]
    """
    units, orders = sums[:, UNITS] + sums[:, NETTED_UNITS], sums[:, ORDERS] + sums[:, NETTED_ORDERS]  # added while integers: exact
    return units / SCALES[UNITS], orders / SCALES[ORDERS]


def advance(
    timelines: Timelines,
    sums: F64,
    first: int,
    tiles_per_step: int,
    model: Model,
    policy: AlertPolicy,
    pools: Pools,
    shop: KnownFuture | None = None,
) -> Advanced:
    """Judge the tiles that were not judged yet, and consume each step as its last tile has been judged, each product from where it stands.

    `sums`: (n, tiles, N_MEASURES) integers of the tiles from `first` on, which must include, of each product, all tiles of the steps that it closes.
    `pools` must hold the days of these tiles, `shop` what is known ahead of these products.
    """
    step, judged, scores = timelines.step.copy(), timelines.tile.copy(), timelines.scores.copy()
    features, state, trials = timelines.features.copy(), timelines.state.copy(), timelines.trials.copy()
    publish = np.zeros(len(timelines), np.bool_)
    transitions, held, closed, lived_through = [], [], [], Lived()
    step_ms = model.spec.step_ms
    for tile in range(max(first, int(judged.min()) + 1), first + sums.shape[1]):
        due = np.flatnonzero(judged < tile)
        judged[due] = tile
        known = due[np.isfinite(scores[due, EXPECTED])]
        if len(known):
            of_tile = sums[known, tile - first]
            units, orders = placed(of_tile)
            own, expected = scores[known, OWN_COLUMNS:], scores[known, EXPECTED] / tiles_per_step
            clicks, tile_ms = of_tile[:, [CARTS, VIEWS]], step_ms // tiles_per_step
            empty = None if shop is None else shop.sold_out(known, np.full(len(known), tile // tiles_per_step, np.int64))
            own, moved = alerts.judge(own, units, orders, expected, tile, policy, tile_ms=tile_ms, clicks=clicks, sold_out=empty)
            scores[known, OWN_COLUMNS:] = own
            said, not_said = _announced(scores, replace(moved, rows=known[moved.rows]), features, tile // tiles_per_step, model, pools)
            transitions.append(said)
            held.append(not_said)
        if (tile + 1) % tiles_per_step:
            continue
        ended = tile // tiles_per_step
        closing = np.flatnonzero(step == ended - 1)
        if not len(closing):
            continue
        of_step = sums[closing, ended * tiles_per_step - first : tile + 1 - first].sum(axis=1)
        step[closing] = steps = np.full(len(closing), ended, np.int64)
        sold = censored(demand(model.spec, of_step), shop, closing, steps)
        came, naive = np.full((2, len(step)), np.nan, np.float32)
        rows, day = features[closing], calibration.day_of(ended, step_ms)
        came[closing], naive[closing] = sold[:, 0], seasonal_naive(model.spec, rows, steps)
        lived_through.add(model.spec, rows, sold[:, 0], pools.pool[closing], day, Facts.of(shop, closing, steps))
        rows, states = model.advance(rows, state[closing], sold, steps, covariates=lived(model, shop, closing, steps))
        features[closing], state[closing] = rows, states
        due = closing[ended % model.horizon == pools.turn[closing]]
        closed.append(Closed(ended, came, naive, due, features[due], state[due]))
        publish[closing] |= _worth_publishing(scores, closing, scales(model.spec, rows), np.asarray(of_step.any(axis=1)), ended, step_ms)
        scores[closing, EXPECTED] = model.expect(rows, states, steps, ahead=coming(model, shop, closing, steps, 1))
    tried, outcomes = compare(trials, closed, model, pools, shop)
    return Advanced(
        Timelines(step, judged, features, state, scores, trials), transitions, held, publish, tried, outcomes, lived_through.by_day
    )


def censored(demand: F32, known: KnownFuture | None, rows: npt.NDArray[np.intp], step: I64) -> F32:
    """Demand of steps, (m, 1 + streams), as it was, with unknown units where nothing was sold because there was nothing to sell."""
    if known is None:
        return demand
    gone = known.out_of_stock(rows, step) & (demand[:, 0] <= 0)
    return np.where(gone[:, None] & (np.arange(demand.shape[1]) == 0), np.float32(np.nan), demand)


def consume(
    model: Model, features: F32, state: F32, demand: F32, step: I64, shop: KnownFuture | None, rows: npt.NDArray[np.intp]
) -> tuple[F32, F32]:
    """Features and state of the products `rows` of `shop` after the steps `step`, (m,), with their demand, (m, 1 + streams)."""
    return model.advance(features, state, censored(demand, shop, rows, step), step, covariates=lived(model, shop, rows, step))


def coming(
    model: Model, known: KnownFuture | None, rows: npt.NDArray[np.intp], step: I64, span: int, *, newest: bool = False
) -> F32 | None:
    """Covariates of the `span` steps after `step`, as `KnownFuture.ahead` has them; None for a model that looks at none."""
    return known.ahead(rows, step, span, newest=newest) if known is not None and model.spec.covariates else None


def lived(model: Model, known: KnownFuture | None, rows: npt.NDArray[np.intp], step: I64) -> F32 | None:
    """Covariates of the steps `step`, as `KnownFuture.of_step` has them; None for a model that looks at none."""
    return known.of_step(rows, step) if known is not None and model.spec.covariates else None


def compare(
    trials: Trials, closed: Sequence[Closed], model: Model, pools: Pools, shop: KnownFuture | None = None
) -> tuple[Bools, dict[tuple[int, int], Outcomes]]:
    """Compare forecasts on trial with the steps that closed, in their order, and replace in `trials` those that are due, all read out as one batch.

    Returns who has a new one, (n,), and what came of the forecasts, by pool and day.
    """
    tried, outcomes = np.zeros(len(trials.step), np.bool_), dict[tuple[int, int], Outcomes]()
    if not closed:
        return tried, outcomes
    after = np.repeat([each.step for each in closed], [len(each.due) for each in closed])
    due, features, state = (
        np.concatenate(parts) for parts in zip(*((each.due, each.features, each.state) for each in closed), strict=True)
    )
    fresh = _on_trial(model, pools, due, features, state, after, shop)
    for each in closed:
        day, steps = calibration.day_of(each.step, model.spec.step_ms), np.full(len(tried), each.step, np.int64)
        found = calibration.outcomes_by_pool(trials, steps, each.came, each.naive, model.levels, pools.pool, whole_units=model.whole_units)
        for pool, sums in found.items():
            outcomes[pool, day] = outcomes[pool, day] + sums if (pool, day) in outcomes else sums
        trials.put(each.due, fresh.at(np.flatnonzero(after == each.step)))
    tried[due] = True
    return tried, outcomes


def _announced(scores: F64, moved: Transitions, features: F32, step: int, model: Model, pools: Pools) -> tuple[Transitions, Transitions]:
    """What of the transitions in a tile of `step`, which no product has consumed yet, is said, and what is held back."""
    if not len(moved):
        return moved, moved
    group = calibration.volume_class(scales(model.spec, features[moved.rows]), model.volume_limits)
    return announce(scores, SAID, moved, pools.held_back(moved.rows, calibration.day_of(step, model.spec.step_ms), group))


def calibrated(model: Model, pools: Pools, rows: npt.NDArray[np.intp], features: F32, step: I64) -> tuple[I64, F32]:
    """Volume class, (n,), and factors of the quantiles, (n, levels), of forecasts of the products in `rows` after their `step`."""
    group = calibration.volume_class(scales(model.spec, features), model.volume_limits)
    return group, pools.of_class(rows, step * model.spec.step_ms // DAY_MS, group)


def prior(model: Model, pools: Pools, known: KnownFuture | None, rows: npt.NDArray[np.intp], features: F32, step: I64) -> Prior:
    """What is known of the products in `rows` beside what the model says, for forecasts after their `step`."""
    return prior_of(model.spec, pools.launched(rows, step * model.spec.step_ms // DAY_MS), known, rows, features, step)


def prior_of(
    spec: FeatureSpec,
    launched: Sequence[Launches | None],
    known: KnownFuture | None,
    rows: npt.NDArray[np.intp],
    features: F32,
    step: I64,
) -> Prior:
    """The same, given what is known of launches beside each of them."""
    share = cold_start.weight(spec, features)
    young = np.flatnonzero(share > 0)
    return Prior.of(young, share[young], [launched[i] for i in young.tolist()], Facts.of(known, rows[young], step[young] + 1))


def _on_trial(
    model: Model, pools: Pools, rows: npt.NDArray[np.intp], features: F32, state: F32, step: I64, shop: KnownFuture | None
) -> Trials:
    """What would be published of the products in `rows` after `step`."""
    group, factors = calibrated(model, pools, rows, features, step)
    nothing = np.zeros((len(rows), 1 + len(model.spec.streams)), np.float32)
    ahead = coming(model, shop, rows, step, model.horizon)
    known = prior(model, pools, shop, rows, features, step)
    out = model.read_out(features, state, step, nothing, nothing[:, 0], np.empty(0, np.int64), ahead=ahead, factors=factors, prior=known)
    return Trials.of(step, group, out.mean, out.quantiles.transpose(0, 2, 1), factors)


def _worth_publishing(scores: F64, rows: npt.NDArray[np.intp], scale: F32, active: Bools, step: int, step_ms: int) -> Bools:
    """Whether the forecasts of `rows` after `step` are to be sent: something happened, `scale` changed materially, or a day ends.

    Notes it in `scores`. Returns (len(rows),).
    """
    before = scores[rows, PUBLISHED_SCALE]
    changed = np.abs(scale - before) > MATERIAL_SHARE * before
    day_ends = (step + 1) * step_ms % DAY_MS == 0
    worth = active | changed | (scores[rows, PUBLISHED_STEP] == NEVER) | np.full(len(rows), day_ends)
    scores[rows[worth], PUBLISHED_STEP] = step
    scores[rows[worth], PUBLISHED_SCALE] = scale[worth]
    return np.asarray(worth)
