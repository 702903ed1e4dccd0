"""The forecast worker: doorbells in, forecasts and alerts out. Kafka says which shards are ours; Redis says what is to be done."""

import asyncio
import contextlib
import time
from typing import Any, Final

import structlog
from faust.types import TP

from feature_store.calls import OwnerLost, ShardRolledBack
from feature_store.store import FeatureStore
from streaming import metrics, serving
from streaming.engine import ForecastEngine
from streaming.health import ASSIGNMENT, MODEL, STORE, Health
from streaming.known_ahead import calendar_meta
from streaming.settings import Settings
from streaming.transport import BatchApp

CONDITIONS: Final = (ASSIGNMENT, STORE, MODEL)
FORECASTING: Final = "forecasting"
# A round is a fraction of a second; a minute of silence is a worker that makes no progress.
SILENCE_S: Final = 60.0
# While there is news, rounds begin so often, doorbell or not: products that change again meanwhile are forecast once, and a look that finds nothing is cheap.
ROUND_S: Final = 0.05
# After a doorbell a worker stays awake for longer than the next one may take (`ingest.RING_S`).
AWAKE_S: Final = 1.5
# How soon to look again without a doorbell: time moves by heartbeats and clocks, too, and they ring none.
POLL_S: Final = 0.25
# For a round to end when shards are revoked; one that ends later is refused by its token.
RELEASE_S: Final = 4.0

log = structlog.stdlib.get_logger("trendcast")


class ForecastWorker:
    """Rounds of the engine between assignments: one after another while there is news, and when a doorbell rings or a look is due."""

    def __init__(self, settings: Settings, app: BatchApp, health: Health) -> None:
        self._settings, self._app, self._health = settings, app, health
        self._store: FeatureStore | None = None
        self._engine: ForecastEngine | None = None
        self._rung = asyncio.Event()
        self._awake_until = 0.0
        self._round = asyncio.Lock()
        self._lost_at: float | None = None
        app.read_positions = self.read_positions

        @app.agent(app.batches(settings.updates_topic), name="forecast")  # type: ignore[untyped-decorator]
        async def hear(stream: Any) -> None:
            async for event in stream.noack().events():
                self._awake_until = time.monotonic() + AWAKE_S
                self._rung.set()
                event.ack()

    async def open(self) -> None:
        """Load and warm up the model, which takes some seconds, before Kafka gives us shards."""
        s = self._settings
        self._store = await FeatureStore.open(s)
        pointer = await self._store.model()
        model = await asyncio.to_thread(serving.load_compiled, s, pointer)
        self._health.met(MODEL)
        await self._store.use_features(model.spec.hash)
        await self._store.fix(calendar_meta(model.artefact, s))
        self._health.met(STORE)
        self._engine = ForecastEngine(s, self._store, model, self._app.send_all)
        log.info("model.loaded", name=model.name, version=model.version)

    async def run(self) -> None:
        assert self._engine is not None
        self._health.watch(FORECASTING, SILENCE_S, time.monotonic())
        while True:
            begun = time.monotonic()
            self._rung.clear()
            try:
                async with self._round:
                    more = await self._engine.cycle()
            except OwnerLost as lost:
                log.warning("shard.lost", shard=lost.shard)
                metrics.FORECAST_COMMIT_CONFLICTS.labels("owner").inc()
                self._engine.revoke()
                self._lost_at = time.monotonic()
                more = False
            except ShardRolledBack as lost:
                log.warning("store.rolled_back", shard=lost.shard, reason=str(lost))
                await self._claim()
                more = True
            await self._reclaim()
            self._health.progressed(FORECASTING, time.monotonic())
            if not more:
                await self._pause(begun)
            await asyncio.sleep(0)

    async def _pause(self, begun: float) -> None:
        """Until the next round of one that began at `begun`."""
        if (now := time.monotonic()) < self._awake_until:
            await asyncio.sleep(max(0.0, begun + ROUND_S - now))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._rung.wait()

    async def _reclaim(self) -> None:
        """Normally Kafka has given a lost shard to another, and the rebalance that tells us so is on its way. If none comes, a slow earlier owner's
        claim came after ours, and nobody would serve the shard: claim again."""
        assert self._engine is not None
        if self._lost_at is None or time.monotonic() - self._lost_at < self._settings.session_timeout_ms / 1000:
            return
        self._lost_at = None
        await self._claim()

    async def _claim(self) -> None:
        """Begin anew with the shards that Kafka has given us."""
        assert self._engine is not None
        async with self._round:
            await self._engine.assign(tp.partition for tp in self._app.assigned())

    async def release(self) -> None:
        self._lost_at = None
        if self._engine is None:
            return
        self._engine.revoke()
        self._health.lost(ASSIGNMENT, "no shards are assigned")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_S), self._round:
                pass

    async def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._store is not None:
            await self._store.close()

    async def read_positions(self, assigned: frozenset[TP]) -> dict[TP, int]:
        """A new assignment: own its shards, and hear doorbells from now on. Redis knows what rang before."""
        assert self._engine is not None
        ends = {tp: end for tp, (_, end) in (await self._app.log_bounds(assigned)).items()}
        async with self._round:
            await self._engine.assign(tp.partition for tp in assigned)
        self._health.met(ASSIGNMENT)
        self._rung.set()
        return ends
