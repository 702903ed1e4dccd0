"""Records that a log no longer holds although they were to be read next: what is lost of each source, and how to go on without it.

    deleted     log            |200 ---------- 900|        the shards' next record is gone: they go on at 200
                shards    150                              [150, 200) is a gap

    cut off     log     |0 ------------ 950|               the log lost its end (an unclean leader election, a broker restored from a backup)
                shards                      1000           they go back to 950, whose next record will be another one; [950, 1000) is a gap

Where a log was cut off, the sums keep what was counted from the lost records: those were events. Producers that send them again have them counted
again, but for orders whose `event_id` is still remembered.

What was deleted may be of days: it reaches, in event time, as far as the first record that the log still holds, and up to now where it holds none.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from feature_store.calls import NO_WATERMARK, Position
from feature_store.store import FeatureStore
from streaming import topics
from streaming.clock import ShopClock
from streaming.drain import reading
from streaming.errors import UserError
from streaming.settings import Settings


@dataclass(frozen=True, slots=True)
class Deleted:
    """The records [first, end) are gone, and some shard has not counted them."""

    name: str  # topic/partition
    source: str
    first: int
    end: int
    watermark_ms: int  # event time that the lost records may have reached; NO_WATERMARK: unknown

    def __str__(self) -> str:
        n = self.end - self.first
        return f"{self.name}: {n} records ({self.first} to {self.end - 1}) were deleted before they were counted. Counting goes on at {self.end}."


@dataclass(frozen=True, slots=True)
class CutOff:
    """The log ends at `end`, but some shard has counted more, at most up to `counted`."""

    name: str  # topic/partition
    source: str
    end: int
    counted: int
    holding: dict[int, int | None]  # shards to be set back → next offset that each holds
    watermark_ms: int  # event time that the lost records may have reached: the source's watermark at its lost end

    def __str__(self) -> str:
        return (
            f"{self.name}: the log ends at {self.end}, but records up to {self.counted - 1} were counted: it has lost its end. Counting goes on at "
            f"{self.end}; the sums keep what was counted."
        )


Loss = Deleted | CutOff


def losses(
    name: str, source: str, stored: Sequence[Position], first: int, end: int, noted_gap_end: int | None, kept_ms: int | None = None
) -> list[Loss]:
    """What is lost of one source. `stored`: one position per shard, read before the log's bounds `first` and `end`.

    `noted_gap_end`: where counting began, if that was not offset 0: what a shard without a position reads from, if others have one. `kept_ms`: the
    time of the first record that the log holds, or the time now where it holds none; None: not known, and the watermark before the gap must do.

    >>> losses("orders/0", "id/0", [Position(150, 7), Position(400, 9)], 200, 900, None, kept_ms=3_000)
    [Deleted(name='orders/0', source='id/0', first=150, end=200, watermark_ms=3000)]
    >>> losses("orders/0", "id/0", [Position(1000, 9), Position(400, 7)], 0, 950, None)
    [CutOff(name='orders/0', source='id/0', end=950, counted=1000, holding={0: 1000}, watermark_ms=9)]
    >>> losses("orders/0", "id/0", [Position(900, 9), Position(900, 9)], 900, 900, None)
    []
    """
    counted = [p for p in stored if p.next_offset is not None]
    if not counted:
        return []  # nothing was begun: the first start begins with what is there
    began = noted_gap_end or 0
    next_offsets = [began if p.next_offset is None else p.next_offset for p in stored]
    found: list[Loss] = []
    if min(next_offsets) < first:
        heard = min((p.next_offset or 0, p.watermark_ms) for p in counted)[1]
        reached = heard if kept_ms is None else max(heard, kept_ms)
        found.append(Deleted(name, source, min(next_offsets), first, reached))
    beyond = {shard: stored[shard].next_offset for shard, offset in enumerate(next_offsets) if offset > end}
    if beyond:
        found.append(CutOff(name, source, end, max(next_offsets), beyond, max(p.watermark_ms for p in counted)))
    return found


def gap_until_ms(loss: Loss, step_retention_ms: int) -> int | None:
    """Event time up to which forecasts say `quality: gap`, because stored steps may lack the lost records; None: they never do."""
    return None if loss.watermark_ms == NO_WATERMARK else loss.watermark_ms + step_retention_ms


async def find(store: FeatureStore, settings: Settings) -> tuple[list[Loss], int]:
    """All losses of the input topics, and the number of sources looked at. Raises UserError."""
    inputs = (settings.orders_topic, settings.clickstream_topic, *settings.ahead_topics)
    ids = await asyncio.to_thread(topics.topic_ids, settings.kafka_bootstrap, inputs)
    if missing := [name for name in inputs[:2] if name not in ids]:
        raise UserError(
            f"no topic {', '.join(missing)} in Kafka at {settings.kafka_bootstrap}; create the topics with `trendcast topics create`"
        )
    sources = {(topic, partition): f"{topic_id}/{partition}" for topic, (topic_id, n) in ids.items() for partition in range(n)}
    shards = range(settings.shards)
    gap_ends = {gap["source"]: gap["end"] for gap in await store.gaps() if gap["first"] == 0}
    # Positions first: what is counted by then was in the log, so that an end before it is a lost one, whatever is counted meanwhile.
    positions = await store.positions(shards, list(sources.values()))
    first = await asyncio.to_thread(topics.offsets, settings.kafka_bootstrap, inputs, "earliest")
    end = await asyncio.to_thread(topics.offsets, settings.kafka_bootstrap, inputs, "latest")
    times = await asyncio.to_thread(_first_times, settings, list(sources))
    now_ms = ShopClock.of(settings).now_ms(int(time.time() * 1000))
    found: list[Loss] = []
    for place, source in sources.items():
        stored = [positions[shard, source] for shard in shards]
        kept_ms = min((at for at in (times.get(place), now_ms) if at is not None), default=None)  # no producer's clock reaches beyond now
        found += losses(f"{place[0]}/{place[1]}", source, stored, first[place], end[place], gap_ends.get(source), kept_ms)
    return found, len(sources)


def _first_times(settings: Settings, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Kafka's timestamps of the first records that the log still holds, by (topic, partition); those that hold none are absent. Raises UserError."""
    from kafka import TopicPartition

    with reading(settings) as consumer:
        found = consumer.offsets_for_times({TopicPartition(*place): 0 for place in places})
    return {(tp.topic, tp.partition): at.timestamp for tp, at in found.items() if at is not None}


# A gap noted from offset 0 says where counting began, which a lost end does not.
_FIRST_CUT_OFF: Final = 1


async def accept(store: FeatureStore, settings: Settings, loss: Loss) -> bool:
    """Note the gap, then move the shards; may be repeated. False: a shard was counted on meanwhile, and stays; look again."""
    match loss:
        case Deleted():
            await store.note_gap(loss.source, loss.first, loss.end, loss.watermark_ms)
            await store.skip_to(range(settings.shards), loss.source, loss.end)
            return True
        case CutOff():
            await store.note_gap(loss.source, max(loss.end, _FIRST_CUT_OFF), loss.counted, loss.watermark_ms)
            return not await store.set_back(loss.source, loss.holding, loss.end)
