import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.measures import MEASURES, N_MEASURES, ORDERS, SCALES, UNITS
from feature_store.tiles import Grid
from feature_store.windows import History, Kept, Sums, last_sale_end_ms, step_series, window_sums
from tests import oracles
from tests.oracles import Fact

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
GRID = Grid(tile_ms=5 * MINUTE_MS, step_ms=HOUR_MS)
KEPT = Kept(GRID, tile_retention_ms=25 * HOUR_MS, step_retention_ms=8 * DAY_MS)
SCARCE = Kept(GRID, tile_retention_ms=2 * HOUR_MS, step_retention_ms=DAY_MS)
DAILY = Kept(Grid(tile_ms=HOUR_MS, step_ms=DAY_MS), tile_retention_ms=2 * DAY_MS, step_retention_ms=200 * DAY_MS)
N_PRODUCTS = 3
LENGTHS_MS = (5 * MINUTE_MS, HOUR_MS, DAY_MS, 7 * DAY_MS)


class Case(NamedTuple):
    """What happened, what the store has done of its housekeeping by then, and when somebody asks."""

    facts: list[Fact]
    kept: Kept
    as_of_ms: int
    rolled: list[int | None]  # per product
    untrimmed: int  # steps by which trimming lags behind


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kept = draw(st.sampled_from([KEPT, SCARCE, DAILY]))
    as_of_ms = (
        1_700_000_000_000 // DAY_MS * DAY_MS + draw(st.integers(0, 14 * 24 * 60)) * MINUTE_MS + draw(st.sampled_from([0, 0, 1, 59_999]))
    )
    ago_ms = st.one_of(st.integers(-10, 120), st.integers(20 * 60, 30 * 60), st.integers(0, 10 * 24 * 60)).map(lambda ago: ago * MINUTE_MS)
    fact = st.builds(
        Fact,
        ago_ms.map(lambda ago: as_of_ms - ago),
        st.integers(0, N_PRODUCTS - 1),
        st.sampled_from(MEASURES) | st.sampled_from(["units", "orders"]),
        st.integers(-3, 3_000),
    )
    behind = st.none() | st.integers(1, 3) | st.integers(1, 30)
    rolled = [None if steps is None else kept.grid.step_of(as_of_ms) - steps for steps in (draw(behind) for _ in range(N_PRODUCTS))]
    return Case(draw(st.lists(fact, max_size=30)), kept, as_of_ms, rolled, draw(st.integers(0, 20)))


def history_of(case: Case, products: Sequence[int] = range(N_PRODUCTS)) -> History:
    """What the store holds: tiles and steps as it rolls up and trims them, product by product."""
    grid, kept = case.kept.grid, case.kept
    by_tile, by_step = oracles.cells(case.facts, grid.tile_ms), oracles.cells(case.facts, grid.step_ms)
    keep_tiles = -(-kept.tile_retention_ms // grid.step_ms) + case.untrimmed
    keep_steps = -(-kept.step_retention_ms // grid.step_ms) + case.untrimmed
    found: list[tuple[Sums, Sums, int | None]] = []
    for product in products:
        rolled = case.rolled[product]
        tiles = {tile: sums for (of, tile), sums in by_tile.items() if of == product}
        steps: Sums = {}
        if rolled is not None:
            tiles = {tile: sums for tile, sums in tiles.items() if tile // grid.tiles_per_step > rolled - keep_tiles}
            steps = {step: sums for (of, step), sums in by_step.items() if of == product and rolled - keep_steps < step <= rolled}
        found.append((tiles, steps, rolled))
    return History.of(found, grid)


def hop_ms(kept: Kept, length_ms: int) -> int:
    return kept.grid.tile_ms if length_ms <= kept.tile_retention_ms else kept.grid.step_ms


@given(cases(), st.sampled_from(LENGTHS_MS))
def test_window_sums(case: Case, length_ms: int) -> None:
    found = window_sums(history_of(case), case.as_of_ms, length_ms, case.kept) / SCALES
    start_ms, end_ms = oracles.window(case.as_of_ms, length_ms, hop_ms(case.kept, length_ms))
    for product in range(N_PRODUCTS):
        expected = [oracles.total(case.facts, product, measure, start_ms, end_ms) for measure in MEASURES]
        kept_long_enough = length_ms <= max(case.kept.tile_retention_ms, case.kept.step_retention_ms)
        np.testing.assert_array_equal(found[product], expected if kept_long_enough else [math.nan] * N_MEASURES)


@given(cases(), st.sampled_from([1, 24, 168]))
def test_step_series(case: Case, count: int) -> None:
    found = step_series(history_of(case), case.as_of_ms, count, UNITS, case.kept) / SCALES[UNITS]
    for product in range(N_PRODUCTS):
        expected = oracles.units_by_step(case.facts, product, case.as_of_ms, count, case.kept.grid.step_ms)
        np.testing.assert_array_equal(found[product], expected if count <= case.kept.steps else [math.nan] * count)


@given(cases())
def test_last_sale(case: Case) -> None:
    found = (case.as_of_ms - last_sale_end_ms(history_of(case), case.as_of_ms, case.kept)) / HOUR_MS
    grid = case.kept.grid
    for product in range(N_PRODUCTS):
        arguments = (grid.tile_ms, case.kept.tile_retention_ms, grid.step_ms, case.kept.steps)
        np.testing.assert_array_equal(found[product], oracles.hours_since_sale(case.facts, product, case.as_of_ms, *arguments))


def test_a_window_ends_with_the_running_interval() -> None:
    """
    tiles   |10:45|10:50|10:55|11:00      as of 10:52 the running tile is 10:50-10:55
    units      1     2     4
    5 min         [-----)
    10 min  [-----------)
    """
    ten = 10 * HOUR_MS
    tiles = {(ten + minute * MINUTE_MS) // GRID.tile_ms: [units, *[0] * (N_MEASURES - 1)] for minute, units in ((45, 1), (50, 2), (55, 4))}
    history = History.of([(tiles, {}, None)], GRID)
    asked = ten + 52 * MINUTE_MS
    assert window_sums(history, asked, 5 * MINUTE_MS, KEPT)[0, UNITS] == 2
    assert window_sums(history, asked, 10 * MINUTE_MS, KEPT)[0, UNITS] == 3
    assert window_sums(history, asked + 3 * MINUTE_MS, 5 * MINUTE_MS, KEPT)[0, UNITS] == 2  # 10:55 sharp: [10:50, 10:55)
    assert window_sums(history, asked, 7 * DAY_MS, KEPT)[0, UNITS] == 7  # hops by the step: the running hour whole


def test_a_cancelled_sale_is_no_sale() -> None:
    sold, undone = [0] * N_MEASURES, [0] * N_MEASURES
    sold[ORDERS] = 1
    history = History.of([({1: sold, 2: undone}, {}, None), ({}, {}, None)], GRID)
    ends = last_sale_end_ms(history, HOUR_MS, KEPT)
    assert ends[0] == 2 * GRID.tile_ms
    assert math.isnan(ends[1])


@pytest.mark.parametrize("products", [[], [({}, {}, None)]])
def test_emptiness_is_zeros(products: list[tuple[Sums, Sums, int | None]]) -> None:
    history = History.of(products, GRID)
    assert window_sums(history, 0, HOUR_MS, KEPT).tolist() == [[0.0] * N_MEASURES] * len(products)
    assert step_series(history, 0, 2, UNITS, KEPT).tolist() == [[0.0, 0.0]] * len(products)
