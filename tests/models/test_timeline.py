"""The walk through tiles and steps: alerts do not depend on when a tile is read, nor what comes of forecasts on how the walk was cut."""

import itertools
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from feature_store.facts import Facts, Version, encode
from feature_store.measures import CARTS, N_MEASURES, NETTED_ORDERS, NETTED_UNITS, ORDERS, SCALES, UNITS, VIEWS
from models import calibration, features, timeline
from models.alerts import REASONS, Action, AlertPolicy, Reason
from models.calibration import Memory, Outcomes, Pools, Trials
from models.cold_start import Prior
from models.features import F32, I64, FeatureSpec
from models.known_future import KnownFuture, Place
from models.nowcast import Forecasts, Running
from models.seasons import HOUR_MS
from models.timeline import F64, Timelines

PER_STEP = 12
PRODUCTS = 3
FIRST_STEP = 490_000
USUAL = 2  # orders a tile
POLICY = AlertPolicy(warm_up_tiles=PER_STEP, drop_history=1.0)

Counts = I64  # orders per product and tile, (PRODUCTS, tiles)


@dataclass
class Steady:
    """Expects of each step what is usual; its features are the program's own."""

    spec: FeatureSpec = field(default_factory=lambda: FeatureSpec.for_step(HOUR_MS, ("orders",)))
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)
    horizon: int = 4
    volume_limits: tuple[float, float] = (1.0, 10.0)
    whole_units: bool = True

    def advance(self, rows: F32, state: F32, demand: F32, step: I64, *, covariates: F32 | None = None) -> tuple[F32, F32]:
        return features.advance(self.spec, rows, demand, step), state

    def expect(self, rows: F32, state: F32, step: I64, *, ahead: F32 | None = None) -> F32:
        return np.full(len(step), USUAL * PER_STEP, np.float32)

    def read_out(
        self,
        rows: F32,
        state: F32,
        step: I64,
        running: F32,
        elapsed: F32,
        sums: I64,
        *,
        ahead: F32 | None = None,
        factors: F32 | None = None,
        prior: Prior | None = None,
    ) -> Forecasts:
        """Level by level a multiple of what sells usually, rising over the horizon, before factors."""
        assert factors is not None
        mean = features.scales(self.spec, rows)[:, None] * np.linspace(1, 1.3, self.horizon, dtype=np.float32)
        quantiles = mean[:, None, :] * (np.array([0.3, 0.9, 2], np.float32)[:, None] * factors[..., None])
        nothing = np.zeros((len(rows), 0), np.float32)
        first = quantiles[..., 0]
        return Forecasts(mean, quantiles, nothing, nothing[..., None], Running(nothing, first, nothing, first))


MODEL = Steady()


def sums_of(orders: Counts, cancelled: Counts) -> F64:
    """Integer sums of tiles, each order of one unit, when so many of them are cancelled; who buys has looked around before."""
    sums = np.zeros((*orders.shape, N_MEASURES))
    sums[..., ORDERS], sums[..., NETTED_ORDERS] = orders - cancelled, cancelled
    sums[..., VIEWS], sums[..., CARTS] = 5 * orders + 1, orders
    sums[..., UNITS], sums[..., NETTED_UNITS] = sums[..., ORDERS] * SCALES[UNITS], cancelled * SCALES[NETTED_UNITS]
    return sums


def pools_of(memories: list[Memory]) -> Pools:
    """Products take turns and are dealt out to the pools."""
    numbers, days = np.arange(PRODUCTS), [calibration.day_of(step, HOUR_MS) for step in (FIRST_STEP - 48, FIRST_STEP + 48)]
    return Pools.of(numbers % len(memories), numbers % MODEL.horizon, memories, *days)


def walk(lines: Timelines, sums: F64, first: int, shop: KnownFuture | None = None) -> tuple[Timelines, list[tuple[object, ...]]]:
    """Where the products stand after these tiles, and what happened to their alerts."""
    advanced = timeline.advance(lines, sums, first, PER_STEP, MODEL, POLICY, pools_of([Memory(len(MODEL.levels), {})]), shop)
    return advanced.timelines, [tuple(column.tolist() for column in astuple(moved)) for moved in advanced.transitions]


def settled() -> Timelines:
    """Products that sold the usual for a day."""
    steps = 24
    tile = (FIRST_STEP - steps) * PER_STEP
    rows, places = features.fresh(MODEL.spec, PRODUCTS), np.full(PRODUCTS, FIRST_STEP - steps - 1)
    trials = calibration.no_trials(PRODUCTS, MODEL.horizon, len(MODEL.levels))
    born = Timelines(
        places, np.full(PRODUCTS, tile - 1), rows, np.zeros((PRODUCTS, 0), np.float32), timeline.fresh_scores(PRODUCTS), trials
    )
    usual = np.full((PRODUCTS, steps * PER_STEP), USUAL)
    lines, _ = walk(born, sums_of(usual, np.zeros_like(usual)), tile)
    return lines


SETTLED = settled()


def read_at_once(orders: Counts, cancelled: Counts) -> tuple[Timelines, list[tuple[object, ...]]]:
    """Each tile as it ends, before anything is cancelled; the cancellations have come when the step ends."""
    lines, happened = SETTLED, []
    for end in range(1, orders.shape[1] + 1):
        start = (end - 1) // PER_STEP * PER_STEP
        known = cancelled if end % PER_STEP == 0 else np.zeros_like(cancelled)
        lines, moved = walk(lines, sums_of(orders, known)[:, start:end], FIRST_STEP * PER_STEP + start)
        happened += moved
    return lines, happened


def read_later(orders: Counts, cancelled: Counts) -> tuple[Timelines, list[tuple[object, ...]]]:
    """All tiles after all cancellations."""
    return walk(SETTLED, sums_of(orders, cancelled), FIRST_STEP * PER_STEP)


def assert_equal(found: tuple[Timelines, list[tuple[object, ...]]], expected: tuple[Timelines, list[tuple[object, ...]]]) -> None:
    assert found[1] == expected[1]
    assert_same_lines(found[0], expected[0])


def assert_same_lines(found: Timelines, expected: Timelines) -> None:
    for ours, theirs in zip(parts(found), parts(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def parts(lines: Timelines) -> list[npt.NDArray[Any]]:
    return [lines.step, lines.tile, lines.features, lines.state, lines.scores, *lines.trials.parts()]


def test_a_spike_that_is_cancelled_within_the_step_is_the_same_alert_however_late_it_is_read() -> None:
    orders = np.full((PRODUCTS, PER_STEP), USUAL)
    orders[1, 3:8] = 20 * USUAL
    cancelled = np.maximum(orders - USUAL, 0)  # net, nothing unusual ever happened
    at_once = read_at_once(orders, cancelled)
    assert_equal(read_later(orders, cancelled), at_once)
    fired = [(rows, action) for rows, _, action, *_ in at_once[1] if rows]
    assert ([1], [Action.FIRE]) in fired


@given(
    orders=arrays.arrays(np.int64, (PRODUCTS, 2 * PER_STEP), elements=st.integers(0, 5 * USUAL)),
    share=arrays.arrays(np.float64, (PRODUCTS, 2 * PER_STEP), elements=st.floats(0, 1)),
)
def test_no_cancellation_within_the_step_changes_what_is_judged(orders: Counts, share: F64) -> None:
    cancelled = np.floor(orders * share).astype(np.int64)
    assert_equal(read_later(orders, cancelled), read_at_once(orders, cancelled))


def shop_of(stocks: dict[int, list[int]]) -> KnownFuture:
    """Of these products, stock (1: some, 0: none) as each step begins; nothing is known of the others."""
    said = {row: Facts(-1, [Version(FIRST_STEP + i, stock=stock) for i, stock in enumerate(some)]) for row, some in stocks.items()}
    return KnownFuture.of((), HOUR_MS, Place("UTC"), [encode(said[row]) if row in said else b"" for row in range(PRODUCTS)])


def test_what_cannot_be_bought_does_not_drop() -> None:
    """The first sells out within a step, the second before the first begins; of the third nothing is known.

    stock    |1 . . . . .|0          |0          |1          |
    sales    |**         |           |           |***********|
    """
    orders = np.full((PRODUCTS, 4 * PER_STEP), USUAL)
    orders[:, 2 : 3 * PER_STEP] = 0
    shop = shop_of({0: [1, 0, 0, 1], 1: [0, 0, 0, 1]})
    _, happened = walk(SETTLED, sums_of(orders, np.zeros_like(orders)), FIRST_STEP * PER_STEP, shop)
    told = [list(zip(rows, actions, reasons, tiles, strict=True)) for rows, _, actions, reasons, _, tiles, *_ in happened]  # type: ignore[call-overload]
    of = {row: [each for some in told for each in some if each[0] == row] for row in range(PRODUCTS)}
    assert [(action, REASONS[reason]) for _, action, reason, _ in of[0] if action == Action.RESOLVE] == [(Action.RESOLVE, Reason.STOCK_OUT)]
    assert of[0][0][1] == Action.FIRE  # what the shop says holds from the next step on
    assert of[0][-1][3] == (FIRST_STEP + 1) * PER_STEP  # the first tile in which it holds
    assert of[1] == []
    assert [action for _, action, *_ in of[2] if action != Action.UPDATE] == [Action.FIRE, Action.RESOLVE]
    assert of[2][-1][3] >= (FIRST_STEP + 3) * PER_STEP


@given(
    orders=arrays.arrays(np.int64, (PRODUCTS, 6 * PER_STEP), elements=st.integers(0, 5 * USUAL)),
    stocks=st.lists(st.lists(st.integers(0, 1), min_size=7, max_size=7), min_size=PRODUCTS, max_size=PRODUCTS),
    cuts=st.sets(st.integers(1, 6 * PER_STEP - 1), max_size=4),
)
@settings(max_examples=40)
def test_what_is_said_later_changes_nothing_that_was_judged(orders: Counts, stocks: list[list[int]], cuts: set[int]) -> None:
    """A tile is judged by the stock as its step began: what was heard by then, or all that is ever heard."""
    sums, first = sums_of(orders, np.zeros_like(orders)), FIRST_STEP * PER_STEP
    whole = walk(SETTLED, sums, first, shop_of(dict(enumerate(stocks))))
    lines, happened = SETTLED, []
    for start, end in itertools.pairwise([0, *sorted(cuts), orders.shape[1]]):
        begin, heard = start // PER_STEP * PER_STEP, end // PER_STEP + 1
        lines, moved = walk(lines, sums[:, begin:end], first + begin, shop_of({i: some[:heard] for i, some in enumerate(stocks)}))
        happened += moved
    assert_equal((lines, happened), whole)


def wrong_by(factor: float) -> Memory:
    """Of days on which every quantile was so many times what it should have been."""
    grid = np.abs(np.log(calibration.FACTORS * factor))
    found = Outcomes.none(len(MODEL.levels))
    found.sums[:, 0] = 10_000
    found.losses[:] = np.rint(grid * 1000)
    day = calibration.day_of(FIRST_STEP, HOUR_MS)
    return Memory(len(MODEL.levels), dict.fromkeys(range(day - 5, day - 1), found))


@given(
    orders=arrays.arrays(np.int64, (PRODUCTS, 30 * PER_STEP), elements=st.integers(0, 5 * USUAL)),
    cuts=st.sets(st.integers(1, 30 * PER_STEP - 1), max_size=8),
    apart=st.booleans(),
)
@settings(max_examples=40)
def test_outcomes_do_not_depend_on_how_the_walk_was_cut(orders: Counts, cuts: set[int], apart: bool) -> None:
    sums, first = sums_of(orders, np.zeros_like(orders)), FIRST_STEP * PER_STEP
    pools = pools_of([wrong_by(1.0), wrong_by(1.5)])
    whole = timeline.advance(SETTLED, sums, first, PER_STEP, MODEL, POLICY, pools)
    lines, found = SETTLED, dict[tuple[int, int], Outcomes]()
    for start, end in itertools.pairwise([0, *sorted(cuts), orders.shape[1]]):
        begin = start // PER_STEP * PER_STEP
        done = []
        for rows in [[i] for i in range(PRODUCTS)] if apart else [list(range(PRODUCTS))]:
            some = np.array(rows)
            mine = Pools(pools.pool[some], pools.turn[some], pools.first_day, pools.factors, pools.held)
            done.append(timeline.advance(lines.at(some), sums[some, begin:end], first + begin, PER_STEP, MODEL, POLICY, mine))
            for key, outcomes in done[-1].outcomes.items():
                found[key] = found.get(key, Outcomes.none(len(MODEL.levels))) + outcomes
        lines = joined([each.timelines for each in done])
    assert_same_lines(lines, whole.timelines)
    assert found.keys() == whole.outcomes.keys()
    for key, outcomes in whole.outcomes.items():
        np.testing.assert_array_equal(found[key].sums, outcomes.sums)


def joined(lines: list[Timelines]) -> Timelines:
    step, tile, rows, state, scores, *trials = (np.concatenate(each) for each in zip(*map(parts, lines), strict=True))
    return Timelines(step, tile, rows, state, scores, Trials(*trials))


def test_products_are_judged_from_their_first_turn_on_with_the_factors_of_their_pool() -> None:
    orders = np.full((PRODUCTS, 8 * PER_STEP), USUAL)
    born = replace(SETTLED, trials=calibration.no_trials(PRODUCTS, MODEL.horizon, len(MODEL.levels)))
    pools = pools_of([wrong_by(1.0), wrong_by(2.0)])
    done = timeline.advance(born, sums_of(orders, np.zeros_like(orders)), FIRST_STEP * PER_STEP, PER_STEP, MODEL, POLICY, pools)
    assert FIRST_STEP % MODEL.horizon == 0  # so that product i is first tried after step i, and judged by the steps behind it
    counts = {pool: sum(found.count.sum() for (p, _), found in done.outcomes.items() if p == pool) for pool in (0, 1)}
    assert counts == {0: 7 + 5, 1: 6}
    assert done.tried.all()
    assert done.timelines.trials.step.tolist() == [FIRST_STEP + 4 + i for i in range(PRODUCTS)]
    assert np.allclose(done.timelines.trials.factors[[0, 2]], 1, atol=0.03)
    assert np.allclose(done.timelines.trials.factors[1], 0.5**0.5, atol=0.03)
