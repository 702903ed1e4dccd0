"""Sends chunks to Kafka: whole batches by aiokafka's batch builder, each partition in order, as fast as it goes or by a clock."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, UnknownTopicOrPartitionError

from simulator.encode import Batch
from simulator.feed import Chunk, Partitions
from simulator.truth import Truth
from streaming.errors import UserError
from streaming.topics import no_broker

# Per batch: large enough that its overhead vanishes, half of what brokers accept by default.
BATCH_BYTES: Final = 512 * 1024
# Unconfirmed batches before sending waits: enough to keep the broker busy, and at most some 16 MB.
BATCHES_IN_FLIGHT: Final = 32
# A topic that was just created is known to the broker within a second or two.
METADATA_TIMEOUT_S: Final = 5.0

Headers = list[tuple[str, bytes]]


class TopicNames(NamedTuple):
    """What the input topics are called on the broker, indexed by Topic, FACTS and CONTEXT; None: not sent to."""

    orders: str = "orders"
    clickstream: str = "clickstream"
    facts: str | None = None
    context: str | None = None


def compression_type(name: str) -> str | None:
    """What aiokafka calls a compression; raises UserError for one that it does not know.

    >>> compression_type("lz4"), compression_type("none")
    ('lz4', None)
    """
    if name not in ("none", "gzip", "snappy", "lz4", "zstd"):
        raise UserError(f"{name!r} is no compression; choose none, gzip, snappy, lz4 or zstd")
    return None if name == "none" else name


@dataclass(frozen=True, slots=True)
class Pace:
    """A simulated clock: at `origin_ms` of real time (epoch) it showed `start_ms`, and it runs `speed` times as fast."""

    speed: float
    origin_ms: float
    start_ms: int

    def due_ms(self, simulated_ms: int) -> float:
        """The real time at which the clock shows `simulated_ms`.

        >>> Pace(speed=480, origin_ms=1_000_000, start_ms=0).due_ms(480_000)
        1001000.0
        """
        return self.origin_ms + (simulated_ms - self.start_ms) / self.speed


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been sent so far in a call of `send`."""

    records: int  # heartbeats included
    chunks: int
    until_ms: int  # simulated time up to which everything was handed to Kafka
    behind_ms: float  # real milliseconds behind the pace; 0 without one


class Producer:
    """An idempotent producer of chunks (`async with`). Partitions keep their order; batches are confirmed by the broker.

    Raises UserError where no broker answers, a topic is missing, or Kafka does not take a batch.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: TopicNames = TopicNames(),
        *,
        compression: str | None = None,
        metadata_timeout_s: float = METADATA_TIMEOUT_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._bootstrap = bootstrap
        self._topics = topics
        self._compression = compression
        self._metadata_timeout_s = metadata_timeout_s
        self._now = now
        self._kafka: Any = None
        self._in_flight: deque[asyncio.Future[Any]] = deque()

    async def __aenter__(self) -> Self:
        self._kafka = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            enable_idempotence=True,
            compression_type=self._compression,
            max_batch_size=BATCH_BYTES,
            max_request_size=8 * BATCH_BYTES,
        )
        try:
            await self._kafka.start()
        except KafkaConnectionError as error:
            await self._kafka.stop()
            raise no_broker(self._bootstrap, error) from error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            await self._kafka.stop()

    async def partitions(self) -> Partitions:
        """How many partitions the topics have."""
        wanted = [name for name in self._topics if name is not None]
        try:
            async with asyncio.timeout(self._metadata_timeout_s):
                return Partitions(*[0 if name is None else len(await self._kafka.partitions_for(name)) for name in self._topics])
        except (UnknownTopicOrPartitionError, TimeoutError) as error:
            names = " and ".join(wanted)
            raise UserError(f"topics {names} are not all on {self._bootstrap}; create them with `trendcast topics create`") from error

    async def submit(self, chunk: Chunk) -> None:
        """Hand a chunk over; waits for earlier batches where too many are unconfirmed."""
        for batch in chunk.batches:
            await self._submit(batch)

    async def flush(self) -> None:
        """Wait until the broker has confirmed everything."""
        await self._confirm(down_to=0)

    async def _submit(self, batch: Batch) -> None:
        sent_at = ("sent_at", b"%d" % (self._now() * 1000))
        plain: Headers = [sent_at]
        name = self._topics[batch.topic]
        if name is None:
            raise ValueError(f"no name for topic {batch.topic}")
        builder = self._kafka.create_batch()
        append = builder.append
        rows = zip(batch.keys, batch.values, batch.timestamps_ms, strict=True)
        for record, (key, value, timestamp_ms) in enumerate(rows):
            headers = plain
            if not value and record in batch.heartbeats:
                headers = [sent_at, ("watermark", b"%d" % batch.heartbeats[record])]
            if append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:  # full
                await self._hand_over(builder, name, batch.partition)
                builder = self._kafka.create_batch()
                append = builder.append
                append(key=key, value=value, timestamp=timestamp_ms, headers=headers)
        await self._hand_over(builder, name, batch.partition)

    async def _hand_over(self, builder: Any, topic: str, partition: int) -> None:
        builder.close()
        try:
            self._in_flight.append(await self._kafka.send_batch(builder, topic, partition=partition))
        except KafkaError as error:
            raise _not_taken(topic, error) from error
        await self._confirm(down_to=BATCHES_IN_FLIGHT)

    async def _confirm(self, down_to: int) -> None:
        while len(self._in_flight) > down_to:
            try:
                await self._in_flight.popleft()
            except KafkaError as error:
                raise _not_taken("a topic", error) from error


def _not_taken(topic: str, error: KafkaError) -> UserError:
    return UserError(f"Kafka did not take records for {topic} ({type(error).__name__}); see the broker's log and `trendcast check`")


async def send(
    chunks: Iterable[Chunk],
    producer: Producer,
    *,
    truth: Truth | None = None,
    pace: Pace | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: asyncio.Event | None = None,
) -> Progress:
    """Send chunks one after another and wait until the broker has them; returns the totals.

    With a pace, a chunk is sent when the clock shows its end, never before; one that is overdue goes at once. The truth takes in each chunk that was
    handed over, and is complete when this returns. `stop`, once set, ends the sending between two chunks.
    """
    records = sent = until_ms = 0
    behind_ms = 0.0
    for chunk in chunks:
        if pace is not None:
            behind_ms = await _wait(pace.due_ms(chunk.end_ms), stop)
        if stop is not None and stop.is_set():
            break
        await producer.submit(chunk)
        if truth is not None:
            truth.add(chunk.increment)
        records, sent, until_ms = records + len(chunk), sent + 1, chunk.end_ms
        if progress is not None:
            progress(Progress(records, sent, until_ms, behind_ms))
    await producer.flush()
    return Progress(records, sent, until_ms, behind_ms)


async def _wait(due_ms: float, stop: asyncio.Event | None) -> float:
    """Sleep until the real time is `due_ms` or `stop` is set; returns by how many milliseconds that is overdue already."""
    ahead = due_ms / 1000 - time.time()
    if ahead <= 0:
        await asyncio.sleep(0)
        return -ahead * 1000
    if stop is None:
        await asyncio.sleep(ahead)
    else:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), ahead)
    return 0.0
