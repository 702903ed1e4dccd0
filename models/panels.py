"""Panels on disk, and their newest part."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.dataset import Panel, Parts, UnusableData
from models.known_arrays import from_arrays, to_arrays

_FACTS: Final = "facts"  # name of the array that holds the JSON
_ARRAYS: Final = ("born", "demand", "covariates", "stock")
_PARTS: Final = ("product", "part", "units")
_KNOWN: Final = "known."  # before the names of its arrays


def save(panel: Panel, path: Path) -> None:
    """Write all of a panel; a crash leaves the old file or the new one."""
    arrays: dict[str, np.ndarray[Any, Any]] = {name: getattr(panel, name) for name in _ARRAYS if getattr(panel, name) is not None}
    names: dict[str, object] = {"product_ids": panel.product_ids, "first_step": panel.first_step, "timezone": panel.timezone}
    if panel.parts is not None:
        arrays |= {f"parts.{name}": getattr(panel.parts, name) for name in _PARTS}
        names["per_step"] = panel.parts.per_step
    if panel.known is not None:
        arrays |= {_KNOWN + name: values for name, values in to_arrays(panel.known).items()}
    facts = json.dumps(names).encode()
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{**arrays, _FACTS: np.frombuffer(facts, np.uint8)})
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def load(path: Path) -> Panel:
    """The panel that `save` wrote, to the last bit. Raises UnusableData."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(arrays.pop(_FACTS).tobytes())
        of_parts = [arrays.pop(f"parts.{name}", None) for name in _PARTS]
        of_known = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_KNOWN)}
        known = from_arrays({name.removeprefix(_KNOWN): values for name, values in of_known.items()}) if of_known else None
        parts = Parts(int(facts["per_step"]), *of_parts) if "per_step" in facts else None
        return Panel(
            tuple(facts["product_ids"]), int(facts["first_step"]), timezone=str(facts["timezone"]), parts=parts, known=known, **arrays
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UnusableData(f"{path} cannot be read ({error})") from error


def newest(panel: Panel, columns: int) -> Panel:
    """The last `columns` steps; products that were born before are taken to begin with them.

    >>> whole = Panel(("a", "b"), 5, np.array([0, 2]), np.ones((2, 4, 1), np.float32), "UTC")
    >>> part = newest(whole, 3)
    >>> part.first_step, part.born.tolist(), part.columns
    (6, [0, 1], 3)
    """
    cut = max(panel.columns - columns, 0)

    def part(values: Any) -> Any:
        return None if values is None else values[:, cut:]

    first = panel.first_step + cut
    return replace(
        panel,
        first_step=first,
        born=np.maximum(panel.born - cut, 0),
        demand=panel.demand[:, cut:],
        covariates=part(panel.covariates),
        stock=part(panel.stock),
        parts=panel.parts and panel.parts.since(first),
    )
