"""The one module that talks to Redis. Each script is atomic over the keys of one shard; what it promises stands at its head."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from feature_store.calls import (
    HEADER_BYTES,
    HOUR_MS,
    NO_SUMS,
    NO_WATERMARK,
    Ahead,
    Applied,
    ApplyCall,
    DaySums,
    ModelPointer,
    Outcome,
    OwnerLost,
    Position,
    ProductCommit,
    ProductRecord,
    RebuiltState,
    RolledBack,
    Seen,
    ShardRolledBack,
    ShardView,
    Stale,
    StoreSettings,
    StoreUnusable,
    parted,
)
from feature_store.keys import SEEN_SETS_PER_HOUR, Keys
from feature_store.measures import MEASURES, N_MEASURES

# A Redis that restarts loads its snapshot within seconds; one away for longer is an outage, and the worker should end and be seen to end.
OUTAGE_S: Final = 30.0
# A call of more cells catches up with history. At 20,000 live events a second a call has about thirty.
LIVE_CELLS: Final = 128
FEW_STEPS: Final = 24  # of a product: more are read faster with its whole hash than one by one
READ_CHUNK: Final = 512  # products a pipelined read: replies of a few MB at most

_SCRIPTS: Final = ("apply", "take", "tiles", "begin", "commit", "settle", "close", "sums", "evict", "rebuild", "skip")
_tile_decoder = msgspec.msgpack.Decoder(list[float])
_pointer = msgspec.json.Decoder(ModelPointer)
_integers = msgspec.msgpack.Decoder(list[int])
_encode = msgspec.msgpack.Encoder().encode

T = TypeVar("T")
ContextFields = tuple[tuple[bytes, bytes], ...]  # name of series and scope, entries; sorted
Sums = dict[int, npt.NDArray[np.float64]]  # tile or step index → (N_MEASURES,) integers


class FeatureStore:
    """One namespace in Redis. Safe to share between tasks of one event loop."""

    def __init__(self, client: redis.asyncio.Redis, settings: StoreSettings) -> None:
        self.keys = Keys(settings.namespace)
        self._redis: Any = client  # replies are bytes here (decode_responses off), which redis-py's own types cannot say
        self._settings = settings
        self._tiles_per_step = settings.step_ms // settings.tile_ms
        self.keep_tiles = -(-settings.tile_retention_ms // settings.step_ms)  # in steps, rounded up
        self.keep_steps = -(-settings.step_retention_ms // settings.step_ms)
        self._shared = _encode(  # by all calls of `apply`
            {
                "measures": N_MEASURES,
                "step_ms": settings.step_ms,
                "tiles_per_step": self._tiles_per_step,
                "keep_tiles": self.keep_tiles,
                "keep_steps": self.keep_steps,
                "live_cells": LIVE_CELLS,
                "seen_hours": -(-settings.dedup_ms // HOUR_MS),
            }
        )
        source = {name: files("feature_store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8") for name in _SCRIPTS}
        self._source = source
        self._sha = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in source.items()}

    @classmethod
    async def open(cls, settings: StoreSettings, *, create: bool = True) -> Self:
        """Connect, check that Redis can serve (version, eviction policy), and that the namespace was made with these settings.

        `create`: make the namespace where there is none; else that is an error, and nothing is written. Raises StoreUnusable.
        """
        client = redis.asyncio.Redis.from_url(settings.redis, socket_timeout=30, socket_connect_timeout=5, health_check_interval=15)
        store = cls(client, settings)
        try:
            await store._check_server()
            await store._check_meta(create)
        except (RedisConnectionError, RedisTimeoutError) as error:
            await client.aclose()
            raise StoreUnusable(
                f"Redis at {settings.redis_address} does not answer ({error}); is it running, and is TRENDCAST_REDIS_URL right?"
            ) from error
        except BaseException:
            await client.aclose()
            raise
        return store

    async def close(self) -> None:
        await self._redis.aclose()

    async def _check_server(self) -> None:
        server: dict[str, Any] = await self._redis.info("server")
        version = tuple(int(part) for part in str(server["redis_version"]).split(".")[:2])
        if version < (6, 2):
            raise StoreUnusable(f"Redis {server['redis_version']} is too old: 6.2 or newer is needed")
        policy = str((await self._redis.info("memory")).get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise StoreUnusable(f"Redis evicts keys (maxmemory-policy {policy}), which would lose sums: set maxmemory-policy noeviction")

    async def _check_meta(self, create: bool) -> None:
        s = self._settings
        wanted = {
            "shards": str(s.shards),
            "tile_ms": str(s.tile_ms),
            "step_ms": str(s.step_ms),
            "timezone": s.timezone,
            "currency": s.currency or "",
            "measures": ",".join(MEASURES),
        }
        pipe = self._redis.pipeline(transaction=True)
        for name, value in wanted.items() if create else ():
            pipe.hsetnx(self.keys.meta, name, value)
        pipe.hgetall(self.keys.meta)
        found = {name.decode(): value.decode() for name, value in (await pipe.execute())[-1].items()}
        if not found:
            raise StoreUnusable(
                f"there is no namespace {s.namespace!r} in Redis at {s.redis_address}: are TRENDCAST_NAMESPACE and TRENDCAST_REDIS_URL right? "
                "(the first `trendcast ingest` makes it)"
            )
        for name, value in wanted.items():
            if found.get(name) != value:
                raise StoreUnusable(
                    f"namespace {s.namespace!r} was made with {name}={found.get(name)!r}, this worker says {value!r}: "
                    "use the settings it was made with, or another TRENDCAST_NAMESPACE and replay into it"
                )

    # ---- which model

    async def features_in_use(self) -> str | None:
        """Hash of the feature specification whose rows are kept here; None: no forecast worker has been here yet."""
        found = await self._patiently(lambda: self._redis.hget(self.keys.meta, "feature_spec"))
        return None if found is None else str(found.decode())

    async def use_features(self, spec: str) -> None:
        """Rows of this feature specification (its hash) are kept here from now on. Raises StoreUnusable where those of another are."""
        await self._patiently(lambda: self._redis.hsetnx(self.keys.meta, "feature_spec", spec))
        if (found := await self.features_in_use()) != spec:
            raise StoreUnusable(
                f"namespace {self._settings.namespace!r} holds features of specification {found}, the model's are {spec}: "
                "serve a model of that specification, or replay into another TRENDCAST_NAMESPACE"
            )

    async def fix(self, fields: Mapping[str, str]) -> None:
        """What the namespace holds to from now on. Raises StoreUnusable where it already holds to something else."""
        for name, value in fields.items():
            await self._patiently(lambda name=name, value=value: self._redis.hsetnx(self.keys.meta, name, value))  # type: ignore[misc]
            found = (await self._patiently(lambda name=name: self._redis.hget(self.keys.meta, name))).decode()  # type: ignore[misc]
            if found != value:
                raise StoreUnusable(
                    f"namespace {self._settings.namespace!r} was made with {name}={found!r}, this worker says {value!r}: "
                    "use the settings it was made with, or another TRENDCAST_NAMESPACE and replay into it"
                )

    async def model(self) -> ModelPointer | None:
        """The model that is to serve; None: none was ever promoted here. Raises StoreUnusable where somebody else wrote what stands there."""
        found = await self._patiently(lambda: self._redis.hget(self.keys.meta, "model"))
        try:
            return None if found is None else _pointer.decode(found)
        except msgspec.DecodeError as error:
            raise StoreUnusable(f"{self.keys.meta}, field model, names no model ({error}): promote one again") from error

    async def point_at(self, model: ModelPointer) -> None:
        """Workers take this model over from now on."""
        await self._patiently(lambda: self._redis.hset(self.keys.meta, "model", msgspec.json.encode(model)))

    # ---- running scripts

    async def _patiently(self, run: Callable[[], Awaitable[T]]) -> T:
        """Repeat `run` while Redis is away, for at most OUTAGE_S. Everything that goes through here may be run twice."""
        deadline = time.monotonic() + OUTAGE_S
        delay = 0.05
        while True:
            try:
                return await run()
            except (RedisConnectionError, RedisTimeoutError):
                if time.monotonic() + delay > deadline:
                    raise
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)

    async def _evaluate(self, script: str, calls: Sequence[tuple[int, Sequence[Any]]]) -> list[Any]:
        """Run `script` once per (shard, arguments), pipelined; replies in order. Loads the script where Redis has forgotten it."""

        async def run() -> Any:
            replies: list[Any] = [None] * len(calls)
            pending = list(range(len(calls)))
            while pending:
                pipe = self._redis.pipeline(transaction=False)
                for i in pending:
                    shard, arguments = calls[i]
                    pipe.evalsha(self._sha[script], 1, self.keys.offsets(shard), self.keys.shard(shard), *arguments)
                forgotten = []
                for i, reply in zip(pending, await pipe.execute(raise_on_error=False), strict=True):
                    if isinstance(reply, NoScriptError):
                        forgotten.append(i)
                    elif isinstance(reply, RedisError):
                        raise reply
                    replies[i] = reply
                if forgotten:
                    await self._redis.script_load(self._source[script])
                pending = forgotten
            return replies

        return await self._patiently(run)

    # ---- ingest

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
        """Remember that the records [first, end) of a source are gone uncounted; `watermark_ms`: the source's before the gap."""
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

    # ---- forecasting

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
            step = _pairs(closed).get("step")
            views.append(
                ShardView(
                    shard=shard,
                    sequence=int(sequence),
                    closed_step=step,
                    watermarks=_pairs(watermarks),
                    idle=_pairs(idle),
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
            by_shard = _rows_by_shard(chunk)  # one reply a shard: redis-py takes longer for a reply than for what is in it

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
        by_shard = _rows_by_shard(products)
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
        _check_owned(shard, known, reply)

    async def known_ahead(
        self, products: Sequence[tuple[int, str]], *, known: Mapping[int, int] | None = None
    ) -> tuple[list[bytes], dict[int, ContextFields]]:
        """Facts of each (shard, product), b"" where there are none, and by shard the entries of the context series (`feature_store.facts`).

        `known`: sequences by shard. Raises ShardRolledBack where Redis has a lower one.
        """
        by_shard = _rows_by_shard(products)

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

    async def commit(
        self,
        shard: int,
        token: str,
        products: Sequence[ProductCommit],
        outbox: Mapping[str, bytes],
        *,
        sums: DaySums = NO_SUMS,
        known: int = 0,
    ) -> int | Stale:
        """Store states, scores, sums of outcomes and the messages that follow, all or nothing; returns the shard's sequence, or Stale.

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
        _check_owned(shard, known, reply)

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
            _check_owned(shard, known, reply)
            if reply[0] == 1:
                return

    async def put_sums(
        self, shard: int, token: str, step: int, sums: bytes, origin: bytes | None, *, keep_from: int, known: int = 0
    ) -> None:
        """What the products' forecasts after `step` add up to; sums that stand there already stay.

        `origin`: what is kept of it for longer, where a day ends with the step; older ones than `keep_from` are forgotten.
        Raises OwnerLost, and ShardRolledBack where Redis has a lower sequence than `known`.
        """
        call = (token, step, known, int(origin is not None), sums, origin or b"", keep_from)
        [reply] = await self._evaluate("sums", [(shard, call)])
        _check_owned(shard, known, reply)

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

    async def evict(self, shard: int, token: str, product: str, last_event_ms: int, outbox: Mapping[str, bytes]) -> bool:
        """Forget a product, unless it was heard of since `last_event_ms`; the messages go to the outbox. Raises OwnerLost."""
        messages = [part for item in outbox.items() for part in item]
        [reply] = await self._evaluate("evict", [(shard, (token, product, last_event_ms, *messages))])
        if reply == b"lost":
            raise OwnerLost(shard)
        return bool(reply == b"evicted")

    # ---- reading

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


def _rows_by_shard(products: Sequence[tuple[int, str]]) -> dict[int, list[int]]:
    """Places of each shard's (shard, product)."""
    rows: dict[int, list[int]] = {}
    for i, (shard, _) in enumerate(products):
        rows.setdefault(shard, []).append(i)
    return rows


def _check_owned(shard: int, known: int, reply: list[int]) -> None:
    if reply[0] == 0:
        raise OwnerLost(shard)
    if reply[0] == -1:
        raise ShardRolledBack(shard, known, int(reply[1]))


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


def _record(state: bytes, scores: bytes, running: bytes) -> ProductRecord:
    return ProductRecord(*parted(state), *parted(scores), running)


def _pairs(flat: Sequence[bytes]) -> dict[str, int]:
    return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}


def _sums(packed: Mapping[bytes, bytes]) -> Sums:
    return {int(index): np.array(_tile_decoder.decode(value)) for index, value in packed.items()}
