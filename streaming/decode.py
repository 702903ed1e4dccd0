"""Records of the input topics to columns: typed, strict, and never an exception, whatever the bytes are.

Per record there is one call of msgspec and hardly any other Python. Personal data are not read: fields that `streaming.columns` leaves out are
skipped, unchecked. One bad item rejects its whole record; no record costs its neighbours.
"""

import functools
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from feature_store.events import EventBatch
from streaming.columns import ClickIn, Flags, OrderIn, Record, click_columns, concatenate, decimal_ms, order_columns
from streaming.contracts import WATERMARK
from streaming.rejections import JUDGED, ErrorClass, Fault, Rejected, fault_of, faults

__all__ = ["ErrorClass", "Record", "Rejected", "Unreadable", "decode_clicks", "decode_orders", "read", "reject_judged"]

S = TypeVar("S", bound=Struct)
D = TypeVar("D", OrderIn, ClickIn)

# The documents of a block stay in the processor's cache until their columns are built: a third faster than 30,000 at once.
BLOCK_RECORDS: Final = 512
# All that msgspec raises on bytes (not UTF-8 is a ValueError), and TypeError for no bytes at all.
DECODING_ERRORS: Final = (msgspec.MsgspecError, ValueError, RecursionError, TypeError)

_decode_order: Final = msgspec.json.Decoder(OrderIn).decode
_decode_click: Final = msgspec.json.Decoder(ClickIn).decode


def decode_orders(records: Sequence[Record], *, currency: str | None) -> tuple[EventBatch, list[Rejected]]:
    """The accepted records of one fetch of `orders` as columns, and the rejected ones, both in offset order.

    A line's amount is `quantity · unit_price`, rounded once; it is 0 where the order's currency is given and is not `currency` (None: all
    are taken). Never raises, whatever the records hold.
    """
    return _decode(
        records,
        _decode_order,
        beat=lambda watermark_ms: OrderIn("", "", watermark_ms, "placed", []),
        columns=lambda kept, orders: order_columns(kept, orders, currency),
    )


def decode_clicks(records: Sequence[Record]) -> tuple[EventBatch, list[Rejected]]:
    """The accepted records of one fetch of `clickstream` as columns, and the rejected ones, both in offset order. Never raises."""
    return _decode(
        records,
        _decode_click,
        beat=lambda watermark_ms: ClickIn(watermark_ms, "view", ""),
        columns=click_columns,
    )


def reject_judged(records: Sequence[Record], batch: EventBatch, rejections: Sequence[tuple[int, str]]) -> list[Rejected]:
    """Rejections by `feature_store.watermarks.judge`, which name records by their place in `batch`, in the form of those by decoding.

    `records` are those that `batch` was decoded from.
    """
    if not rejections:
        return []
    place = {record.offset: index for index, record in enumerate(records)}
    found = [(place[int(batch.offset[i])], ErrorClass(reason)) for i, reason in rejections]
    return [Rejected(i, records[i].offset, records[i].timestamp, reason, "$.event_time", JUDGED[reason]) for i, reason in found]


class Unreadable(ValueError):
    """A message that is not what its contract says; `fault` says why, without values."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.path}: {fault.message}")
        self.fault = fault


def read(kind: type[S], value: bytes) -> S:
    """One message of any contract, checked in full. Raises Unreadable.

    >>> from streaming.contracts import Doorbell
    >>> read(Doorbell, b'{"shard":3,"sequence":10,"oldest_sent_at":5}').sequence
    10
    >>> read(Doorbell, b'{"shard":3,"sequence":"x","oldest_sent_at":5}')
    Traceback (most recent call last):
        ...
    streaming.decode.Unreadable: $.sequence: Expected `int`, got `str`
    """
    try:
        message: S = _decoder(kind).decode(value)
    except DECODING_ERRORS as error:
        raise Unreadable(fault_of(error)) from None
    if fault := next(faults(message), None):
        raise Unreadable(fault)
    return message


@functools.cache
def _decoder(kind: type[Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


# --- records to documents, documents to columns ---
def _decode(
    records: Sequence[Record],
    decode: Callable[[bytes], D],
    beat: Callable[[int], D],
    columns: Callable[[Sequence[Record], list[D]], tuple[EventBatch, Flags]],
) -> tuple[EventBatch, list[Rejected]]:
    batches: list[EventBatch] = []
    rejected: list[Rejected] = []
    for start in range(0, max(len(records), 1), BLOCK_RECORDS):
        block = records[start : start + BLOCK_RECORDS]
        batch, found = _decode_block(block, decode, beat, columns)
        batches.append(batch)
        rejected += [Rejected(start + i, block[i].offset, block[i].timestamp, *fault) for i, fault in sorted(found.items())]
    return concatenate(batches), rejected


def _decode_block(
    records: Sequence[Record],
    decode: Callable[[bytes], D],
    beat: Callable[[int], D],
    columns: Callable[[Sequence[Record], list[D]], tuple[EventBatch, Flags]],
) -> tuple[EventBatch, dict[int, Fault]]:
    """The good records as columns, and the faults of the others by their place in `records`."""
    documents: list[D] = []
    found: dict[int, Fault] = {}  # by place in `records`
    for i, record in enumerate(records):
        try:
            documents.append(decode(record.value))  # type: ignore[arg-type]  # None raises TypeError, as wanted
        except DECODING_ERRORS as error:
            declared = fault_of(error) if record.value else heartbeat(record)
            if isinstance(declared, Fault):
                found[i] = declared
            else:
                documents.append(beat(declared))

    kept = [i for i in range(len(records)) if i not in found] if found else range(len(records))
    batch, invalid = columns([records[i] for i in kept] if found else records, documents)
    if invalid.any():
        batch = batch.where(~invalid)
        found |= {i: next(faults(document)) for i, document in compress(zip(kept, documents, strict=True), invalid)}
    return batch, found


def heartbeat(record: Record) -> int | Fault:
    """The watermark, epoch ms, that a record without a value declares."""
    for name, value in record.headers:
        if name == WATERMARK:
            watermark_ms = decimal_ms(value)
            if watermark_ms is None:
                return Fault(ErrorClass.BAD_TIME, f"headers.{WATERMARK}", "not epoch milliseconds in decimal digits")
            return watermark_ms
    return Fault(ErrorClass.EMPTY, "$", f"no value, and no header `{WATERMARK}` that would make it a heartbeat")
