from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store import tiles
from feature_store.events import Kind
from feature_store.measures import (
    CANCELLED_UNITS,
    MEASURES,
    N_MEASURES,
    NETTED_ORDERS,
    NETTED_UNITS,
    ORDERS,
    RETURNED_UNITS,
    REVENUE,
    UNITS,
)
from feature_store.tiles import Grid, TileDeltas, roll_up, tile_events
from feature_store.watermarks import NO_WATERMARK, judge
from tests import oracles
from tests.feature_store.events_of import MINUTE_MS, batch_of, pieces, streams
from tests.oracles import Cells, Line, Record

GRID = Grid(tile_ms=5 * MINUTE_MS, step_ms=60 * MINUTE_MS)
RULES = {
    "lateness_ms": 10 * MINUTE_MS,
    "future_ms": 5 * MINUTE_MS,
    "step_ms": GRID.step_ms,
    "step_retention_ms": 120 * MINUTE_MS,
}
SPAN_MINUTES = 600


def as_cells(deltas: TileDeltas) -> Cells:
    keys = list(zip(deltas.product.tolist(), deltas.tile.tolist(), strict=True))
    assert keys == sorted(set(keys))
    return dict(zip(keys, deltas.deltas.astype(int).tolist(), strict=True))


def folded(records: list[Record], before_ms: int = NO_WATERMARK) -> dict[tuple[int, int], dict[str, int]]:
    """Cells with the measures that are not zero."""
    found = as_cells(tile_events(batch_of(records), np.full(len(records), before_ms), GRID))
    return {key: {name: value for name, value in zip(MEASURES, sums, strict=True) if value} for key, sums in found.items()}


def order(minute: int, *lines: Line, kind: Kind = Kind.PLACED, placed_at: int | None = None) -> Record:
    time_ms = minute * MINUTE_MS
    return Record(time_ms, time_ms, kind, lines, -1 if placed_at is None else placed_at * MINUTE_MS)


def test_two_lines_of_one_product_are_one_order() -> None:
    found = folded([order(7, Line(0, 1_000, 50), Line(1, 2_000, 70), Line(0, 3_000, 90))])
    assert found == {(0, 1): {"units": 4_000, "orders": 1, "revenue": 140}, (1, 1): {"units": 2_000, "orders": 1, "revenue": 70}}


def test_a_cancellation_nets_the_tile_of_placing_while_its_step_is_open() -> None:
    """
    step    |0 ------------------- 60|60 -------------- 120|
    tiles   |..|5 ..|                     |70 .|
    order       7: 4 units
    cancelled                              72: 3 of them      watermark before it: 59 → nets; 60 → counts at its own time
    """
    stream = [order(7, Line(0, 4_000, 80)), order(72, Line(0, 3_000, 60), kind=Kind.CANCELLED, placed_at=7)]
    assert folded(stream, 59 * MINUTE_MS) == {(0, 1): {"units": 1_000, "revenue": 20, "netted_units": 3_000, "netted_orders": 1}}
    assert folded(stream, 60 * MINUTE_MS) == {(0, 1): {"units": 4_000, "orders": 1, "revenue": 80}, (0, 14): {"cancelled_units": 3_000}}


@pytest.mark.parametrize("placed_at", [None, 73])
def test_a_cancellation_that_cannot_be_placed_counts_at_its_own_time(placed_at: int | None) -> None:
    assert folded([order(72, Line(0, 3_000), kind=Kind.CANCELLED, placed_at=placed_at)]) == {(0, 14): {"cancelled_units": 3_000}}


def test_a_cell_that_cancels_out_stays() -> None:
    """Its net sums are all zero."""
    cancelled = [order(7, Line(0, 1_000)), order(8, Line(0, 1_000), kind=Kind.CANCELLED, placed_at=7)]
    assert folded(cancelled) == {(0, 1): {"netted_units": 1_000, "netted_orders": 1}}


def test_two_cancelled_lines_of_one_product_are_one_netted_order() -> None:
    found = folded([order(8, Line(0, 1_000, 50), Line(0, 2_000, 70), kind=Kind.CANCELLED, placed_at=7)])
    assert found == {(0, 1): {"units": -3_000, "orders": -1, "revenue": -120, "netted_units": 3_000, "netted_orders": 1}}


def test_returns_and_clicks() -> None:
    clicks = [Record(0, 0, kind, (Line(2),)) for kind in (Kind.VIEW, Kind.VIEW, Kind.ADD_TO_CART, Kind.REMOVE_FROM_CART, Kind.WISHLIST)]
    found = folded([order(3, Line(2, 1_500, 9), kind=Kind.RETURNED, placed_at=1), *clicks])
    assert found == {(2, 0): {"returned_units": 1_500, "views": 2, "carts": 1, "uncarts": 1, "favourites": 1}}


def test_cells_know_when_they_were_touched() -> None:
    first, second, third = (
        Record(minute * MINUTE_MS, 0, Kind.VIEW, (Line(0),), sent_at_ms=at) for minute, at in ((3, 80), (1, 70), (6, 90))
    )
    deltas = tile_events(batch_of([first, second, third]), np.zeros(3, np.int64), GRID)
    assert deltas.oldest_sent_at_ms.tolist() == [70, 90]
    assert deltas.newest_event_ms.tolist() == [3 * MINUTE_MS, 6 * MINUTE_MS]


def test_heartbeats_and_emptiness_add_nothing() -> None:
    assert folded([]) == {}
    assert folded([Record(5, 5, None)]) == {}


def test_events_far_apart_in_time_do_not_cost_memory() -> None:
    minutes = (-(10**9), 0, 10**9)
    found = folded([order(minute, Line(1, 1_000)) for minute in minutes])
    assert list(found) == [(1, minute // 5) for minute in minutes]


@given(streams(SPAN_MINUTES), st.lists(st.integers(0, 100)), st.sampled_from([0, 1 << 16]))
def test_any_cut_counts_what_one_by_one_counts(stream: list[Record], cuts: list[int], smallest_table: int) -> None:
    """Judged, filtered and folded in any pieces, by the table and by sorting: the same cells, and the same sums, to the last bit."""
    judged_one_by_one = oracles.judgements(stream, **RULES)
    counted = [
        (record, before) for record, (before, verdict) in zip(stream, judged_one_by_one, strict=True) if verdict in ("on time", "late")
    ]
    expected = oracles.cells(oracles.facts([r for r, _ in counted], [before for _, before in counted], GRID.step_ms), GRID.tile_ms)

    watermark: int | None = None
    sums: Cells = defaultdict(lambda: [0] * N_MEASURES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "SMALLEST_TABLE", smallest_table)
        patch.setattr(tiles, "TABLE_PER_LINE", 16 if smallest_table else 0)
        for piece in pieces(stream, cuts):
            batch = batch_of(piece)
            judged = judge(batch, watermark, **RULES)
            watermark = int(judged.watermark_ms[-1])
            deltas = tile_events(batch.where(judged.accepted), judged.before_ms[judged.accepted], GRID)
            for key, values in as_cells(deltas).items():
                sums[key] = [held + value for held, value in zip(sums[key], values, strict=True)]
    assert dict(sums) == expected


@given(streams(SPAN_MINUTES), st.just(NO_WATERMARK) | st.integers(0, SPAN_MINUTES).map(lambda minute: minute * MINUTE_MS))
def test_net_and_netted_add_up_to_what_was_placed_whatever_is_cancelled(stream: list[Record], before_ms: int) -> None:
    """Gross units and orders of each tile are those of the placed orders alone."""

    def gross(records: list[Record]) -> dict[tuple[int, int], tuple[int, int]]:
        cells = as_cells(tile_events(batch_of(records), np.full(len(records), before_ms), GRID)).items()
        found = {key: (sums[UNITS] + sums[NETTED_UNITS], sums[ORDERS] + sums[NETTED_ORDERS]) for key, sums in cells}
        return {key: both for key, both in found.items() if both != (0, 0)}

    assert gross(stream) == gross([record for record in stream if record.kind is Kind.PLACED])


@given(streams(SPAN_MINUTES))
def test_touch_times_are_the_extremes_of_the_cell(stream: list[Record]) -> None:
    clicks = [record for record in stream if record.kind is not None and record.kind >= Kind.VIEW]
    deltas = tile_events(batch_of(clicks), np.zeros(len(clicks), np.int64), GRID)
    for i, key in enumerate(zip(deltas.product.tolist(), deltas.tile.tolist(), strict=True)):
        touching = [record for record in clicks if (record.lines[0].product, record.event_time_ms // GRID.tile_ms) == key]
        assert deltas.oldest_sent_at_ms[i] == min(record.sent_at_ms for record in touching)
        assert deltas.newest_event_ms[i] == max(record.event_time_ms for record in touching)


@given(streams(SPAN_MINUTES))
def test_steps_are_their_tiles_added_up(stream: list[Record]) -> None:
    deltas = tile_events(batch_of(stream), np.full(len(stream), NO_WATERMARK), GRID)
    product, step, sums = roll_up(deltas.product, deltas.tile, deltas.deltas, GRID)
    facts = oracles.facts(stream, [float("-inf")] * len(stream), GRID.step_ms)
    assert dict(zip(zip(product.tolist(), step.tolist(), strict=True), sums.astype(int).tolist(), strict=True)) == oracles.cells(
        facts, GRID.step_ms
    )


def test_sums_of_huge_integers_stay_exact() -> None:
    """One more than what float32, or a running mean, would lose."""
    large = 2**52
    deltas = tile_events(batch_of([order(0, Line(0, large, large)), order(0, Line(0, 1, 1))]), np.zeros(2, np.int64), GRID)
    assert deltas.deltas[0, [UNITS, REVENUE]].tolist() == [large + 1, large + 1]
    assert deltas.deltas[0, [ORDERS, CANCELLED_UNITS, RETURNED_UNITS]].tolist() == [2, 0, 0]


def test_a_grid_must_fit() -> None:
    with pytest.raises(ValueError, match="whole number of tiles"):
        Grid(tile_ms=7, step_ms=60)
