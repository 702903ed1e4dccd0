"""What products of a shard add up to, by category and of all, for forecasts of levels."""

from collections.abc import Sequence
from typing import Any

import msgspec

from feature_store.store.client import Client, check_owned

_integers = msgspec.msgpack.Decoder(list[int])


class Aggregates(Client):
    """Sums after a shard's newest steps, and at origins."""

    async def put_sums(
        self, shard: int, token: str, step: int, sums: bytes, origin: bytes | None, *, keep_from: int, known: int = 0
    ) -> None:
        """What the products' forecasts after `step` add up to; sums that stand there already stay.

        `origin`: what is kept of it for longer, where a day ends with the step; older ones than `keep_from` are forgotten.
        Raises OwnerLost, and ShardRolledBack where Redis has a lower sequence than `known`.
        """
        call = (token, step, known, int(origin is not None), sums, origin or b"", keep_from)
        [reply] = await self._evaluate("sums", [(shard, call)])
        check_owned(shard, known, reply)

    async def summed_steps(self, shards: Sequence[int]) -> dict[int, list[int]]:
        """The newest steps of which each shard has sums, rising."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for shard in shards:
                pipe.hget(self.keys.levels(shard), "newest")
            return await pipe.execute()

        return {shard: _integers.decode(packed) if packed else [] for shard, packed in zip(shards, await self._patiently(run), strict=True)}

    async def sums(self, shards: Sequence[int], step: int) -> list[bytes | None]:
        """Each shard's sums after `step`."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for shard in shards:
                pipe.hget(self.keys.levels(shard), f"at:{step}")
            return await pipe.execute()

        found: list[bytes | None] = await self._patiently(run)
        return found

    async def origins(self, shard: int, *, after: int) -> dict[int, bytes]:
        """What is kept of a shard's sums after days' ends, by step, of steps behind `after`."""
        key = self.keys.levels(shard)

        async def run() -> Any:
            names = [name for name in await self._redis.hkeys(key) if name.startswith(b"origin:") and int(name[7:]) > after]
            return zip(names, await self._redis.hmget(key, names) if names else (), strict=True)

        return {int(name[7:]): packed for name, packed in await self._patiently(run) if packed is not None}
