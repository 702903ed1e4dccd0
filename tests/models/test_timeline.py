"""The walk through tiles and steps: alerts do not depend on when a tile is read."""

from dataclasses import astuple, dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from feature_store.measures import N_MEASURES, NETTED_ORDERS, NETTED_UNITS, ORDERS, SCALES, UNITS
from models import features, timeline
from models.alerts import Action, AlertPolicy
from models.features import F32, I64, FeatureSpec
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

    def advance(self, rows: F32, state: F32, demand: F32, step: I64) -> tuple[F32, F32]:
        return features.advance(self.spec, rows, demand, step), state

    def expect(self, rows: F32, state: F32, step: I64) -> F32:
        return np.full(len(step), USUAL * PER_STEP, np.float32)


MODEL = Steady()


def sums_of(orders: Counts, cancelled: Counts) -> F64:
    """Integer sums of tiles, each order of one unit, when so many of them are cancelled."""
    sums = np.zeros((*orders.shape, N_MEASURES))
    sums[..., ORDERS], sums[..., NETTED_ORDERS] = orders - cancelled, cancelled
    sums[..., UNITS], sums[..., NETTED_UNITS] = sums[..., ORDERS] * SCALES[UNITS], cancelled * SCALES[NETTED_UNITS]
    return sums


def walk(lines: Timelines, sums: F64, first: int) -> tuple[Timelines, list[tuple[object, ...]]]:
    """Where the products stand after these tiles, and what happened to their alerts."""
    advanced = timeline.advance(lines, sums, first, PER_STEP, MODEL, POLICY)
    return advanced.timelines, [tuple(column.tolist() for column in astuple(moved)) for moved in advanced.transitions]


def settled() -> Timelines:
    """Products that sold the usual for a day."""
    steps = 24
    tile = (FIRST_STEP - steps) * PER_STEP
    rows, places = features.fresh(MODEL.spec, PRODUCTS), np.full(PRODUCTS, FIRST_STEP - steps - 1)
    born = Timelines(places, np.full(PRODUCTS, tile - 1), rows, np.zeros((PRODUCTS, 0), np.float32), timeline.fresh_scores(PRODUCTS))
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
    for ours, theirs in zip(astuple(found[0]), astuple(expected[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
