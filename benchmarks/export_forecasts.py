"""What `trendcast export forecasts` costs: products a second, by the clock and by processor time, from an embedded Redis.

    make bench-export_forecasts
    python -m benchmarks.export_forecasts --products 5000

Products have sold for three hours, each a little; their states are those of a real engine. The export runs three times; the median counts.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from feature_store.calls import Advance, ApplyCall
from feature_store.measures import N_MEASURES, ORDERS, UNITS
from feature_store.sharding import shards_of
from feature_store.store import FeatureStore
from simulator.embedded import Redis
from streaming import serving
from streaming.engine import ForecastEngine
from streaming.export_forecasts import export_forecasts
from streaming.settings import HOUR_MS, Clock, Settings
from streaming.transport import Outgoing

FIRST_STEP = 490_008
HOURS = 3


async def sold(store: FeatureStore, settings: Settings, products: int) -> None:
    """Orders of each product in each hour, counted as ingest would."""
    rng, names = np.random.default_rng(1), [f"product-{i}" for i in range(products)]
    shard_of = shards_of(names, settings.shards)
    calls = []
    for shard in range(settings.shards):
        mine = [name for name, of in zip(names, shard_of, strict=True) if of == shard]
        cells = [(i, (FIRST_STEP + hour) * 12 + int(rng.integers(12))) for i in range(len(mine)) for hour in range(HOURS)]
        deltas = np.zeros((len(cells), N_MEASURES))
        deltas[:, ORDERS] = rng.integers(1, 9, len(cells))
        deltas[:, UNITS] = 1000 * deltas[:, ORDERS]
        calls.append(
            ApplyCall(
                shard=shard,
                sources=(Advance("source/0", None, 10, (FIRST_STEP + HOURS) * HOUR_MS),),
                products=mine,
                oldest_sent_at_ms=[1] * len(mine),
                newest_event_ms=[(FIRST_STEP + HOURS) * HOUR_MS - 1] * len(mine),
                cell_product=np.array([i for i, _ in cells], np.int64),
                cell_tile=np.array([tile for _, tile in cells], np.int64),
                deltas=deltas,
            )
        )
    await store.register_sources({"source/0": "orders/0"})
    await store.apply(calls)


async def nowhere(_: Iterable[Outgoing]) -> None:
    """Takes what the engine would send."""


async def measure(settings: Settings, products: int, path: Path) -> None:
    store, model = await FeatureStore.open(settings), serving.load(settings, None)
    await sold(store, settings, products)
    engine = ForecastEngine(settings, store, model, nowhere)
    await engine.assign(range(settings.shards))
    while set((await store.closed(range(settings.shards))).values()) != {FIRST_STEP + HOURS - 1}:
        await engine.cycle()
    wall, processor = [], []
    for _ in range(3):
        begun, spent = time.perf_counter(), time.process_time()
        exported = await export_forecasts(store, settings, model, path)
        wall.append(time.perf_counter() - begun)
        processor.append(time.process_time() - spent)
    rates = (exported.products / statistics.median(times) for times in (wall, processor))
    print(f"{exported.products} products, {exported.rows} rows")
    print("{:,.0f} products/s by the clock, {:,.0f} by processor time".format(*rates))
    engine.close()
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=5_000)
    chosen = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as scratch, Redis(Path(scratch)) as server:
        settings = Settings(redis_url=server.url, namespace="bench", clock=Clock.LOG)
        asyncio.run(measure(settings, chosen.products, Path(scratch) / "forecasts.parquet"))


if __name__ == "__main__":
    main()
