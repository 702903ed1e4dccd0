"""Simulated records as columns, before they are encoded: what the shop and the replay make, and what the truth is counted from."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

# Stands for "not given" in a column of milliseconds.
ABSENT: Final = -1


class Topic(IntEnum):
    """An input topic; the broker's name of it is chosen when sending."""

    ORDERS = 0
    CLICKSTREAM = 1


# Topics of what a shop knows ahead; their records are whole messages (`simulator.announcements`), not columns.
FACTS: Final = 2
CONTEXT: Final = 3


class Kind(IntEnum):
    """What a record says."""

    PLACED = 0
    CANCELLED = 1
    RETURNED = 2
    VIEW = 3
    ADD_TO_CART = 4
    REMOVE_FROM_CART = 5
    WISHLIST = 6
    HEARTBEAT = 7  # no lines; event_ms is the watermark that it declares


# Column → dtype: per record (n,), then per line (m,).
RECORD_COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "send_ms": np.dtype(np.int64),
    "event_ms": np.dtype(np.int64),
    "placed_ms": np.dtype(np.int64),
    "kind": np.dtype(np.int8),
    "number": np.dtype(np.int64),
    "key": np.dtype(np.int64),
    "hop": np.dtype(np.int8),
    "fault": np.dtype(np.int8),
    "copy": np.dtype(np.bool_),
    "lines": np.dtype(np.int64),
}
LINE_COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "product": np.dtype(np.int64),
    "quantity": np.dtype(np.int64),
    "price": np.dtype(np.float64),
}


@dataclass(frozen=True, slots=True)
class Events:
    """`n` records with `m` lines, the lines in the order of their records; every order has at least one line, every click one."""

    send_ms: npt.NDArray[np.int64]  # (n,) simulated time of sending: the Kafka timestamp
    event_ms: npt.NDArray[np.int64]  # (n,)
    placed_ms: npt.NDArray[np.int64]  # (n,) ABSENT where not given
    kind: npt.NDArray[np.int8]  # (n,) Kind
    number: npt.NDArray[np.int64]  # (n,) of the order that the record speaks of
    key: npt.NDArray[np.int64]  # (n,) customer or session: chooses the partition
    hop: npt.NDArray[np.int8]  # (n,) 1: goes to the partition after the key's own
    fault: npt.NDArray[np.int8]  # (n,) 0, or which way it is malformed (simulator.faults)
    copy: npt.NDArray[np.bool_]  # (n,) the same event sent again
    lines: npt.NDArray[np.int64]  # (n,) number of lines
    product: npt.NDArray[np.int64]  # (m,) index into the source's product ids
    quantity: npt.NDArray[np.int64]  # (m,) thousandths of a unit; 0 for clicks
    price: npt.NDArray[np.float64]  # (m,) of one unit, at most four decimals; 0 for clicks

    def __len__(self) -> int:
        return len(self.send_ms)

    @classmethod
    def of(cls, n: int, m: int, **columns: npt.ArrayLike) -> Self:
        """Columns by name, each broadcast to its length and converted to its type; the missing ones are 0 (`placed_ms`: ABSENT, `lines`: 1).

        >>> Events.of(2, 2, send_ms=[5, 6], event_ms=5, kind=Kind.VIEW, product=[1, 0]).event_ms.tolist()
        [5, 5]
        """
        given = {"placed_ms": ABSENT, "lines": 1, **columns}
        record = {name: _column(given.get(name, 0), n, dtype) for name, dtype in RECORD_COLUMNS.items()}
        line = {name: _column(given.get(name, 0), m, dtype) for name, dtype in LINE_COLUMNS.items()}
        return cls(**record, **line)

    @classmethod
    def none(cls) -> Self:
        """No records."""
        return cls.of(0, 0)

    @classmethod
    def concatenate(cls, parts: Sequence["Events"]) -> Self:
        """All records of `parts`, in that order."""
        if not parts:
            return cls.none()
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in (*RECORD_COLUMNS, *LINE_COLUMNS)})

    def line_record(self) -> npt.NDArray[np.int64]:
        """Shape (m,): the record that each line belongs to.

        >>> Events.of(2, 3, lines=[2, 1]).line_record().tolist()
        [0, 0, 1]
        """
        return np.repeat(np.arange(len(self)), self.lines)

    def take(self, records: npt.NDArray[np.int64]) -> "Events":
        """The records at these indices, in this order, with their lines.

        >>> Events.of(2, 3, lines=[2, 1], product=[7, 8, 9]).take(np.array([1, 0])).product.tolist()
        [9, 7, 8]
        """
        lines = self.lines[records]
        first = (np.cumsum(self.lines) - self.lines)[records]
        within = np.arange(int(lines.sum())) - np.repeat(np.cumsum(lines) - lines, lines)
        line = np.repeat(first, lines) + within
        record_columns = {name: getattr(self, name)[records] for name in RECORD_COLUMNS}
        line_columns = {name: getattr(self, name)[line] for name in LINE_COLUMNS}
        return Events(**record_columns, **line_columns)

    def where(self, keep: npt.NDArray[np.bool_]) -> "Events":
        """The records where `keep`, shape (n,), is true."""
        return self.take(np.flatnonzero(keep))

    def but(self, **columns: npt.ArrayLike) -> "Events":
        """The same with some record columns replaced (broadcast to the number of records)."""
        same = {name: getattr(self, name) for name in (*RECORD_COLUMNS, *LINE_COLUMNS)}
        same.update({name: _column(value, len(self), RECORD_COLUMNS[name]) for name, value in columns.items()})
        return Events(**same)

    def partition(self, partitions: int) -> npt.NDArray[np.int64]:
        """Shape (n,): the partition of each record, of so many."""
        return (self.key + self.hop) % partitions


def _column(values: npt.ArrayLike, length: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    column = np.asarray(values, dtype=dtype)
    return column if column.shape == (length,) else np.broadcast_to(column, (length,)).copy()


@dataclass(frozen=True, slots=True)
class Names:
    """What the numbers in the columns are called on the wire."""

    product_ids: tuple[str, ...]
    order_ids: tuple[str, ...] | None = None  # by order number; None: made from the number
    currency: str | None = None  # of all orders; None: not sent
    sessions: bool = True  # clicks carry a session
