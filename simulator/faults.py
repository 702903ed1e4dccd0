"""Ways in which a record can be malformed: each takes a good record's bytes and spoils them so that no decoder may accept them."""

from collections.abc import Callable
from typing import Final

from simulator.events import Topic

Fault = Callable[[bytes], bytes]


def _cut(value: bytes) -> bytes:
    return value[: len(value) // 2]


def _empty(_: bytes) -> bytes:
    return b""


def _not_an_object(value: bytes) -> bytes:
    return b"[" + value + b"]"


def _trailing(value: bytes) -> bytes:
    return value + b"}"


def _replace(old: bytes, new: bytes) -> Fault:
    """The first occurrence of `old` becomes `new`."""

    def fault(value: bytes) -> bytes:
        return value.replace(old, new, 1)

    return fault


def _drop_field(name: bytes) -> Fault:
    return _replace(b'"' + name + b'":', b'"was_' + name + b'":')


def _last_item(new: bytes) -> Fault:
    """A bad item behind good ones: it must reject its whole record."""

    def fault(value: bytes) -> bytes:
        return value[: value.rindex(b"]")] + b"," + new + value[value.rindex(b"]") :]

    return fault


ORDER_FAULTS: Final[dict[str, Fault]] = {
    "cut_json": _cut,
    "empty": _empty,
    "not_an_object": _not_an_object,
    "trailing_bytes": _trailing,
    "no_items": _drop_field(b"items"),
    "no_event_id": _drop_field(b"event_id"),
    "no_event_time": _drop_field(b"event_time"),
    "unknown_status": _replace(b'"status":"', b'"status":"un'),
    "text_quantity": _replace(b'"quantity":', b'"quantity":"two","was_quantity":'),
    "true_quantity": _replace(b'"quantity":', b'"quantity":true,"was_quantity":'),
    "negative_quantity": _replace(b'"quantity":', b'"quantity":-'),
    "huge_quantity": _replace(b'"quantity":', b'"quantity":9000000'),
    "negative_price": _replace(b'"unit_price":', b'"unit_price":-1'),
    "nan_price": _replace(b'"unit_price":', b'"unit_price":NaN,"was_price":'),
    "invalid_utf8": _replace(b'"product_id":"', b'"product_id":"\xff\xfe'),
    "control_character": _replace(b'"product_id":"', b'"product_id":"\\u0007'),
    "bad_last_item": _last_item(b'{"product_id":"","quantity":1,"unit_price":1}'),
    "null_item": _last_item(b"null"),
}
CLICK_FAULTS: Final[dict[str, Fault]] = {
    "cut_json": _cut,
    "empty": _empty,
    "not_an_object": _not_an_object,
    "trailing_bytes": _trailing,
    "no_product": _drop_field(b"product_id"),
    "number_product": _replace(b'"product_id":', b'"product_id":5,"was_product":'),
    "long_product": _replace(b'"product_id":"', b'"product_id":"' + b"x" * 129),
    "no_type": _drop_field(b"type"),
    "unknown_type": _replace(b'"type":"', b'"type":"un'),
    "null_time": _replace(b'"event_time":', b'"event_time":null,"was_time":'),
    "true_time": _replace(b'"event_time":', b'"event_time":true,"was_time":'),
    "text_time": _replace(b'"event_time":', b'"event_time":"yesterday","was_time":'),
    "invalid_utf8": _replace(b'"product_id":"', b'"product_id":"\xff\xfe'),
}
FAULTS: Final = {Topic.ORDERS: tuple(ORDER_FAULTS.items()), Topic.CLICKSTREAM: tuple(CLICK_FAULTS.items())}


def fault_name(topic: Topic, number: int) -> str:
    """The name of fault 1, 2, … of a topic.

    >>> fault_name(Topic.ORDERS, 1)
    'cut_json'
    """
    return FAULTS[topic][number - 1][0]


def spoil(topic: Topic, number: int, value: bytes) -> bytes:
    """The record's bytes with fault 1, 2, … of its topic.

    >>> spoil(Topic.CLICKSTREAM, 9, b'{"type":"view"}')
    b'{"type":"unview"}'
    """
    return FAULTS[topic][number - 1][1](value)
