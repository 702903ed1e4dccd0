"""Event lines to sums per product and tile, and tiles to steps. All sums are integers held as float64: exact, in any order of addition."""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from feature_store.events import ABSENT, EventBatch, Kind
from feature_store.measures import (
    CANCELLED_UNITS,
    CARTS,
    FAVOURITES,
    N_MEASURES,
    NETTED_ORDERS,
    NETTED_UNITS,
    ORDERS,
    RETURNED_UNITS,
    REVENUE,
    UNCARTS,
    UNITS,
    VIEWS,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Whole = TypeVar("Whole", int, Ints)

# Up to so many possible (product, tile) pairs per line, counting into a table of all pairs is faster than sorting the lines.
TABLE_PER_LINE: Final = 16
SMALLEST_TABLE: Final = 1 << 16  # 512 KiB: stays in the cache, whatever the number of lines

# (measure, kind) of what is counted by lines alone
_CLICKS: Final = ((VIEWS, Kind.VIEW), (CARTS, Kind.ADD_TO_CART), (UNCARTS, Kind.REMOVE_FROM_CART), (FAVOURITES, Kind.WISHLIST))


@dataclass(frozen=True, slots=True)
class Grid:
    """Time cut into tiles, and tiles into steps; intervals are `[start, end)`, numbered from the epoch. Methods take a number or an array.

    >>> grid = Grid(tile_ms=300_000, step_ms=3_600_000)
    >>> grid.tile_of(np.array([299_999, 300_000, -1])).tolist(), grid.tile_start_ms(1)
    ([0, 1, -1], 300000)
    >>> grid.step_of_tile(12), grid.step_of(3_600_000), grid.tiles_per_step
    (1, 1, 12)
    """

    tile_ms: int
    step_ms: int

    def __post_init__(self) -> None:
        if self.tile_ms <= 0 or self.step_ms <= 0 or self.step_ms % self.tile_ms:
            raise ValueError(f"a step ({self.step_ms} ms) must be a whole number of tiles ({self.tile_ms} ms)")

    @property
    def tiles_per_step(self) -> int:
        return self.step_ms // self.tile_ms

    def tile_of(self, time_ms: Whole) -> Whole:
        return time_ms // self.tile_ms

    def step_of(self, time_ms: Whole) -> Whole:
        return time_ms // self.step_ms

    def step_of_tile(self, tile: Whole) -> Whole:
        return tile // self.tiles_per_step

    def tile_start_ms(self, tile: Whole) -> Whole:
        return tile * self.tile_ms

    def step_start_ms(self, step: Whole) -> Whole:
        return step * self.step_ms

    def step_end_ms(self, step: Whole) -> Whole:
        return (step + 1) * self.step_ms


@dataclass(frozen=True, slots=True)
class TileDeltas:
    """What a batch adds to `k` cells, sorted by (product, tile).

    A cell whose sums cancel out stays: which cells exist must not depend on how the input was cut.
    """

    product: Ints  # (k,) index into the batch's product_ids
    tile: Ints  # (k,)
    deltas: Floats  # (k, N_MEASURES) integers
    oldest_sent_at_ms: Ints  # (k,) real time at which the first of the cell's events was sent
    newest_event_ms: Ints  # (k,) latest event time of those that touched the cell

    def __len__(self) -> int:
        return len(self.tile)


def tile_events(batch: EventBatch, before_ms: Ints, grid: Grid) -> TileDeltas:
    """Fold the lines of accepted records; `before_ms`, shape (n,), is the source's watermark before each record (`watermarks.judge`).

    - placed: units and revenue in the tile of the event; one order per record and product, however many lines name the product;
    - cancelled, with a `placed_at` not after the event whose step ends after the record's watermark: takes the same off the tile of
      `placed_at`, and counts there as netted units and a netted order; any other cancellation counts as cancelled units in the tile of the event;
    - returned: returned units in the tile of the event;
    - clicks: one each.
    """
    nets = _nets(batch, before_ms, grid)
    record_tile = grid.tile_of(np.where(nets, batch.placed_at_ms, batch.event_time_ms))
    cell, product, tile = _group(batch.product, record_tile[batch.record], len(batch.product_ids))
    n_cells = len(tile)
    deltas = np.zeros((n_cells, N_MEASURES))
    occurring = set(np.flatnonzero(np.bincount(batch.kind, minlength=len(Kind))).tolist())

    if Kind.PLACED in occurring or Kind.CANCELLED in occurring:
        _add_orders(deltas, batch, cell, nets)
    if Kind.RETURNED in occurring:
        returned = batch.kind == Kind.RETURNED
        deltas[:, RETURNED_UNITS] = np.bincount(cell[returned], batch.quantity[returned], n_cells)
    for measure, kind in _CLICKS:
        if kind in occurring:
            deltas[:, measure] = np.bincount(cell if len(occurring) == 1 else cell[batch.kind == kind], minlength=n_cells)

    oldest = np.full(n_cells, np.iinfo(np.int64).max)
    np.minimum.at(oldest, cell, batch.sent_at_ms[batch.record])
    newest = np.full(n_cells, np.iinfo(np.int64).min)
    np.maximum.at(newest, cell, batch.event_time_ms[batch.record])
    return TileDeltas(product, tile, deltas, oldest, newest)


def roll_up(product: Ints, tile: Ints, sums: Floats, grid: Grid) -> tuple[Ints, Ints, Floats]:
    """Tiles sorted by (product, tile), sums of shape (k, measures), to steps: product, step and sums, sorted likewise.

    >>> step = roll_up(np.array([0, 0, 0]), np.array([0, 1, 2]), np.array([[1.0], [2.0], [4.0]]), Grid(1, 2))
    >>> step[1].tolist(), step[2].tolist()
    ([0, 1], [[3.0], [4.0]])
    """
    step = grid.step_of_tile(tile)
    if not len(step):
        return product, step, sums
    first = np.ones(len(step), dtype=np.bool_)
    first[1:] = (product[1:] != product[:-1]) | (step[1:] != step[:-1])
    starts = np.flatnonzero(first)
    return product[starts], step[starts], np.add.reduceat(sums, starts, axis=0)


def _nets(batch: EventBatch, before_ms: Ints, grid: Grid) -> npt.NDArray[np.bool_]:
    """(n,) records whose cancellation is taken off the tile of `placed_at`, if they are cancellations."""
    cancels = np.zeros(len(batch), dtype=np.bool_)
    cancels[batch.record[batch.kind == Kind.CANCELLED]] = True
    if cancels.any():
        cancels &= batch.placed_at_ms != ABSENT
        cancels &= batch.placed_at_ms <= batch.event_time_ms  # nobody cancels what will be placed: some clock is wrong
        cancels &= grid.step_end_ms(grid.step_of(batch.placed_at_ms)) > before_ms
    return cancels


def _add_orders(deltas: Floats, batch: EventBatch, cell: Ints, nets: npt.NDArray[np.bool_]) -> None:
    """Add placed and cancelled lines to `deltas`."""
    n_cells = len(deltas)
    placed = batch.kind == Kind.PLACED
    counts_once = _first_of_order(batch)
    if placed.all():
        quantity, amount, once = batch.quantity, batch.amount, counts_once
    else:
        cancelled = batch.kind == Kind.CANCELLED
        nets_line = nets[batch.record] & cancelled
        sign = placed.astype(np.float64) - nets_line
        quantity, amount, once = batch.quantity * sign, batch.amount * sign, counts_once * sign
        own = cancelled & ~nets_line
        deltas[:, CANCELLED_UNITS] = np.bincount(cell[own], batch.quantity[own], n_cells)
        deltas[:, NETTED_UNITS] = np.bincount(cell[nets_line], batch.quantity[nets_line], n_cells)
        deltas[:, NETTED_ORDERS] = np.bincount(cell[nets_line], counts_once[nets_line], n_cells)
    deltas[:, UNITS] = np.bincount(cell, quantity, n_cells)
    deltas[:, REVENUE] = np.bincount(cell, amount, n_cells)
    deltas[:, ORDERS] = np.bincount(cell, once, n_cells)


def _first_of_order(batch: EventBatch) -> Floats:
    """(m,) 1 on the first line of a record that names the line's product, 0 on its other lines that do."""
    first = np.ones(len(batch.record))
    same_record = batch.record[1:] == batch.record[:-1]
    if not same_record.any():
        return first
    several = np.zeros(len(first), dtype=np.bool_)  # lines of records that have more than one
    several[1:] |= same_record
    several[:-1] |= same_record
    lines = np.flatnonzero(several)
    pair = batch.record[lines] * len(batch.product_ids) + batch.product[lines]
    ordered = np.sort(pair)
    if (ordered[1:] == ordered[:-1]).any():  # rare: sorting values alone is several times faster than finding where each came from
        _, at = np.unique(pair, return_index=True)
        first[lines] = 0
        first[lines[at]] = 1
    return first


def _group(product: Ints, tile: Ints, n_products: int) -> tuple[Ints, Ints, Ints]:
    """Number the distinct (product, tile) pairs in order: the number of each line's pair (m,), and the pairs' products and tiles (k,)."""
    if not len(tile):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    first_tile, n_tiles = int(tile.min()), int(tile.max()) - int(tile.min()) + 1
    table_limit = max(SMALLEST_TABLE, TABLE_PER_LINE * len(tile))
    if n_products * n_tiles > table_limit:  # Python's integers: can't overflow
        # A few events far from the others in time must not widen the table: number only the tiles that occur.
        tiles, tile = np.unique(tile, return_inverse=True)
        first_tile, n_tiles = 0, len(tiles)
    else:
        tiles = np.arange(first_tile, first_tile + n_tiles)
    pair = product * n_tiles + (tile - first_tile)
    if n_products * n_tiles <= table_limit:
        occurs = np.zeros(n_products * n_tiles, dtype=np.bool_)
        occurs[pair] = True
        pairs = np.flatnonzero(occurs)
        number = np.empty(len(occurs), dtype=np.int64)  # only places that occur are written, and read
        number[pairs] = np.arange(len(pairs))
        cell = number[pair]
    else:
        pairs, cell = np.unique(pair, return_inverse=True)
    return cell, pairs // n_tiles, tiles[pairs % n_tiles]
