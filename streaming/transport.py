"""Faust over batches: one Faust message is one fetch of one partition. The only place that touches Faust's private API.

Faust costs about 65 µs a message (four asyncio tasks, stream, event and acknowledgement bookkeeping), whatever its settings. Here a message's
value is the list of the records of one fetch, so that this is paid once for thousands of records. Agents stay ordinary agents. Besides,
this closes the traps that Faust leaves open; each is named where it is closed. It is pinned: `check_versions` refuses any other Faust.
"""

import asyncio
import functools
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import aiokafka
import faust
import structlog
from aiokafka.errors import ConsumerStoppedError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from feature_store.sharding import CACHED_IDS, murmur2
from streaming.assignor import CountingRoundRobin
from streaming.errors import UserError
from streaming.fetched import Mark, Record, drain, marks
from streaming.settings import Settings

PINNED: Final = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}

# Records of one fetch: enough that Faust's cost per message vanishes, few enough that a buffered batch is a few MB.
MAX_FETCH_RECORDS: Final = 16_384
FETCH_BYTES: Final = 1 << 20
# Batches that Faust buffers per agent; each holds up to MAX_FETCH_RECORDS records.
BUFFERED_BATCHES: Final = 8
# aiokafka has one fetch in flight per broker, over all partitions that are empty at that moment. A partition that is drained meanwhile waits
# for that fetch to return, so this bounds what freshness loses when traffic is thin. Faust's own value is 1,500 ms.
FETCH_WAIT_MS: Final = 40
# How often to look at partitions again while none may be fetched (all buffered, or held back).
IDLE_POLL_S: Final = 0.02
COORDINATOR_CHECK_S: Final = 1.0
METADATA_MAX_AGE_S: Final = 10.0  # a partition that was added is found within seconds
# The leader of the group, where there is one, looks as often as its metadata are renewed; this is for groups whose leader has none.
OUTDATED_S: Final = 1.5 * METADATA_MAX_AGE_S
# A broker that is away for longer fails the send and so ends the process (Faust's own value is 20 minutes).
SEND_TIMEOUT_S: Final = 30.0
NOWHERE: Final = frozenset({TP("", -1)})  # matches no partition: polls for the group's sake, and fetches nothing

Offsets = Mapping[TP, int]

log = structlog.stdlib.get_logger("trendcast")


class UnsupportedVersion(UserError):
    """Another Faust or aiokafka than the one whose private parts this module was written against."""


class CoordinatorDied(Exception):
    """The group coordinator's task ended: nothing would be consumed any more, silently. End the process."""


class TopicReplaced(Exception):
    """A topic was deleted and made again under the worker. End the process: the next assignment takes the new log for a new source."""


class LogTruncated(UserError):
    """The read position is not in the log any more (or not yet): records were lost. An operator decides; see the message."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to send."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def check_versions() -> None:
    """Refuses to run on a Faust or aiokafka that this module does not know. Raises UnsupportedVersion."""
    for package, wanted in PINNED.items():
        found = version(package)
        if found != wanted:
            raise UnsupportedVersion(
                f"{package} {found} is installed, but trendcast needs exactly {wanted}: pip install {package}=={wanted}"
            )


class _Thread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """aiokafka's consumer, in the thread that Faust gives it: heartbeats go on while the worker computes."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        conf = self.app.conf
        self._assignor = CountingRoundRobin()
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",  # a read position outside the log is an error, never a jump
            isolation_level="read_committed",  # Faust reads aborted transactions
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_min_bytes=self.app.fetch_min_bytes,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
        )

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """Faust's own waits for ever where the thread ends before it gets to it. Committed offsets are for lag monitors only."""
        if self._shutdown.is_set():
            return False
        committing = asyncio.ensure_future(super().commit(offsets))
        ended = asyncio.ensure_future(self._shutdown.wait())
        try:
            await asyncio.wait((committing, ended), return_when=asyncio.FIRST_COMPLETED)
            return committing.done() and bool(committing.result())
        finally:
            committing.cancel()
            ended.cancel()

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Iterable[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> tuple[dict[TP, list[Record]], dict[TP, Mark]]:
        """Records by partition, and where every assigned partition stands after them: one look, so that both agree."""
        if not self.consumer.flow_active:
            return {}, {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        subscriptions = fetcher._subscriptions
        with subscriptions.fetch_context():
            if subscriptions.reassignment_in_progress:
                await subscriptions.wait_for_assignment()
            records = drain(fetcher, active_partitions, max_records or MAX_FETCH_RECORDS)
            if not records:
                waiter = fetcher._create_fetch_waiter()
                await asyncio.wait([waiter], timeout=timeout)
                if waiter.done():
                    waiter.result()  # authorization errors
                else:
                    waiter.cancel()
                if not subscriptions.reassignment_in_progress:
                    records = drain(fetcher, active_partitions, max_records or MAX_FETCH_RECORDS)
        subscription = subscriptions.subscription
        assignment = None if subscription is None else subscription.assignment
        return records, {} if assignment is None else marks(assignment)

    async def seek_all(self, positions: Offsets) -> None:
        """Seeks within the consumer's thread; partitions that were revoked meanwhile are left out."""

        async def seek() -> None:
            consumer = self._ensure_consumer()
            for tp, offset in positions.items():
                if consumer._subscription.is_assigned(driver.ensure_aiokafka_TP(tp)):
                    consumer.seek(driver.ensure_aiokafka_TP(tp), offset)

        await self.call_thread(seek)

    def is_outdated(self) -> bool:
        """Whether the assignment was made for other numbers of partitions than the topics have now."""
        return self._consumer is not None and self._assignor.is_outdated(self._consumer._client.cluster)

    async def join_anew(self) -> None:
        """Makes the group's coordinator rebalance."""

        async def join() -> None:
            self._assignor.ask_anew()
            self._ensure_consumer()._coordinator.request_rejoin()

        await self.call_thread(join)


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Delivers one message per (fetch, partition); its offset is the last record's."""

    app: "BatchApp"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivered: defaultdict[TP, deque[Any]] = defaultdict(deque)

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    # -- where to read from

    async def seek_to_committed(self) -> Offsets:
        """The worker decides where to read; Kafka's committed offsets are for lag monitors only.

        Faust calls this once per assignment, after every other seek of its own (one in `on_partitions_assigned` would be overrun).
        """
        assigned = frozenset(self.assignment())
        positions = await self.app.read_positions(assigned) if assigned else {}
        await self._thread.seek_all(positions)
        return positions

    # -- receiving

    async def _wait_next_records(self, timeout: float) -> tuple[Any, frozenset[TP]]:  # noqa: ASYNC109 - Faust's signature
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        # A copy: the set changes while the other thread reads it. Where nothing may be fetched, Faust sleeps a whole second and, since
        # nobody polls, leaves the group after the poll interval; we poll for nothing instead.
        active = frozenset(self._get_active_partitions()) or NOWHERE
        return await self._getmany(active, IDLE_POLL_S if active is NOWHERE else timeout), active

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's signature
        fetched, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if not fetched or self.should_stop or not self.flow_active:
            return  # where the flow is suspended, the next assignment seeks
        records, marks = fetched
        for key, batch in records.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            tp = TP(*key)
            if batch and (tp in active or tp in self._buffered_partitions):
                yield tp, self._message(tp, batch)
        self.app.marks.update(marks)

    def _message(self, tp: TP, batch: list[Any]) -> Any:
        last = batch[-1]
        generation = self.app.consumer_generation_id
        message = ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000,
            last.timestamp_type,
            (),
            None,
            batch,
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )
        self.app.handed_over[tp] = last.offset + 1
        return message

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                batches = self.getmany(timeout=1.0)
                await self.sleep(0)
                if self.should_stop:
                    break
                async for tp, message in batches:
                    wanted = self._read_offset[tp]
                    if wanted is None or message.offset >= wanted:
                        self._delivered[tp].append(message)
                        await self.wait_first(self.callback(message), self.suspend_flow.wait())
                        self._read_offset[tp] = message.offset
        except OffsetOutOfRangeError as error:
            gone = ", ".join(f"{tp.topic}/{tp.partition} at {offset}" for tp, offset in error.args[0].items())
            raise LogTruncated(
                f"records were deleted before they were read: {gone}. They cannot be counted any more. To go on without them, "
                "run `trendcast accept-gap`; forecasts then say quality: gap"
            ) from error
        except (asyncio.CancelledError, *self.consumer_stopped_errors):
            if not self.transport.app.should_stop:
                raise

    # -- flow

    def on_buffer_drop(self, tp: TP) -> None:
        """Faust fetches a partition again when its buffer empties; not while the worker holds it back."""
        if tp in self._paused_partitions:
            self._buffered_partitions.discard(tp)
        else:
            super().on_buffer_drop(tp)

    # -- acknowledging: whole batches, in order

    def _new_offset(self, tp: TP) -> int | None:
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        delivered, offset = self._delivered[tp], None
        while delivered and delivered[0].acked:
            offset = delivered.popleft().offset + 1
        return offset

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._delivered.pop(tp, None)
            self.app.marks.pop(tp, None)
            self.app.handed_over.pop(tp, None)

    # -- liveness

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_coordinator(self) -> None:
        """aiokafka keeps an error of its coordinator until somebody asks, and Faust never does: the worker would stand still for ever."""
        while not self.should_stop:
            await self.sleep(COORDINATOR_CHECK_S)
            consumer = self._thread._consumer
            coordinator = None if consumer is None else consumer._coordinator
            if coordinator is None or self.should_stop or self.app.should_stop:
                continue
            task = getattr(coordinator, "_coordination_task", None)
            error = getattr(coordinator, "_pending_exception", None)
            if error is not None or (task is not None and task.done()):
                await self.crash(CoordinatorDied(f"the group coordinator's task ended: {error!r}"))

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_partitions(self) -> None:
        """Has the partitions dealt out anew where they are others than they were, and nobody has noticed; see `streaming.assignor`."""
        current_at = time.monotonic()
        while not self.should_stop:
            await self.sleep(COORDINATOR_CHECK_S)
            now = time.monotonic()
            if not self._thread.is_outdated():
                current_at = now
            elif now - current_at >= OUTDATED_S:
                log.warning("group.outdated", why="the assignment was made for other numbers of partitions than the topics have")
                await self._thread.join_anew()
                current_at = now

    async def verify_all_partitions_active(self) -> None:
        """Faust's own check compares clocks that differ and only logs; `/healthz` watches progress instead."""


class BatchTransport(driver.Transport):  # type: ignore[misc]
    Consumer = BatchConsumer


ReadPositions = Callable[[frozenset[TP]], Awaitable[Offsets]]
Released = Callable[[], Awaitable[None]]


class BatchApp(faust.App):  # type: ignore[misc]
    """A Faust app of one kind of worker (`ingest`, `forecast`), with every setting that its exactness hangs on.

    Set `read_positions` before the start: called on every assignment with the assigned partitions, returns where to read each from.
    `fetch_min_bytes`: a broker answers a fetch as soon as it has so much, over all partitions, or after FETCH_WAIT_MS.
    `released`: called when partitions are revoked, before others may get them; it should end what is in flight, and soon.
    """

    read_positions: ReadPositions
    fetch_min_bytes: int = 1
    released: Released | None = None

    def __init__(self, settings: Settings, kind: str, *, compression: str | None = None) -> None:
        """`compression`: of what is sent; None, because operators' tools (kafka-python) read only what they have codecs for."""
        check_versions()
        self.marks: dict[TP, Mark] = {}
        self.handed_over: dict[TP, int] = {}  # offset after the last record that was handed to the agents
        super().__init__(
            settings.group(kind),
            broker=[f"kafka://{host.strip()}" for host in settings.kafka_bootstrap.split(",")],
            broker_client_id=f"trendcast-{kind}",
            broker_session_timeout=settings.session_timeout_ms / 1000,
            broker_heartbeat_interval=settings.heartbeat_interval_ms / 1000,
            broker_rebalance_timeout=max(30.0, settings.session_timeout_ms / 1000),
            broker_commit_interval=1.0,
            broker_max_poll_records=MAX_FETCH_RECORDS,
            consumer_group_instance_id=settings.instance_id,
            consumer_max_fetch_size=FETCH_BYTES,
            consumer_metadata_max_age_ms=int(METADATA_MAX_AGE_S * 1000),
            consumer_auto_offset_reset="none",
            producer_acks=-1,
            producer_linger=0,
            producer_compression_type=compression,
            producer_max_batch_size=1 << 18,
            producer_max_request_size=1 << 20,
            producer_request_timeout=SEND_TIMEOUT_S,
            stream_buffer_maxsize=BUFFERED_BATCHES,
            stream_wait_empty=False,  # True hangs for ever on a message that is not acknowledged
            stream_recovery_delay=0.0,
            agent_supervisor="mode.supervisors.CrashingSupervisor",  # the others restart an agent that lost its batch
            topic_disable_leader=True,
            topic_allow_declare=False,  # topics are made by our own command, with their settings
            web_enabled=False,  # the default listens on 0.0.0.0
            store="memory://",
            autodiscover=False,
        )
        self.on_partitions_revoked.connect(self._release, weak=False)

    async def _release(self, *_: Any, **__: Any) -> None:
        if self.released is not None:
            await self.released()

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Faust makes a data folder in the working directory; we keep nothing there."""

    def batches(self, *topics: str) -> Any:
        """Channel of raw batches of these topics, for `app.agent`."""
        return self.topic(*topics, key_serializer="raw", value_serializer="raw")

    # -- what workers need of Kafka besides

    def assigned(self) -> frozenset[TP]:
        """Partitions that this process reads now."""
        return frozenset(self.consumer.assignment())

    async def log_bounds(self, partitions: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """First offset that the log still holds, and its end, of any partitions."""
        asked = [driver.ensure_aiokafka_TP(tp) for tp in partitions]
        if not asked:
            return {}
        first = await self.consumer.earliest_offsets(*asked)
        end = await self.consumer.highwaters(*asked)
        return {TP(*tp): (first[tp], end[tp]) for tp in asked}

    def hold_back(self, partitions: Iterable[TP]) -> None:
        """Stop fetching from these partitions; what is buffered is still delivered. A rebalance forgets it."""
        self.consumer.pause_partitions(set(partitions))

    def let_go(self, partitions: Iterable[TP]) -> None:
        """Fetch from these partitions again."""
        self.consumer.resume_partitions(set(partitions))

    async def send_all(self, messages: Iterable[Outgoing]) -> None:
        """Sends, and returns when the brokers have confirmed every message; raises KafkaError where one was not.

        One batch a partition, built here: aiokafka's own way costs a future and a metadata look-up a message.
        """
        producer = (await self.maybe_start_producer())._ensure_producer()
        by_partition: defaultdict[tuple[str, int], list[Outgoing]] = defaultdict(list)
        for number, m in enumerate(messages):
            partition = m.partition
            if partition is None:
                n = len(await producer.partitions_for(m.topic))
                partition = number % n if m.key is None else _key_hash(m.key) % n
            by_partition[m.topic, partition].append(m)
        confirmed = [
            await producer.send_batch(batch, topic, partition=partition)
            for (topic, partition), some in by_partition.items()
            for batch in _batches(producer, some)
        ]
        await asyncio.gather(*confirmed)

    async def send_soon(self, messages: Iterable[Outgoing]) -> None:
        """Sends without waiting for confirmation: for messages that nothing depends on."""
        producer = (await self.maybe_start_producer())._ensure_producer()
        for m in messages:
            future = await producer.send(
                m.topic, m.value, key=m.key, partition=m.partition, timestamp_ms=m.timestamp_ms, headers=list(m.headers)
            )
            future.add_done_callback(_ignore)


@functools.lru_cache(maxsize=CACHED_IDS)
def _key_hash(key: bytes) -> int:
    """Of which Kafka's default partitioner takes the remainder."""
    return murmur2(key) & 0x7FFF_FFFF


def _batches(producer: Any, messages: Iterable[Outgoing]) -> Iterator[Any]:
    """Closed batches of one partition's messages, in order."""
    batch = producer.create_batch()
    for m in messages:
        part = {"key": m.key, "value": m.value, "timestamp": m.timestamp_ms, "headers": list(m.headers)}
        if batch.append(**part) is None:
            batch.close()
            yield batch
            batch = producer.create_batch()
            batch.append(**part)  # an empty batch takes any message; the broker may not
    batch.close()
    yield batch


def _ignore(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()  # asked for, so that asyncio does not complain
