"""Decoded documents to columns, and which of them have a fault that the types can't see: too many bytes in an id, a line worth too much.

Hot: after msgspec's call, a record costs about 0.6 µs here. What exactly is wrong with the few is said by `streaming.rejections.faults`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Annotated, Final, Protocol

import numpy as np
import numpy.typing as npt
import xxhash
from msgspec import Meta, Struct

from feature_store.events import ABSENT, EventBatch, Kind
from feature_store.measures import INTEGERS_PER_CURRENCY, INTEGERS_PER_UNIT
from streaming.contracts import (
    CONTROL,
    MAX_ID_BYTES,
    MAX_ITEMS,
    MAX_LINE_AMOUNT,
    MAX_TIME_MS,
    MIN_TIME_MS,
    SENT_AT,
    ClickType,
    OrderStatus,
    Price,
    Quantity,
    TimeIn,
    epoch_ms,
    valid_currency,
    valid_id,
)

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Record(Protocol):
    """What is needed of aiokafka's ConsumerRecord."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...  # epoch ms
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


# --- what is read of the contracts: no personal data, and no pattern, which would cost more than all the rest ---
_FastId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]


class ItemIn(Struct, gc=False):
    product_id: _FastId
    quantity: Quantity
    unit_price: Price


class OrderIn(Struct, gc=False):
    event_id: _FastId
    order_id: _FastId
    event_time: TimeIn
    status: OrderStatus
    items: Annotated[list[ItemIn], Meta(min_length=1, max_length=MAX_ITEMS)]
    placed_at: TimeIn | None = None
    currency: Annotated[str, Meta(min_length=3, max_length=3)] | None = None


class ClickIn(Struct, gc=False):
    event_time: TimeIn
    type: ClickType
    product_id: _FastId


_ORDER_KINDS: Final[dict[str, Kind]] = {"placed": Kind.PLACED, "cancelled": Kind.CANCELLED, "returned": Kind.RETURNED}
_CLICK_KINDS: Final[dict[str, Kind]] = {
    "view": Kind.VIEW,
    "add_to_cart": Kind.ADD_TO_CART,
    "remove_from_cart": Kind.REMOVE_FROM_CART,
    "wishlist": Kind.WISHLIST,
}
_CONCATENATED: Final = tuple(field.name for field in fields(EventBatch) if field.name not in {"record", "product", "product_ids"})
# Hashes go through Lua, whose numbers are doubles: the upper 53 of 64 bits.
_HASH_SHIFT: Final = np.uint64(11)
# A character takes at most four bytes.
_SURELY_SHORT: Final = MAX_ID_BYTES // 4


# --- documents to columns ---
def order_columns(records: Sequence[Record], orders: Sequence[OrderIn], currency: str | None) -> tuple[EventBatch, Flags]:
    """All orders, and which of them, shape (n,), hold a fault that the types can't see. Orders without items are heartbeats."""
    length = np.array([len(order.items) for order in orders], dtype=np.int64)
    record = np.repeat(np.arange(len(orders)), length)
    lines = [item for order in orders for item in order.items]
    line_products = [line.product_id for line in lines]
    product_ids = tuple(dict.fromkeys(line_products))
    product = _codes(line_products, product_ids)
    event_ids = [order.event_id for order in orders]
    currencies = [order.currency for order in orders]
    event_time = _times([order.event_time for order in orders])
    placed_at = _times([order.placed_at for order in orders])
    quantity = np.rint(np.array([line.quantity for line in lines], dtype=np.float64) * INTEGERS_PER_UNIT)
    worth = quantity / INTEGERS_PER_UNIT * np.array([line.unit_price for line in lines], dtype=np.float64)
    invalid = _invalid_times(event_time) | _invalid_times(placed_at)
    invalid |= _invalid(event_ids) | _invalid([order.order_id for order in orders])
    invalid[record[_invalid(product_ids)[product] | (worth > MAX_LINE_AMOUNT)]] = True
    amount = np.rint(worth * INTEGERS_PER_CURRENCY) + 0.0  # a price of -0.0 is 0.0
    if foreign := set(currencies) - {None, currency}:
        invalid |= np.array([not valid_currency(text) for text in currencies], dtype=np.bool_)
        if currency is not None:
            amount[np.array([text in foreign for text in currencies], dtype=np.bool_)[record]] = 0.0
    heartbeat = length == 0
    event_hash = _hashes(event_ids)
    event_hash[heartbeat] = ABSENT
    kind = np.fromiter([_ORDER_KINDS[order.status] for order in orders], np.int8)
    offset, timestamp, sent_at = positions(records)
    batch = EventBatch(
        offset=offset,
        timestamp_ms=timestamp,
        sent_at_ms=sent_at,
        event_time_ms=event_time,
        placed_at_ms=placed_at,
        event_hash=event_hash,
        heartbeat=heartbeat,
        record=record,
        product=product,
        kind=kind[record],
        quantity=quantity,
        amount=amount,
        product_ids=product_ids,
    )
    return batch, invalid


def click_columns(records: Sequence[Record], clicks: Sequence[ClickIn]) -> tuple[EventBatch, Flags]:
    """All clicks, and which of them, shape (n,), hold a fault that the types can't see. Clicks without a product are heartbeats."""
    products = [click.product_id for click in clicks]
    heartbeat = np.array([not product for product in products], dtype=np.bool_)
    record = np.flatnonzero(~heartbeat)
    product_ids = tuple(filter(None, dict.fromkeys(products)))
    product = _codes(filter(None, products), product_ids)
    event_time = _times([click.event_time for click in clicks])
    invalid = _invalid_times(event_time)
    invalid[record[_invalid(product_ids)[product]]] = True
    kind = np.fromiter([_CLICK_KINDS[click.type] for click in clicks], np.int8)
    offset, timestamp, sent_at = positions(records)
    batch = EventBatch(
        offset=offset,
        timestamp_ms=timestamp,
        sent_at_ms=sent_at,
        event_time_ms=event_time,
        placed_at_ms=np.full(len(clicks), ABSENT, dtype=np.int64),
        event_hash=np.full(len(clicks), ABSENT, dtype=np.int64),
        heartbeat=heartbeat,
        record=record,
        product=product,
        kind=kind[record],
        quantity=np.zeros(len(record)),
        amount=np.zeros(len(record)),
        product_ids=product_ids,
    )
    return batch, invalid


def concatenate(batches: Sequence[EventBatch]) -> EventBatch:
    """Batches of consecutive records as one; there is at least one."""
    if len(batches) == 1:
        return batches[0]
    place: dict[str, int] = {}
    products, records = [], []
    n = 0
    for batch in batches:
        codes = np.array([place.setdefault(text, len(place)) for text in batch.product_ids], dtype=np.int64)
        products.append(codes[batch.product])
        records.append(batch.record + n)
        n += len(batch)
    same = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in _CONCATENATED}
    return EventBatch(**same, record=np.concatenate(records), product=np.concatenate(products), product_ids=tuple(place))


def positions(records: Sequence[Record]) -> tuple[Ints, Ints, Ints]:
    """Offsets, Kafka timestamps and times of sending; shape (n,) each."""
    offset = np.array([record.offset for record in records], dtype=np.int64)
    timestamp = np.array([record.timestamp for record in records], dtype=np.int64)
    headers = [record.headers for record in records]
    if not any(headers):
        return offset, timestamp, timestamp
    sent_at = [
        _sent_at_ms(header, record.timestamp) if header else record.timestamp for header, record in zip(headers, records, strict=True)
    ]
    return offset, timestamp, np.array(sent_at, dtype=np.int64)


def decimal_ms(digits: bytes | None) -> int | None:
    """Epoch milliseconds in ASCII digits, as headers hold them; None where they are no plausible time.

    >>> decimal_ms(b"1760000000001"), decimal_ms(b"-1"), decimal_ms(b"9" * 5000), decimal_ms(None)
    (1760000000001, None, None, None)
    """
    if not digits or len(digits) > len(str(MAX_TIME_MS)) or not digits.isdigit():
        return None
    time_ms = int(digits)
    return time_ms if MIN_TIME_MS <= time_ms <= MAX_TIME_MS else None


def _sent_at_ms(headers: Sequence[tuple[str, bytes]], timestamp_ms: int) -> int:
    """The header's time; one that can't be read only makes the measured freshness coarser, so the Kafka timestamp stands in."""
    for name, value in headers:
        if name == SENT_AT:
            sent_at_ms = decimal_ms(value)
            return timestamp_ms if sent_at_ms is None else sent_at_ms
    return timestamp_ms


def _times(times: Sequence[int | datetime | None]) -> Ints:
    """Epoch milliseconds, ABSENT for None; a datetime before the epoch is 0, which `_invalid_times` refuses."""
    if times.count(None) == len(times):
        return np.full(len(times), ABSENT, dtype=np.int64)
    try:
        return np.fromiter(times, np.int64, len(times))  # TypeError unless all are integers
    except TypeError:
        return np.array([ABSENT if time is None else max(epoch_ms(time), 0) for time in times], dtype=np.int64)


def _invalid_times(time_ms: Ints) -> Flags:
    invalid: Flags = (time_ms != ABSENT) & ((time_ms < MIN_TIME_MS) | (time_ms > MAX_TIME_MS))
    return invalid


def _invalid(ids: Sequence[str]) -> Flags:
    """Which ids are invalid, shape (n,); empty ones count as valid, and all have at most 128 characters. Fast where all are ASCII or short.

    >>> _invalid(["p1", "ä" * 64, "ä" * 65, "a\\x7f", "a\\x85", ""]).tolist()
    [False, False, True, True, True, False]
    """
    text = "".join(ids)
    if text.isprintable() if text.isascii() else not CONTROL.search(text) and max(map(len, ids)) <= _SURELY_SHORT:
        return np.zeros(len(ids), dtype=np.bool_)
    return np.array([each != "" and not valid_id(each) for each in ids], dtype=np.bool_)


def _hashes(event_ids: Sequence[str]) -> Ints:
    return (np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, event_ids)), np.uint64, len(event_ids)) >> _HASH_SHIFT).astype(
        np.int64
    )


def _codes(ids: Iterable[str], distinct: Sequence[str]) -> Ints:
    """Place of each id in `distinct`."""
    place = {text: i for i, text in enumerate(distinct)}
    return np.fromiter(map(place.__getitem__, ids), np.int64)
