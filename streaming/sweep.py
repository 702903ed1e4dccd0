"""Products brought to their shards' targets: tiles judged, steps consumed, alerts sent once what they follow from is stored.

What is decided is pure (`models.timeline`); this gathers from the store, commits, and hands over what is to be sent.
"""

import heapq
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_store.calls import Stale
from models import alerts, calibration, timeline
from models.alert_messages import messages as alert_messages
from models.alerts import Action, AlertPolicy, Kind, Reason, Transitions
from models.announcing import announce
from models.calibration import Outcomes, Pools
from models.features import I64
from models.input_shift import InputSums
from models.known_future import KnownFuture
from models.records import Gathered
from models.timeline import OWN_COLUMNS, SAID, Advanced
from streaming import metrics
from streaming.calibrations import pool_numbers
from streaming.clock import ShopClock
from streaming.failpoints import failpoint
from streaming.input_watch import InputWatch
from streaming.outbox import Outbox
from streaming.ownership import Owned, OwnedShard, Product
from streaming.parts import Parts
from streaming.readout import gather
from streaming.rebuilding import SLICE
from streaming.settings import DAY_MS

# A sweep yields to changed products at least this often; a chunk is about as long.
SLICE_S: Final = 0.05
# Catching up on history, a product consumes at most so many steps at once: its tiles of half a day are a few hundred KB for a chunk of products.
STEPS_AT_ONCE: Final = 12
UNKNOWN: Final = -1  # the tile that a product stands at, before its records were read


@dataclass(frozen=True, slots=True)
class Decided:
    """Of some products: where they stand now, and what became of their alerts."""

    advanced: Advanced
    moved: list[Transitions]
    seen: dict[int, InputSums]  # of the network's inputs, by day
    shop: KnownFuture | None  # what the shop said of them


class Sweep:
    """Lists a shard's products when its time moves, and advances them slice by slice."""

    def __init__(self, parts: Parts, outbox: Outbox, policy: AlertPolicy) -> None:
        self._settings, self._store, self._model, self._ownership = parts.settings, parts.store, parts.model, parts.ownership
        self._calibrations, self._rebuilding, self._ahead, self._compute = parts.calibrations, parts.rebuilding, parts.ahead, parts.compute
        self.codec, self._outbox, self._policy = parts.codec, outbox, policy
        self._clock = ShopClock.of(parts.settings)
        self._inputs = InputWatch(parts.model.spec)
        self._per_step = parts.codec.tiles_per_step

    async def list_products(self, number: int, shard: OwnedShard, target: int) -> None:
        """Every product of the shard has to reach the target, its next; those that will have been silent for too long by then are forgotten instead."""
        for name, heard_ms in await self._store.live(number):
            if target * self._settings.tile_ms <= heard_ms + self._settings.evict_after_ms:
                shard.pending.append((UNKNOWN, name))
            else:
                await self._evict(number, shard, name, heard_ms)
        shard.listed = len(shard.pending)

    async def gather(self, owned: Owned, products: Sequence[Product]) -> Gathered:
        """What is stored of these products; states of another model are rebuilt.

        Raises ShardRolledBack where Redis holds less than what was counted when the shards were looked at.
        """
        started = time.perf_counter()
        gathered = await gather(self._store, self.codec, owned, products)
        metrics.FORECAST_STORE_SECONDS.labels("gather").observe(time.perf_counter() - started)
        await self._rebuilding.warm(owned, products, gathered)
        return gathered

    async def run(self, owned: Owned) -> bool:
        """Advance products for one slice of time, those that are furthest behind first; returns whether some still wait."""
        deadline = time.perf_counter() + SLICE_S
        while time.perf_counter() < deadline:
            chunk = self._next_chunk(owned)
            if chunk:
                reason = metrics.CATCH_UP if any(owned[number].catching_up for number, _ in chunk) else metrics.CLOSE
                for (number, name), reached in await self.advance(owned, chunk, await self.gather(owned, chunk), reason):
                    heapq.heappush(owned[number].pending, (reached, name))
            for number, shard in owned.items():
                if not shard.pending:
                    await self._finish(number, shard)
            if not chunk:
                return False
        return True

    def _next_chunk(self, owned: Owned) -> list[Product]:
        """Products that are furthest behind, all at one place, so that they go as one batch."""
        limit = SLICE if self._rebuilding.under_way else self._settings.sweep_chunk
        behind = min((shard.pending[0][0] for shard in owned.values() if shard.pending), default=UNKNOWN)
        chunk: list[Product] = []
        for number, shard in owned.items():
            while shard.pending and shard.pending[0][0] == behind and len(chunk) < limit:
                chunk.append((number, heapq.heappop(shard.pending)[1]))
        return chunk

    async def _finish(self, number: int, shard: OwnedShard) -> None:
        """Every product of the shard has reached its target."""
        step = shard.last_step
        if shard.target < 0 or shard.closed_step is None or step <= shard.closed_step:
            return
        token, entries = self._ownership.token, self._outbox.of_scores(await self._calibrations.scores(number, shard.closed_step, step))
        await self._store.close_step(number, token, step, shard.time.watermark_ms, entries, known=shard.sequence)
        self._ownership.prove()
        metrics.FORECAST_STEPS_CLOSED.inc(step - shard.closed_step)
        if (day := calibration.day_of(step + 1, self._settings.step_ms)) != calibration.day_of(
            shard.closed_step + 1, self._settings.step_ms
        ):
            self._inputs.day_ended(day - 1)
        shard.closed_step = step
        failpoint("forecast.step_closed")
        await self._outbox.send(number, token, entries)

    async def advance(self, owned: Owned, products: Sequence[Product], gathered: Gathered, reason: str) -> list[tuple[Product, int]]:
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
            sums = await self._store.tiles(some, first, target - first)
            shop = await self._ahead.of(some, owned)
            pools = self._calibrations.pools(owned, some, int(before.lines.step.min()) + 1, (target - 1) // per_step)
            decided = await self._compute(lambda b=before, s=sums, f=first, p=pools, k=shop: self._decide(b, s, f, p, k))  # type: ignore[misc]
            failpoint("forecast.decided")
            refused = await self._commit(owned, some, before, decided)
            self._inputs.add(decided.seen, decided.advanced.timelines.step[decided.advanced.tried])
            unfinished += [(p, UNKNOWN if p in refused else target) for p in some if p in refused or owned[p[0]].target > target]
            if closes.any():
                metrics.FORECAST_BATCH_PRODUCTS.labels(reason).observe(len(some))
                metrics.FORECAST_BATCH_SECONDS.labels(reason).observe(time.perf_counter() - started)
        return unfinished

    def _decide(self, before: Gathered, sums: npt.NDArray[np.float64], first: int, pools: Pools, shop: KnownFuture | None) -> Decided:
        """Pure: where the products stand after these tiles, which are to be published, and what became of their alerts and of earlier forecasts."""
        moved: list[Transitions] = []
        others = np.flatnonzero(before.other_model)
        if len(others):
            own, ended = alerts.close_all(
                before.lines.scores[others, OWN_COLUMNS:], Reason.MODEL_CHANGED, self._policy, tile_ms=self._settings.tile_ms
            )
            before.lines.scores[others, OWN_COLUMNS:] = own
            moved.append(_said(before.lines.scores, _renumbered(ended, others)))
        advanced = timeline.advance(before.lines, sums, first, self._per_step, self._model, self._policy, pools, shop)
        return Decided(advanced, moved + advanced.transitions, self._seen(advanced), shop)

    def _seen(self, advanced: Advanced) -> dict[int, InputSums]:
        """What the network has just seen of the products whose turn it was."""
        tried = np.flatnonzero(advanced.tried)
        if not len(tried):
            return {}
        step = advanced.timelines.step[tried]
        seen, day = self._model.seen(advanced.timelines.features[tried], step), step * self._settings.step_ms // DAY_MS
        return {int(each): InputSums.of(seen[day == each]) for each in np.unique(day)}

    async def _commit(self, owned: Owned, products: Sequence[Product], before: Gathered, decided: Decided) -> set[Product]:
        """Store what was decided, with its alerts, and send those; returns products whose records had changed meanwhile."""
        started = time.perf_counter()
        now_ms = int(time.time() * 1000)
        commits = self.codec.write([name for _, name in products], before, decided.advanced, now_ms)
        outcomes: defaultdict[int, dict[int, Outcomes]] = defaultdict(dict)
        lived: defaultdict[int, dict[int, dict[str, I64]]] = defaultdict(dict)
        numbers = pool_numbers(products)
        for (pool, day), found in decided.advanced.outcomes.items():
            outcomes[numbers[pool]][day] = found
        for (pool, day), of_day in decided.advanced.lived.items():
            lived[numbers[pool]][day] = of_day
        by_shard: defaultdict[int, list[int]] = defaultdict(list)
        for i, (shard, _) in enumerate(products):
            by_shard[shard].append(i)
        entries = self._entries(products, decided.moved, decided.shop)
        refused: set[Product] = set()
        for shard, rows in by_shard.items():
            known, token = owned[shard].sequence, self._ownership.token
            sums = self._calibrations.sums(outcomes[shard])
            steps = self._calibrations.lived(lived[shard])
            result = await self._store.commit(shard, token, [commits[i] for i in rows], entries[shard], sums=sums, lived=steps, known=known)
            self._ownership.prove()
            if isinstance(result, Stale):
                metrics.FORECAST_COMMIT_CONFLICTS.labels("step").inc()
                refused |= {products[i] for i in rows}
                continue
            failpoint("forecast.committed")
            metrics.count_outcomes(outcomes[shard].values())
            await self._outbox.send(shard, token, entries[shard])
        metrics.FORECAST_STORE_SECONDS.labels("commit").observe(time.perf_counter() - started)
        for held in decided.advanced.held:
            new = held.action == Action.FIRE
            for row, spike in zip(held.rows[new].tolist(), held.spike[new].tolist(), strict=True):
                if products[row] not in refused:
                    metrics.FORECAST_ALERTS_HELD.labels(Kind.SPIKE if spike else Kind.DROP).inc()
        return refused

    def _entries(
        self, products: Sequence[Product], moved: Sequence[Transitions], shop: KnownFuture | None
    ) -> defaultdict[int, dict[str, bytes]]:
        """Outbox entries of alerts, by shard."""
        entries: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        now_ms = self._clock.now_ms(int(time.time() * 1000))
        names = [name for _, name in products]
        for transitions in moved:
            if len(transitions):
                said = alert_messages(
                    transitions, names, self._policy, tile_ms=self._settings.tile_ms, levels=self._model.levels, shop=shop
                )
                for row, alert in zip(transitions.rows, said, strict=True):
                    entries[products[row][0]] |= self._outbox.of_alerts([alert], self._model.levels, self._policy.update_tiles, now_ms)
        return entries

    async def _evict(self, number: int, shard: OwnedShard, name: str, heard_ms: int) -> None:
        """Forget a product: its open alerts end, and readers of forecasts get a tombstone.

        Before that it lives as long as it may: what comes of its forecasts does not depend on when it is found to be silent.
        """
        product = (number, name)
        last = replace(shard, target=(heard_ms + self._settings.evict_after_ms) // self._settings.tile_ms)
        gathered = await self.gather({number: last}, [product])
        while gathered.lines.tile[0] + 1 < last.target:
            await self.advance({number: last}, [product], gathered, metrics.CATCH_UP)
            gathered = await self.gather({number: last}, [product])
        _, ended = alerts.close_all(gathered.lines.scores[:, OWN_COLUMNS:], Reason.EVICTED, self._policy, tile_ms=self._settings.tile_ms)
        ended = _said(gathered.lines.scores, ended)
        shop = await self._ahead.of([product])
        entries = self._entries([product], [ended], shop)[number]
        entries |= self._outbox.tombstone(name, int(gathered.lines.tile[0]))
        if await self._store.evict(number, self._ownership.token, name, heard_ms, entries):
            failpoint("forecast.evicted")
            metrics.FORECAST_EVICTED.inc()
            await self._outbox.send(number, self._ownership.token, entries)


def _renumbered(transitions: Transitions, rows: npt.NDArray[np.intp]) -> Transitions:
    """Transitions of some rows of a batch, numbered as in the whole batch."""
    return replace(transitions, rows=rows[transitions.rows])


def _said(scores: npt.NDArray[np.float64], ended: Transitions) -> Transitions:
    """Those of alerts that were announced; `ended` number the rows of `scores`, (n, SCORE_COLUMNS)."""
    return announce(scores, SAID, ended, np.ones(len(ended), np.bool_))[0]
