"""Libraries that only the workshop needs: loaded when a contender runs, never when it is named."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from models.dataset import UnusableData


def library(name: str) -> Any:
    """The module of this name. Raises UnusableData, saying what to install, where it is missing."""
    require(name)
    return import_module(name)


def require(name: str) -> None:
    """Raise UnusableData where the library of a module is missing; loads nothing.

    >>> require("numpy.linalg")
    >>> require("no_such_library.forests")
    Traceback (most recent call last):
        ...
    models.dataset.UnusableData: no_such_library is not installed; pip install 'trendcast[training]'
    """
    root = name.split(".")[0]
    if find_spec(root) is None:
        raise UnusableData(f"{root} is not installed; pip install 'trendcast[training]'")
