"""A training that was killed goes on from its last look: all of its state in one file, which is there whole or not at all."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

Arrays = Mapping[str, np.ndarray[Any, Any]]

_FILE: Final = "checkpoint.npz"
_FACTS: Final = "facts"  # name of the array that holds the JSON


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a training after one of its looks."""

    arrays: Arrays
    facts: Mapping[str, Any]  # whatever JSON holds


class Checkpoints:
    """The newest checkpoint of one training in a directory of its own; whoever trains clears it when the result is safe."""

    def __init__(self, directory: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self._directory = directory
        self._path = directory / _FILE
        self._say = say

    def newest(self, identity: str) -> Checkpoint | None:
        """The checkpoint of the training of this identity, if there is one; says why one that is there is not used."""
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            facts = json.loads(arrays.pop(_FACTS).tobytes())
            of = facts.pop("identity")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self._say(f"{self._path} cannot be read ({error}); starting anew")
            return None
        if of != identity:
            self._say(f"{self._path} is of another training (data, recipe, features or program differ); starting anew")
            return None
        self._say(f"going on from {self._path}, after iteration {facts.get('iteration')}")
        return Checkpoint(arrays, facts)

    def save(self, identity: str, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; a crash at any moment leaves the old one or the new one."""
        self._directory.mkdir(parents=True, exist_ok=True)
        facts = json.dumps({"identity": identity, **checkpoint.facts}).encode()
        with self._unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **{**checkpoint.arrays, _FACTS: np.frombuffer(facts, np.uint8)})
            file.flush()
            os.fsync(file.fileno())
        self._unfinished.replace(self._path)

    def clear(self) -> None:
        """Remove the checkpoint, and the directory if nothing else is in it."""
        for path in (self._path, self._unfinished):
            path.unlink(missing_ok=True)
        if self._directory.is_dir() and not any(self._directory.iterdir()):
            self._directory.rmdir()

    @property
    def _unfinished(self) -> Path:
        return self._path.with_suffix(".unfinished")
