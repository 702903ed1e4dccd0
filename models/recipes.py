"""Recipes on disk: the JSON that `trendcast tune` writes, `trendcast train` and `trendcast backtest` read, and people edit."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from models.batches import Recipe

# Least and greatest value of each field, both allowed.
_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "iterations": (1, 10_000_000),
    "batch": (1, 100_000),
    "forks": (1, 10_000),
    "segment": (2, 100_000),
    "burn_in": (0, 100_000),
    "history": (1, 10_000_000),
    "youngest": (0, 1_000_000),
    "learning_rate": (0, 1),
    "weight_decay": (0, 1),
    "dropout": (0, 0.95),
    "hidden": (1, 4096),
    "width": (1, 4096),
    "average": (0, 0.99999),
    "held_out": (0.001, 0.9),
    "check_every": (1, 10_000_000),
    "patience": (1, 10_000_000),
    "seed": (0, 2**32 - 1),
}


class UnusableRecipe(ValueError):
    """The file holds no recipe; the message names each wrong field."""


def write(path: Path, recipe: Recipe, step_ms: int, origin: Mapping[str, Any] | None = None) -> None:
    """Write a recipe with the step that it is for, and where it comes from."""
    document = {"step_ms": step_ms, "recipe": asdict(recipe), **({"origin": dict(origin)} if origin else {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path, default: Recipe, step_ms: int) -> Recipe:
    """The recipe in a file; fields that it leaves out are those of `default`. Raises UnusableRecipe."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnusableRecipe(f"there is no file {path}; `trendcast tune` writes one") from error
    except (OSError, ValueError) as error:
        raise UnusableRecipe(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get("recipe"), dict):
        raise UnusableRecipe(f'{path} holds no {{"recipe": {{…}}}}')
    of = document.get("step_ms", step_ms)
    if of != step_ms:
        raise UnusableRecipe(f"{path} is for steps of {of} ms, and these data are in steps of {step_ms} ms: tune on such data")
    try:
        return from_fields(document["recipe"], default)
    except UnusableRecipe as error:
        raise UnusableRecipe(f"{path}: {error}") from None


def from_fields(given: Mapping[str, Any], default: Recipe) -> Recipe:
    """`default` with the given fields. Raises UnusableRecipe that names all that are wrong.

    >>> from_fields({"dropout": 0.3}, Recipe()).dropout
    0.3
    >>> from_fields({"dropout": 3, "speed": 1}, Recipe())
    Traceback (most recent call last):
    models.recipes.UnusableRecipe: there is no field speed; dropout must be a number from 0 to 0.95, not 3
    """
    known = {field.name: type(getattr(default, field.name)) for field in fields(Recipe)}
    wrong = [f"there is no field {name}" for name in sorted(given.keys() - known.keys())]
    values = {**asdict(default)}
    for name in known:
        if name not in given:
            continue
        value, (low, high) = given[name], _LIMITS[name]
        whole = known[name] is int
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high or (whole and value != int(value)):
            wrong.append(f"{name} must be a {'whole ' if whole else ''}number from {low} to {high}, not {value!r}")
        else:
            values[name] = known[name](value)
    # Training shortens the burn-in to a quarter of the segment.
    if not wrong and values["segment"] - min(values["burn_in"], values["segment"] // 4) < values["forks"]:
        wrong.append("segment less burn_in must leave room for forks")
    if wrong:
        raise UnusableRecipe("; ".join(wrong))
    return Recipe(**values)
