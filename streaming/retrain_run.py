"""One retraining as a directory: which of its stages are done, and with what result. Whoever starts again goes on after them."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from streaming.errors import UserError

STATE: Final = "state.json"
# What was read longer ago is not the newest any more: a run that stood still for so long is left, and another begun.
# (One that is followed in shadow moves.)
STALE_S: Final = 24 * 3600
# Finished runs whose state is kept.
KEPT_RUNS: Final = 20

Result = dict[str, Any]  # whatever JSON holds


@dataclass(slots=True)
class Run:
    """A run that this process has to itself."""

    directory: Path
    options: Mapping[str, Any]
    began_s: float
    moved_s: float  # when it came further last
    stages: dict[str, Result] = field(default_factory=dict)  # those that are done
    finished: str | None = None  # how it ended

    def stage(self, name: str, do: Callable[[], Result]) -> Result:
        """The stage's result: that of an earlier start, or of `do`, which may have been begun before and must bear that."""
        if name not in self.stages:
            self.stages[name] = do()
            self.moved()
        return self.stages[name]

    def moved(self) -> None:
        """It has come further, if only within a stage."""
        self.moved_s = time.time()
        self._save()

    def finish(self, how: str) -> None:
        """Nothing of it is to be done any more; only its state is kept."""
        self.finished = how
        self._save()
        for path in sorted(self.directory.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            elif path.name != STATE:
                path.unlink()

    def _save(self) -> None:
        document = {
            "options": self.options,
            "began_s": self.began_s,
            "moved_s": self.moved_s,
            "stages": self.stages,
            "finished": self.finished,
        }
        unfinished = self.directory / f".{STATE}"
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.directory / STATE)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """None where there is no state, or none that can be read."""
        try:
            document = json.loads((directory / STATE).read_text(encoding="utf-8"))
            began_s, moved_s = document["began_s"], document["moved_s"]
            return cls(directory, document["options"], began_s, moved_s, document["stages"], document["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


@contextmanager
def begun(home: Path, options: Mapping[str, Any], say: Callable[[str], None], now_s: float | None = None) -> Iterator[Run]:
    """The unfinished run of these options, or a new one in `home`. Raises UserError while another process retrains there."""
    now_s = time.time() if now_s is None else now_s
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
    except OSError as error:
        raise UserError(f"{home} cannot be written ({error.strerror}); name another place with --home") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process retrains in {home}; wait for its end, or name another place with --home") from error
        yield _unfinished(home, options, now_s, say) or _new(home, options, now_s)


def _unfinished(home: Path, options: Mapping[str, Any], now_s: float, say: Callable[[str], None]) -> Run | None:
    runs = sorted((run for path in home.iterdir() if path.is_dir() and (run := Run.read(path))), key=lambda run: run.began_s)
    for old in [run for run in runs if run.finished][:-KEPT_RUNS]:
        (old.directory / STATE).unlink()
        old.directory.rmdir()
    open_runs = [run for run in runs if not run.finished]
    same = [run for run in open_runs if run.options == options and now_s - run.moved_s < STALE_S]
    for left in [run for run in open_runs if run not in same[-1:]]:
        say(
            f"{left.directory.name} was left unfinished, {'with other options' if left.options != options else 'too long ago'}: it is given up"
        )
        left.finish("given up")
    if not same:
        return None
    say(f"going on with {same[-1].directory.name}; done: {', '.join(same[-1].stages) or 'nothing yet'}")
    return same[-1]


def _new(home: Path, options: Mapping[str, Any], now_s: float) -> Run:
    name = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    run = Run(home / name, dict(options), now_s, now_s)
    run.directory.mkdir()
    run._save()
    return run
