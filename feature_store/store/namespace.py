"""What fixes a namespace: checked when it is opened; and which model is to serve it."""

from collections.abc import Mapping
from typing import Any, Self

import msgspec
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from feature_store.calls import ModelPointer, StoreSettings, StoreUnusable
from feature_store.measures import MEASURES
from feature_store.store.client import Client

_pointer = msgspec.json.Decoder(ModelPointer)


class Namespace(Client):
    """Settings, feature specification, model."""

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
