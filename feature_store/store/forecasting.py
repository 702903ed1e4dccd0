"""What forecast workers do: see what has changed, read products, commit what was decided of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from feature_store.calls import (
    HEADER_BYTES,
    HOUR_MS,
    NO_LIVED,
    NO_SUMS,
    DaySums,
    LivedSums,
    OwnerLost,
    ProductCommit,
    ProductRecord,
    RebuiltState,
    ShardRolledBack,
    ShardView,
    Stale,
    parted,
)
from feature_store.keys import SEEN_SETS_PER_HOUR
from feature_store.measures import N_MEASURES
from feature_store.store.client import Client, check_owned, pairs, rows_by_shard

FEW_STEPS: Final = 24  # of a product: more are read faster with its whole hash than one by one
READ_CHUNK: Final = 512  # products a pipelined read: replies of a few MB at most

_tile_decoder = msgspec.msgpack.Decoder(list[float])
_integers = msgspec.msgpack.Decoder(list[int])
_encode = msgspec.msgpack.Encoder().encode
ContextFields = tuple[tuple[bytes, bytes], ...]  # name of series and scope, entries; sorted


class Forecasting(Client):
    """Owned shards: changed products, their records, commits, the outbox."""

    async def claim(self, shards: Sequence[int], token: str) -> None:
        """Own these shards: from now on a commit with another token is refused."""

        async def run() -> None:
            pipe = self._redis.pipeline(transaction=False)
            for shard in shards:
                pipe.set(self.keys.owner(shard), token)
            await pipe.execute()

        await self._patiently(run)

    async def take(self, shards: Sequence[int], token: str, limit: int) -> list[ShardView]:
        """What has to be decided on, per shard. Raises OwnerLost."""
        views = []
        for shard, reply in zip(shards, await self._evaluate("take", [(shard, (token, limit)) for shard in shards]), strict=True):
            if reply is None:
                raise OwnerLost(shard)
            sequence, closed, watermarks, idle, dirty, since, live, outbox = reply
            step = pairs(closed).get("step")
            views.append(
                ShardView(
                    shard=shard,
                    sequence=int(sequence),
                    closed_step=step,
                    watermarks=pairs(watermarks),
                    idle=pairs(idle),
                    dirty=[(dirty[i].decode(), int(dirty[i + 1])) for i in range(0, len(dirty), 2)],
                    serving_since=[int(value) if value else None for value in since],
                    live=live,
                    outbox=outbox,
                )
            )
        return views

    async def live(self, shard: int) -> list[tuple[str, int]]:
        """Products of a shard with the time of their last event, epoch ms, in the order of their names."""
        found = await self._patiently(lambda: self._redis.zrange(self.keys.live(shard), 0, -1, withscores=True))
        return sorted((product.decode(), int(score)) for product, score in found)

    async def records(self, products: Sequence[tuple[int, str]], *, known: Mapping[int, int] | None = None) -> list[ProductRecord]:
        """What is stored of these (shard, product) for forecasting.

        `known`: sequences by shard. Raises ShardRolledBack where Redis has a lower one.
        """
        records: list[ProductRecord] = []
        for start in range(0, len(products), READ_CHUNK):
            chunk = products[start : start + READ_CHUNK]
            by_shard = rows_by_shard(chunk)  # one reply a shard: redis-py takes longer for a reply than for what is in it

            async def run(chunk: Sequence[tuple[int, str]] = chunk, by_shard: Mapping[int, list[int]] = by_shard) -> Any:
                pipe = self._redis.pipeline(transaction=False)
                kinds = (self.keys.state, self.keys.scores, self.keys.running)
                for shard, rows in by_shard.items():
                    pipe.mget([key(shard, chunk[i][1]) for i in rows for key in kinds])
                    pipe.hget(self.keys.offsets(shard), "sum")
                return await pipe.execute()

            replies = await self._patiently(run)
            found: dict[int, ProductRecord] = {}
            for (shard, rows), values, sequence in zip(by_shard.items(), replies[::2], replies[1::2], strict=True):
                if known is not None and int(sequence or 0) < known[shard]:
                    raise ShardRolledBack(shard, known[shard], int(sequence or 0))
                for j, i in enumerate(rows):
                    found[i] = _record(*(value or b"" for value in values[3 * j : 3 * j + 3]))
            records += [found[i] for i in range(len(chunk))]
        return records

    async def tiles(self, products: Sequence[tuple[int, str]], first: int, count: int) -> npt.NDArray[np.float64]:
        """Sums of `count` tiles from `first` on per (shard, product); shape (n, count, N_MEASURES)."""
        sums = np.zeros((len(products) * count, N_MEASURES))
        by_shard = rows_by_shard(products)
        calls = [(shard, (first, count, *(products[i][1] for i in rows))) for shard, rows in by_shard.items()]
        for rows, (places, packed) in zip(by_shard.values(), await self._evaluate("tiles", calls), strict=True):
            if packed:
                row, tile = np.divmod(np.array(places), count)
                sums[np.array(rows)[row] * count + tile] = [_tile_decoder.decode(each) for each in packed]
        return sums.reshape(len(products), count, N_MEASURES)

    async def steps(self, products: Sequence[tuple[int, str]], last: Sequence[int], count: int) -> npt.NDArray[np.float64]:
        """Sums of the `count` closed steps up to `last[i]` of each (shard, product); shape (n, count, N_MEASURES), oldest first."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for (shard, name), end in zip(products, last, strict=True):
                if few:
                    pipe.hmget(self.keys.steps(shard, name), range(end - count + 1, end + 1))
                else:
                    pipe.hgetall(self.keys.steps(shard, name))
            return await pipe.execute()

        few = count <= FEW_STEPS
        sums = np.zeros((len(products) * count, N_MEASURES))
        places: list[int] = []
        found: list[list[float]] = []
        for i, (stored, end) in enumerate(zip(await self._patiently(run), last, strict=True)):
            first = end - count + 1
            steps = enumerate(stored) if few else ((int(name) - first, packed) for name, packed in stored.items())
            for place, packed in steps:
                if packed is not None and 0 <= place < count:
                    places.append(i * count + place)
                    found.append(_tile_decoder.decode(packed))
        if places:
            sums[places] = found
        return sums.reshape(len(products), count, N_MEASURES)

    async def headers(self, products: Sequence[tuple[int, str]], features_bytes: int) -> list[tuple[bytes, bytes]]:
        """How far these (shard, product) are and whose numbers they hold: headers of features (so long) and of state; empty: nothing there."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for shard, name in products:
                for start in (0, features_bytes):
                    pipe.getrange(self.keys.state(shard, name), start, start + HEADER_BYTES - 1)
            return await pipe.execute()

        replies = await self._patiently(run)
        return list(zip(replies[::2], replies[1::2], strict=True))

    async def rebuild(self, shard: int, token: str, states: Sequence[RebuiltState], *, known: int = 0) -> None:
        """Store states that were rebuilt from stored steps, where the products still stand there; their forecasts are to be published anew.

        Raises OwnerLost, and ShardRolledBack where Redis has a lower sequence than `known`.
        """
        blobs = [part for s in states for part in (s.product, s.expected_features, s.state)]
        [reply] = await self._evaluate("rebuild", [(shard, (token, known, *blobs))])
        check_owned(shard, known, reply)

    async def known_ahead(
        self, products: Sequence[tuple[int, str]], *, known: Mapping[int, int] | None = None
    ) -> tuple[list[bytes], dict[int, ContextFields]]:
        """Facts of each (shard, product), b"" where there are none, and by shard the entries of the context series (`feature_store.facts`).

        `known`: sequences by shard. Raises ShardRolledBack where Redis has a lower one.
        """
        by_shard = rows_by_shard(products)

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for shard, rows in by_shard.items():
                pipe.hmget(self.keys.facts(shard), [products[i][1] for i in rows])
                pipe.hgetall(self.keys.context(shard))
                pipe.hget(self.keys.offsets(shard), "sum")
            return await pipe.execute()

        replies = await self._patiently(run)
        facts, context = [b""] * len(products), {}
        for j, (shard, rows) in enumerate(by_shard.items()):
            values, fields, sequence = replies[3 * j : 3 * j + 3]
            if known is not None and int(sequence or 0) < known[shard]:
                raise ShardRolledBack(shard, known[shard], int(sequence or 0))
            for i, value in zip(rows, values, strict=True):
                facts[i] = value or b""
            context[shard] = tuple(sorted(fields.items()))
        return facts, context

    async def first_tiles(self, products: Sequence[tuple[int, str]]) -> list[int | None]:
        """Oldest tile that is kept of each (shard, product)."""

        async def run() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            for shard, name in products:
                pipe.hkeys(self.keys.tiles(shard, name))
            return await pipe.execute()

        return [min(map(int, found)) if found else None for found in await self._patiently(run)]

    async def day_sums(self, shard: int, model: str) -> dict[int, list[int]]:
        """What `commit` added up of a model, by day."""
        found = await self._patiently(lambda: self._redis.hgetall(self.keys.calibration(shard)))
        named = ((*name.decode().split(":"), value) for name, value in found.items())
        return {int(day): _integers.decode(value) for owner, day, value in named if owner == model}

    async def lived(self, shard: int) -> dict[int, dict[str, list[int]]]:
        """What `commit` added up of products' steps, by day and category."""
        found = await self._patiently(lambda: self._redis.hgetall(self.keys.launches(shard)))
        by_day: dict[int, dict[str, list[int]]] = {}
        for name, value in found.items():
            day, _, category = name.decode().partition(":")
            by_day.setdefault(int(day), {})[category] = _integers.decode(value)
        return by_day

    async def commit(
        self,
        shard: int,
        token: str,
        products: Sequence[ProductCommit],
        outbox: Mapping[str, bytes],
        *,
        sums: DaySums = NO_SUMS,
        lived: LivedSums = NO_LIVED,
        known: int = 0,
    ) -> int | Stale:
        """Store states, scores, sums of outcomes and of what was lived through, and the messages that follow, all or nothing; returns the shard's
        sequence, or Stale.

        `known`: the shard's sequence when it was decided. Raises OwnerLost, and ShardRolledBack where Redis has a lower one.
        """
        call = _encode(
            {
                "tiles_per_step": self._tiles_per_step,
                "keep_tiles": self.keep_tiles,
                "keep_steps": self.keep_steps,
                "known": known,
                "outbox": list(outbox),
                "model": sums.model,
                "sums": list(sums.by_day.items()),
                "keep_days": sums.keep_days,
                "lived": [[day, category, added] for day, found in lived.by_day.items() for category, added in found.items()],
                "keep_lived": lived.keep_days,
                "products": [
                    [
                        p.product,
                        p.first_step,
                        p.last_step,
                        False if p.dirty_since_ms is None else p.dirty_since_ms,
                        bool(p.trial),
                    ]
                    for p in products
                ],
            }
        )
        blobs: list[bytes] = []
        for p in products:
            blobs += [p.expected_features[:HEADER_BYTES], p.expected_scores[:HEADER_BYTES]]
            if p.first_step <= p.last_step:
                blobs += [p.features, p.state]
            blobs += [p.scores, p.trial] if p.trial else [p.scores]
        [reply] = await self._evaluate("commit", [(shard, (token, call, *blobs, *outbox.values()))])
        match reply[0]:
            case b"committed":
                return int(reply[1])
            case b"rolled_back":
                raise ShardRolledBack(shard, known, int(reply[1]))
            case b"stale":
                return Stale([name.decode() for name in reply[1:]])
            case _:
                raise OwnerLost(shard)

    async def outbox(self, shard: int) -> dict[str, bytes]:
        """Messages that are committed but not known to be sent: id → message."""
        found = await self._patiently(lambda: self._redis.hgetall(self.keys.outbox(shard)))
        return {name.decode(): value for name, value in found.items()}

    async def settle(self, shard: int, token: str, products: Sequence[tuple[str, int]], outbox: Iterable[str] = ()) -> None:
        """These forecasts (product, sequence as taken) and outbox messages were sent and confirmed. Raises OwnerLost."""
        await self._settle(
            {shard: _encode({"products": [part for product in products for part in product], "outbox": list(outbox)})}, token
        )

    async def settle_all(self, token: str, products: Mapping[int, Sequence[tuple[str, int]]]) -> None:
        """The same for forecasts of several shards, in one round trip. Raises OwnerLost, once all of our own are settled."""
        sent = {shard: [part for product in some for part in product] for shard, some in products.items()}
        await self._settle({shard: _encode({"products": parts, "outbox": []}) for shard, parts in sent.items()}, token)

    async def _settle(self, sent: Mapping[int, bytes], token: str) -> None:
        replies = await self._evaluate("settle", [(shard, (token, packed)) for shard, packed in sent.items()])
        for shard, reply in zip(sent, replies, strict=True):
            if not reply:
                raise OwnerLost(shard)

    async def begin_closing(self, shard: int, token: str, step: int, *, known: int = 0) -> None:
        """Steps through `step` are about to be consumed: events that come for them from now on are counted as too late for the model.

        Raises OwnerLost, and ShardRolledBack where Redis has a lower sequence than `known`.
        """
        [reply] = await self._evaluate("begin", [(shard, (token, step, known))])
        check_owned(shard, known, reply)

    async def close_step(
        self, shard: int, token: str, step: int, watermark_ms: int, outbox: Mapping[str, bytes], *, known: int = 0
    ) -> None:
        """Every product of the shard has consumed `step`; forget event ids behind the deduplication window. The messages go to the outbox.

        Raises OwnerLost, and ShardRolledBack where Redis has a lower sequence than `known`.
        """
        seen_from = (watermark_ms - self._settings.dedup_ms) // HOUR_MS
        messages = [part for item in outbox.items() for part in item]
        while True:
            [reply] = await self._evaluate("close", [(shard, (token, step, known, seen_from, SEEN_SETS_PER_HOUR, *messages))])
            check_owned(shard, known, reply)
            if reply[0] == 1:
                return

    async def evict(self, shard: int, token: str, product: str, last_event_ms: int, outbox: Mapping[str, bytes]) -> bool:
        """Forget a product, unless it was heard of since `last_event_ms`; the messages go to the outbox. Raises OwnerLost."""
        messages = [part for item in outbox.items() for part in item]
        [reply] = await self._evaluate("evict", [(shard, (token, product, last_event_ms, *messages))])
        if reply == b"lost":
            raise OwnerLost(shard)
        return bool(reply == b"evicted")


def _record(state: bytes, scores: bytes, running: bytes) -> ProductRecord:
    return ProductRecord(*parted(state), *parted(scores), running)
