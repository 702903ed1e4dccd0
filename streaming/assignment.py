"""From assigned partitions to lanes: which sources they are, how far each shard has counted them, and so where to read from."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import structlog
from faust.types import TP

from feature_store.calls import NO_WATERMARK, Advance, Ahead, ApplyCall, StoreRolledBack
from feature_store.store import FeatureStore
from streaming import topics
from streaming.errors import UserError
from streaming.failpoints import failpoint
from streaming.ingest_plan import NEVER, Start, start_of
from streaming.lanes import Lane
from streaming.settings import Settings
from streaming.transport import BatchApp

log: Final = structlog.stdlib.get_logger("trendcast")

TopicIds = Mapping[str, tuple[str, int]]  # topic → its id, and how many partitions it has


async def input_topics(settings: Settings) -> TopicIds:
    """Ids of the input topics. Raises UserError where one that is needed, or one that is written to, is missing.

    Those of what the shop knows ahead may be missing: then nothing is known ahead.
    """
    wanted = (settings.orders_topic, settings.clickstream_topic)
    written = (settings.dead_letters_topic, settings.updates_topic)
    found = await asyncio.to_thread(topics.topic_ids, settings.kafka_bootstrap, (*wanted, *settings.ahead_topics, *written))
    missing = [name for name in (*wanted, *written) if name not in found]
    if missing:
        raise UserError(
            f"no topic {', '.join(missing)} in Kafka at {settings.kafka_bootstrap}; create the topics with `trendcast topics create`"
        )
    shards = found[settings.updates_topic][1]
    if shards < settings.shards:
        raise UserError(
            f"topic {settings.updates_topic} has {shards} partitions, but there are {settings.shards} shards: add partitions with Kafka's own "
            "tools, or delete it and run `trendcast topics create`"
        )
    return {name: found[name] for name in (*wanted, *settings.ahead_topics) if name in found}


def source_of(tp: TP, ids: TopicIds) -> str:
    """Name of a source: the log's identity, so that a recreated topic is another source."""
    return f"{ids[tp.topic][0]}/{tp.partition}"


async def lanes_of(assigned: Collection[TP], ids: TopicIds, app: BatchApp, store: FeatureStore, settings: Settings) -> dict[TP, Lane]:
    """Registers the sources and says where to read each assigned one from. Raises RecordsLost where a record was deleted uncounted."""
    await _register(ids, store, settings)
    failpoint("ingest.registered")
    sources = {tp: source_of(tp, ids) for tp in assigned}
    shards = range(settings.shards)
    stored = await store.positions(shards, list(sources.values()))
    bounds = await app.log_bounds(assigned)
    gap_ends = {gap["source"]: gap["end"] for gap in await store.gaps() if gap["first"] == 0}
    lanes = {}
    for tp, source in sources.items():
        positions = [stored[shard, source] for shard in shards]
        start = start_of(f"{tp.topic}/{tp.partition}", positions, *bounds[tp], gap_ends.get(source))
        counted = [NEVER if p.next_offset is None else p.next_offset for p in positions]
        lanes[tp] = Lane(tp, source, counted, start.offset, start.watermark_ms, start.offset)
        await _begin(lanes[tp], start, store)
    log.info(
        "ingest.assigned",
        sources=len(lanes),
        positions={f"{tp.topic}/{tp.partition}": lane.judged_to for tp, lane in sorted(lanes.items())},
    )
    failpoint("ingest.positioned")
    return lanes


async def _register(ids: TopicIds, store: FeatureStore, settings: Settings) -> None:
    """Expects all partitions of the input topics, whoever reads them; no longer those of a topic that is gone."""
    expected = {f"{topic_id}/{partition}": f"{topic}/{partition}" for topic, (topic_id, n) in ids.items() for partition in range(n)}
    registered = await store.sources()
    unknown = {name.rpartition("/")[0] for source, name in registered.items() if source not in expected}
    others = await asyncio.to_thread(topics.topic_ids, settings.kafka_bootstrap, unknown) if unknown else {}
    alive = {topic_id for topic_id, _ in (*ids.values(), *others.values())}
    gone = [source for source in registered if source.rpartition("/")[0] not in alive]
    if gone or not expected.keys() <= registered.keys():
        await store.register_sources(expected, retire=gone)
    if gone:
        log.warning("ingest.sources_retired", sources=[registered[source] for source in gone])


async def _begin(lane: Lane, start: Start, store: FeatureStore) -> None:
    """Writes down where counting begins, in shards that never counted the source: from then on, "nothing there" means "lost"."""
    if start.gap is not None:
        first, end = start.gap
        await store.note_gap(lane.source, first, end, NO_WATERMARK)
        log.warning("ingest.gap", source=f"{lane.tp.topic}/{lane.tp.partition}", first=first, end=end, why="deleted before the first start")
    begin = (Advance(lane.source, None, start.offset, NO_WATERMARK),)
    calls = [ApplyCall(shard, begin) for shard, counted in enumerate(lane.counted) if counted == NEVER]
    for call, outcome in zip(calls, await store.apply(calls), strict=True):
        lane.counted[call.shard] = outcome.next_offsets[0] if isinstance(outcome, Ahead) else start.offset


def compare(
    lanes: Iterable[Lane], believed: Mapping[str, list[int]], stored: Callable[[int, str], int | None], quiet: bool
) -> list[tuple[Lane, int, int]]:
    """Stored offsets against what we believed before they were read: (lane, shard, offset) that somebody else counted further.

    `quiet`: nothing of ours was under way while they were read. Raises StoreRolledBack where Redis holds less than it had acknowledged.
    """
    ahead = []
    for lane in lanes:
        for shard, known in enumerate(believed[lane.source]):
            offset = stored(shard, lane.source)
            found = NEVER if offset is None else offset
            if found < known:
                raise StoreRolledBack(shard, lane.source, known, found)
            if quiet and found > lane.counted[shard]:
                ahead.append((lane, shard, found))
    return ahead
