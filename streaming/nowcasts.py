"""Forecasts of products that changed: from their committed state and what the running step has brought so far. Writes no state."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from feature_store.calls import NO_WATERMARK, ShardView
from models.records import Gathered
from streaming import metrics
from streaming.clock import ShopClock
from streaming.contracts import encode, forecast_headers
from streaming.failpoints import failpoint
from streaming.ownership import Owned, Product
from streaming.parts import Parts
from streaming.readout import Reader, ReadOut, context_of
from streaming.sweep import Sweep
from streaming.transport import Outgoing

# A round of more products than this is worth to be served in parts.
PART_PRODUCTS: Final = 128
MOST_PARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Changed:
    """A dirty product."""

    product: Product
    sequence: int  # of its last change, as taken
    sent_at_ms: int | None  # real time at which its oldest unserved event was sent


def _abreast(changed: Sequence[Changed]) -> list[list[Changed]]:
    """Parts that are served at the same time: while one waits for Redis, Kafka or the model, another builds its messages. A shard is in one part only."""
    shards = sorted({c.product[0] for c in changed})
    n = min(1 + len(changed) // PART_PRODUCTS, MOST_PARTS, len(shards))
    part_of = {shard: i % n for i, shard in enumerate(shards)}
    return [[c for c in changed if part_of[c.product[0]] == i] for i in range(n)]


class Nowcasts:
    """Serves what `take` says has changed: those that have waited longest first, so many a round as the settings allow."""

    def __init__(self, parts: Parts, reader: Reader, sweep: Sweep, send: Callable[[Iterable[Outgoing]], Awaitable[None]]) -> None:
        self._settings, self._store, self._ownership, self._rebuilding = parts.settings, parts.store, parts.ownership, parts.rebuilding
        self._reader, self._sweep, self._send = reader, sweep, send
        self._clock = ShopClock.of(parts.settings)
        self._source = f"/trendcast/{parts.settings.namespace}"
        self.gap_until_ms = NO_WATERMARK  # forecasts of shards before it rest on a log with a gap

    async def serve(self, owned: Owned, views: Sequence[ShardView]) -> bool:
        """Forecast and publish products that changed; returns whether some have to wait."""
        changed = [
            Changed((view.shard, name), sequence, since)
            for view in views
            if owned[view.shard].target >= 0 and not owned[view.shard].catching_up
            for (name, sequence), since in zip(view.dirty, view.serving_since, strict=True)
        ]
        changed.sort(key=lambda c: c.sent_at_ms or 0)  # under overload, those that have waited longest
        served = changed[: self._rebuilding.at_once([c.product for c in changed], self._settings.nowcast_limit)]
        if not served:
            return False
        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for some in _abreast(served):
                    group.create_task(self._serve(owned, some))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        metrics.FORECAST_BATCH_PRODUCTS.labels(metrics.NOWCAST).observe(len(served))
        metrics.FORECAST_BATCH_SECONDS.labels(metrics.NOWCAST).observe(time.perf_counter() - started)
        return len(changed) > len(served)

    async def _serve(self, owned: Owned, changed: list[Changed]) -> None:
        gathered = await self._sweep.gather(owned, [c.product for c in changed])
        failpoint("forecast.gathered")
        there, gathered = await self._keep_up(owned, changed, gathered)
        if there:
            await self._forecast(owned, there, gathered)

    async def _keep_up(self, owned: Owned, changed: list[Changed], gathered: Gathered) -> tuple[list[Changed], Gathered]:
        """Changed products whose step has ended close it themselves; returns all that stand at their shard's last step."""
        last = np.array([owned[c.product[0]].last_step for c in changed], np.int64)
        behind = np.flatnonzero(gathered.lines.step < last)
        if len(behind):
            await self._sweep.advance(owned, [changed[i].product for i in behind], gathered.at(behind), metrics.CLOSE)
            gathered = await self._sweep.gather(owned, [c.product for c in changed])
        there = np.flatnonzero(gathered.lines.step >= last)
        return [changed[i] for i in there], gathered.at(there)

    async def _forecast(self, owned: Owned, changed: Sequence[Changed], gathered: Gathered) -> None:
        contexts = {c.product[0]: context_of(owned[c.product[0]], self._settings, self.gap_until_ms) for c in changed}
        read = await self._reader.read_out(owned, contexts, [c.product for c in changed], gathered)
        failpoint("forecast.decided")
        await self._publish(changed, read)

    async def _publish(self, changed: Sequence[Changed], read: ReadOut) -> None:
        issued_at_ms = self._shop_ms(read.contexts[changed[0].product[0]].as_of_ms)
        made = self._reader.messages(read, [c.sent_at_ms for c in changed], issued_at_ms)
        metrics.FORECAST_UNUSABLE.inc(len(changed) - len(made))
        topic, sent = self._settings.forecasts_topic, []
        kinds: Counter[str] = Counter()
        for f in made:
            sent.append(Outgoing(topic, f.product_id.encode(), encode(f, finite=True), headers=tuple(forecast_headers(f, self._source))))
            kinds[f.kind] += 1
        await self._send(sent)
        for kind, n in kinds.items():
            metrics.FORECAST_PUBLISHED.labels(kind).inc(n)
        failpoint("forecast.published")
        confirmed_ms = time.time() * 1000
        settled: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
        for c in changed:
            settled[c.product[0]].append((c.product[1], c.sequence))
            if c.sent_at_ms is not None:
                metrics.FORECAST_FRESHNESS.observe(max(0.0, confirmed_ms - c.sent_at_ms) / 1000)
        await self._store.settle_all(self._ownership.token, settled)
        failpoint("forecast.settled")

    def _shop_ms(self, reached_ms: int) -> int:
        """The shop's time; in a replay, the time that its events have reached."""
        now = self._clock.now_ms(int(time.time() * 1000))
        return reached_ms if now is None else now
