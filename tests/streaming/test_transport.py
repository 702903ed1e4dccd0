"""Faust over batches, on a real broker: what arrives, from where, and what ends the worker."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP
from kafka import KafkaAdminClient
from kafka.admin import NewPartitions, NewTopic
from mode.threads import WorkerThread

from streaming import transport
from streaming.fetched import Record, unpack
from streaming.settings import Settings
from streaming.transport import BatchApp, LogTruncated, Outgoing, UnsupportedVersion, check_versions


def test_another_faust_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "version", lambda _: "0.15.4")
    with pytest.raises(UnsupportedVersion, match=r"faust-streaming 0\.15\.4 is installed, but trendcast needs exactly 0\.15\.3"):
        check_versions()


class Log:
    """Records as agents get them."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.came = asyncio.Event()

    @property
    def offsets(self) -> list[int]:
        return [record.offset for batch in self.batches for record in batch]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self.came.clear()
                await self.came.wait()


@pytest.fixture
def topic(kafka: str) -> str:
    name = f"transport-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics([NewTopic(name, 1, 1)])
    admin.wait_for_topics([name])
    admin.close()
    return name


@contextlib.asynccontextmanager
async def running(kafka: str, topic: str, log: Log, first: int = 0, **settings: Any) -> AsyncIterator[BatchApp]:
    app = BatchApp(Settings(kafka_bootstrap=kafka, namespace=topic, **settings), "test")

    async def read_positions(assigned: frozenset[TP]) -> dict[TP, int]:
        return dict.fromkeys(assigned, first)

    async def receive(stream: Any) -> None:
        async for event in stream.noack().events():
            log.batches.append(event.value)
            event.ack()
            log.came.set()

    app.read_positions = read_positions
    app.agent(app.batches(topic))(receive)
    starting = asyncio.create_task(app.start())
    try:
        yield app
    finally:
        await app.stop()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        # The consumer's thread of an app that crashed ends a little later, and speaks to this loop until then.
        for _ in range(100):
            if not any(isinstance(thread, WorkerThread) for thread in threading.enumerate()):
                break
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def producing(kafka: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def send(kafka: str, topic: str, n: int) -> None:
    async with producing(kafka, linger_ms=20) as producer:
        await asyncio.gather(*[await producer.send(topic, b"%d" % i, key=b"k", headers=[("h", b"v")]) for i in range(n)])


async def test_a_message_is_a_fetch_read_from_where_the_worker_says(kafka: str, topic: str) -> None:
    await send(kafka, topic, 1_000)
    log = Log()
    async with running(kafka, topic, log, first=40) as app:
        await log.until(lambda: len(log.offsets) == 960)
        assert len(log.batches) < 100
        first = log.batches[0][0]
        assert (first.topic, first.partition, first.offset, first.key, first.value) == (topic, 0, 40, b"k", b"40")
        assert list(first.headers) == [("h", b"v")]
        assert log.offsets == list(range(40, 1_000))
        assert await app.log_bounds([TP(topic, 0)]) == {TP(topic, 0): (0, 1_000)}


async def test_aborted_transactions_are_left_out_and_passed(kafka: str, topic: str) -> None:
    log = Log()
    async with producing(kafka, transactional_id=topic) as producer:
        for commit in (True, False, True, False):
            await producer.begin_transaction()
            for _ in range(10):
                await producer.send(topic, b"x", partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
    async with running(kafka, topic, log) as app:
        await log.until(lambda: len(log.offsets) == 20)
        assert log.offsets == [*range(10), *range(22, 32)]  # each transaction ends with a marker
        await polled(lambda: app.marks.get(TP(topic, 0)) == (44, 44))


async def polled(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nobody sets an event when a mark is updated
            await asyncio.sleep(0.01)


async def test_a_partition_that_is_held_back_stands_still_and_goes_on_without_loss(kafka: str, topic: str) -> None:
    log = Log()
    async with running(kafka, topic, log) as app:
        await send(kafka, topic, 10)
        await log.until(lambda: len(log.offsets) == 10)
        app.hold_back([TP(topic, 0)])
        await send(kafka, topic, 10)
        app.consumer.on_buffer_full(TP(topic, 0))
        app.consumer.on_buffer_drop(TP(topic, 0))  # Faust's own flow control must not let it go
        assert TP(topic, 0) not in app.consumer._get_active_partitions()
        app.let_go([TP(topic, 0)])
        await log.until(lambda: len(log.offsets) >= 20)
        assert log.offsets == list(range(20))


@pytest.mark.parametrize("first", [5, 50])
async def test_a_position_outside_the_log_ends_the_worker_with_the_way_out(kafka: str, topic: str, first: int) -> None:
    await send(kafka, topic, 30)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.delete_records({TopicPartition(topic, 0): 10})
    admin.close()
    async with running(kafka, topic, Log(), first=first) as app:
        async with asyncio.timeout(30):
            await app.wait_until_stopped()
        assert isinstance(app.crash_reason, LogTruncated)
        assert "trendcast accept-gap" in str(app.crash_reason)


async def test_a_dead_coordinator_ends_the_worker(kafka: str, topic: str) -> None:
    log = Log()
    async with running(kafka, topic, log) as app:
        await send(kafka, topic, 1)
        await log.until(lambda: bool(log.batches))
        coordinator = app.consumer._thread._consumer._coordinator
        app.consumer._thread.thread_loop.call_soon_threadsafe(coordinator._coordination_task.cancel)
        async with asyncio.timeout(30):
            await app.wait_until_stopped()
        assert isinstance(app.crash_reason, transport.CoordinatorDied)
        await polled(lambda: not any(isinstance(thread, WorkerThread) for thread in threading.enumerate()))
        async with asyncio.timeout(30):  # nobody is there to answer
            assert not await app.consumer._thread.commit({TP(topic, 0): 1})


async def test_a_member_that_comes_back_to_its_old_assignment_notices_partitions_that_were_added(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "OUTDATED_S", 0.5)
    static: dict[str, Any] = {"instance_id": "a", "session_timeout_ms": 60_000}  # nobody misses it meanwhile
    async with running(kafka, topic, Log(), **static) as app:
        await polled(lambda: app.marks.keys() == {TP(topic, 0)})
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_partitions({topic: NewPartitions(3)})
    admin.close()
    log = Log()
    async with running(kafka, topic, log, **static) as app:
        await polled(lambda: len(app.marks) == 3)
        await send(kafka, topic, 10)
        await log.until(lambda: len(log.offsets) == 10)


async def test_what_was_sent_is_confirmed(kafka: str, topic: str) -> None:
    log = Log()
    async with running(kafka, topic, log) as app:
        await app.send_all(Outgoing(topic, b"k", b"%d" % i, timestamp_ms=1_000 + i, headers=(("h", b"v"),)) for i in range(5))
        assert await app.log_bounds([TP(topic, 0)]) == {TP(topic, 0): (0, 5)}
        await log.until(lambda: len(log.offsets) == 5)
        assert [(r.value, r.timestamp) for batch in log.batches for r in batch] == [(b"%d" % i, 1_000 + i) for i in range(5)]


class _Result:
    """As much of aiokafka's FetchResult as unpacking asks for."""

    def __init__(self, records: PartitionRecords) -> None:
        self._topic_partition = TopicPartition("t", 0)
        self._partition_records = records

    def check_assignment(self, _: TopicPartition) -> bool:
        return True

    def has_more(self) -> bool:
        return self._partition_records is not None

    def _update_position(self) -> None:
        pass


@pytest.mark.parametrize("first", [0, 3, 12])
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_unpacking_is_what_aiokafka_does(first: int, limit: int) -> None:
    def fetched() -> PartitionRecords:
        return PartitionRecords(TopicPartition("t", 0), MemoryRecords(data), [], first, None, None, True, 1)

    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 16
    )
    for offset in range(20):
        builder.append(offset, 1_000 + offset, b"k" if offset % 2 else None, b"v%d" % offset, [("h", b"x")] if offset % 3 else [])
    data = bytes(builder.build())
    result, ours = _Result(fetched()), []
    while result.has_more():
        ours += unpack(result, limit)
    wanted = [(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in fetched()]
    assert [(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in ours] == wanted
