"""The ingest worker: records in, counted exactly once into Redis, doorbells out.

One cycle takes what has come of every owned source, decodes, judges and folds it (CPU), and applies it (Redis). While a cycle is applied, the
next one is decoded. Faust's agent only hands batches over, so that fetches that arrive meanwhile become one batch.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import structlog
from faust.types import TP

from feature_store.calls import Ahead, Applied, ApplyCall, Outcome, RolledBack, Seen, StoreRolledBack
from feature_store.store import FeatureStore
from feature_store.tiles import Grid
from feature_store.watermarks import judge, judge_states
from streaming import metrics
from streaming.assignment import input_topics, lanes_of
from streaming.contracts import Doorbell, encode
from streaming.deadletters import dead_letter
from streaming.decode import decode_clicks, decode_orders, reject_judged
from streaming.facts import Change, decode_context, decode_product_facts
from streaming.failpoints import failpoint
from streaming.health import ASSIGNMENT, STORE, Health
from streaming.ingest_plan import NEVER, Batch, Part, batch_of, next_call
from streaming.lanes import MAX_BATCH_RECORDS, Lane, Work
from streaming.rejections import Rejected
from streaming.settings import Settings
from streaming.tending import Tending
from streaming.transport import BatchApp, Outgoing
from streaming.worker import first_end

CONDITIONS: Final = (ASSIGNMENT, STORE)
COUNTING: Final = "counting"

# A fetch costs the broker and the worker the same whatever is in it: under load it is worth waiting for some tens of events of each partition.
FETCH_MIN_BYTES: Final = 1 << 17
# Cycles start at most this often: a little patience makes one round trip of what would be many. It costs freshness half of it on average.
CYCLE_S: Final = 0.020
# The partitions of one fetch arrive one after another: those behind the first come along.
COMPANY_S: Final = 0.004
# Shards that a batch does not touch learn this late how far their source has come.
FLUSH_S: Final = 0.2
# A shard's doorbell rings at most this often (`forecast.AWAKE_S` is longer).
RING_S: Final = 1.0
# Decoded at once, all sources together; with what Faust and aiokafka hold besides, this bounds a worker's memory.
MAX_CYCLE_RECORDS: Final = 32_768
# Of what the shop knows ahead: all of it may be one shard's, and Redis serves nobody else while it writes that down, 10 ms for so many.
MAX_AHEAD_RECORDS: Final = 1_000
# Received but not yet taken; beyond, Faust's buffers fill and fetching stops.
MAX_PENDING_RECORDS: Final = 65_536
# For a round of calls to end when partitions are revoked; one that ends later finds that somebody else counted, and counts nothing twice.
RELEASE_S: Final = 3.0
# A cycle that waits for Redis for longer is a worker that makes no progress.
SILENCE_S: Final = 60.0

log = structlog.stdlib.get_logger("trendcast")


class IngestWorker:
    """Owns the lanes; `assignment` makes them, `Tending` looks after them by the clock."""

    def __init__(self, settings: Settings, app: BatchApp, health: Health) -> None:
        self.settings, self.app, self.health = settings, app, health
        self.grid = Grid(settings.tile_ms, settings.step_ms)
        self.lanes: dict[TP, Lane] = {}
        self.store: FeatureStore
        self.tending: Tending
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._applying: asyncio.Task[None] | None = None
        self._flushed = 0.0
        self._rang: dict[int, float] = {}  # shard → monotonic time of its last doorbell
        app.read_positions = self.read_positions
        app.fetch_min_bytes = FETCH_MIN_BYTES

    # -- the shell's calls

    async def open(self) -> None:
        s = self.settings
        read = list(await input_topics(s))
        for name in s.ahead_topics:
            if name not in read:
                log.warning("ingest.topic_missing", topic=name, why="there is none: nothing that it would say is known ahead")

        @self.app.agent(self.app.batches(*read), name="ingest")  # type: ignore[untyped-decorator]
        async def receive(stream: Any) -> None:
            async for event in stream.noack().events():
                await self.receive(event)

        self.store = await FeatureStore.open(s)
        self.tending = Tending(s, self.app, self.store, read, lambda: self.lanes, self.is_quiet)
        self.health.met(STORE)
        metrics.expect_topics(read)

    async def run(self) -> None:
        await first_end(self._count(), self.tending.run())

    async def release(self) -> None:
        """Drops what is not applied yet (it will be read again), and waits for what is being applied."""
        for tp, lane in self.lanes.items():
            lane.open = False
            metrics.forget_source(tp.topic, tp.partition)
        self.lanes = {}
        self._room.set()
        self.health.lost(ASSIGNMENT, "no partitions are assigned")
        metrics.INGEST_SOURCES.set(0)
        if self._applying is not None:
            await asyncio.wait({self._applying}, timeout=RELEASE_S)

    async def close(self) -> None:
        if hasattr(self, "store"):
            await self.store.close()

    async def read_positions(self, assigned: frozenset[TP]) -> dict[TP, int]:
        """A new assignment: makes its lanes, and says where to read from."""
        await self.release()
        lanes = await lanes_of(assigned, await input_topics(self.settings), self.app, self.store, self.settings)
        self.lanes = lanes
        self.health.met(ASSIGNMENT)
        metrics.INGEST_SOURCES.set(len(lanes))
        return {tp: lane.judged_to for tp, lane in lanes.items()}

    def is_quiet(self) -> bool:
        """Whether nothing is being applied, so that what we believe is what we know."""
        return self._applying is None or self._applying.done()

    # -- receiving

    async def receive(self, event: Any) -> None:
        """One fetch of one partition. Waits while too much is pending that may go on."""
        lane = self.lanes.get(event.message.tp)
        if lane is None:
            return  # revoked meanwhile
        lane.receive(event)
        self._work.set()
        while self._pending() > MAX_PENDING_RECORDS and lane.open:
            self._room.clear()
            await self._room.wait()

    def _pending(self) -> int:
        held = self.tending.held_back
        return sum(lane.pending_records for lane in self.lanes.values() if lane.source not in held)

    # -- counting

    async def _count(self) -> None:
        self.health.watch(COUNTING, SILENCE_S, time.monotonic())
        while True:
            started = time.monotonic()
            work = await self._prepare()
            await self._settle()
            if work is not None and all(lane.open for lane in work.lanes):
                self._applying = asyncio.create_task(self._apply(work))
                self._applying.add_done_callback(lambda _: self._work.set())
            self.health.progressed(COUNTING, time.monotonic())
            await asyncio.sleep(max(0.0, CYCLE_S - (time.monotonic() - started)))
            if not self._pending():
                await self._wait(FLUSH_S)
                await asyncio.sleep(COMPANY_S)

    async def _wait(self, limit_s: float) -> None:
        self._work.clear()
        try:
            async with asyncio.timeout(limit_s):
                await self._work.wait()
        except TimeoutError:
            pass

    async def _settle(self) -> None:
        """Waits for the cycle that is being applied; raises what it raised. Being cancelled does not cancel it: `release` waits for it."""
        if self._applying is not None:
            await asyncio.shield(self._applying)
            self._applying = None

    async def _prepare(self) -> Work | None:
        """Takes and decodes the next records, sources that lag behind in event time first; dead letters are confirmed before it returns."""
        flush = time.monotonic() - self._flushed >= FLUSH_S
        if flush:
            self._flushed = time.monotonic()
        held = self.tending.hold_back()
        lanes: list[Lane] = []
        parts: list[Part] = []
        events: list[Any] = []
        letters: list[Outgoing] = []
        records_taken = 0
        for lane in sorted(self.lanes.values(), key=lambda lane: lane.watermark_ms):
            if lane.pending and lane.source not in held and records_taken < MAX_CYCLE_RECORDS:
                some, records = lane.take(MAX_AHEAD_RECORDS if lane.tp.topic in self.settings.ahead_topics else MAX_BATCH_RECORDS)
                records_taken += len(records)
                failpoint("ingest.received")
                part, rejected = self._judge(lane, records)
                letters += [self._letter(records[r.index], r) for r in rejected]
                lanes.append(lane)
                parts.append(part)
                events += some
                await asyncio.sleep(0)
            elif flush and lane.is_behind():
                lanes.append(lane)
                parts.append(Part(lane.source, lane.judged_to, lane.watermark_ms))
        self._room.set()
        if records_taken:
            failpoint("ingest.decoded")
        if letters:
            await self.app.send_all(letters)
            failpoint("ingest.dead_lettered")
        return Work(lanes, self._fold(lanes, parts), events, flush) if lanes else None

    def _judge(self, lane: Lane, records: list[Any]) -> tuple[Part, list[Rejected]]:
        s, topic = self.settings, lane.tp.topic
        started = time.perf_counter()
        changes: Sequence[Change | None] = ()
        if topic in s.ahead_topics:
            notices, rejected = decode_product_facts(records) if topic == s.facts_topic else decode_context(records)
            decoded = notices.batch
            judged, effect_ms = judge_states(decoded, lane.watermark_ms)
            changes = notices.changes(effect_ms, s.step_ms)
        else:
            decoded, rejected = decode_orders(records, currency=s.currency) if topic == s.orders_topic else decode_clicks(records)
            judged = judge(
                decoded,
                lane.watermark_ms,
                lateness_ms=s.lateness_ms,
                future_ms=s.future_ms,
                step_ms=s.step_ms,
                step_retention_ms=s.step_retention_ms,
            )
        if judged.rejections:
            rejected = sorted([*rejected, *reject_judged(records, decoded, judged.rejections)], key=lambda r: r.index)
        end = records[-1].offset + 1 if records else lane.judged_to
        part = Part(lane.source, end, lane.watermark_ms, decoded, judged, changes)
        recounted = int((decoded.offset < lane.reached()).sum())
        lane.judged_to, lane.watermark_ms = end, part.watermark_ms
        if records:
            lane.last_timestamp_ms = records[-1].timestamp
        heartbeats = int(decoded.heartbeat.sum())
        for outcome, n in (
            ("accepted", len(decoded) - heartbeats - len(judged.rejections)),
            ("rejected", len(rejected)),
            ("heartbeat", heartbeats),
            ("already_counted", recounted),
        ):
            if n:
                metrics.INGEST_RECORDS.labels(topic, outcome).inc(n)
        metrics.INGEST_LATE.labels(topic).inc(int(judged.late.sum()))
        metrics.INGEST_BATCH_RECORDS.observe(len(records))
        metrics.INGEST_DECODE_SECONDS.observe(time.perf_counter() - started)
        return part, rejected

    def _fold(self, lanes: list[Lane], parts: list[Part]) -> Batch:
        s = self.settings
        started = time.perf_counter()
        batch = batch_of(parts, shards=s.shards, grid=self.grid, dedup_ms=s.dedup_ms)
        lines = np.bincount(batch.source[batch.events.record], minlength=len(lanes)).tolist()
        for lane, n in zip(lanes, lines, strict=True):
            metrics.INGEST_EVENTS.labels(lane.tp.topic).inc(n)
        metrics.INGEST_DUPLICATES.labels(s.orders_topic).inc(batch.duplicates)
        metrics.INGEST_FOLD_SECONDS.observe(time.perf_counter() - started)
        return batch

    def _letter(self, record: Any, rejected: Rejected) -> Outgoing:
        key, value, headers = dead_letter(record, rejected, stage="ingest")
        metrics.INGEST_REJECTED.labels(record.topic, rejected.error_class).inc()
        metrics.DEAD_LETTERS.labels("ingest", rejected.error_class).inc()
        return Outgoing(self.settings.dead_letters_topic, key, value, headers=tuple(headers))

    async def _apply(self, work: Work) -> None:
        """Brings every shard to the end of the batch, round by round; then rings and acknowledges."""
        rung: dict[int, tuple[int, int]] = {}
        todo = work.shards()
        while todo:
            calls = [next_call(work.batch, shard, work.counted(shard), frozenset(work.without.get(shard, ())), self.grid) for shard in todo]
            started = time.perf_counter()
            outcomes = await self.store.apply(calls)
            metrics.INGEST_APPLY_SECONDS.observe(time.perf_counter() - started)
            for call, outcome in zip(calls, outcomes, strict=True):
                self._learn(work, call, outcome, rung)
            todo = [shard for shard in todo if work.is_behind(shard)]
            failpoint("ingest.round_applied")
        failpoint("ingest.applied")
        if rung:
            await self._ring(rung)
            failpoint("ingest.rung")
        for event in work.events:
            event.ack()
        failpoint("ingest.acknowledged")

    def _learn(self, work: Work, call: ApplyCall, outcome: Outcome, rung: dict[int, tuple[int, int]]) -> None:
        """What one answer of the store says of the shard."""
        shard, lane_of = call.shard, work.lane_of
        match outcome:
            case Applied(sequence, corrected):
                for move in call.sources:
                    lane_of[move.source].counted[shard] = move.next_offset
                metrics.INGEST_APPLY_CALLS.labels("applied").inc()
                if call.products:
                    known_sequence, oldest = rung.get(shard, (0, call.oldest_sent_at_ms[0]))
                    rung[shard] = max(known_sequence, sequence), min(oldest, *call.oldest_sent_at_ms)
                    metrics.INGEST_APPLY_CELLS.observe(call.cells)
                if call.facts:
                    known_sequence, oldest = rung.get(shard, (0, call.facts[0].sent_at_ms))
                    rung[shard] = max(known_sequence, sequence), min(oldest, *(change.sent_at_ms for change in call.facts))
                if corrected:
                    metrics.INGEST_LATE_AFTER_CLOSE.inc(corrected)
            case Seen(event_hashes):
                work.without.setdefault(shard, set()).update(event_hashes)
                metrics.INGEST_APPLY_CALLS.labels("seen").inc()
                metrics.INGEST_DUPLICATES.labels(self.settings.orders_topic).inc(len(event_hashes))
            case Ahead(next_offsets):
                metrics.INGEST_APPLY_CALLS.labels("ahead").inc()
                for move, found in zip(call.sources, next_offsets, strict=True):
                    lane_of[move.source].counted[shard] = found
                    if found != (NEVER if move.expected is None else move.expected):
                        log.warning("store.ahead", source=move.source, shard=shard, expected=move.expected, found=found)
            case RolledBack(place, found):
                metrics.INGEST_APPLY_CALLS.labels("rolled_back").inc()
                move = call.sources[place]
                raise StoreRolledBack(shard, move.source, move.expected, found)

    async def _ring(self, rung: dict[int, tuple[int, int]]) -> None:
        """Wakes the forecast workers of shards that were quiet; once awake, they look by themselves for longer than RING_S."""
        topic, now = self.settings.updates_topic, time.monotonic()
        asleep = {shard: news for shard, news in rung.items() if now - self._rang.get(shard, -RING_S) >= RING_S}
        self._rang |= dict.fromkeys(asleep, now)
        await self.app.send_soon(
            Outgoing(topic, None, encode(Doorbell(shard=shard, sequence=sequence, oldest_sent_at=max(oldest, 0))), partition=shard)
            for shard, (sequence, oldest) in asleep.items()
        )
        metrics.INGEST_DOORBELLS.inc(len(asleep))
