"""What ingest workers do: count batches, once, and know how far each source has been counted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from feature_store.calls import NO_WATERMARK, Ahead, Applied, ApplyCall, Outcome, Position, RolledBack, Seen
from feature_store.store.client import Client

_encode = msgspec.msgpack.Encoder().encode


class Counting(Client):
    """Sums, offsets, watermarks, gaps."""

    async def apply(self, calls: Sequence[ApplyCall]) -> list[Outcome]:
        """Count each call, or say why not; outcomes in order. What a call expects of a source must be what its predecessor leaves."""
        packed = [(call.shard, (self._shared, call.pack(self._settings.tile_ms))) for call in calls]
        return [_outcome(reply) for reply in await self._evaluate("apply", packed)]

    async def register_sources(self, sources: Mapping[str, str], *, retire: Iterable[str] = ()) -> None:
        """Expect these sources (source → `topic/partition`) from now on; stop expecting those in `retire`."""
        gone = list(retire)

        async def run() -> None:
            pipe = self._redis.pipeline(transaction=True)
            if sources:
                pipe.hset(self.keys.sources, mapping=dict(sources))
            if gone:
                pipe.hdel(self.keys.sources, *gone)
            await pipe.execute()

        await self._patiently(run)

    async def sources(self) -> dict[str, str]:
        """Expected sources: source → `topic/partition`."""
        found = await self._patiently(lambda: self._redis.hgetall(self.keys.sources))
        return {name.decode(): value.decode() for name, value in found.items()}

    async def positions(self, shards: Sequence[int], sources: Sequence[str]) -> dict[tuple[int, str], Position]:
        """How far each shard has counted each source."""
        if not shards or not sources:
            return {}

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for shard in shards:
                pipe.hmget(self.keys.offsets(shard), list(sources))
                pipe.hmget(self.keys.watermarks(shard), list(sources))
            return await pipe.execute()

        replies = await self._patiently(run)
        found: dict[tuple[int, str], Position] = {}
        for i, shard in enumerate(shards):
            for source, offset, watermark in zip(sources, replies[2 * i], replies[2 * i + 1], strict=True):
                found[shard, source] = Position(
                    None if offset is None else int(offset), NO_WATERMARK if watermark is None else int(watermark)
                )
        return found

    async def advance_idle(self, shards: Sequence[int], values: Mapping[str, int]) -> None:
        """Move sources that stand at the end of their logs by the clock: source → epoch ms. Only the owner of a source calls this."""
        if not values:
            return

        async def run() -> None:
            pipe = self._redis.pipeline(transaction=False)
            for shard in shards:
                pipe.hset(self.keys.idle(shard), mapping=dict(values))
            await pipe.execute()

        await self._patiently(run)

    async def closed(self, shards: Sequence[int]) -> dict[int, int | None]:
        """Last step that each shard has closed (the one before its first, where nothing is closed yet); None: nothing counted."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for shard in shards:
                pipe.hget(self.keys.closed(shard), "step")
            return await pipe.execute()

        return {shard: None if step is None else int(step) for shard, step in zip(shards, await self._patiently(run), strict=True)}

    async def note_gap(self, source: str, first: int, end: int, watermark_ms: int) -> None:
        """Remember that the records [first, end) of a source are gone uncounted; `watermark_ms`: event time that they may have reached."""
        value = _encode({"source": source, "first": first, "end": end, "watermark_ms": watermark_ms})
        await self._patiently(lambda: self._redis.hset(self.keys.gaps, f"{source}:{first}", value))

    async def gaps(self) -> list[dict[str, Any]]:
        """Noted gaps: `source, first, end, watermark_ms`."""
        found = await self._patiently(lambda: self._redis.hgetall(self.keys.gaps))
        return [msgspec.msgpack.decode(value) for value in found.values()]

    async def skip_to(self, shards: Sequence[int], source: str, next_offset: int) -> int:
        """Accept that records below `next_offset` are gone, in every shard; returns how many the shard that was furthest behind skips."""
        return max(int(n) for n in await self._evaluate("skip", [(shard, (source, next_offset)) for shard in shards]))

    async def set_back(self, source: str, holding: Mapping[int, int | None], next_offset: int) -> list[int]:
        """Accept that a log has lost its end: count on from `next_offset`, below what was counted of the source.

        `holding`: shard → next offset that it was seen to hold. Returns the shards that hold another one by now, which stay as they are. The sums
        keep what was counted from the lost records, and the sequence does not fall.
        """
        calls = [(shard, (source, next_offset, -1 if offset is None else offset)) for shard, offset in holding.items()]
        return [shard for shard, done in zip(holding, await self._evaluate("skip", calls), strict=True) if not done]


def _outcome(reply: list[Any]) -> Outcome:
    match reply[0]:
        case b"applied":
            return Applied(int(reply[1]), int(reply[2]))
        case b"seen":
            return Seen([int(h) for h in reply[1:]])
        case b"ahead":
            return Ahead([int(offset) for offset in reply[1:]])
        case b"rolled_back":
            return RolledBack(int(reply[1]), int(reply[2]))
        case other:
            raise ResponseError(f"apply answered {other!r}")
