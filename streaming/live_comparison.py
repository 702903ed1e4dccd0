"""A challenger and the model that serves, both followed in shadow from the same steps on, over the same steps, with nothing known of their outcomes before.

What was followed is kept in a directory, a file a shard, after every look. Closed steps are a log: who is killed goes on where the files are, and finds
the same numbers, to the last integer, as if it had never stopped.
"""

import asyncio
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from feature_store.store import FeatureStore
from models.calibration import Outcomes, Trials
from models.forecaster import Forecaster
from models.live import Live
from models.shadow import Followed
from streaming.errors import UserError
from streaming.known_ahead import calendar_meta
from streaming.serving import load, load_from
from streaming.settings import Settings
from streaming.shadow import POLL_S, FollowedShard, Shadow, need_features

ROLES: Final = ("challenger", "serving")


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a comparison has come."""

    steps: int  # that every shard has been followed for
    behind: tuple[int, ...]  # shards that have come no further
    names: tuple[str, str]  # of the challenger, and of the model that serves
    challenger: Live | None
    serving: Live | None


class NotLive(Exception):
    """No model serves that a challenger could be compared with; the message says why."""


async def compare(
    settings: Settings,
    store: FeatureStore,
    challenger: Path,
    steps: int,
    directory: Path,
    deadline_s: float,
    told: Callable[[Standing], object],
) -> Standing:
    """Follow the model in a directory, and the one that serves, for so many steps; `told` when every shard has come further.

    Raises NotLive, and UserError where the model cannot be followed, another one serves meanwhile, or time is up: what was followed is kept.
    """
    pointer = await store.model()
    if await store.features_in_use() is None:
        raise NotLive(f"no forecast worker has served namespace {settings.namespace!r} yet")
    one = await asyncio.to_thread(load_from, challenger, settings)
    other = await asyncio.to_thread(load, settings, pointer)
    if one.version == other.version:
        raise NotLive("it serves already")
    calendar_meta(one.artefact, settings)
    await need_features(store, settings, one, f"the model {one.version}")
    await need_features(store, settings, other, f"the model in {settings.model_dir}")
    comparison = Comparison(settings, store, one, other, steps, directory)
    began, come = time.monotonic(), -1
    while True:
        standing = await comparison.look()
        if standing.steps > come:
            come = standing.steps
            told(standing)
        if come >= steps:
            return standing
        if await store.model() != pointer:
            raise UserError("another model was promoted meanwhile; the same command compares with that one")
        if time.monotonic() - began > deadline_s:
            behind = ", ".join(map(str, standing.behind)) or "all"
            raise UserError(
                f"followed in shadow for {max(come, 0)} of {steps} steps when time was up (--shadow-deadline); shards {behind} come no further: do forecast "
                "workers run? The same command goes on; with --shadow-hours 0 it does without"
            )
        await asyncio.sleep(POLL_S)


class Comparison:
    """Call `look` as often as you like: it follows every shard that has closed anything, for `steps` steps."""

    def __init__(
        self, settings: Settings, store: FeatureStore, challenger: Forecaster, serving: Forecaster, steps: int, directory: Path
    ) -> None:
        self._store, self._numbers, self._steps = store, range(settings.shards), steps
        self._models = challenger, serving
        self._shadows = [Shadow(settings, store, model, remembers=False) for model in self._models]
        self._directory = directory / f"{challenger.version}-{serving.version}"
        self._directory.mkdir(parents=True, exist_ok=True)
        for number in self._numbers:
            self._resume(number)

    async def look(self) -> Standing:
        """Follow all shards to what is closed by now."""
        for number, closed in (await self._store.closed(self._numbers)).items():
            if closed is not None:
                await self._follow(number, closed)
        return self.standing()

    def standing(self) -> Standing:
        """As of the last look."""
        done = {number: shard.step - shard.since for number, shard in self._shadows[0].shards.items()}
        steps = min(done.values(), default=0)
        lives = [
            Live.of(
                sum((each for shard in shadow.shards.values() for each in shard.by_day.values()), Outcomes.none(len(model.levels))),
                model.levels,
            )
            for shadow, model in zip(self._shadows, self._models, strict=True)
        ]
        names = [f"{model.name} {model.version}" for model in self._models]
        return Standing(steps, tuple(number for number, n in done.items() if n == steps), (names[0], names[1]), *lives)

    async def _follow(self, number: int, closed: int) -> None:
        shard = self._shadows[0].shards.get(number)
        place = None if shard is None else (shard.since, shard.step)
        through = None if shard is None else shard.since + self._steps
        if shard is not None and shard.step == through:
            return
        for shadow in self._shadows:
            await shadow.follow(number, closed, through)
        shard = self._shadows[0].shards[number]
        if place != (shard.since, shard.step):
            self._keep(number)

    def _keep(self, number: int) -> None:
        arrays = {
            f"{role}.{name}": values
            for role, shadow in zip(ROLES, self._shadows, strict=True)
            for name, values in to_arrays(shadow.shards[number]).items()
        }
        path = self._path(number)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    def _resume(self, number: int) -> None:
        """Go on where a file says; a shard of which there is none, or none that can be read, is begun."""
        try:
            with self._path(number).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                found = {name: stored[name] for name in stored.files}
            shards = [
                from_arrays({name.removeprefix(f"{role}."): values for name, values in found.items() if name.startswith(f"{role}.")})
                for role in ROLES
            ]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return
        for shadow, shard in zip(self._shadows, shards, strict=True):
            shadow.shards[number] = shard

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}.npz"


def to_arrays(shard: FollowedShard) -> dict[str, Any]:
    """A shard as it was followed, without what is read anew: see `from_arrays`."""
    followed = shard.followed
    trials = {f"trials.{i}": part for i, part in enumerate(followed.trials.parts())}
    days = sorted(shard.by_day)
    return {
        "steps": np.array([shard.since, shard.step, shard.whole_from], np.int64),
        "names": np.array(followed.names, np.str_),
        "born": followed.born,
        "ends": followed.ends,
        "features": followed.features,
        "state": followed.state,
        **trials,
        "days": np.array(days, np.int64),
        "outcomes": np.array([shard.by_day[day].to_list() for day in days], np.int64),
    }


def from_arrays(arrays: dict[str, Any]) -> FollowedShard:
    """The inverse. Raises KeyError or ValueError where they are others."""
    since, step, whole_from = arrays["steps"].tolist()
    parts = [arrays[f"trials.{i}"] for i in range(sum(name.startswith("trials.") for name in arrays))]
    names = tuple(arrays["names"].tolist())
    followed = Followed(names, arrays["born"], arrays["ends"], arrays["features"], arrays["state"], Trials(*parts))
    by_day = {int(day): Outcomes.from_list(numbers) for day, numbers in zip(arrays["days"], arrays["outcomes"].tolist(), strict=True)}
    return FollowedShard(since, step, whole_from, followed, by_day)
