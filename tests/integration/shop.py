"""A shop that feeds one source into every shard, as the ingest worker would, and what an engine sends."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from feature_store.calls import Advance, ApplyCall
from feature_store.facts import FactChange
from feature_store.measures import N_MEASURES, ORDERS, UNITS
from feature_store.store import FeatureStore
from streaming.contracts import Forecast, TrendAlert
from streaming.engine import ForecastEngine
from streaming.transport import Outgoing

TILE: Final = 300_000
START: Final = 490_008  # a step at midnight UTC
SOURCE: Final = "topic-id/0"


class Sent:
    """Collects what would go to Kafka."""

    def __init__(self) -> None:
        self.messages: list[Outgoing] = []

    async def send(self, messages: Iterable[Outgoing]) -> None:
        self.messages += messages

    def forecasts(self) -> list[Forecast]:
        """Of products."""
        return [f for f in self._forecasts() if f.level == "product"]

    def levels(self) -> list[Forecast]:
        """Of categories and of the shop."""
        return [f for f in self._forecasts() if f.level != "product"]

    def _forecasts(self) -> list[Forecast]:
        return [msgspec.json.decode(m.value, type=Forecast) for m in self.messages if m.topic == "forecasts" and m.value is not None]

    def alerts(self) -> list[TrendAlert]:
        return [msgspec.json.decode(m.value, type=TrendAlert) for m in self.messages if m.topic == "trend-alerts" and m.value is not None]

    def last(self) -> dict[str, Forecast]:
        return {f.product_id: f for f in self.forecasts()}


class Shop:
    """Feeds one source into every shard, as the ingest worker would."""

    def __init__(self, store: FeatureStore, shards: int, *, offset: int = 0) -> None:
        self.store, self.shards = store, shards
        self.offset = offset  # that was counted before

    async def orders(self, sold: dict[str, dict[int, int]], watermark_ms: int, facts: Sequence[FactChange] = ()) -> None:
        """`sold`: product → tile → orders of two units each; `facts`: what the shop says besides."""
        calls = []
        for shard in range(self.shards):
            mine = sorted(p for p in sold if sold[p] and int(p[1:]) % self.shards == shard)
            cells = [(i, tile, n) for i, p in enumerate(mine) for tile, n in sorted(sold[p].items())]
            deltas = np.zeros((len(cells), N_MEASURES))
            deltas[:, UNITS] = [2_000 * n for _, _, n in cells]
            deltas[:, ORDERS] = [n for _, _, n in cells]
            calls.append(
                ApplyCall(
                    shard=shard,
                    sources=(Advance(SOURCE, self.offset or None, self.offset + 10, watermark_ms),),
                    products=mine,
                    oldest_sent_at_ms=[1] * len(mine),
                    newest_event_ms=[max(sold[p]) * TILE for p in mine],
                    cell_product=np.array([i for i, _, _ in cells], np.int64),
                    cell_tile=np.array([tile for _, tile, _ in cells], np.int64),
                    deltas=deltas,
                    facts=[fact for fact in facts if int(fact.product[1:]) % self.shards == shard],
                )
            )
        self.offset += 10
        await self.store.apply(calls)


async def settle(engine: ForecastEngine, store: FeatureStore, shards: int) -> None:
    """Rounds until there is nothing to do, and nothing to publish."""
    while await engine.cycle() or await waiting(store, shards):  # noqa: ASYNC110 - what is waited for happens in Redis
        await asyncio.sleep(0.01)


async def waiting(store: FeatureStore, shards: int) -> int:
    """Products of which a change has not been published."""
    return sum([int(await store._redis.zcard(store.keys.dirty(shard))) for shard in range(shards)])
