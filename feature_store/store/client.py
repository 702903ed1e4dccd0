"""A connection to Redis that outlasts its restarts, and the scripts: each is atomic over the keys of one shard; what it promises stands at its head."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, Final, TypeVar

import msgspec
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from feature_store.calls import HOUR_MS, OwnerLost, ShardRolledBack, StoreSettings
from feature_store.keys import Keys
from feature_store.measures import N_MEASURES

# A Redis that restarts loads its snapshot within seconds; one away for longer is an outage, and the worker should end and be seen to end.
OUTAGE_S: Final = 30.0
# A call of more cells catches up with history. At 20,000 live events a second a call has about thirty.
LIVE_CELLS: Final = 128

_SCRIPTS: Final = ("apply", "take", "tiles", "begin", "commit", "settle", "close", "sums", "evict", "rebuild", "skip")
_encode = msgspec.msgpack.Encoder().encode
T = TypeVar("T")


class Client:
    """One namespace's keys, and how scripts are run over them. Safe to share between tasks of one event loop."""

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

    async def close(self) -> None:
        await self._redis.aclose()

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


def rows_by_shard(products: Sequence[tuple[int, str]]) -> dict[int, list[int]]:
    """Places of each shard's (shard, product)."""
    rows: dict[int, list[int]] = {}
    for i, (shard, _) in enumerate(products):
        rows.setdefault(shard, []).append(i)
    return rows


def check_owned(shard: int, known: int, reply: list[int]) -> None:
    if reply[0] == 0:
        raise OwnerLost(shard)
    if reply[0] == -1:
        raise ShardRolledBack(shard, known, int(reply[1]))


def pairs(flat: Sequence[bytes]) -> dict[str, int]:
    return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}
