"""What the ingest worker knows of each source that it owns, between its reading and its counting."""

from collections import deque
from dataclasses import dataclass, field
from operator import lt
from typing import Any, Final

from faust.types import TP

from feature_store.calls import NO_WATERMARK
from streaming.fetched import Mark
from streaming.ingest_plan import Batch, SourceTime

# Records of one source that are decoded at once. More cells of the same product and tile meet in a larger batch, which saves Redis work;
# a smaller one lets the event loop breathe (32,768 take it about 0.15 s).
MAX_BATCH_RECORDS: Final = 32_768


@dataclass(slots=True, eq=False)
class Lane:
    """One owned source, from one assignment to the next revocation."""

    tp: TP
    source: str
    counted: list[int]  # per shard: next offset that Redis holds, as far as we know; NEVER: nothing
    judged_to: int  # next offset to judge; every shard has counted below it, or a cycle under way will
    watermark_ms: int  # of the source, after every judged record
    received_to: int  # offset after the last record that Faust gave us
    open: bool = True  # closed when the partition is revoked: what is still under way for it is dropped
    pending: deque[Any] = field(default_factory=deque)  # Faust events, each of one fetch
    pending_records: int = 0
    idle_ms: int = NO_WATERMARK  # to which the clock moved it
    at_end_since_ms: int | None = None  # real time since which it stands at the end of its log
    last_timestamp_ms: int | None = None  # Kafka timestamp of the last judged record

    def receive(self, event: Any) -> None:
        self.pending.append(event)
        self.pending_records += len(event.value)
        self.received_to = event.value[-1].offset + 1

    def take(self, most_records: int = MAX_BATCH_RECORDS) -> tuple[list[Any], list[Any]]:
        """Events of the next batch and their records; records that were judged before (a seek went further back) are left out."""
        events: list[Any] = []
        records: list[Any] = []
        while self.pending and len(records) + len(self.pending[0].value) <= max(most_records, len(self.pending[0].value)):
            event = self.pending.popleft()
            events.append(event)
            records += event.value
        self.pending_records -= len(records)
        if records and records[0].offset < self.judged_to:
            records = [record for record in records if record.offset >= self.judged_to]
        return events, records

    def is_behind(self) -> bool:
        """Whether some shard does not know how far we have judged."""
        return min(self.counted) < self.judged_to

    def looks_at(self, mark: Mark | None, handed_over_to: int | None, real_ms: int) -> None:
        """Notes whether the source stands at the end of its log. Aborted and control records are passed there: nothing counts them."""
        at_end = (
            mark is not None
            and mark.position >= mark.end >= 0
            and not self.pending
            and (handed_over_to is None or handed_over_to <= self.received_to)
        )
        if not at_end or mark is None:
            self.at_end_since_ms = None
            return
        self.judged_to = max(self.judged_to, mark.position)
        self.received_to = max(self.received_to, mark.position)
        if self.at_end_since_ms is None:
            self.at_end_since_ms = real_ms

    def time(self) -> SourceTime:
        return SourceTime(max(self.watermark_ms, self.idle_ms), catching_up=self.at_end_since_ms is None)

    def reached(self) -> int:
        """Offset that every shard has counted up to; 0 where one has counted nothing."""
        return max(min(self.counted), 0)


@dataclass(slots=True)
class Work:
    """What one cycle counts: the next records of some lanes."""

    lanes: list[Lane]
    batch: Batch  # its sources are the lanes', in their order
    events: list[Any]  # to be acknowledged
    flush: bool  # tell the shards that the batch does not touch, too
    without: dict[int, set[int]] = field(default_factory=dict)  # shard → event ids that it knows already
    lane_of: dict[str, Lane] = field(init=False)  # by source

    def __post_init__(self) -> None:
        self.lane_of = {lane.source: lane for lane in self.lanes}

    def shards(self) -> list[int]:
        """Shards that have to be told."""
        return [shard for shard in (range(len(self.lanes[0].counted)) if self.flush else self.batch.touched) if self.is_behind(shard)]

    def counted(self, shard: int) -> list[int]:
        """Next offset of each source that the shard holds, as far as we know."""
        return [lane.counted[shard] for lane in self.lanes]

    def is_behind(self, shard: int) -> bool:
        """Whether it has not counted all of the batch."""
        return any(map(lt, self.counted(shard), self.batch.ends))
