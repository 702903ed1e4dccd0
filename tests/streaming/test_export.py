"""Rows of the export: nothing twice, nothing missing, in order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from feature_store.measures import N_MEASURES
from feature_store.tiles import Grid
from streaming.export import Intervals

GRID = Grid(tile_ms=5, step_ms=15)
SUMS = st.lists(st.integers(-5, 5), min_size=N_MEASURES, max_size=N_MEASURES)
PRODUCT = st.tuples(
    st.dictionaries(st.integers(-6, 20), SUMS, max_size=8),
    st.dictionaries(st.integers(-2, 7), SUMS, max_size=5),
    st.one_of(st.none(), st.integers(-2, 7)),
)

Product = tuple[dict[int, list[int]], dict[int, list[int]], int | None]
Row = tuple[int, int, int, bool, list[float]]


def known_intervals(products: list[Product]) -> list[Row]:
    """The slow way: product, start, end, closed, sums."""
    rows: list[Row] = []
    for product, (tiles, steps, consumed) in enumerate(products):
        for step, sums in steps.items():
            if consumed is not None and step <= consumed:
                rows.append((product, step * 15, step * 15 + 15, True, [float(x) for x in sums]))
        for tile, sums in tiles.items():
            if consumed is None or tile // 3 > consumed:
                rows.append((product, tile * 5, tile * 5 + 5, False, [float(x) for x in sums]))
    return sorted(rows)


@given(st.lists(PRODUCT, max_size=4))
def test_rows_are_those_of_the_slow_way_and_do_not_overlap(products: list[Product]) -> None:
    known = Intervals.of(products, GRID)
    columns = (known.product, known.start_ms, known.end_ms, known.closed, known.sums)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert rows == known_intervals(products)
    for one, other in pairwise(rows):
        assert one[0] < other[0] or one[2] <= other[1]


def test_no_products_are_no_rows() -> None:
    assert len(Intervals.of([], GRID)) == 0
