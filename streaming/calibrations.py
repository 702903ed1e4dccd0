"""What came of the forecasts of owned shards: read when a day has closed, handed to the model as factors, told to people as scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from feature_store.calls import DaySums
from feature_store.store import FeatureStore
from models import calibration
from models.accuracy import Accuracy, accuracy
from models.calibration import LAG_DAYS, MEMORY_DAYS, Memory, Outcomes, Pools
from models.forecaster import Forecaster
from streaming import metrics
from streaming.contracts import ForecastScores, ModelName, VolumeScores
from streaming.ownership import Owned, OwnedShard, Product
from streaming.settings import DAY_MS, Settings

# A whole week: no weekday hides in it, and a change shows within days.
SCORED_DAYS: Final = 7


class Calibrations:
    """Reads sums of outcomes, by shard and day, of the model that serves; `Sweep` adds to them with what it commits."""

    def __init__(self, settings: Settings, store: FeatureStore, model: Forecaster) -> None:
        self._settings, self._store, self._model = settings, store, model
        self._owner = model.version[:8]
        self._name = ModelName(name=model.name, version=model.version)

    def memory(self) -> Memory:
        """Of a shard that nothing is known of yet."""
        return Memory(len(self._model.levels), {})

    async def load(self, number: int, shard: OwnedShard, closed_step: int) -> bool:
        """Read what factors rest on, where a day has closed since it was read; returns whether it has.

        Every step up to `calibration.known_through(closed_step)` finds its factors then, and they do not change any more.
        """
        day = self._day(closed_step + 1)
        if day == shard.known_day:
            return False
        shard.memory, shard.known_day = Memory(len(self._model.levels), await self._read(number)), day
        return True

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

    async def scores(self, number: int, closed_step: int, step: int) -> list[ForecastScores]:
        """Of each day whose last step is closed when everything after `closed_step` up to `step` is; days without an outcome have none."""
        ended = range(self._day(closed_step + 1), self._day(step + 1))
        if not ended:
            return []
        by_day = await self._read(number)
        return [self._scores(number, day, by_day[day]) for day in ended if day in by_day]

    def observe(self, shards: Iterable[OwnedShard]) -> None:
        """Tell the metrics how good the forecasts of the last full days were."""
        k = len(self._model.levels)
        found = Outcomes.none(k)
        for shard in shards:
            if shard.known_day is not None:
                found += calibration.summed(shard.memory.by_day, range(shard.known_day - SCORED_DAYS, shard.known_day), k)
        metrics.show_accuracy(accuracy(found, self._model.levels), self._model.levels)

    async def _read(self, number: int) -> dict[int, Outcomes]:
        stored = await self._store.day_sums(number, self._owner)
        return {day: Outcomes.from_list(numbers) for day, numbers in stored.items()}

    def _day(self, step: int) -> int:
        return calibration.day_of(step, self._settings.step_ms)

    def _scores(self, number: int, day: int, found: Outcomes) -> ForecastScores:
        by_volume = accuracy(found, self._model.levels)
        return ForecastScores(
            shard=number,
            start=day * DAY_MS,
            end=(day + 1) * DAY_MS,
            model=self._name,
            levels=list(self._model.levels),
            volumes=[_volume_scores(name, scores) for name, scores in by_volume.items()],
        )


def pool_numbers(products: Sequence[Product]) -> list[int]:
    """The shard of each pool."""
    return sorted({number for number, _ in products})


def _volume_scores(name: str, scores: Accuracy) -> VolumeScores:
    return VolumeScores(
        volume=name,  # type: ignore[arg-type]  # VOLUMES and ALL are its literals
        outcomes=scores.outcomes,
        demand=scores.demand,
        mwql=_known(scores.mwql),
        bias=_known(scores.bias),
        below=list(scores.below),
        at_most=list(scores.at_most),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
