"""The topic of dead letters, read by people: no consumer group, nothing is moved, and only what was there when reading began."""

import base64
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from streaming import topics
from streaming.deadletters import ORIGINAL
from streaming.drain import drain, reading
from streaming.errors import UserError
from streaming.settings import Settings

Coordinates = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True, slots=True)
class Letter:
    """A rejected record, and why."""

    source: Coordinates
    source_timestamp_ms: int
    rejected_at_ms: int
    stage: str
    error_class: str
    path: str
    message: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]  # the original ones
    cut: dict[str, int]  # true bytes of what was too large to be kept whole: key, value, headers

    @property
    def id(self) -> str:
        return "{}/{}/{}".format(*self.source)

    def as_json(self, *, whole: bool) -> dict[str, Any]:
        """Bytes in base64; `whole`: with key, value and headers."""
        said = {
            "source": self.id,
            "source_timestamp": self.source_timestamp_ms,
            "rejected_at": self.rejected_at_ms,
            "stage": self.stage,
            "error_class": self.error_class,
            "path": self.path,
            "message": self.message,
        }
        if not whole:
            return said
        headers = [[name, _base64(value)] for name, value in self.headers]
        return {**said, "key": _base64(self.key), "value": _base64(self.value), "headers": headers, "true_bytes": self.cut}


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def letter_of(record: Any) -> Letter | None:
    """The letter that a consumed record holds; None: it is no dead letter of ours."""
    ours: dict[str, bytes] = {}
    original: list[tuple[str, bytes | None]] = []
    for name, value in record.headers:
        if name.startswith(ORIGINAL):
            original.append((name.removeprefix(ORIGINAL), value))
        elif value is not None:
            ours[name] = value

    def said(name: str) -> str:
        return ours[name].decode("utf-8", "backslashreplace")

    try:
        return Letter(
            source=(said("source_topic"), int(said("source_partition")), int(said("source_offset"))),
            source_timestamp_ms=int(said("source_timestamp")),
            rejected_at_ms=record.timestamp,
            stage=said("stage"),
            error_class=said("error_class"),
            path=said("path"),
            message=said("message"),
            key=record.key,
            value=record.value,
            headers=original,
            cut={name: int(said(f"{name}_bytes")) for name in ("key", "value", "headers") if f"{name}_bytes" in ours},
        )
    except (KeyError, ValueError):
        return None


@dataclass(slots=True)
class Listing:
    """Letters that were wanted, each rejected record once: workers that start again repeat what they said."""

    counts: Counter[str] = field(default_factory=Counter)  # error class → records
    newest: list[Letter] = field(default_factory=list)  # the newest first
    repeated: int = 0
    foreign: int = 0  # records that are no dead letters


def listing(records: Iterable[Any], wanted: Callable[[Letter], bool], limit: int) -> Listing:
    """Counts of all wanted letters, and the `limit` newest of them."""
    found = Listing()
    seen: set[Coordinates] = set()
    newest: list[
        tuple[int, Coordinates, Letter]
    ] = []  # a heap, the oldest on top; coordinates are distinct, so that letters are not compared
    for record in records:
        letter = letter_of(record)
        if letter is None:
            found.foreign += 1
        elif not wanted(letter):
            pass
        elif letter.source in seen:
            found.repeated += 1
        else:
            seen.add(letter.source)
            found.counts[letter.error_class] += 1
            entry = (letter.rejected_at_ms, letter.source, letter)
            if len(newest) < limit:
                heapq.heappush(newest, entry)
            elif limit:
                heapq.heappushpop(newest, entry)
    found.newest = [letter for _, _, letter in sorted(newest, reverse=True)]
    return found


def parse_coordinates(text: str) -> Coordinates:
    """
    >>> parse_coordinates("orders/3/4711")
    ('orders', 3, 4711)
    """
    parts = text.split("/")
    if len(parts) != 3 or not parts[0] or not all(part.isascii() and part.isdecimal() for part in parts[1:]):
        raise ValueError(f"{text!r} is not TOPIC/PARTITION/OFFSET of a rejected record, for instance orders/3/4711")
    return parts[0], int(parts[1]), int(parts[2])


def find(records: Iterable[Any], source: Coordinates) -> Letter | None:
    """The first letter about this record."""
    return next((letter for letter in map(letter_of, records) if letter is not None and letter.source == source), None)


def read(settings: Settings, since_ms: int | None = None) -> Iterator[Any]:
    """All records of the topic that are there now, from `since_ms` on (the time of rejection); partition by partition in order. Raises UserError."""
    from kafka import TopicPartition

    bootstrap, topic = settings.kafka_bootstrap, settings.dead_letters_topic
    first, end = (topics.offsets(bootstrap, [topic], which) for which in ("earliest", "latest"))
    if not end:
        raise UserError(f"no topic {topic} in Kafka at {bootstrap}; create the topics with `trendcast topics create`")
    ends = {TopicPartition(*place): until for place, until in end.items()}
    starts = {TopicPartition(*place): offset for place, offset in first.items()}
    with reading(settings) as consumer:
        if since_ms is not None:
            found = consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
            starts = {tp: ends[tp] if at is None else at.offset for tp, at in found.items()}
        for _, records in drain(consumer, starts, ends):
            yield from records
