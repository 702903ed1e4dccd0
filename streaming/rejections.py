"""Why a record was not counted: a class for counting, the path of the fault, and a message that never holds a field's value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, runtime_checkable

import msgspec
from msgspec import Struct

from feature_store.measures import INTEGERS_PER_UNIT
from streaming.contracts import MAX_LINE_AMOUNT, MAX_TIME_MS, MIN_TIME_MS, epoch_ms, valid_currency, valid_id


class ErrorClass(StrEnum):
    """What is wrong with a record; the `reason` of metrics and dead letters."""

    EMPTY = "empty"  # no value, and not a heartbeat either
    NOT_JSON = "not_json"  # cut off, not UTF-8, NaN, trailing bytes, nested too deeply
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    OUT_OF_RANGE = "out_of_range"  # a number, or the length of a list
    BAD_ID = "bad_id"  # empty, longer than 128 bytes, or with control characters
    BAD_TIME = "bad_time"  # not RFC 3339 with an offset, or no plausible epoch milliseconds
    BAD_VALUE = "bad_value"  # none of the allowed words, or no currency
    # Judged after decoding, against the watermark of the record's source.
    FUTURE = "future"
    EXPIRED = "expired"
    TOO_LATE = "too_late"


class Fault(NamedTuple):
    """What is wrong with one value."""

    error_class: ErrorClass
    path: str  # as msgspec writes it: `$.items[0].quantity`; headers: `headers.watermark`
    message: str


@runtime_checkable
class Line(Protocol):
    """A line of an order, in whatever struct."""

    quantity: float
    unit_price: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not counted."""

    index: int  # in the records that were given
    offset: int
    timestamp_ms: int  # Kafka's own
    error_class: ErrorClass
    path: str
    message: str


JUDGED: Final = {
    ErrorClass.FUTURE: "the event's time is too far after the record's Kafka timestamp",
    ErrorClass.EXPIRED: "the event's step is no longer kept: it ended too long before the watermark of its source",
    ErrorClass.TOO_LATE: "the event came too late to be counted",
}
ID_FIELDS: Final = frozenset(
    {
        "event_id",
        "order_id",
        "product_id",
        "customer_id",
        "session_id",
        "alert_id",
        "fingerprint",
        "series",
        "scope",
        "category",
        "acknowledged_by",
    }
)
TIME_FIELDS: Final = frozenset({"event_time", "placed_at", "start", "end", "stock_at", "acknowledged_at"})
CURRENCY_MESSAGE: Final = "not a currency: three letters of ISO 4217 wanted"
ID_MESSAGE: Final = "not an id: 1 to 128 bytes of UTF-8 without control characters wanted"
TIME_MESSAGE: Final = "not a time: RFC 3339 with an offset, or epoch milliseconds wanted"

_PATH: Final = re.compile(r"\$(?:\.[a-z_]+|\[\d+\])*")
_MISSING: Final = re.compile(r"Object missing required field `([a-z_]+)`")
_MISMATCH: Final = re.compile(r"Expected `[a-z |]+`, got `[a-z]+`")  # names of types only: may be passed on
_LIMIT: Final = re.compile(r"Expected `(?:int|float)` [<>]=? -?[0-9.e+]+")
_LENGTH: Final = re.compile(r"Expected `array` of length [<>]= \d+")
_MALFORMED: Final = re.compile(r"JSON is malformed: [a-z ,]+(?: \(byte \d+\))?")


def fault_of(error: Exception) -> Fault:
    """What msgspec complains about. Its messages may quote values; ours don't.

    >>> try: msgspec.json.decode(b'{"quantity": "two"}', type=dict[str, float])
    ... except msgspec.ValidationError as error: fault_of(error).error_class.value
    'wrong_type'
    """
    if isinstance(error, msgspec.ValidationError):
        return _invalid(str(error))
    if isinstance(error, RecursionError):
        return Fault(ErrorClass.NOT_JSON, "$", "nested too deeply")
    if isinstance(error, UnicodeError):
        return Fault(ErrorClass.NOT_JSON, "$", "text is not UTF-8")
    text = str(error)
    return Fault(ErrorClass.NOT_JSON, "$", text if _MALFORMED.fullmatch(text) else "the document ends too early")


def faults(document: Struct, path: str = "$") -> Iterator[Fault]:
    """What is wrong with a decoded document, of what the types can't say: bytes of ids, range of RFC 3339 times, worth of lines.

    Fields that the types have found to be of the right kind are known by their names, which mean the same in every contract.
    """
    for name in document.__struct_fields__:
        value, here = getattr(document, name), f"{path}.{name}"
        if name in ID_FIELDS and value and not valid_id(value):  # none is empty but a heartbeat's
            yield Fault(ErrorClass.BAD_ID, here, ID_MESSAGE)
        elif isinstance(value, datetime) and not MIN_TIME_MS <= epoch_ms(value) <= MAX_TIME_MS:
            yield Fault(ErrorClass.BAD_TIME, here, TIME_MESSAGE)
        elif name == "currency" and not valid_currency(value):
            yield Fault(ErrorClass.BAD_VALUE, here, CURRENCY_MESSAGE)
        elif isinstance(value, list):
            for i, element in enumerate(value):
                if isinstance(element, Struct):
                    yield from faults(element, f"{here}[{i}]")
        elif isinstance(value, Struct):
            yield from faults(value, here)
    if (
        isinstance(document, Line)
        and round(document.quantity * INTEGERS_PER_UNIT) / INTEGERS_PER_UNIT * document.unit_price > MAX_LINE_AMOUNT
    ):
        yield Fault(ErrorClass.OUT_OF_RANGE, path, f"quantity times unit_price is more than {MAX_LINE_AMOUNT:g}")


def _invalid(text: str) -> Fault:
    what, _, at = text.rpartition(" - at `")
    path = at.removesuffix("`") if what else "$"
    path = path if _PATH.fullmatch(path) else "$"
    what = what or text
    if missing := _MISSING.fullmatch(what):
        return Fault(ErrorClass.MISSING_FIELD, f"{path}.{missing[1]}", "required field is missing")
    if _MISMATCH.fullmatch(what):
        return Fault(ErrorClass.WRONG_TYPE, path, _plain(what))
    field = path.rpartition(".")[2]
    if field in TIME_FIELDS:
        return Fault(ErrorClass.BAD_TIME, path, TIME_MESSAGE)
    if field == "currency":
        return Fault(ErrorClass.BAD_VALUE, path, CURRENCY_MESSAGE)
    if what.startswith("Expected `str`"):
        return Fault(ErrorClass.BAD_ID, path, ID_MESSAGE)
    if what.startswith("Invalid enum value"):
        return Fault(ErrorClass.BAD_VALUE, path, "not one of the words that are allowed here")
    known = _LIMIT.fullmatch(what) or _LENGTH.fullmatch(what)
    return Fault(ErrorClass.OUT_OF_RANGE, path, _plain(what) if known else "number out of range")


def _plain(what: str) -> str:
    """Our contracts' words for Python's types.

    >>> _plain("Expected `int | datetime | null`, got `float`")
    'Expected `time (epoch ms or RFC 3339) | null`, got `number`'
    """
    return what.replace("int | datetime", "time (epoch ms or RFC 3339)").replace("`float`", "`number`")
