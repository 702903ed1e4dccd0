"""Hopping windows as queries over what the store keeps of a product: tiles of the last day, steps of the last week.

With tiles of 5 minutes kept for 25 hours, steps of an hour, and as-of 10:52 (the running tile is 10:50-10:55, the running step 10-11):

    steps  |--7--|--8--|--9--|               rolled up: counted from the step records
    tiles              .............::       step 10 is open: counted from its tiles
                                     ^ as-of
    1 h                  [09:55 ----- 10:55)          hops by the tile: ends with the running tile
    7 d    [7 days before 11:00 ----------- 11:00)    longer than tiles are kept: hops by the step, ends with the running step

Tiles and steps that have not happened yet are empty, so a window that ends with the running one holds all that is known. At the end of a tile
(of a step) its bounds are exactly `[as-of - length, as-of)`. Answers never depend on which older records have been trimmed already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from feature_store.measures import N_MEASURES, ORDERS
from feature_store.tiles import Floats, Grid, Ints, roll_up

# A product of which no step has been rolled up: everything is in its tiles.
NOTHING_ROLLED: Final = int(np.iinfo(np.int64).min)

Sums = Mapping[int, npt.ArrayLike]  # tile or step index → (N_MEASURES,) integers


@dataclass(frozen=True, slots=True)
class Kept:
    """The grid, and for how long before a product's last rolled-up step its tiles and steps are kept."""

    grid: Grid
    tile_retention_ms: int
    step_retention_ms: int

    @property
    def steps(self) -> int:
        """Whole steps that are always answerable."""
        return self.step_retention_ms // self.grid.step_ms


@dataclass(frozen=True, slots=True)
class Rows:
    """Sums of some products' intervals, at most one row each, in any order."""

    product: Ints  # (k,) row of the product in the query
    index: Ints  # (k,) tile or step
    sums: Floats  # (k, N_MEASURES) integers

    @classmethod
    def of(cls, sums: Sequence[Sums]) -> Self:
        """Rows of the products' sums, sorted by (product, index)."""
        counts = [len(held) for held in sums]
        index = np.fromiter((index for held in sums for index in held), dtype=np.int64, count=sum(counts))
        product = np.repeat(np.arange(len(sums)), counts)
        values = [np.asarray(value, dtype=np.float64) for held in sums for value in held.values()]
        order = np.lexsort((index, product))
        # Concatenated, for np.array of a list of arrays is several times slower.
        return cls(product[order], index[order], np.concatenate([np.zeros(0), *values]).reshape(-1, N_MEASURES)[order])

    def where(self, keep: npt.NDArray[np.bool_]) -> "Rows":
        return Rows(self.product[keep], self.index[keep], self.sums[keep])

    def between(self, first: int, end: int) -> "Rows":
        """Those of the intervals `[first, end)`."""
        return self.where((self.index >= first) & (self.index < end))

    def totals(self, n_products: int) -> Floats:
        """Sums per product, (n_products, N_MEASURES)."""
        return np.stack([np.bincount(self.product, column, n_products) for column in self.sums.T], axis=1)


@dataclass(frozen=True, slots=True)
class History:
    """What the store keeps of `n` products."""

    rolled: Ints  # (n,) last step whose tiles have been rolled up into a step record; NOTHING_ROLLED: none
    tiles: Rows
    by_step: Rows  # step records as far as rolled up, then the tiles of the steps since

    @classmethod
    def of(cls, products: Sequence[tuple[Sums, Sums, int | None]], grid: Grid) -> Self:
        """From each product's tiles, steps and last rolled-up step (None: none).

        >>> one = np.ones(N_MEASURES)
        >>> history = History.of([({24: one, 25: 2 * one, 36: 4 * one}, {1: 8 * one, 2: 3 * one}, 2)], Grid(300_000, 3_600_000))
        >>> history.by_step.index.tolist(), history.by_step.sums[:, 0].tolist()  # step 2: its tiles are kept, but counted already
        ([1, 2, 3], [8.0, 3.0, 4.0])
        """
        rolled = np.array([NOTHING_ROLLED if step is None else step for _, _, step in products], dtype=np.int64)
        tiles = Rows.of([held for held, _, _ in products])
        steps = Rows.of([held for _, held, _ in products])
        open_tiles = tiles.where(grid.step_of_tile(tiles.index) > rolled[tiles.product])
        closed = steps.where(steps.index <= rolled[steps.product])
        opened = Rows(*roll_up(open_tiles.product, open_tiles.index, open_tiles.sums, grid))
        joined = (np.concatenate(pair) for pair in zip(_columns(closed), _columns(opened), strict=True))
        return cls(rolled, tiles, Rows(*joined))

    def __len__(self) -> int:
        return len(self.rolled)


def window_sums(history: History, as_of_ms: int, length_ms: int, kept: Kept) -> Floats:
    """Sums of the window of `length_ms` (rounded up to whole tiles or steps) that ends with `as_of_ms`: (n, N_MEASURES) integers.

    As-of must not lie before the end of any product's last rolled-up step. NaN where the window is longer than steps are kept.
    """
    if length_ms > max(kept.tile_retention_ms, kept.step_retention_ms):
        return np.full((len(history), N_MEASURES), np.nan)
    by_tile = length_ms <= kept.tile_retention_ms
    rows, interval_ms = (history.tiles, kept.grid.tile_ms) if by_tile else (history.by_step, kept.grid.step_ms)
    end = _up(as_of_ms, interval_ms)
    return rows.between(end - _up(length_ms, interval_ms), end).totals(len(history))


def step_series(history: History, as_of_ms: int, count: int, measure: int, kept: Kept) -> Floats:
    """A measure in the last `count` steps that had ended by `as_of_ms`, the newest last: (n, count) integers; NaN where not so many are kept."""
    if count > kept.steps:
        return np.full((len(history), count), np.nan)
    end = kept.grid.step_of(as_of_ms)
    rows = history.by_step.between(end - count, end)
    series = np.zeros((len(history), count))
    series[rows.product, rows.index - (end - count)] = rows.sums[:, measure]
    return series


def last_sale_end_ms(history: History, as_of_ms: int, kept: Kept) -> npt.NDArray[np.float64]:
    """End of the last interval that has orders left after cancellations: (n,) ms, not after `as_of_ms`; NaN: none is kept.

    The interval is a tile among those always kept; before them, a step.
    """
    grid = kept.grid
    end_tile = _up(as_of_ms, grid.tile_ms)
    tiles = history.tiles.between(end_tile - kept.tile_retention_ms // grid.tile_ms, end_tile)
    end_step = _up(as_of_ms, grid.step_ms)
    steps = history.by_step.between(grid.step_of(as_of_ms) - kept.steps, end_step)
    by_tile = _latest(tiles, len(history)) * grid.tile_ms
    by_step = _latest(steps, len(history)) * grid.step_ms
    return np.minimum(np.where(np.isnan(by_tile), by_step, by_tile), as_of_ms)


def _latest(rows: Rows, n_products: int) -> Floats:
    """(n,) index after the last row with orders; NaN where there is none."""
    sold = rows.where(rows.sums[:, ORDERS] > 0)
    after = np.full(n_products, -np.inf)
    np.maximum.at(after, sold.product, sold.index + 1.0)
    return np.where(np.isinf(after), np.nan, after)


def _columns(rows: Rows) -> tuple[Ints, Ints, Floats]:
    return rows.product, rows.index, rows.sums


def _up(ms: int, interval_ms: int) -> int:
    """The number of intervals that hold `ms`, rounded up."""
    return -(-ms // interval_ms)
