"""What people and exports read: nothing moves."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from feature_store.calls import ShardView
from feature_store.store.client import Client

_tile_decoder = msgspec.msgpack.Decoder(list[float])
Sums = dict[int, npt.NDArray[np.float64]]  # tile or step index → (N_MEASURES,) integers


class Reading(Client):
    """Looks at shards and products."""

    async def heard(self, shard: int) -> tuple[dict[str, int], dict[str, int]]:
        """How far a shard's sources have come, epoch ms: by their records and heartbeats, and by their owners' clocks."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(self.keys.watermarks(shard))
            pipe.hgetall(self.keys.idle(shard))
            return await pipe.execute()

        watermarks, idle = ({name.decode(): int(at) for name, at in found.items()} for found in await self._patiently(run))
        return watermarks, idle

    async def look(self, shard: int) -> ShardView:
        """What `take` says of a shard, whoever owns it: nothing moves, and which products are dirty is left out."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=True)
            pipe.hget(self.keys.offsets(shard), "sum")
            pipe.hget(self.keys.closed(shard), "step")
            pipe.hgetall(self.keys.watermarks(shard))
            pipe.hgetall(self.keys.idle(shard))
            pipe.zcard(self.keys.live(shard))
            pipe.hlen(self.keys.outbox(shard))
            return await pipe.execute()

        sequence, closed, watermarks, idle, live, outbox = await self._patiently(run)
        return ShardView(
            shard=shard,
            sequence=int(sequence or 0),
            closed_step=None if closed is None else int(closed),
            watermarks={name.decode(): int(at) for name, at in watermarks.items()},
            idle={name.decode(): int(at) for name, at in idle.items()},
            dirty=[],
            serving_since=[],
            live=live,
            outbox=outbox,
        )

    async def last_event_ms(self, shard: int, product: str) -> int | None:
        """Time of a product's last event, epoch ms; None: there is no such product."""
        score = await self._patiently(lambda: self._redis.zscore(self.keys.live(shard), product))
        return None if score is None else int(score)

    async def history(self, products: Sequence[tuple[int, str]]) -> list[tuple[Sums, Sums, int | None]]:
        """Per (shard, product): tiles, steps, and the last step that its state has consumed (None: none yet)."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=True)
            for shard, name in products:
                pipe.hgetall(self.keys.tiles(shard, name))
                pipe.hgetall(self.keys.steps(shard, name))
                pipe.getrange(self.keys.state(shard, name), 0, 7)
            return await pipe.execute()

        replies = await self._patiently(run)
        found = []
        for i in range(len(products)):
            tiles, steps, header = replies[3 * i : 3 * i + 3]
            found.append((_sums(tiles), _sums(steps), int.from_bytes(header, "little", signed=True) if header else None))
        return found


def _sums(packed: Mapping[bytes, bytes]) -> Sums:
    return {int(index): np.array(_tile_decoder.decode(value)) for index, value in packed.items()}
