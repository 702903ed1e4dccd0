"""What came of the forecasts of owned shards: read when a day has closed, handed to the model as factors, told to people as scores."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import structlog

from feature_store.calls import DaySums, LivedSums
from feature_store.store import FeatureStore
from models import calibration, cold_start, drift, floor
from models.accuracy import ALL, Accuracy, accuracy
from models.calibration import LAG_DAYS, MEMORY_DAYS, Bools, Memory, Outcomes, Pools
from models.features import I64
from models.forecaster import Forecaster
from models.metrics import VOLUMES
from streaming import metrics
from streaming.contracts import ForecastScores, ModelName, VolumeScores
from streaming.ownership import Owned, OwnedShard, Product
from streaming.settings import DAY_MS, Settings

# A whole week: no weekday hides in it, and a change shows within days.
SCORED_DAYS: Final = 7

log = structlog.stdlib.get_logger("trendcast")


class Calibrations:
    """Reads sums of outcomes, by shard and day, of the model that serves; `Sweep` adds to them with what it commits."""

    def __init__(self, settings: Settings, store: FeatureStore, model: Forecaster) -> None:
        self._settings, self._store, self._model = settings, store, model
        self._owner = model.version[:8]
        self._name = ModelName(name=model.name, version=model.version)

    def memory(self) -> Memory:
        """Of a shard that nothing is known of yet."""
        return self._memory({}, {})

    def _memory(self, by_day: dict[int, Outcomes], lived: dict[int, cold_start.Sums]) -> Memory:
        return Memory(len(self._model.levels), by_day, self._held, lived, self._settings.step_ms)

    def _held(self, by_day: Mapping[int, Outcomes], day: int) -> Bools:
        return floor.held(by_day, day, self._model.levels, self._settings.alerts_floor)

    async def load(self, number: int, shard: OwnedShard, closed_step: int) -> bool:
        """Read what factors rest on, where a day has closed since it was read; returns whether it has.

        Every step up to `calibration.known_through(closed_step)` finds its factors then, and they do not change any more.
        """
        day = self._day(closed_step + 1)
        if day == shard.known_day:
            return False
        shard.memory, shard.known_day = await self._memory_of(number), day
        return True

    async def restore(self, number: int, shard: OwnedShard) -> None:
        """Another model served the shard until now: what was read of its outcomes gives way to what there is of ours, of the same days."""
        shard.memory = self.memory() if shard.known_day is None else await self._memory_of(number)

    async def _memory_of(self, number: int) -> Memory:
        return self._memory(await self._read(number), lived_by_day(await self._store.lived(number)))

    def pools(self, owned: Owned, products: Sequence[Product], first_step: int, last_step: int) -> Pools:
        """Factors of forecasts made after any of these steps, one pool a shard, in the order of their numbers."""
        numbers = pool_numbers(products)
        pool = np.searchsorted(numbers, [number for number, _ in products])
        turn = calibration.turn((name for _, name in products), self._model.horizon)
        memories = [owned[number].memory for number in numbers]
        return Pools.of(pool, turn, memories, self._day(first_step), self._day(last_step))

    def sums(self, found: Mapping[int, Outcomes]) -> DaySums:
        """What a commit adds, of outcomes by day."""
        return DaySums(self._owner, {day: outcomes.to_list() for day, outcomes in found.items()}, LAG_DAYS + MEMORY_DAYS)

    def lived(self, found: Mapping[int, Mapping[str, I64]]) -> LivedSums:
        """What a commit adds, of what products lived through, by day."""
        by_day = {day: {name: sums.ravel().tolist() for name, sums in of_day.items()} for day, of_day in found.items()}
        return LivedSums(by_day, LAG_DAYS + cold_start.MEMORY_DAYS)

    async def scores(self, number: int, closed_step: int, step: int) -> list[ForecastScores]:
        """Of each day whose last step is closed when everything after `closed_step` up to `step` is; days without an outcome have none."""
        ended = range(self._day(closed_step + 1), self._day(step + 1))
        if not ended:
            return []
        by_day = await self._read(number)
        for day in ended:
            self._tell(number, day, by_day)
        return [self._scores(number, day, by_day) for day in ended if day in by_day]

    def observe(self, shards: Iterable[OwnedShard]) -> None:
        """Tell the metrics how good the forecasts of the last full days were."""
        k = len(self._model.levels)
        found = Outcomes.none(k)
        drifting: Counter[tuple[str, str]] = Counter()
        held = np.zeros(len(VOLUMES), np.int64)
        for shard in shards:
            if shard.known_day is not None:
                found += calibration.summed(shard.memory.by_day, range(shard.known_day - SCORED_DAYS, shard.known_day), k)
                off = drift.drifting(shard.memory.by_day, shard.known_day - 1, self._model.levels)
                drifting.update((volume, measure) for volume, measures in off.items() for measure in measures)
                held += shard.memory.held(shard.known_day)
        metrics.show_accuracy(accuracy(found, self._model.levels), self._model.levels)
        metrics.show_drift(drifting, dict(zip(VOLUMES, held.tolist(), strict=True)))

    def _tell(self, number: int, day: int, by_day: Mapping[int, Outcomes]) -> None:
        """Log what begins and ends with the end of a day."""
        before, after = (drift.drifting(by_day, at, self._model.levels) for at in (day - 1, day))
        held_before, held_after = self._held(by_day, day), self._held(by_day, day + 1)
        for i, volume in enumerate((*VOLUMES, ALL)):
            for measure in sorted({*before.get(volume, ())} ^ {*after.get(volume, ())}):
                event = "drift.begins" if measure in after.get(volume, ()) else "drift.ends"
                log.warning(event, shard=number, volume=volume, measure=measure, day=day_text(day))
            if volume != ALL and held_before[i] != held_after[i]:
                event = "alerts.held_back" if held_after[i] else "alerts.held_back_no_more"
                log.warning(event, shard=number, volume=volume, from_day=day_text(day + 1), floor=self._settings.alerts_floor)

    async def _read(self, number: int) -> dict[int, Outcomes]:
        return outcomes_by_day(await self._store.day_sums(number, self._owner), self._model.levels)

    def _day(self, step: int) -> int:
        return calibration.day_of(step, self._settings.step_ms)

    def _scores(self, number: int, day: int, by_day: Mapping[int, Outcomes]) -> ForecastScores:
        return scores_of(number, day, by_day, self._model.levels, self._name, held=self._held(by_day, day + 1))


def scores_of(
    shard: int,
    day: int,
    by_day: Mapping[int, Outcomes],
    levels: Sequence[float],
    model: ModelName,
    *,
    held: Bools | None = None,
    shadow: bool = False,
) -> ForecastScores:
    """The message of what came, on a day, of the forecasts of a shard's products; `held`: see `models.floor`, of the day after."""
    off = drift.drifting(by_day, day, levels)
    each = dict.fromkeys(VOLUMES, False) if held is None else dict(zip(VOLUMES, held.tolist(), strict=True))
    holds = {**each, ALL: any(each.values())}
    return ForecastScores(
        shard=shard,
        start=day * DAY_MS,
        end=(day + 1) * DAY_MS,
        model=model,
        levels=list(levels),
        volumes=[
            _volume_scores(name, scores, off.get(name, ()), held=holds[name]) for name, scores in accuracy(by_day[day], levels).items()
        ],
        shadow=shadow,
    )


def outcomes_by_day(stored: Mapping[int, Sequence[int]], levels: Sequence[float]) -> dict[int, Outcomes]:
    """From what is stored of a model; not what an older program, which counted other things, has left."""
    columns = Outcomes.none(len(levels)).sums.size
    return {day: Outcomes.from_list(numbers) for day, numbers in stored.items() if len(numbers) == columns}


def lived_by_day(stored: Mapping[int, Mapping[str, Sequence[int]]]) -> dict[int, cold_start.Sums]:
    """From what is stored; not what an older program, which counted other things, has left."""
    shape = cold_start.SHAPE
    return {
        day: {name: np.array(sums, np.int64).reshape(shape) for name, sums in found.items() if len(sums) == shape[0] * shape[1]}
        for day, found in stored.items()
    }


def pool_numbers(products: Sequence[Product]) -> list[int]:
    """The shard of each pool."""
    return sorted({number for number, _ in products})


def day_text(day: int) -> str:
    """A UTC day for people.

    >>> day_text(20_458)
    '2026-01-05'
    """
    return str(np.datetime64(day, "D"))


def _volume_scores(name: str, scores: Accuracy, off: Sequence[str], *, held: bool) -> VolumeScores:
    return VolumeScores(
        volume=name,  # type: ignore[arg-type]  # VOLUMES and ALL are its literals
        outcomes=scores.outcomes,
        demand=scores.demand,
        mwql=_known(scores.mwql),
        bias=_known(scores.bias),
        below=list(scores.below),
        at_most=list(scores.at_most),
        naive_mwql=_known(scores.naive),
        drift=list(off),  # type: ignore[arg-type]  # of drift.MEASURES
        alerts_held=held,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
