"""From a source of events to chunks of records: holds events until their sending time, orders them, adds heartbeats, keeps the truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from simulator.announcements import Announcement, batches
from simulator.encode import Batch, Encoder
from simulator.events import CONTEXT, FACTS, HOUR_MS, MINUTE_MS, Events, Kind, Names, Topic
from simulator.truth import Increment, Rules, Sources, Truth, increment_of

# Often enough that a silent partition holds up the closing of a step by no more than one tile.
HEARTBEAT_MS: Final = 5 * MINUTE_MS


class Traffic(NamedTuple):
    """What a source makes for one period."""

    orders: Events
    clicks: Events


class Source(Protocol):
    """Makes events period by period; a period's content depends on nothing but its index."""

    @property
    def names(self) -> Names: ...

    @property
    def period_ms(self) -> int: ...

    @property
    def lead_ms(self) -> int:
        """How long before its period's start an event may be sent at the earliest."""
        ...

    def announced(self, start_ms: int, end_ms: int, first: bool) -> list[Announcement]:
        """What is said ahead in [start_ms, end_ms), in order of time; `first`: with everything that was said before and still holds."""
        ...

    def period(self, index: int) -> Traffic:
        """Events that belong to [index · period_ms, (index + 1) · period_ms), in any order, with any later sending times."""
        ...


class Partitions(NamedTuple):
    """Partitions of each topic, indexed by Topic, FACTS and CONTEXT; 0: the topic is not there."""

    orders: int = 6
    clickstream: int = 6
    facts: int = 0
    context: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """All records that are sent in [start_ms, end_ms) of simulated time, with what they add to the truth."""

    start_ms: int
    end_ms: int
    batches: tuple[Batch, ...]  # one of each (topic, partition) that has records
    increment: Increment

    def __len__(self) -> int:
        return sum(map(len, self.batches))


class Feed:
    """Advances through simulated time. The records do not depend on how the time is cut into chunks.

    At its start every partition gets a heartbeat, so that no source is unknown; records that would have been sent before are left out.
    """

    def __init__(
        self,
        source: Source,
        start_ms: int,
        *,
        rules: Rules | None = None,
        partitions: Partitions = Partitions(),
        heartbeat_ms: int = HEARTBEAT_MS,
    ) -> None:
        self._source = source
        self._rules = rules or Rules()
        self._partitions = partitions
        self._heartbeat_ms = heartbeat_ms
        self._encoder = Encoder(source.names)
        self._sources = [Sources(self._rules, n) for n in partitions[: len(Topic)]]
        self._waiting = [Events.none() for _ in Topic]
        self._next_period = start_ms // source.period_ms
        self._fresh = True
        self.now_ms = start_ms

    def truth(self) -> Truth:
        """A new, empty truth for this feed's increments."""
        return Truth(self._source.names.product_ids, self._rules)

    def chunks(self, end_ms: int, chunk_ms: int = HOUR_MS) -> Iterator[Chunk]:
        """Advance to `end_ms`, `chunk_ms` at a time."""
        while self.now_ms < end_ms:
            yield self.advance(min(self.now_ms + chunk_ms, end_ms))

    def advance(self, until_ms: int) -> Chunk:
        """The records that are sent in [now_ms, until_ms); `now_ms` becomes `until_ms`."""
        self._generate(until_ms + self._source.lead_ms)
        due = []
        for topic in Topic:
            waiting = self._waiting[topic]
            now = waiting.send_ms < until_ms
            due.append(Events.concatenate([self._heartbeats(topic, until_ms), waiting.where(now)]))
            self._waiting[topic] = waiting.where(~now)
        ahead = self._announced(until_ms)
        self._fresh = False
        return self._chunk(due, ahead, until_ms)

    def finish(self, watermark_ms: int) -> Chunk:
        """Last heartbeats, which move every source to `watermark_ms` (so that a step that ends there closes); what still waits is dropped."""
        at_ms = max(self.now_ms, watermark_ms)
        due = [self._beats(np.array([at_ms]), np.array([watermark_ms]), self._partitions[topic]) for topic in Topic]
        self._waiting = [Events.none() for _ in Topic]
        return self._chunk(due, batches([], [(at_ms, watermark_ms)], self._ahead_partitions()), at_ms + 1)

    def _ahead_partitions(self) -> dict[int, int]:
        return {FACTS: self._partitions.facts, CONTEXT: self._partitions.context}

    def _announced(self, until_ms: int) -> list[Batch]:
        """What the shop says ahead; a heartbeat declares that everything before it was said."""
        partitions = self._ahead_partitions()
        if not any(partitions.values()):
            return []
        beats = [(at_ms, at_ms) for at_ms in self._beat_times(until_ms).tolist()]
        return batches(self._source.announced(self.now_ms, until_ms, self._fresh), beats, partitions)

    def _generate(self, until_ms: int) -> None:
        """Make all periods that start before `until_ms`."""
        end = -(-until_ms // self._source.period_ms)
        made = [self._source.period(index) for index in range(self._next_period, end)]
        if made:
            self._next_period = end
            for topic in Topic:
                new = [events.where(events.send_ms >= self.now_ms) for events in (traffic[topic] for traffic in made)]
                self._waiting[topic] = Events.concatenate([self._waiting[topic], *new])

    def _heartbeats(self, topic: Topic, until_ms: int) -> Events:
        """At every multiple of the interval: everything older than the lateness has been sent, late records aside."""
        at_ms = self._beat_times(until_ms)
        return self._beats(at_ms, at_ms - self._rules.lateness_ms, self._partitions[topic])

    def _beat_times(self, until_ms: int) -> npt.NDArray[np.int64]:
        interval = self._heartbeat_ms
        at_ms = np.arange(-(-self.now_ms // interval), -(-until_ms // interval), dtype=np.int64) * interval
        if self._fresh and (not len(at_ms) or at_ms[0] != self.now_ms):
            at_ms = np.concatenate(([self.now_ms], at_ms))
        return at_ms

    @staticmethod
    def _beats(at_ms: npt.NDArray[np.int64], declared_ms: npt.NDArray[np.int64], partitions: int) -> Events:
        n = len(at_ms) * partitions
        keys = np.tile(np.arange(partitions), len(at_ms))
        return Events.of(
            n, 0, send_ms=np.repeat(at_ms, partitions), event_ms=np.repeat(declared_ms, partitions), kind=Kind.HEARTBEAT, key=keys, lines=0
        )

    def _chunk(self, due: list[Events], ahead: list[Batch], until_ms: int) -> Chunk:
        start_ms, self.now_ms = self.now_ms, until_ms
        made = list(ahead)
        parts = []
        for topic, unordered in zip(Topic, due, strict=True):
            place = unordered.partition(self._partitions[topic])
            # Stable: of records sent in the same millisecond, heartbeats come first, then those that were made first, however the time was cut.
            order = np.lexsort((unordered.kind != Kind.HEARTBEAT, unordered.send_ms, place))
            events, place = unordered.take(order), place[order]
            parts.append((topic, events, self._sources[topic].judge(events, place)))
            made.extend(self._encoder.batches(topic, events, place))
        increment = increment_of(parts, self._rules, self._source.names, until_ms)
        return Chunk(start_ms, until_ms, tuple(made), increment)
