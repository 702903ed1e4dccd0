"""What the workshop's commands share: the recipe that their options name, and the registry in which they record."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streaming.commands import load_settings
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.batches import Recipe
    from models.features import FeatureSpec
    from models.registry import Registry

OFF: Final = "off"

RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", dir_okay=False, help="recipe.json of `trendcast tune`; the options below win over it.")
]
Iterations = Annotated[int | None, typer.Option(min=1, help="Longest training; 1000 if the recipe does not say.", show_default=False)]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="The same seed, data and machine give the same result; 1 if the recipe does not say.", show_default=False),
]


def recipe_of(path: Path | None, spec: "FeatureSpec", iterations: int | None, seed: int | None) -> "Recipe":
    """The recipe of a command's options."""
    from dataclasses import replace

    from models import recipes
    from models.batches import Recipe

    recipe = Recipe.for_spec(spec, iterations=1_000, seed=1)
    if path is not None:
        try:
            recipe = recipes.read(path, recipe, spec.step_ms)
        except recipes.UnusableRecipe as error:
            raise UserError(str(error)) from error
    given = {name: value for name, value in (("iterations", iterations), ("seed", seed)) if value is not None}
    return replace(recipe, **given)


def registry() -> "Registry":
    """The registry that the settings name. Raises UserError where there is none."""
    from models.registry import NoRegistry

    try:
        found = _open()
    except NoRegistry as error:
        raise UserError(str(error)) from error
    if found is None:
        raise UserError(f"TRENDCAST_MLFLOW_URI={OFF} says that nothing is recorded, so there are no registered models")
    return found


def registry_if_any(console: "Console", *, make: bool = True) -> "Registry | None":
    """The registry, or None with one line that says why; without `make`, none quietly where nothing was ever recorded."""
    from models.registry import NoRegistry

    try:
        return _open() if make or _uri_given() or (_home() / "mlflow.db").exists() else None
    except NoRegistry as error:
        console.print(f"not recorded: {error}", markup=False)
        return None


def _open() -> "Registry | None":
    from models.registry import local_uri, open_registry

    uri = _uri_given() or local_uri(_home())
    return None if uri == OFF else open_registry(uri)


def _uri_given() -> str:
    own = load_settings().mlflow_uri
    return own.get_secret_value() if own is not None else os.environ.get("MLFLOW_TRACKING_URI", "")


def _home() -> Path:
    from simulator.embedded.cache import state_dir

    return state_dir() / "mlruns"
