"""Decoded events as columns: what `streaming.decode` makes and `feature_store.tiles` folds."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

# Stands for "this record says nothing here" in an int64 column of milliseconds or hashes.
ABSENT: Final = -1


class Kind(IntEnum):
    """What happened to a product in one line of an event."""

    PLACED = 0
    CANCELLED = 1
    RETURNED = 2
    VIEW = 3
    ADD_TO_CART = 4
    REMOVE_FROM_CART = 5
    WISHLIST = 6


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Accepted records of one fetch from one source, in offset order; `n` records hold `m` lines (order items, or one line a click).

    Heartbeats are records without lines whose `event_time_ms` is the watermark that they declare (see `heartbeat`).
    """

    # per record, shape (n,)
    offset: npt.NDArray[np.int64]
    timestamp_ms: npt.NDArray[np.int64]  # Kafka's own
    sent_at_ms: npt.NDArray[np.int64]  # header `sent_at` (real time); the Kafka timestamp where absent
    event_time_ms: npt.NDArray[np.int64]
    placed_at_ms: npt.NDArray[np.int64]  # ABSENT where not given
    event_hash: npt.NDArray[np.int64]  # 53 bits of xxh3(event_id), so that Lua's numbers hold it; ABSENT: not deduplicated
    heartbeat: npt.NDArray[np.bool_]
    # per line, shape (m,)
    record: npt.NDArray[np.int64]  # index into the record columns, non-decreasing
    product: npt.NDArray[np.int64]  # index into product_ids
    kind: npt.NDArray[np.int8]  # Kind
    quantity: npt.NDArray[np.float64]  # integers, thousandths of a unit; 0 for clicks
    amount: npt.NDArray[np.float64]  # integers, 1/10,000 of the currency; 0 for clicks and other currencies
    product_ids: tuple[str, ...]  # distinct

    def __len__(self) -> int:
        return len(self.offset)

    def where(self, keep: npt.NDArray[np.bool_]) -> "EventBatch":
        """The records where `keep`, shape (n,), is true, with their lines; `product_ids` stay as they are."""
        lines = keep[self.record]
        renumbered = np.cumsum(keep) - 1
        return EventBatch(
            offset=self.offset[keep],
            timestamp_ms=self.timestamp_ms[keep],
            sent_at_ms=self.sent_at_ms[keep],
            event_time_ms=self.event_time_ms[keep],
            placed_at_ms=self.placed_at_ms[keep],
            event_hash=self.event_hash[keep],
            heartbeat=self.heartbeat[keep],
            record=renumbered[self.record[lines]],
            product=self.product[lines],
            kind=self.kind[lines],
            quantity=self.quantity[lines],
            amount=self.amount[lines],
            product_ids=self.product_ids,
        )
