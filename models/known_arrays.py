"""What was known ahead, as arrays for a file, and back. Pure."""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from models.known_future import FactColumns, KnownFuture, Place

Arrays = dict[str, npt.NDArray[Any]]

_FACTS: Final = ("usual", "first", "key", "price", "stock", "lead_steps", "promotion_first", "promotions")


class _Rest(msgspec.Struct):
    """What is no array."""

    names: tuple[str, ...]
    step_ms: int
    place: Place
    categories: tuple[str, ...]
    contexts: tuple[tuple[tuple[bytes, bytes], ...], ...]


def to_arrays(known: KnownFuture) -> Arrays:
    """All of it, without Python objects."""
    rest = _Rest(known.names, known.step_ms, known.place, known.facts.category, known.contexts)
    arrays = {name: getattr(known.facts, name) for name in _FACTS}
    return {**arrays, "context_of": known.context_of, "rest": np.frombuffer(msgspec.msgpack.encode(rest), np.uint8)}


def from_arrays(arrays: Arrays) -> KnownFuture:
    """The inverse. Raises KeyError, or ValueError, where they are others."""
    try:
        rest = msgspec.msgpack.decode(arrays["rest"].tobytes(), type=_Rest)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    facts = FactColumns(category=rest.categories, **{name: arrays[name] for name in _FACTS})
    return KnownFuture(rest.names, rest.step_ms, rest.place, facts, rest.contexts, arrays["context_of"])
