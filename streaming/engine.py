"""The forecaster's loop over owned shards, without Kafka: look what has to be done, nowcasts first, then a slice of the sweep.

Nothing is sent that was not committed before, and nothing after the process may have lost its shards.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import structlog

from feature_store.calls import NO_WATERMARK, ShardRolledBack, ShardView
from feature_store.store import FeatureStore
from models.alerts import AlertPolicy
from models.forecaster import Forecaster
from models.records import Codec
from streaming import metrics, serving
from streaming.calibrations import Calibrations
from streaming.clock import ShopClock
from streaming.contracts import ModelName
from streaming.failpoints import failpoint
from streaming.known_ahead import KnownAhead
from streaming.levels import Levels
from streaming.nowcasts import Nowcasts
from streaming.outbox import Outbox
from streaming.ownership import Owned, OwnedShard, Ownership
from streaming.parts import Parts
from streaming.readout import Reader, gap_until_ms
from streaming.rebuilding import Rebuilding
from streaming.schedule import reachable, shard_time
from streaming.settings import Clock, Settings
from streaming.sweep import Sweep
from streaming.takeover import Load, Takeover
from streaming.transport import Outgoing

# Expected sources and gaps change when partitions or operators do.
SLOW_READ_S: Final = 2.0

T = TypeVar("T")

log = structlog.stdlib.get_logger("trendcast")


class ForecastEngine:
    """Call `assign` and `revoke` as Kafka says, `cycle` as often as there may be work. One event loop; the model runs in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        store: FeatureStore,
        model: Forecaster,
        send: Callable[[Iterable[Outgoing]], Awaitable[None]],
        *,
        load: Load | None = None,
        policy: AlertPolicy | None = None,
    ) -> None:
        """`load`: how a promoted model is had; by default as `serving.load_compiled` does."""
        self._settings, self._store, self._raw_send = settings, store, send
        self._policy = policy or AlertPolicy()
        self._clock = ShopClock.of(settings)
        self._per_step = settings.step_ms // settings.tile_ms
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._ownership = Ownership(settings.session_timeout_ms)
        self._takeover = Takeover(load or partial(serving.load_compiled, settings), model)
        self._serve(model)
        self._sources: list[str] = []
        self._gap_until_ms = NO_WATERMARK
        self._slow_read_at = -SLOW_READ_S

    def _serve(self, model: Forecaster) -> None:
        """Everything that speaks for one model; what was gathered or decided for another is gone."""
        settings, store = self._settings, self._store
        codec = Codec.of(model.spec, model.state_size, model.version, self._per_step, model.horizon, len(model.levels))
        ahead = KnownAhead(settings, store, model.spec.covariates)
        self._outbox = Outbox(settings, store, ModelName(name=model.name, version=model.version), self._send)
        self._calibrations = Calibrations(settings, store, model)
        self._rebuilding = Rebuilding(store, model, codec, self._ownership, self._compute, ahead)
        parts = Parts(settings, store, model, codec, self._ownership, self._calibrations, self._rebuilding, ahead, self._compute)
        self._sweep = Sweep(parts, self._outbox, self._policy)
        reader = Reader(settings, store, model, self._calibrations, ahead, self._compute)
        self._nowcasts = Nowcasts(parts, reader, self._sweep, self._send)
        self._levels = Levels(parts, self._sweep, self._send)
        metrics.serve_model(model.name, model.version)

    async def assign(self, shards: Iterable[int]) -> None:
        """Own exactly these shards, with a new token; send first what the last owner committed and may not have sent."""
        wanted = sorted(shards)
        token = self._ownership.renew()
        await self._store.claim(wanted, token)
        self._ownership.prove()
        failpoint("forecast.claimed")
        for shard in wanted:
            await self._outbox.flush(shard, token)
        owned = {shard: OwnedShard(self._per_step, self._calibrations.memory()) for shard in wanted}
        await self._levels.restore(owned)
        self._ownership.shards = owned
        self._rebuilding.look_through(wanted)
        metrics.FORECAST_SHARDS.set(len(wanted))

    def revoke(self) -> None:
        """Others may own our shards from now on; what is under way is refused by their token."""
        self._ownership.shards = {}

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def cycle(self) -> bool:
        """Serve what changed, then a slice of the sweep. Returns whether more is waiting. Raises OwnerLost, ShardRolledBack and FrozenWorker."""
        await self._read_slowly()
        owned, token = dict(self._ownership.shards), self._ownership.token
        if (promoted := self._takeover.ready()) is not None:
            await self._take_over(promoted, owned)
        metrics.FORECAST_TAKEOVER.set(0 if self._takeover.pending else self._rebuilding.progress)
        if not owned:
            metrics.own_nothing()
            return False
        views = await self._store.take(sorted(owned), token, self._settings.nowcast_limit)
        self._ownership.prove()
        a_day_closed = False
        for view in views:
            if view.outbox:  # of a commit whose answer was lost
                await self._outbox.flush(view.shard, token)
            a_day_closed |= await self._retarget(owned[view.shard], view)
        if a_day_closed:
            self._calibrations.observe(owned.values())
        self._observe(owned, views)
        more = await self._nowcasts.serve(owned, views)
        swept = not await self._sweep.run(owned)  # which rebuilds what it meets, and meets every product
        added_up = not await self._levels.add_up(owned)
        await self._levels.publish(owned)
        return await self._rebuilding.run(owned, self._sweep.gather, idle=swept and added_up) or more or not (swept and added_up)

    async def _take_over(self, model: Forecaster, owned: Owned) -> None:
        """Serve with another model from this round on. Its states are rebuilt as products come up, and in the background."""
        self._serve(model)
        for number, shard in owned.items():
            await self._calibrations.restore(number, shard)
        await self._levels.restore(owned)
        self._rebuilding.look_through(owned)
        await self._read_slowly(at_once=True)
        log.info("model.taken_over", name=model.name, version=model.version, shards=len(owned))

    async def _send(self, messages: Iterable[Outgoing]) -> None:
        if not self._settings.publish:
            return
        self._ownership.check()
        await self._raw_send(messages)

    async def _compute(self, decide: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, decide)

    async def _read_slowly(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if now - self._slow_read_at < SLOW_READ_S and not at_once:
            return
        self._sources = sorted(await self._store.sources())
        self._gap_until_ms = gap_until_ms(await self._store.gaps(), self._settings.step_retention_ms)
        self._nowcasts.gap_until_ms = self._levels.gap_until_ms = self._gap_until_ms
        self._takeover.promoted(await self._store.model())
        self._slow_read_at = now

    async def _retarget(self, shard: OwnedShard, view: ShardView) -> bool:
        """Take over what the shard's time allows; list its products anew when that moves and no sweep is under way. Returns whether a day has closed.

        Steps whose factors rest on what is not closed yet have to wait: else factors would depend on which product came first.
        """
        lagging = self._settings.lagging_source_ms if self._settings.clock is Clock.WALL else None
        if view.sequence < shard.sequence:
            raise ShardRolledBack(view.shard, shard.sequence, view.sequence)
        shard.time = shard_time(self._sources, view.watermarks, view.idle, lagging_ms=lagging)
        shard.sequence, shard.closed_step = view.sequence, view.closed_step
        if shard.pending or shard.adding is not None or shard.time.watermark_ms == NO_WATERMARK or view.closed_step is None:
            return False
        reached = shard.time.watermark_ms // self._settings.tile_ms
        closed, target = reachable(reached, view.closed_step, self._per_step, self._settings.step_ms, self._store.keep_steps)
        target = min(target, (self._levels.furthest(closed, shard.summed_step) + 1) * self._per_step)
        if target <= shard.target:
            return False
        a_day_closed = await self._calibrations.load(view.shard, shard, closed)
        if reached // self._per_step - 1 > view.closed_step + 1:
            shard.hurried_at = time.monotonic()
        last_step = target // self._per_step - 1
        if last_step > view.closed_step:
            await self._store.begin_closing(view.shard, self._ownership.token, last_step, known=view.sequence)
        await self._sweep.list_products(view.shard, shard, target)
        shard.target = target
        return a_day_closed

    def _observe(self, owned: Owned, views: Sequence[ShardView]) -> None:
        now_ms = int(time.time() * 1000)
        waiting = [since for view in views for since in view.serving_since if since is not None]
        listed, pending = (sum(counts) for counts in zip(*((s.listed, len(s.pending)) for s in owned.values()), strict=True))
        live = sum(view.live for view in views)
        metrics.FORECAST_DIRTY.set(sum(len(view.dirty) for view in views))
        metrics.FORECAST_OLDEST_DIRTY.set(max(0, now_ms - min(waiting)) / 1000 if waiting else 0)
        metrics.FORECAST_LIVE.set(live)
        metrics.FORECAST_OUTBOX.set(sum(view.outbox for view in views))
        metrics.FORECAST_SWEEP_PROGRESS.set(1 - pending / listed if pending else 1)
        metrics.FORECAST_STATE_BYTES.set(live * self._sweep.codec.record_bytes)
        metrics.FORECAST_GAP.set(sum(NO_WATERMARK < shard.time.watermark_ms < self._gap_until_ms for shard in owned.values()))
        behind = min(shard.time.watermark_ms for shard in owned.values())
        shop_ms = self._clock.now_ms(now_ms)
        if behind != NO_WATERMARK and shop_ms is not None:
            metrics.FORECAST_WATERMARK_LAG.set(max(0, shop_ms - behind) / 1000)
