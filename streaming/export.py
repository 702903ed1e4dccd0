"""All that is stored of all products as one Parquet file: closed steps, and tiles of what is not closed yet."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from feature_store.measures import MEASURES, N_MEASURES, natural
from feature_store.store import FeatureStore
from feature_store.tiles import Grid
from feature_store.windows import NOTHING_ROLLED, Rows, Sums
from streaming.parquet import Groups, metadata, replacing
from streaming.settings import Settings

# Read at once: a product that is never silent has 500 tiles and steps of 30 bytes, so that Redis is held up for about 10 ms.
CHUNK_PRODUCTS: Final = 128

Ints = npt.NDArray[np.int64]
Progress = Callable[[float], object]  # told which share of the shards is done


@dataclass(frozen=True, slots=True)
class Intervals:
    """What is known of some products, `k` intervals sorted by product and time that don't overlap."""

    product: Ints  # (k,) index into the products
    start_ms: Ints  # (k,)
    end_ms: Ints  # (k,)
    closed: npt.NDArray[np.bool_]  # (k,) a whole step that the product's state has consumed; else a tile
    sums: npt.NDArray[np.float64]  # (k, N_MEASURES) integers

    def __len__(self) -> int:
        return len(self.start_ms)

    @classmethod
    def of(cls, products: Sequence[tuple[Sums, Sums, int | None]], grid: Grid) -> Self:
        """From each product's tiles, steps and last consumed step (None: none).

        >>> one = np.ones(N_MEASURES)
        >>> known = Intervals.of([({24: one, 36: 4 * one}, {1: 8 * one, 2: one}, 2)], Grid(300_000, 3_600_000))
        >>> (known.start_ms // 300_000).tolist(), known.closed.tolist()  # tile 24 is kept, but step 2 holds it already
        ([12, 24, 36], [True, True, False])
        """
        consumed = np.array([NOTHING_ROLLED if step is None else step for _, _, step in products], dtype=np.int64)
        tiles, steps = Rows.of([held for held, _, _ in products]), Rows.of([held for _, held, _ in products])
        tiles = tiles.where(grid.step_of_tile(tiles.index) > consumed[tiles.product])
        steps = steps.where(steps.index <= consumed[steps.product])
        product = np.concatenate([steps.product, tiles.product])
        start_ms = np.concatenate([grid.step_start_ms(steps.index), grid.tile_start_ms(tiles.index)])
        closed = np.arange(len(product)) < len(steps.index)
        order = np.lexsort((start_ms, product))
        start_ms, closed = start_ms[order], closed[order]
        end_ms = start_ms + np.where(closed, grid.step_ms, grid.tile_ms)
        return cls(product[order], start_ms, end_ms, closed, np.concatenate([steps.sums, tiles.sums])[order])


@dataclass(slots=True)
class Exported:
    """What was written."""

    path: Path
    products: int = 0
    closed_steps: int = 0
    open_tiles: int = 0
    sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_MEASURES))  # integers

    def count(self, known: Intervals) -> None:
        self.products += len(np.unique(known.product))
        self.closed_steps += int(known.closed.sum())
        self.open_tiles += int((~known.closed).sum())
        self.sums += known.sums.sum(axis=0)

    def summary(self) -> dict[str, Any]:
        """For `--json`: counts of rows, and the totals of all measures in natural units."""
        return {
            "path": str(self.path),
            "products": self.products,
            "rows": self.closed_steps + self.open_tiles,
            "closed_steps": self.closed_steps,
            "open_tiles": self.open_tiles,
            "totals": dict(zip(MEASURES, natural(self.sums).tolist(), strict=True)),
        }


async def export_features(store: FeatureStore, settings: Settings, path: Path, progress: Progress = lambda _: None) -> Exported:
    """Write `product_id, start_ms, end_ms, closed` and all measures in natural units, one row an interval, as Parquet; `path` is replaced.

    Rows come by shard, in it by product, then by time. Each product is seen at one moment; products that are counted meanwhile, at different ones.
    A file that could not be finished never appears. Raises UserError where it cannot be written.
    """
    with replacing(path) as partial:
        return await _write(store, settings, path, partial, progress)


async def _write(store: FeatureStore, settings: Settings, path: Path, partial: Path, progress: Progress) -> Exported:
    import pyarrow.parquet as pq

    schema = _schema(settings)
    grid, exported = Grid(settings.tile_ms, settings.step_ms), Exported(path)
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        groups = Groups(writer)
        for shard in range(settings.shards):
            names = [name for name, _ in await store.live(shard)]
            for first in range(0, len(names), CHUNK_PRODUCTS):
                chunk = names[first : first + CHUNK_PRODUCTS]
                known = Intervals.of(await store.history([(shard, name) for name in chunk]), grid)
                exported.count(known)
                await asyncio.to_thread(groups.add, _table(chunk, known, schema))
                progress((shard + first / len(names)) / settings.shards)
        await asyncio.to_thread(groups.flush)
    progress(1.0)
    return exported


def _table(products: Sequence[str], known: Intervals, schema: Any) -> Any:
    import pyarrow as pa

    columns = [
        pa.array(products, pa.string()).take(pa.array(known.product)),
        known.start_ms,
        known.end_ms,
        known.closed,
        *natural(known.sums).T,
    ]
    return pa.table([pa.array(np.ascontiguousarray(c)) if isinstance(c, np.ndarray) else c for c in columns], schema=schema)


def _schema(settings: Settings) -> Any:
    import pyarrow as pa

    columns = [("product_id", pa.string()), ("start_ms", pa.int64()), ("end_ms", pa.int64()), ("closed", pa.bool_())]
    return pa.schema([*columns, *((measure, pa.float64()) for measure in MEASURES)], metadata=metadata(settings))
