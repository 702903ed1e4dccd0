"""Forecasts of categories and of the shop. Each shard adds up its products' forecasts after a step that it closed; once all shards have, the owner of the
shard that an aggregate's key belongs to adds up the shards, and publishes.

Sums lie in Redis before anything is sent, and what is sent follows from them alone: whoever owns the aggregate next sends the same message again.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import numpy as np

from feature_store.calls import NO_WATERMARK
from feature_store.sharding import shard_of
from models import features as rows
from models import levels, timeline
from models.known_future import KnownFuture
from models.levels import SHOP, Adding, ByGroup, Errors, Sums
from models.nowcast import Forecasts
from models.records import Gathered
from models.seasons import DAY_MS
from streaming import metrics
from streaming.clock import ShopClock
from streaming.contracts import Forecast, ModelName, Quality, encode, forecast_headers
from streaming.failpoints import failpoint
from streaming.messages import level_forecast, level_key
from streaming.ownership import NO_STEP, Owned, OwnedShard, Product
from streaming.parts import Parts
from streaming.readout import cumulative_steps
from streaming.rebuilding import SLICE
from streaming.sweep import SLICE_S, Sweep
from streaming.transport import Outgoing

# The store keeps sums of so many more steps than the newest: shards may be so far apart.
MOST_BEHIND: Final = 2
# How often to look whether other shards have got as far.
LOOK_S: Final = 0.5


class Levels:
    """For the shards that this process owns. `add_up` and `publish` belong into every round, `holds` is asked before a shard's time moves."""

    def __init__(self, parts: Parts, sweep: Sweep, send: Callable[[Iterable[Outgoing]], Awaitable[None]]) -> None:
        settings, model = parts.settings, parts.model
        self._settings, self._store, self._model, self._ownership = settings, parts.store, model, parts.ownership
        self._calibrations, self._rebuilding, self._ahead, self._compute = parts.calibrations, parts.rebuilding, parts.ahead, parts.compute
        self._sweep, self._send = sweep, send
        self._clock = ShopClock.of(settings)
        self._lengths = cumulative_steps(settings.step_ms)
        self._model_name = ModelName(name=model.name, version=model.version)
        self._source = f"/trendcast/{settings.namespace}"
        self._memory = levels.MEMORY_DAYS * DAY_MS // settings.step_ms + max(self._lengths)
        self.every = levels.origin_every(settings.step_ms, model.spec.recent)
        self.gap_until_ms = NO_WATERMARK  # forecasts of steps that end before it rest on a log with a gap
        self._forget()

    def _forget(self) -> None:
        self._published: dict[int, int] = {}  # shard → step of which all its aggregates are published
        self._origins: dict[int, ByGroup] = {}  # sums of all shards, of our aggregates
        self._said: set[str] = set()  # aggregates that were published
        self._gone: set[str] = set()  # aggregates without a product, of which readers were told
        self._read_through = NO_STEP  # origins up to this step are among them
        self._errors: dict[str, tuple[int, Errors]] = {}  # newest origin that is in them
        self._look_at = 0.0

    async def restore(self, owned: Owned) -> None:
        """Of newly assigned shards: how far they are added up. What they owe is published anew."""
        self._forget()
        for number, steps in (await self._store.summed_steps(sorted(owned))).items():
            shard = owned[number]
            shard.summed_step, shard.adding, shard.to_add = max(steps, default=NO_STEP), None, []

    # ---- adding up

    def furthest(self, closed_step: int, summed_step: int) -> int:
        """The last step that a shard may close now: no origin is passed by, and none is left before its products are added up."""
        owes = levels.is_origin(closed_step, self.every) and summed_step < closed_step
        return closed_step if owes else levels.next_origin(closed_step, self.every)

    async def add_up(self, owned: Owned) -> bool:
        """Add up products for one slice of time; returns whether some still wait."""
        deadline = time.perf_counter() + SLICE_S
        for number, shard in owned.items():
            await self._begin(number, shard)
        while chunk := self._next_chunk(owned):
            await self._add(owned, chunk)
            for number in sorted({number for number, _ in chunk}):
                await self._finish(number, owned[number])
            if time.perf_counter() > deadline:
                break
        return any(shard.adding is not None for shard in owned.values())

    async def _begin(self, number: int, shard: OwnedShard) -> None:
        if shard.adding is not None:
            return
        if shard.closed_step is None:  # nobody sells anything of it: it adds nothing to any step that its time has passed
            if shard.time.watermark_ms != NO_WATERMARK:
                await self._put(number, shard, shard.time.watermark_ms // self._settings.step_ms - 1, {}, whole=True)
            return
        step = shard.closed_step
        if shard.target < 0 or shard.pending or shard.last_step != step or shard.summed_step >= step:
            return
        if shard.catching_up and not levels.is_origin(step, self.every):
            return
        # A product that may be forgotten before the next step has ended is not in it any more: whether it has been already depends on the hour.
        lives_ms = (step + 2) * self._settings.step_ms - self._settings.evict_after_ms
        shard.to_add = [name for name, heard_ms in await self._store.live(number) if heard_ms >= lives_ms]
        shard.adding = Adding(self._model.horizon + len(self._lengths), self._model.spec.recent)
        if not shard.to_add:
            await self._finish(number, shard)

    def _next_chunk(self, owned: Owned) -> list[Product]:
        limit = SLICE if self._rebuilding.under_way else self._settings.sweep_chunk
        chunk: list[Product] = []
        for number, shard in owned.items():
            taken = shard.to_add[: limit - len(chunk)]
            chunk += [(number, name) for name in taken]
            del shard.to_add[: len(taken)]
        return chunk

    async def _add(self, owned: Owned, chunk: Sequence[Product]) -> None:
        gathered = await self._sweep.gather(owned, chunk)
        after = np.array([owned[number].closed_step for number, _ in chunk], np.int64)
        # Of those whose first event comes later nothing has been consumed yet.
        there = np.flatnonzero(self._sweep.codec.born(gathered) & (gathered.lines.step == after))
        if not len(there):
            return
        some, lines = [chunk[i] for i in there.tolist()], gathered.at(there)
        shop = await self._ahead.of(some, owned)
        out = await self._compute(lambda: self._read_out(owned, some, lines, shop))
        usable = np.flatnonzero(out.finite())
        recent = rows.recent(self._model.spec, lines.lines.features, lines.lines.step)
        for number in sorted({number for number, _ in some}):
            mine = [i for i in usable.tolist() if some[i][0] == number]
            shard = owned[number]
            if mine and shard.adding is not None and shard.closed_step is not None:
                categories = (
                    [None] * len(mine) if shop is None else shop.categories(np.array(mine), np.full(len(mine), shard.closed_step + 1))
                )
                shard.adding.add(categories, out.mean[mine], out.cumulative_mean[mine], recent[mine])

    def _read_out(self, owned: Owned, products: Sequence[Product], gathered: Gathered, shop: KnownFuture | None) -> Forecasts:
        """As the products' forecasts are right after the step, before anything of the running one is known."""
        model, lines = self._model, gathered.lines
        pools = self._calibrations.pools(owned, products, int(lines.step.min()), int(lines.step.max()))
        _, factors = timeline.calibrated(model, pools, np.arange(len(products)), lines.features, lines.step)
        nothing = np.zeros((len(products), 1 + len(model.spec.streams)), np.float32)
        sums = np.asarray(self._lengths, np.int64)
        span = max(model.horizon, *self._lengths)
        coming = timeline.coming(model, shop, np.arange(len(products)), lines.step, span)
        prior = timeline.prior(model, pools, shop, np.arange(len(products)), lines.features, lines.step)
        out = model.read_out(
            lines.features, lines.state, lines.step, nothing, nothing[:, 0], sums, ahead=coming, factors=factors, prior=prior
        )
        return model.published(out)

    async def _finish(self, number: int, shard: OwnedShard) -> None:
        if shard.adding is None or shard.to_add or shard.closed_step is None:
            return
        groups, whole = shard.adding.done()
        await self._put(number, shard, shard.closed_step, groups, whole=whole)
        shard.adding = None
        failpoint("forecast.added_up")

    async def _put(self, number: int, shard: OwnedShard, step: int, groups: ByGroup, *, whole: bool) -> None:
        if step <= shard.summed_step:
            return
        origin = levels.encode((levels.trimmed(groups, self.every), whole)) if levels.is_origin(step, self.every) else None
        packed, token = levels.encode((groups, whole)), self._ownership.token
        await self._store.put_sums(number, token, step, packed, origin, keep_from=step - self._memory, known=shard.sequence)
        self._ownership.prove()
        shard.summed_step = step
        self._look_at = 0.0

    # ---- publishing

    async def publish(self, owned: Owned) -> None:
        """The newest step that every shard has added up, unless that was published already. History that is caught up with is not."""
        if (now := time.monotonic()) < self._look_at:
            return
        self._look_at = now + LOOK_S
        everyone = range(self._settings.shards)
        steps = await self._store.summed_steps(everyone)
        newest = max((max(found) for found in steps.values() if found), default=NO_STEP)
        metrics.FORECAST_LEVELS_BEHIND.set(sum(newest not in found for found in steps.values()) if newest != NO_STEP else 0)
        common = set[int].intersection(*map(set, steps.values()))
        if not common:
            return
        step = max(common)
        due = {
            number: shard
            for number, shard in owned.items()
            if self._published.get(number, NO_STEP) < step and self._is_current(shard, step)
        }
        parts = await self._store.sums(everyone, step) if due else [None]
        if None in parts:
            return
        groups = self._ours(due, [levels.decode(part) for part in parts if part is not None])
        await self._read_origins(owned, step)
        known = self._said.union(*self._origins.values())
        gone = {name for name in known - groups.keys() if self._shard(name) in due}
        messages = await self._compute(lambda: self._messages(due, step, groups, sorted(gone - self._gone)))
        await self._send(messages)
        self._published |= dict.fromkeys(due, step)
        self._gone = (self._gone | gone) - groups.keys()
        self._said |= groups.keys()
        failpoint("forecast.levels_published")
        for level, n in (("shop", SHOP in groups), ("category", len(groups.keys() - {SHOP}))):
            metrics.FORECAST_LEVELS.labels(level).inc(n)

    def _is_current(self, shard: OwnedShard, step: int) -> bool:
        """Whether the step is not history that is being caught up with."""
        if shard.time.watermark_ms == NO_WATERMARK or (shard.closed_step is not None and shard.catching_up):
            return False
        return shard.time.watermark_ms // self._settings.step_ms - 1 - step <= MOST_BEHIND

    def _ours(self, owned: Owned, parts: Sequence[tuple[ByGroup, bool]]) -> ByGroup:
        """Sums over all shards of the aggregates whose keys belong to these; without categories where a shard has too many of them."""
        whole = all(complete for _, complete in parts)
        return levels.total({n: s for n, s in part.items() if self._shard(n) in owned and (whole or n == SHOP)} for part, _ in parts)

    def _shard(self, name: str) -> int:
        return shard_of(level_key(name), self._settings.shards)

    async def _read_origins(self, owned: Owned, step: int) -> None:
        """All shards' sums after origins up to `step`."""
        after = max(self._read_through, step - self._memory - 1)
        if levels.next_origin(after, self.every) > step:
            return
        for number in range(self._settings.shards):
            found = await self._store.origins(number, after=after)
            new = {at: packed for at, packed in found.items() if at <= step}
            decoded = await self._compute(lambda new=new: {at: self._ours(owned, [levels.decode(packed)]) for at, packed in new.items()})  # type: ignore[misc]
            for at, groups in decoded.items():
                self._origins[at] = levels.total([self._origins.get(at, {}), groups])
        self._read_through = step
        self._origins = {at: groups for at, groups in self._origins.items() if at >= step - self._memory}

    def _messages(self, due: Owned, step: int, groups: ByGroup, gone: Sequence[str]) -> list[Outgoing]:
        topic = self._settings.forecasts_topic
        sent = []
        for name, sums in sorted(groups.items()):
            said = self._forecast(due[self._shard(name)], step, name, sums)
            sent.append(Outgoing(topic, said.product_id.encode(), encode(said), headers=tuple(forecast_headers(said, self._source))))
        return sent + [Outgoing(topic, level_key(name).encode(), None) for name in gone]

    def _forecast(self, shard: OwnedShard, step: int, name: str, sums: Sums) -> Forecast:
        reached_ms = (step + 1) * self._settings.step_ms
        known = self._errors_of(name)
        now_ms = self._clock.now_ms(int(time.time() * 1000))
        return level_forecast(
            name,
            sums,
            known,
            step=step,
            spec=self._model.spec,
            levels=self._model.levels,
            lengths=self._lengths,
            model=self._model_name,
            issued_at_ms=reached_ms if now_ms is None else now_ms,
            quality=self._quality(shard, step, known),
        )

    def _errors_of(self, name: str) -> Errors:
        newest = max(self._origins, default=NO_STEP)
        found = self._errors.get(name)
        if found is None or found[0] != newest:
            origins = {at: groups[name] for at, groups in self._origins.items() if name in groups}
            known = levels.errors(
                origins,
                self._model.horizon,
                every=self.every,
                step_ms=self._settings.step_ms,
                lengths=self._lengths,
                levels=self._model.levels,
            )
            found = self._errors[name] = newest, known
        return found[1]

    def _quality(self, shard: OwnedShard, step: int, known: Errors) -> Quality:
        if (step + 1) * self._settings.step_ms < self.gap_until_ms:
            return "gap"
        held_back = shard.closed_step is not None and shard.closed_step > step  # by a shard that got there later
        if shard.time.late_source or held_back:
            return "late"
        return "cold_start" if known.cold else "ok"
