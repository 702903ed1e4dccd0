"""The forecaster's loop over owned shards, without Kafka: gather from the store, decide in batches, commit, hand over what is to be published.

What is decided is pure (`models.timeline`, `streaming.messages`); this shell keeps the order: nowcasts first, then a slice of the sweep that judges
tiles and closes steps; nothing is sent that was not committed before, and nothing after the process may have lost its shards.
"""

import asyncio
import heapq
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from feature_store.calls import NO_WATERMARK, ShardRolledBack, ShardView, Stale
from feature_store.measures import UNITS, natural
from feature_store.store import FeatureStore
from models import alerts, timeline
from models.alert_messages import Alert
from models.alert_messages import messages as alert_messages
from models.alerts import AlertPolicy, Reason, Transitions
from models.forecaster import Forecaster
from models.nowcast import Forecasts
from models.records import Codec, Gathered
from models.timeline import OWN_COLUMNS, Timelines
from streaming import metrics
from streaming.clock import ShopClock
from streaming.contracts import ModelName, encode, forecast_headers
from streaming.failpoints import failpoint
from streaming.messages import Request, ShardContext, forecasts
from streaming.outbox import Outbox
from streaming.schedule import ShardTime, shard_time
from streaming.settings import DAY_MS, Clock, Settings
from streaming.transport import Outgoing

# A sweep yields to changed products at least this often; a chunk is about as long.
SWEEP_SLICE_S: Final = 0.05
# Catching up on history, a product consumes at most so many steps at once: its tiles of half a day are a few hundred KB for a chunk of products.
STEPS_AT_ONCE: Final = 12
# Expected sources and gaps change when partitions or operators do.
SLOW_READ_S: Final = 2.0
# Time that moved by more than a step at once is history being caught up with; when it has not for so long, forecasts are worth sending again.
HISTORY_PAUSE_S: Final = 1.0
CUMULATIVE_DAYS: Final = (7, 14)
UNKNOWN: Final = -1  # the tile that a product stands at, before its records were read

Product = tuple[int, str]  # shard, product id
Moved = tuple[Reason | None, Transitions]  # why alerts ended, where their own evidence did not end them
T = TypeVar("T")


class FrozenWorker(Exception):
    """Too long between the last proof of ownership and sending: others may own the shards by now. End the process, send nothing."""


@dataclass(slots=True)
class OwnedShard:
    """What this process remembers of a shard that it owns."""

    time: ShardTime = field(default_factory=lambda: ShardTime(NO_WATERMARK, late_source=False))
    target: int = -1  # tiles before this one are to be judged, and their whole steps consumed; -1: nothing yet
    pending: list[tuple[int, str]] = field(
        default_factory=list
    )  # heap of products that have yet to reach the target, by the tile they stand at
    listed: int = 0  # products when the sweep began
    hurried_at: float = -HISTORY_PAUSE_S  # monotonic time at which the target last moved by more than a step
    closed_step: int | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Changed:
    """A dirty product."""

    product: Product
    sequence: int  # of its last change, as taken
    sent_at_ms: int | None  # real time at which its oldest unserved event was sent


class ForecastEngine:
    """Call `assign` and `revoke` as Kafka says, `cycle` as often as there may be work. One event loop; the model runs in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        store: FeatureStore,
        model: Forecaster,
        send: Callable[[Iterable[Outgoing]], Awaitable[None]],
        *,
        policy: AlertPolicy | None = None,
    ) -> None:
        self._settings, self._store, self._model, self._raw_send = settings, store, model, send
        self._clock = ShopClock.of(settings)
        self._policy = policy or AlertPolicy()
        self._per_step = settings.step_ms // settings.tile_ms
        self._sums = [max(days * DAY_MS // settings.step_ms, 1) for days in CUMULATIVE_DAYS]
        self._codec = Codec.of(model.spec, model.state_size, model.version, self._per_step)
        self._model_name = ModelName(name=model.name, version=model.version)
        self._source = f"/trendcast/{settings.namespace}"
        self._outbox = Outbox(settings, store, self._model_name, self._send)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._owned: dict[int, OwnedShard] = {}
        self._token = ""
        self._owned_until = 0.0
        self._sources: list[str] = []
        self._gap_until_ms = NO_WATERMARK
        self._slow_read_at = -SLOW_READ_S
        metrics.serve_model(model.name, model.version)

    # ---- ownership

    async def assign(self, shards: Iterable[int]) -> None:
        """Own exactly these shards, with a new token; send first what the last owner committed and may not have sent."""
        owned = sorted(shards)
        self._owned, self._token = {}, secrets.token_hex(16)
        await self._store.claim(owned, self._token)
        self._prove_ownership()
        failpoint("forecast.claimed")
        for shard in owned:
            await self._outbox.flush(shard, self._token)
        self._owned = {shard: OwnedShard() for shard in owned}
        metrics.FORECAST_SHARDS.set(len(owned))

    def revoke(self) -> None:
        """Others may own our shards from now on; what is under way is refused by their token."""
        self._owned = {}
        metrics.FORECAST_SHARDS.set(0)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _prove_ownership(self) -> None:
        """Redis has just accepted our token. Kafka may give the shards away once we were silent for a session; half of it is ours for sure."""
        self._owned_until = time.monotonic() + self._settings.session_timeout_ms / 2000

    async def _send(self, messages: Iterable[Outgoing]) -> None:
        if not self._settings.publish:
            return
        if time.monotonic() > self._owned_until:
            half = self._settings.session_timeout_ms / 2000
            raise FrozenWorker(f"more than {half:g} s passed since the shards were known to be ours; nothing was sent")
        await self._raw_send(messages)

    async def _compute(self, decide: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, decide)

    # ---- one round

    async def cycle(self) -> bool:
        """Serve what changed, then a slice of the sweep. Returns whether more is waiting. Raises OwnerLost, ShardRolledBack and FrozenWorker."""
        owned = dict(self._owned)
        if not owned:
            return False
        await self._read_slowly()
        views = await self._store.take(sorted(owned), self._token, self._settings.nowcast_limit)
        self._prove_ownership()
        for view in views:
            if view.outbox:  # of a commit whose answer was lost
                await self._outbox.flush(view.shard, self._token)
            await self._retarget(owned[view.shard], view)
        self._observe(owned, views)
        more = await self._serve(owned, views)
        return await self._sweep(owned) or more

    async def _read_slowly(self) -> None:
        now = time.monotonic()
        if now - self._slow_read_at < SLOW_READ_S:
            return
        self._sources = sorted(await self._store.sources())
        gaps = await self._store.gaps()
        self._gap_until_ms = max((gap["watermark_ms"] + self._settings.step_retention_ms for gap in gaps), default=NO_WATERMARK)
        self._slow_read_at = now

    async def _retarget(self, shard: OwnedShard, view: ShardView) -> None:
        """Take over what the shard's time allows; list its products anew when that moves and no sweep is under way."""
        lagging = self._settings.lagging_source_ms if self._settings.clock is Clock.WALL else None
        if view.sequence < shard.sequence:
            raise ShardRolledBack(view.shard, shard.sequence, view.sequence)
        shard.time = shard_time(self._sources, view.watermarks, view.idle, lagging_ms=lagging)
        shard.sequence, shard.closed_step = view.sequence, view.closed_step
        if shard.pending or shard.time.watermark_ms == NO_WATERMARK or view.closed_step is None:
            return
        target = shard.time.watermark_ms // self._settings.tile_ms
        if target <= shard.target:
            return
        last_step = target // self._per_step - 1
        if last_step > view.closed_step + 1:
            shard.hurried_at = time.monotonic()
        if last_step > view.closed_step:
            await self._store.begin_closing(view.shard, self._token, last_step, known=view.sequence)
        silent_before = shard.time.watermark_ms - self._settings.evict_after_ms
        for name, heard_ms in await self._store.live(view.shard):
            if heard_ms >= silent_before:
                shard.pending.append((UNKNOWN, name))
            else:
                await self._evict(view.shard, name, heard_ms)
        shard.target, shard.listed = target, len(shard.pending)

    def _observe(self, owned: Mapping[int, OwnedShard], views: Sequence[ShardView]) -> None:
        now_ms = int(time.time() * 1000)
        waiting = [since for view in views for since in view.serving_since if since is not None]
        listed, pending = (sum(counts) for counts in zip(*((s.listed, len(s.pending)) for s in owned.values()), strict=True))
        live = sum(view.live for view in views)
        metrics.FORECAST_DIRTY.set(sum(len(view.dirty) for view in views))
        metrics.FORECAST_OLDEST_DIRTY.set(max(0, now_ms - min(waiting)) / 1000 if waiting else 0)
        metrics.FORECAST_LIVE.set(live)
        metrics.FORECAST_OUTBOX.set(sum(view.outbox for view in views))
        metrics.FORECAST_SWEEP_PROGRESS.set(1 - pending / listed if pending else 1)
        metrics.FORECAST_STATE_BYTES.set(live * self._codec.record_bytes)
        behind = min(shard.time.watermark_ms for shard in owned.values())
        shop_ms = self._clock.now_ms(now_ms)
        if behind != NO_WATERMARK and shop_ms is not None:
            metrics.FORECAST_WATERMARK_LAG.set(max(0, shop_ms - behind) / 1000)

    def _catching_up(self, shard: OwnedShard) -> bool:
        """More than one step waits to be closed, or did a moment ago: forecasts in between would be history when they arrive."""
        hurried = time.monotonic() - shard.hurried_at < HISTORY_PAUSE_S
        return hurried or shard.closed_step is None or self._last_step(shard) - shard.closed_step > 1

    def _last_step(self, shard: OwnedShard) -> int:
        """Last step that the target lets be closed."""
        return shard.target // self._per_step - 1

    async def _gather(self, products: Sequence[Product]) -> Gathered:
        started = time.perf_counter()
        stored = await self._store.records(products)
        first_tiles: list[int | None] = [None] * len(products)
        unborn = self._codec.unborn(stored)
        for i, tile in zip(unborn, await self._store.first_tiles([products[i] for i in unborn]), strict=True):
            # An ancient event must not make its product live through decades of silent steps.
            oldest = (
                (self._last_step(self._owned[products[i][0]]) - self._store.keep_steps) * self._per_step
                if products[i][0] in self._owned
                else 0
            )
            first_tiles[i] = oldest if tile is None else max(tile, oldest)
        metrics.FORECAST_STORE_SECONDS.labels("gather").observe(time.perf_counter() - started)
        return self._codec.read(stored, first_tiles)

    # ---- nowcasts

    async def _serve(self, owned: Mapping[int, OwnedShard], views: Sequence[ShardView]) -> bool:
        """Forecast and publish products that changed; returns whether some have to wait."""
        due = [view for view in views if owned[view.shard].target >= 0 and not self._catching_up(owned[view.shard])]
        changed = [
            Changed((view.shard, name), sequence, since)
            for view in due
            for (name, sequence), since in zip(view.dirty, view.serving_since, strict=True)
        ]
        changed.sort(key=lambda c: c.sent_at_ms or 0)  # under overload, those that have waited longest
        served = changed[: self._settings.nowcast_limit]
        if not served:
            return False
        started = time.perf_counter()
        gathered = await self._gather([c.product for c in served])
        failpoint("forecast.gathered")
        served, lines = await self._keep_up(owned, served, gathered)
        if served:
            await self._nowcast(owned, served, lines)
            metrics.FORECAST_BATCH_PRODUCTS.labels(metrics.NOWCAST).observe(len(served))
            metrics.FORECAST_BATCH_SECONDS.labels(metrics.NOWCAST).observe(time.perf_counter() - started)
        return len(changed) > self._settings.nowcast_limit

    async def _keep_up(
        self, owned: Mapping[int, OwnedShard], changed: list["Changed"], gathered: Gathered
    ) -> tuple[list["Changed"], Timelines]:
        """Changed products whose step has ended close it themselves; returns all that stand at their shard's last step."""
        last = np.array([self._last_step(owned[c.product[0]]) for c in changed], np.int64)
        behind = np.flatnonzero(gathered.lines.step < last)
        if len(behind):
            await self._advance(owned, [changed[i].product for i in behind], gathered.at(behind), metrics.CLOSE)
            gathered = await self._gather([c.product for c in changed])
        there = np.flatnonzero(gathered.lines.step >= last)
        return [changed[i] for i in there], gathered.lines.at(there)

    async def _nowcast(self, owned: Mapping[int, OwnedShard], changed: Sequence["Changed"], lines: Timelines) -> None:
        """Forecast from the committed state and the running step so far; writes no state."""
        step_ms, per_step = self._settings.step_ms, self._per_step
        contexts = {c.product[0]: self._context(owned[c.product[0]]) for c in changed}
        as_of = np.array([contexts[c.product[0]].as_of_ms for c in changed], np.int64)
        first = int(lines.step.min() + 1) * per_step
        count = max(int(as_of.max()) // self._settings.tile_ms + 1 - first, per_step)
        tiles = await self._store.tiles([(*c.product, first, count) for c in changed])
        await self._check_kept({shard: owned[shard].sequence for shard in contexts})
        start = (lines.step + 1) * per_step - first
        ended = as_of >= (lines.step + 2) * step_ms  # the step is over, but events of it may still come: advanced through on a copy
        ended_sums = timeline.step_sums(tiles, start, per_step)
        running_sums = timeline.step_sums(tiles, start + per_step * ended, per_step)
        step = lines.step + ended
        elapsed = np.clip((as_of - (step + 1) * step_ms) / step_ms, 0, 1).astype(np.float32)

        def decide() -> tuple[Timelines, Forecasts]:
            features, state = lines.features.copy(), lines.state.copy()
            over = np.flatnonzero(ended)
            if len(over):
                demand = timeline.demand(self._model.spec, ended_sums[over])
                features[over], state[over] = self._model.advance(features[over], state[over], demand, step[over])
            running = timeline.demand(self._model.spec, running_sums)
            out = self._model.read_out(features, state, step, running, elapsed, np.asarray(self._sums, np.int64))
            return Timelines(step, lines.tile, features, state, lines.scores), out

        ahead, out = await self._compute(decide)
        failpoint("forecast.decided")
        units, active = natural(running_sums)[:, UNITS], np.asarray(running_sums.any(axis=1))
        requests = [
            Request(c.product[1], contexts[c.product[0]], float(units[i]), bool(active[i]), c.sent_at_ms) for i, c in enumerate(changed)
        ]
        await self._publish(changed, requests, ahead, out)

    async def _check_kept(self, known: Mapping[int, int]) -> None:
        """What was just read is no less than what the shards' sequences promised. Raises ShardRolledBack."""
        for shard, found in (await self._store.sequences(list(known))).items():
            if found < known[shard]:
                raise ShardRolledBack(shard, known[shard], found)

    async def _publish(self, changed: Sequence["Changed"], requests: Sequence[Request], lines: Timelines, out: Forecasts) -> None:
        made = forecasts(
            requests,
            lines,
            out,
            spec=self._model.spec,
            levels=self._model.levels,
            sums=self._sums,
            model=self._model_name,
            issued_at_ms=self._shop_ms(requests[0].context.as_of_ms),
        )
        topic, sent = self._settings.forecasts_topic, []
        kinds: Counter[str] = Counter()
        for f in made:
            sent.append(Outgoing(topic, f.product_id.encode(), encode(f), headers=tuple(forecast_headers(f, self._source))))
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
        await self._store.settle_all(self._token, settled)
        failpoint("forecast.settled")

    def _context(self, shard: OwnedShard) -> ShardContext:
        watermark, step_ms = shard.time.watermark_ms, self._settings.step_ms
        return ShardContext(
            sequence=shard.sequence,
            as_of_ms=watermark + self._settings.lateness_ms,
            complete_through_ms=watermark // step_ms * step_ms,
            late_source=shard.time.late_source,
            gap=watermark < self._gap_until_ms,
        )

    def _shop_ms(self, reached_ms: int) -> int:
        """The shop's time; in a replay, the time that its events have reached."""
        now = self._clock.now_ms(int(time.time() * 1000))
        return reached_ms if now is None else now

    # ---- the sweep

    async def _sweep(self, owned: Mapping[int, OwnedShard]) -> bool:
        """Advance products towards their shards' targets for one slice of time; returns whether some still wait."""
        deadline = time.perf_counter() + SWEEP_SLICE_S
        while time.perf_counter() < deadline:
            chunk = self._next_chunk(owned)
            if chunk:
                reason = metrics.CATCH_UP if any(self._catching_up(owned[number]) for number, _ in chunk) else metrics.CLOSE
                for (number, name), reached in await self._advance(owned, chunk, await self._gather(chunk), reason):
                    heapq.heappush(owned[number].pending, (reached, name))
            for number, shard in owned.items():
                if not shard.pending:
                    await self._finish(number, shard)
            if not chunk:
                return False
        return True

    def _next_chunk(self, owned: Mapping[int, OwnedShard]) -> list[Product]:
        """Products that are furthest behind, all at one place, so that they go as one batch."""
        behind = min((shard.pending[0][0] for shard in owned.values() if shard.pending), default=UNKNOWN)
        chunk: list[Product] = []
        for number, shard in owned.items():
            while shard.pending and shard.pending[0][0] == behind and len(chunk) < self._settings.sweep_chunk:
                chunk.append((number, heapq.heappop(shard.pending)[1]))
        return chunk

    async def _finish(self, number: int, shard: OwnedShard) -> None:
        """Every product of the shard has reached its target."""
        step = self._last_step(shard)
        if shard.target < 0 or shard.closed_step is None or step <= shard.closed_step:
            return
        await self._store.close_step(number, self._token, step, shard.time.watermark_ms, known=shard.sequence)
        metrics.FORECAST_STEPS_CLOSED.inc(step - shard.closed_step)
        shard.closed_step = step
        failpoint("forecast.step_closed")

    async def _advance(
        self, owned: Mapping[int, OwnedShard], products: Sequence[Product], gathered: Gathered, reason: str
    ) -> list[tuple[Product, int]]:
        """Judge and close what each product's target allows, and commit it; returns those that have yet to reach it, and the tile they stand at."""
        lines, per_step = gathered.lines, self._per_step
        # Products that were born at different times come into step with each other at the ends of common windows of steps.
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for i, (shard, _) in enumerate(products):
            window = (int(lines.step[i]) + 1) // STEPS_AT_ONCE
            target = min(owned[shard].target, (window + 1) * STEPS_AT_ONCE * per_step)
            if lines.tile[i] + 1 < target:
                groups[target].append(i)
        unfinished: list[tuple[Product, int]] = []
        for target, members in groups.items():
            started = time.perf_counter()
            rows = np.array(members)
            closes = lines.step[rows] < target // per_step - 1
            first = int(np.where(closes, (lines.step[rows] + 1) * per_step, lines.tile[rows] + 1).min())
            some, before = [products[i] for i in members], gathered.at(rows)
            sums = await self._store.tiles([(*product, first, target - first) for product in some])
            after, publish, moved = await self._compute(lambda b=before, s=sums, f=first: self._decide(b, s, f))  # type: ignore[misc]
            failpoint("forecast.decided")
            refused = await self._commit(owned, some, before, after, publish, moved)
            unfinished += [(p, UNKNOWN if p in refused else target) for p in some if p in refused or owned[p[0]].target > target]
            if closes.any():
                metrics.FORECAST_BATCH_PRODUCTS.labels(reason).observe(len(some))
                metrics.FORECAST_BATCH_SECONDS.labels(reason).observe(time.perf_counter() - started)
        return unfinished

    def _decide(self, before: Gathered, sums: npt.NDArray[np.float64], first: int) -> tuple[Timelines, npt.NDArray[np.bool_], list[Moved]]:
        """Pure: where the products stand after these tiles, which are to be published, and what became of their alerts."""
        moved: list[Moved] = []
        others = np.flatnonzero(before.other_model)
        if len(others):
            own, ended = alerts.close_all(
                before.lines.scores[others, OWN_COLUMNS:], Reason.MODEL_CHANGED, self._policy, tile_ms=self._settings.tile_ms
            )
            before.lines.scores[others, OWN_COLUMNS:] = own
            moved.append((Reason.MODEL_CHANGED, _renumbered(ended, others)))
        advanced = timeline.advance(before.lines, sums, first, self._per_step, self._model, self._policy)
        moved += [(None, transitions) for transitions in advanced.transitions]
        return advanced.timelines, advanced.publish, moved

    async def _commit(
        self,
        owned: Mapping[int, OwnedShard],
        products: Sequence[Product],
        before: Gathered,
        after: Timelines,
        publish: npt.NDArray[np.bool_],
        moved: Sequence[Moved],
    ) -> set[Product]:
        """Store what was decided, with its alerts, and send those; returns products whose records had changed meanwhile."""
        started = time.perf_counter()
        now_ms = int(time.time() * 1000)
        commits = self._codec.write([name for _, name in products], before, after, publish, now_ms)
        by_shard: defaultdict[int, list[int]] = defaultdict(list)
        for i, (shard, _) in enumerate(products):
            by_shard[shard].append(i)
        entries = self._entries(products, moved)
        refused: set[Product] = set()
        for shard, rows in by_shard.items():
            known = owned[shard].sequence
            result = await self._store.commit(shard, self._token, [commits[i] for i in rows], entries[shard], known=known)
            self._prove_ownership()
            if isinstance(result, Stale):
                metrics.FORECAST_COMMIT_CONFLICTS.labels("step").inc()
                refused |= {products[i] for i in rows}
                continue
            failpoint("forecast.committed")
            await self._outbox.send(shard, self._token, entries[shard])
        metrics.FORECAST_STORE_SECONDS.labels("commit").observe(time.perf_counter() - started)
        return refused

    def _entries(self, products: Sequence[Product], moved: Sequence[Moved]) -> defaultdict[int, dict[str, bytes]]:
        """Outbox entries of alerts, by shard."""
        entries: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        now_ms = self._clock.now_ms(int(time.time() * 1000))
        for reason, transitions in moved:
            if len(transitions):
                said = self._alerts(transitions, [name for _, name in products], reason)
                for row, alert in zip(transitions.rows, said, strict=True):
                    entries[products[row][0]] |= self._outbox.of_alerts([alert], self._model.levels, self._policy.update_tiles, now_ms)
        return entries

    def _alerts(self, transitions: Transitions, names: Sequence[str], reason: Reason | None) -> list[Alert]:
        return alert_messages(transitions, names, self._policy, tile_ms=self._settings.tile_ms, levels=self._model.levels, reason=reason)

    async def _evict(self, shard: int, name: str, heard_ms: int) -> None:
        """Forget a product that has been silent for too long: its open alerts end, and readers of forecasts get a tombstone."""
        gathered = await self._gather([(shard, name)])
        _, ended = alerts.close_all(gathered.lines.scores[:, OWN_COLUMNS:], Reason.EVICTED, self._policy, tile_ms=self._settings.tile_ms)
        entries = self._entries([(shard, name)], [(Reason.EVICTED, ended)])[shard]
        entries |= self._outbox.tombstone(name, int(gathered.lines.tile[0]))
        if await self._store.evict(shard, self._token, name, heard_ms, entries):
            failpoint("forecast.evicted")
            metrics.FORECAST_EVICTED.inc()
            await self._outbox.send(shard, self._token, entries)


def _renumbered(transitions: Transitions, rows: npt.NDArray[np.intp]) -> Transitions:
    """Transitions of some rows of a batch, numbered as in the whole batch."""
    return replace(transitions, rows=rows[transitions.rows])
