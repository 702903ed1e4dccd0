"""A product's forecasting records as bytes: a header that says how far and whose numbers, then the numbers.

`features` and `state` carry the last consumed step; `scores` the last judged tile. The second half of the header binds features to the
feature specification, state and scores to the model: numbers of another are not read.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_store.calls import HEADER_BYTES

_HEADER: Final = struct.Struct("<q8s")


def header(position: int, owner: bytes) -> bytes:
    """Sixteen bytes: the position as a little-endian int64 (which the store's scripts read too), and eight bytes of whose numbers follow."""
    return _HEADER.pack(position, owner)


@dataclass(frozen=True, slots=True)
class Rows:
    """Unpacked records: row i belongs to the i-th product; where `known` is false the row is whatever `fallback` was."""

    known: npt.NDArray[np.bool_]  # (n,) there is a record, of the right size and owner
    foreign: npt.NDArray[np.bool_]  # (n,) of the right size, but another owner's; position and values are that record's
    position: npt.NDArray[np.int64]  # (n,)
    values: npt.NDArray[np.generic]  # (n, width)


def unpack(blobs: Sequence[bytes], owner: bytes, fallback: npt.NDArray[np.generic]) -> Rows:
    """Rows of `fallback`'s type and width, (n, width), from records; `fallback`'s own row where there is no record, or one of another size.

    >>> rows = unpack([pack([7], b"spec-one", np.ones((1, 2), np.float32))[0], b""], b"spec-one", np.zeros((2, 2), np.float32))
    >>> rows.known.tolist(), rows.position.tolist(), rows.values.tolist()
    ([True, False], [7, 0], [[1.0, 1.0], [0.0, 0.0]])
    """
    size = HEADER_BYTES + fallback.shape[1] * fallback.itemsize
    whole = np.array([len(blob) == size for blob in blobs], dtype=np.bool_)
    own = np.array([blob[8:HEADER_BYTES] == owner for blob in blobs], dtype=np.bool_)
    position = np.zeros(len(blobs), np.int64)
    values = fallback.copy()
    if whole.any():
        joined = np.frombuffer(b"".join(blob for blob, good in zip(blobs, whole, strict=True) if good), np.uint8).reshape(-1, size)
        position[whole] = np.ascontiguousarray(joined[:, :8]).view("<i8")[:, 0]
        values[whole] = np.ascontiguousarray(joined[:, HEADER_BYTES:]).view(fallback.dtype)
    return Rows(whole & own, whole & ~own, position, values)


def pack(positions: Sequence[int] | npt.NDArray[np.int64], owner: bytes, values: npt.NDArray[np.generic]) -> list[bytes]:
    """Records of rows (n, width)."""
    rows = np.ascontiguousarray(values)
    return [header(int(position), owner) + row.tobytes() for position, row in zip(positions, rows, strict=True)]
