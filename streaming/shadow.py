"""A challenger beside the model that serves: it sees what that one has closed, and says only how good its own forecasts would have been.

Reads Redis and writes nothing there; what it knows is in its memory, and is rebuilt from stored steps when it starts. One process follows all shards.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from feature_store.store import FeatureStore
from models import calibration, timeline
from models.accuracy import accuracy
from models.calibration import LAG_DAYS, MEMORY_DAYS, Memory, Outcomes, Pools
from models.features import F32
from models.forecaster import Forecaster
from models.rebuild import STEPS, rebuilt_at
from models.records import unpack
from models.rewind import steps_lived
from models.shadow import Followed, first_whole_day, follow
from streaming import metrics
from streaming.calibrations import SCORED_DAYS, lived_by_day, outcomes_by_day, scores_of
from streaming.contracts import ForecastScores, ModelName, encode, scores_headers
from streaming.errors import UserError
from streaming.health import MODEL, STORE, Health
from streaming.known_ahead import KnownAhead
from streaming.serving import load_from
from streaming.settings import Settings
from streaming.sweep import STEPS_AT_ONCE
from streaming.transport import BatchApp, Outgoing

CONDITIONS: Final = (STORE, MODEL)
FOLLOWING: Final = "following"
# Rebuilding a large shop's states is minutes of work, in parts of a second.
SILENCE_S: Final = 60.0
# Steps close once an hour; nobody waits for what is said here.
POLL_S: Final = 1.0
# Products rebuilt at once.
SLICE: Final = 256

log = structlog.stdlib.get_logger("trendcast")


@dataclass(slots=True)
class FollowedShard:
    """One shard, as the challenger has followed it."""

    since: int  # the step after which it was begun
    step: int  # last one that its products have consumed
    whole_from: int  # first day of which it sees everything
    followed: Followed
    by_day: dict[int, Outcomes] = field(default_factory=dict)
    before: Mapping[int, Outcomes] = field(default_factory=dict)  # of days that it has not seen whole, where the model served then
    memory: Memory | None = None
    known_day: int | None = None

    @property
    def known(self) -> dict[int, Outcomes]:
        """All that is known of the model's outcomes, by day."""
        return {**self.by_day, **self.before}


class Shadow:
    """Call `look` as often as you like: it follows every shard to its last closed step, and returns the scores of days that have ended."""

    def __init__(self, settings: Settings, store: FeatureStore, model: Forecaster, *, remembers: bool = True) -> None:
        """`remembers`: where the model served before, its factors rest on what came of its forecasts then, too."""
        self._settings, self._store, self._model, self._remembers = settings, store, model, remembers
        self._per_step = settings.step_ms // settings.tile_ms
        self._name = ModelName(name=model.name, version=model.version)
        self._window = min(store.keep_steps, STEPS)
        self._ahead = KnownAhead(settings, store, model.spec.covariates)
        self.shards: dict[int, FollowedShard] = {}
        metrics.serve_model(model.name, model.version, metrics.CHALLENGER)

    async def look(self, number: int) -> list[ForecastScores]:
        """Follow one shard to what is closed by now."""
        closed = (await self._store.closed([number]))[number]
        return [] if closed is None else await self.follow(number, closed)

    async def follow(self, number: int, closed: int, through: int | None = None) -> list[ForecastScores]:
        """Follow one shard, of which `closed` is the last closed step; no further than `through`."""
        shard = self.shards.get(number)
        if shard is None or closed - shard.step >= self._store.keep_steps:
            if shard is not None:
                log.warning("shadow.left_behind", shard=number, step=shard.step, closed=closed)
            shard = self.shards[number] = self._begun(closed)
            await self._meet(number, shard)
        scores: list[ForecastScores] = []
        last = closed if through is None else min(closed, through)
        while shard.step < last:
            scores += await self._advance(number, shard, last)
        self._observe()
        return scores

    def _begun(self, closed: int) -> FollowedShard:
        model, step_ms = self._model, self._settings.step_ms
        nobody = Followed.none(model.feature_size, model.state_size, model.horizon, len(model.levels))
        return FollowedShard(closed, closed, first_whole_day(closed, model.horizon, step_ms), nobody)

    async def _advance(self, number: int, shard: FollowedShard, closed: int) -> list[ForecastScores]:
        """Some steps on, no further than factors are known."""
        step_ms = self._settings.step_ms
        last = min(closed, calibration.known_through(shard.step, step_ms), shard.step + STEPS_AT_ONCE)
        await self._meet(number, shard)
        followed, first = shard.followed, shard.step + 1
        demand = await self._demand(number, followed.names, [last] * len(followed.names), last - shard.step)
        memory = await self._memory(number, shard)
        turn = calibration.turn(followed.names, self._model.horizon)
        days = calibration.day_of(first, step_ms), calibration.day_of(last, step_ms)
        pools = Pools.of(np.zeros(len(turn), np.int64), turn, [memory], *days)
        shop = await self._ahead.of([(number, name) for name in followed.names])
        shard.followed, found = await asyncio.to_thread(follow, self._model, followed, demand, first, pools, shop)
        for day, outcomes in found.items():
            shard.by_day[day] = shard.by_day.get(day, Outcomes.none(len(self._model.levels))) + outcomes
        shard.step = last
        shard.followed = shard.followed.at(np.flatnonzero(shard.followed.ends > last))
        ended = range(days[0], calibration.day_of(last + 1, step_ms))
        known = shard.known
        return [
            scores_of(number, day, known, self._model.levels, self._name, shadow=True)
            for day in ended
            if day >= shard.whole_from and day in known
        ]

    async def _meet(self, number: int, shard: FollowedShard) -> None:
        """Products that are new since the last look join, as they were after the shard's step; of all, note how long their silence may last."""
        live = {name: self._last_step(heard_ms) for name, heard_ms in await self._store.live(number)}
        followed = shard.followed
        for i, name in enumerate(followed.names):
            followed.ends[i] = live.get(name, followed.ends[i])
        known = set(followed.names)
        new = [name for name in live if name not in known]
        for start in range(0, len(new), SLICE):
            shard.followed = shard.followed.joined(await self._joining(number, shard.step, new[start : start + SLICE], live))

    async def _joining(self, number: int, step: int, names: Sequence[str], live: Mapping[str, int]) -> Followed:
        """Of these products, those that the serving model has met."""
        model = self._model
        records = await self._store.records([(number, name) for name in names])
        features = unpack([r.features for r in records], model.spec.hash[:8].encode(), model.fresh(len(names))[0])
        there = np.flatnonzero(features.known & (features.position >= step))
        some, position, rows = [names[i] for i in there.tolist()], features.position[there], features.values[there]
        demand = await self._demand(number, some, position.tolist(), self._window)
        through = np.full(len(some), step, np.int64)
        shop = await self._ahead.of([(number, name) for name in some])
        row, state = await asyncio.to_thread(rebuilt_at, model, rows, position, demand, through, shop)
        lived = steps_lived(model.spec, rows, position, int(position.max(initial=0)))
        metrics.FORECAST_REBUILT.inc(len(some))
        return Followed(
            names=tuple(some),
            born=position - lived + 1,
            ends=np.array([live[name] for name in some], np.int64),
            features=row,
            state=state,
            trials=calibration.no_trials(len(some), model.horizon, len(model.levels)),
        )

    async def _demand(self, number: int, names: Sequence[str], last: Sequence[int], count: int) -> F32:
        """Units and streams of the `count` closed steps up to `last[i]` of each product, (n, count, 1 + streams)."""
        products, parts = [(number, name) for name in names], [np.zeros((0, count, 1 + len(self._model.spec.streams)), np.float32)]
        for start in range(0, len(products), SLICE):
            sums: npt.NDArray[np.float64] = await self._store.steps(products[start : start + SLICE], last[start : start + SLICE], count)
            parts.append(timeline.demand(self._model.spec, sums.reshape(-1, sums.shape[2])).reshape(len(sums), count, -1))
        return np.concatenate(parts)

    async def _memory(self, number: int, shard: FollowedShard) -> Memory:
        """What factors rest on: own outcomes, and of days that were not seen whole those that the store has of this model, if it ever served."""
        day = calibration.day_of(shard.step + 1, self._settings.step_ms)
        if shard.memory is None or day != shard.known_day:
            if self._remembers:
                stored = outcomes_by_day(await self._store.day_sums(number, self._model.version[:8]), self._model.levels)
                shard.before = {each: found for each, found in stored.items() if each < shard.whole_from}
            shard.by_day = {each: found for each, found in shard.by_day.items() if each >= day - LAG_DAYS - MEMORY_DAYS}
            lived = lived_by_day(await self._store.lived(number))
            shard.memory, shard.known_day = Memory(len(self._model.levels), shard.known, lived=lived, step_ms=self._settings.step_ms), day
        return shard.memory

    def _last_step(self, heard_ms: int) -> int:
        """The last step that a product lives through unless it is heard of again."""
        return (heard_ms + self._settings.evict_after_ms) // self._settings.tile_ms // self._per_step - 1

    def _observe(self) -> None:
        k, found = len(self._model.levels), Outcomes.none(len(self._model.levels))
        for shard in self.shards.values():
            day = calibration.day_of(shard.step + 1, self._settings.step_ms)
            found += calibration.summed(shard.by_day, range(max(day - SCORED_DAYS, shard.whole_from), day), k)
        metrics.show_accuracy(accuracy(found, self._model.levels), self._model.levels, metrics.CHALLENGER)
        metrics.FORECAST_LIVE.set(sum(len(shard.followed.names) for shard in self.shards.values()))
        metrics.FORECAST_SHARDS.set(len(self.shards))


async def need_features(store: FeatureStore, settings: Settings, model: Forecaster, what: str) -> None:
    """Raises UserError where the namespace keeps other features than the model's."""
    if (held := await store.features_in_use()) != model.spec.hash:
        raise UserError(
            f"{what} wants features of specification {model.spec.hash}, namespace {settings.namespace!r} holds {held}: "
            "only a model of the features that are kept can be followed in shadow"
        )


class ShadowWorker:
    """The process around it: looks at every shard in turn, and sends what it has to say."""

    def __init__(self, settings: Settings, app: BatchApp, health: Health, directory: Path) -> None:
        self._settings, self._app, self._health, self._directory = settings, app, health, directory
        self._store: FeatureStore | None = None
        self._shadow: Shadow | None = None

    async def open(self) -> None:
        s = self._settings
        self._store = await FeatureStore.open(s, create=False)
        self._health.met(STORE)
        model = await asyncio.to_thread(load_from, self._directory, s)
        await need_features(self._store, s, model, f"the model in {self._directory}")
        await asyncio.to_thread(model.warm_up)
        self._health.met(MODEL)
        self._shadow = Shadow(s, self._store, model)
        log.info("model.loaded", name=model.name, version=model.version)

    async def run(self) -> None:
        assert self._shadow is not None
        self._health.watch(FOLLOWING, SILENCE_S, time.monotonic())
        source = f"/trendcast/{self._settings.namespace}"
        while True:
            for number in range(self._settings.shards):
                scores = await self._shadow.look(number)
                key = [f"{s.shard}/{s.model.version}".encode() for s in scores]
                await self._app.send_all(
                    Outgoing(self._settings.scores_topic, k, encode(s), headers=tuple(scores_headers(s, source)))
                    for k, s in zip(key, scores, strict=True)
                )
                metrics.FORECAST_SCORES.inc(len(scores))
                self._health.progressed(FOLLOWING, time.monotonic())
            await asyncio.sleep(POLL_S)

    async def release(self) -> None:
        """Nothing is in flight that anybody waits for."""

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
