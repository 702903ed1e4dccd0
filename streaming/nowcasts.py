"""Forecasts of products that changed: from their committed state and what the running step has brought so far. Writes no state."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_store.calls import NO_WATERMARK, RunningSums, ShardView
from feature_store.measures import N_MEASURES, UNITS, natural
from feature_store.store import FeatureStore
from models import timeline
from models.forecaster import Forecaster
from models.nowcast import Forecasts
from models.records import Gathered
from models.timeline import Timelines
from streaming import metrics
from streaming.calibrations import Calibrations
from streaming.clock import ShopClock
from streaming.contracts import ModelName, encode, forecast_headers
from streaming.failpoints import failpoint
from streaming.messages import Request, ShardContext, forecasts
from streaming.ownership import Owned, OwnedShard, Ownership, Product
from streaming.settings import DAY_MS, Settings
from streaming.sweep import Compute, Sweep
from streaming.transport import Outgoing

Sums = npt.NDArray[np.float64]

CUMULATIVE_DAYS: Final = (7, 14)
# A round of more products than this is worth to be served in parts.
PART_PRODUCTS: Final = 128
MOST_PARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Changed:
    """A dirty product."""

    product: Product
    sequence: int  # of its last change, as taken
    sent_at_ms: int | None  # real time at which its oldest unserved event was sent


def _abreast(changed: Sequence[Changed]) -> list[list[Changed]]:
    """Parts that are served at the same time: while one waits for Redis, Kafka or the model, another builds its messages. A shard is in one part only."""
    shards = sorted({c.product[0] for c in changed})
    n = min(1 + len(changed) // PART_PRODUCTS, MOST_PARTS, len(shards))
    part_of = {shard: i % n for i, shard in enumerate(shards)}
    return [[c for c in changed if part_of[c.product[0]] == i] for i in range(n)]


class Nowcasts:
    """Serves what `take` says has changed: those that have waited longest first, so many a round as the settings allow."""

    def __init__(
        self,
        settings: Settings,
        store: FeatureStore,
        model: Forecaster,
        ownership: Ownership,
        sweep: Sweep,
        calibrations: Calibrations,
        send: Callable[[Iterable[Outgoing]], Awaitable[None]],
        compute: Compute,
    ) -> None:
        self._settings, self._store, self._model, self._ownership = settings, store, model, ownership
        self._sweep, self._calibrations, self._send, self._compute = sweep, calibrations, send, compute
        self._clock = ShopClock.of(settings)
        self._per_step = settings.step_ms // settings.tile_ms
        self._sums = [max(days * DAY_MS // settings.step_ms, 1) for days in CUMULATIVE_DAYS]
        self._model_name = ModelName(name=model.name, version=model.version)
        self._source = f"/trendcast/{settings.namespace}"
        self.gap_until_ms = NO_WATERMARK  # forecasts of shards before it rest on a log with a gap

    async def serve(self, owned: Owned, views: Sequence[ShardView]) -> bool:
        """Forecast and publish products that changed; returns whether some have to wait."""
        changed = [
            Changed((view.shard, name), sequence, since)
            for view in views
            if owned[view.shard].target >= 0 and not owned[view.shard].catching_up
            for (name, sequence), since in zip(view.dirty, view.serving_since, strict=True)
        ]
        changed.sort(key=lambda c: c.sent_at_ms or 0)  # under overload, those that have waited longest
        served = changed[: self._settings.nowcast_limit]
        if not served:
            return False
        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for some in _abreast(served):
                    group.create_task(self._serve(owned, some))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        metrics.FORECAST_BATCH_PRODUCTS.labels(metrics.NOWCAST).observe(len(served))
        metrics.FORECAST_BATCH_SECONDS.labels(metrics.NOWCAST).observe(time.perf_counter() - started)
        return len(changed) > self._settings.nowcast_limit

    async def _serve(self, owned: Owned, changed: list[Changed]) -> None:
        gathered = await self._sweep.gather(owned, [c.product for c in changed])
        failpoint("forecast.gathered")
        there, gathered = await self._keep_up(owned, changed, gathered)
        if there:
            await self._forecast(owned, there, gathered)

    async def _keep_up(self, owned: Owned, changed: list[Changed], gathered: Gathered) -> tuple[list[Changed], Gathered]:
        """Changed products whose step has ended close it themselves; returns all that stand at their shard's last step."""
        last = np.array([owned[c.product[0]].last_step for c in changed], np.int64)
        behind = np.flatnonzero(gathered.lines.step < last)
        if len(behind):
            await self._sweep.advance(owned, [changed[i].product for i in behind], gathered.at(behind), metrics.CLOSE)
            gathered = await self._sweep.gather(owned, [c.product for c in changed])
        there = np.flatnonzero(gathered.lines.step >= last)
        return [changed[i] for i in there], gathered.at(there)

    async def _forecast(self, owned: Owned, changed: Sequence[Changed], gathered: Gathered) -> None:
        step_ms, lines = self._settings.step_ms, gathered.lines
        contexts = {c.product[0]: self._context(owned[c.product[0]]) for c in changed}
        as_of = np.array([contexts[c.product[0]].as_of_ms for c in changed], np.int64)
        ended = as_of >= (lines.step + 2) * step_ms  # the step is over, but events of it may still come: advanced through on a copy
        ended_sums = await self._step_sums(changed, gathered.running, lines.step + 1)
        running_sums = await self._step_sums(changed, gathered.running, lines.step + 1 + ended) if ended.any() else ended_sums
        step = lines.step + ended
        pools = self._calibrations.pools(owned, [c.product for c in changed], int(step.min()), int(step.max()))
        elapsed = np.clip((as_of - (step + 1) * step_ms) / step_ms, 0, 1).astype(np.float32)

        def decide() -> tuple[Timelines, Forecasts]:
            features, state = lines.features.copy(), lines.state.copy()
            over = np.flatnonzero(ended)
            if len(over):
                demand = timeline.demand(self._model.spec, ended_sums[over])
                features[over], state[over] = self._model.advance(features[over], state[over], demand, step[over])
            running = timeline.demand(self._model.spec, running_sums)
            _, factors = timeline.calibrated(self._model, pools, np.arange(len(changed)), features, step)
            out = self._model.read_out(features, state, step, running, elapsed, np.asarray(self._sums, np.int64), factors=factors)
            return replace(lines, step=step, features=features, state=state), self._model.published(out)

        ahead, out = await self._compute(decide)
        failpoint("forecast.decided")
        units, active = natural(running_sums)[:, UNITS], np.asarray(running_sums.any(axis=1))
        requests = [
            Request(c.product[1], contexts[c.product[0]], float(units[i]), bool(active[i]), c.sent_at_ms) for i, c in enumerate(changed)
        ]
        await self._publish(changed, requests, ahead, out)

    async def _step_sums(self, changed: Sequence[Changed], running: Sequence[RunningSums | None], step: npt.NDArray[np.int64]) -> Sums:
        """What was counted in step `step[i]` of each product, (n, N_MEASURES)."""
        known = [sums and sums.of(at) for sums, at in zip(running, step.tolist(), strict=True)]
        of_step = np.array([[0.0] * N_MEASURES if sums is None else sums for sums in known])
        old: defaultdict[int, list[int]] = defaultdict(list)  # after catching up, or heard of two steps later already
        for i, sums in enumerate(known):
            if sums is None:
                old[int(step[i])].append(i)
        for at, rows in old.items():
            tiles = await self._store.tiles([changed[i].product for i in rows], at * self._per_step, self._per_step)
            of_step[rows] = tiles.sum(axis=1)
        return of_step

    async def _publish(self, changed: Sequence[Changed], requests: Sequence[Request], lines: Timelines, out: Forecasts) -> None:
        usable = np.flatnonzero(out.finite())
        metrics.FORECAST_UNUSABLE.inc(len(requests) - len(usable))
        made = forecasts(
            [requests[i] for i in usable.tolist()],
            lines.at(usable),
            out.at(usable),
            spec=self._model.spec,
            levels=self._model.levels,
            sums=self._sums,
            model=self._model_name,
            issued_at_ms=self._shop_ms(requests[0].context.as_of_ms),
        )
        topic, sent = self._settings.forecasts_topic, []
        kinds: Counter[str] = Counter()
        for f in made:
            sent.append(Outgoing(topic, f.product_id.encode(), encode(f, finite=True), headers=tuple(forecast_headers(f, self._source))))
            kinds[f.kind] += 1
        await self._send(sent)
        for kind, n in kinds.items():
            metrics.FORECAST_PUBLISHED.labels(kind).inc(n)
        failpoint("forecast.published")
        confirmed_ms = time.time() * 1000
        settled: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
        for c in changed:
            settled[c.product[0]].append((c.product[1], c.sequence))
            if c.sent_at_ms is not None:
                metrics.FORECAST_FRESHNESS.observe(max(0.0, confirmed_ms - c.sent_at_ms) / 1000)
        await self._store.settle_all(self._ownership.token, settled)
        failpoint("forecast.settled")

    def _context(self, shard: OwnedShard) -> ShardContext:
        watermark, step_ms = shard.time.watermark_ms, self._settings.step_ms
        return ShardContext(
            sequence=shard.sequence,
            as_of_ms=watermark + self._settings.lateness_ms,
            complete_through_ms=watermark // step_ms * step_ms,
            late_source=shard.time.late_source,
            gap=watermark < self.gap_until_ms,
        )

    def _shop_ms(self, reached_ms: int) -> int:
        """The shop's time; in a replay, the time that its events have reached."""
        now = self._clock.now_ms(int(time.time() * 1000))
        return reached_ms if now is None else now
