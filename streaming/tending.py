"""What the ingest worker does by the clock, whether or not anything comes: compare with Redis, move idle sources, hold back the hasty, measure."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import structlog
from faust.types import TP

from feature_store.calls import NO_WATERMARK, Position
from feature_store.store import FeatureStore
from streaming import metrics
from streaming.assignment import compare, input_topics, source_of
from streaming.clock import ShopClock
from streaming.failpoints import failpoint
from streaming.ingest_plan import SourceTime, too_far_ahead
from streaming.lanes import Lane
from streaming.settings import Settings
from streaming.transport import BatchApp, TopicReplaced

TICK_S: Final = 0.25
# A rollback of Redis must be found without traffic.
COMPARE_S: Final = 2.0
CLOCK_S: Final = 1.0
# A topic that was deleted and made again is read on as if nothing had happened, if its new log has grown longer than the old.
TOPICS_S: Final = 5.0
# Records that another worker may leave uncounted at the end of its log for good: transaction markers and aborted records.
NEARLY_AT_END: Final = 100

log = structlog.stdlib.get_logger("trendcast")


class Tending:
    """Looks after the lanes that `lanes` returns; `quiet` says whether nothing is being applied, `read` which topics are read."""

    def __init__(
        self,
        settings: Settings,
        app: BatchApp,
        store: FeatureStore,
        read: Collection[str],
        lanes: Callable[[], Mapping[TP, Lane]],
        quiet: Callable[[], bool],
    ) -> None:
        self.settings, self.app, self.store, self.lanes, self.quiet = settings, app, store, lanes, quiet
        self.clock = ShopClock.of(settings)
        self.read = read
        self.held_back: frozenset[str] = frozenset()
        self._others: list[SourceTime] = []
        self._closed_end_ms: int | None = None
        self._shards = range(settings.shards)

    async def run(self) -> None:
        """Until it is cancelled. Raises StoreRolledBack, TopicReplaced, or what Redis and Kafka raise."""
        due = dict.fromkeys((COMPARE_S, CLOCK_S, TOPICS_S), time.monotonic())
        while True:
            await asyncio.sleep(TICK_S)
            now_s, real_ms = time.monotonic(), int(time.time() * 1000)
            for tp, lane in self.lanes().items():
                lane.looks_at(self.app.marks.get(tp), self.app.handed_over.get(tp), real_ms)
            await self._read_closed()
            self.hold_back()
            if now_s - due[COMPARE_S] >= COMPARE_S:
                due[COMPARE_S] = now_s
                await self._compare()
            if now_s - due[CLOCK_S] >= CLOCK_S:
                due[CLOCK_S] = now_s
                await self._advance_idle(real_ms)
                self._measure(real_ms)
            if now_s - due[TOPICS_S] >= TOPICS_S:
                due[TOPICS_S] = now_s
                await self._check_topics()

    # -- comparing with Redis

    async def _compare(self) -> None:
        lanes = list(self.lanes().values())
        if not lanes:
            return
        believed = {lane.source: list(lane.counted) for lane in lanes}
        quiet = self.quiet()
        registered = await self.store.sources()
        stored = await self.store.positions(self._shards, [*believed, *(registered.keys() - believed.keys())])
        quiet = quiet and self.quiet() and all(believed[lane.source] == lane.counted for lane in lanes)
        owned = [lane for lane in lanes if lane.open]
        for lane, shard, found in compare(owned, believed, lambda shard, source: stored[shard, source].next_offset, quiet):
            log.warning("store.ahead", source=lane.source, shard=shard, expected=lane.counted[shard], found=found)
            lane.counted[shard] = found
        await self._look_at_others({source: name for source, name in registered.items() if source not in believed}, stored)

    async def _look_at_others(self, others: Mapping[str, str], stored: Mapping[tuple[int, str], Position]) -> None:
        """How far the sources of other workers have come, so that ours don't leave them behind."""
        partitions = {source: TP(name.rpartition("/")[0], int(name.rpartition("/")[2])) for source, name in others.items()}
        inputs = {self.settings.orders_topic, self.settings.clickstream_topic, *self.settings.ahead_topics}
        bounds = await self.app.log_bounds(tp for tp in partitions.values() if tp.topic in inputs)
        self._others = []
        for source, tp in partitions.items():
            at = [stored[shard, source] for shard in self._shards]
            counted = max(p.next_offset or 0 for p in at)
            behind = tp in bounds and bounds[tp][1] - counted > NEARLY_AT_END
            self._others.append(SourceTime(max(p.watermark_ms for p in at), behind))

    async def _check_topics(self) -> None:
        lanes = self.lanes()
        if not lanes:
            return
        ids = await input_topics(self.settings)
        for tp, lane in lanes.items():
            if lane.open and (tp.topic not in ids or lane.source != source_of(tp, ids)):
                raise TopicReplaced(f"topic {tp.topic} was deleted{' and made again' if tp.topic in ids else ''}")
        if new := ids.keys() - self.read:
            raise TopicReplaced(f"topic {', '.join(sorted(new))} was made; a worker reads it from its next start on")

    # -- time

    async def _advance_idle(self, real_ms: int) -> None:
        moved = {}
        for lane in self.lanes().values():
            value = self.clock.idle_ms(
                real_ms, lane.at_end_since_ms, idle_after_ms=self.settings.idle_after_ms, lateness_ms=self.settings.lateness_ms
            )
            if value is not None and value > max(lane.idle_ms, lane.watermark_ms):
                moved[lane.source] = lane.idle_ms = value
        if moved:
            await self.store.advance_idle(self._shards, moved)
            failpoint("ingest.idle_advanced")

    # -- flow

    async def _read_closed(self) -> None:
        if self.held_back or any(lane.pending for lane in self.lanes().values()):
            closed = [step for step in (await self.store.closed(self._shards)).values() if step is not None]
            self._closed_end_ms = (min(closed) + 1) * self.settings.step_ms if closed else None

    def hold_back(self) -> frozenset[str]:
        """Decides which sources may not go on, tells Faust, and returns them."""
        lanes = {lane.source: lane for lane in self.lanes().values()}
        held = too_far_ahead(
            {source: lane.time() for source, lane in lanes.items()},
            self._others,
            self._closed_end_ms,
            ahead_ms=self.settings.ahead_ms,
            tile_retention_ms=self.settings.tile_retention_ms,
        )
        if stop := held - self.held_back:
            self.app.hold_back(lanes[source].tp for source in stop)
        if go := (self.held_back - held) & lanes.keys():
            self.app.let_go(lanes[source].tp for source in go)
        if held != self.held_back:
            metrics.INGEST_PAUSED.set(len(held))
        self.held_back = held
        return held

    # -- measuring

    def _measure(self, real_ms: int) -> None:
        now_ms = self.clock.now_ms(real_ms)
        for tp, lane in self.lanes().items():
            labels = tp.topic, str(tp.partition)
            mark = self.app.marks.get(tp)
            behind = 0 if mark is None or mark.end < 0 else max(mark.end - lane.reached(), 0)
            metrics.INGEST_LAG_RECORDS.labels(*labels).set(behind)
            reference = real_ms if now_ms is None else now_ms
            if lane.last_timestamp_ms is not None:
                metrics.INGEST_LAG_SECONDS.labels(*labels).set(max(reference - lane.last_timestamp_ms, 0) / 1000 if behind else 0)
            watermark_ms = max(lane.watermark_ms, lane.idle_ms)
            if watermark_ms != NO_WATERMARK:
                metrics.INGEST_WATERMARK_LAG.labels(*labels).set(max(reference - watermark_ms, 0) / 1000)
