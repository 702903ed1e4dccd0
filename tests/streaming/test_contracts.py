"""What is sent can be read back, and not-a-number never leaves."""

import json
import math
from datetime import datetime
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.contracts import (
    CE_TYPES,
    MAX_ID_BYTES,
    Doorbell,
    Forecast,
    Message,
    Order,
    OrderItem,
    TrendAlert,
    UnencodableValue,
    alert_headers,
    cloud_event,
    doorbell_headers,
    encode,
    epoch_ms,
    forecast_headers,
    rfc3339,
    valid_id,
)
from streaming.decode import decode_orders, read
from tests.streaming.records import EXAMPLES, NOW_MS, alert, forecast, record


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_what_is_sent_can_be_read_back(message: Message) -> None:
    assert read(type(message), encode(message)) == message


def test_every_contract_has_an_example_and_a_cloud_event_type() -> None:
    assert {type(message) for message in EXAMPLES} == set(get_args(Message)) == set(CE_TYPES)
    assert len(set(CE_TYPES.values())) == len(CE_TYPES)


def number_paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where a message holds floats."""
    if isinstance(value, float):
        return [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [found for name, inner in pairs for found in number_paths(inner, (*path, name))]


def put(message: Message, path: tuple[str | int, ...], number: object) -> Message:
    """The message with another number at the path, which no reader would let through."""
    document = msgspec.to_builtins(message)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = number
    return msgspec.convert(document, type(message))


@given(st.data())
def test_not_a_number_and_infinity_never_leave(data: st.DataObject) -> None:
    messages: list[Message] = [forecast(), alert()]
    message = data.draw(st.sampled_from(messages))
    path = data.draw(st.sampled_from([path for path in number_paths(msgspec.to_builtins(message)) if path[0] != "levels"]))
    bad = put(message, path, data.draw(st.sampled_from([math.nan, math.inf, -math.inf])))
    field = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in path)
    with pytest.raises(UnencodableValue, match="is not a finite number") as caught:
        encode(bad)
    assert str(caught.value).startswith(type(message).__name__ + field + " ")
    encode(put(message, path, 1e308))


def test_sums_of_huge_numbers_overflow_without_harm() -> None:
    huge = msgspec.structs.replace(forecast(), mean=[1.7e308, 1.7e308])
    assert read(Forecast, encode(huge)).mean == [1.7e308, 1.7e308]


@pytest.mark.parametrize("value", ["\ud800", np.float32(1), object()])
def test_what_json_can_not_hold_is_refused_without_quoting_it(value: Any) -> None:
    with pytest.raises(UnencodableValue, match=r"^TrendAlert holds something"):
        encode(msgspec.structs.replace(alert(), title=value))


def test_an_order_that_is_encoded_is_an_order_that_is_accepted() -> None:
    item = OrderItem(product_id="p", quantity=1.5, unit_price=2)
    order = Order(event_id="e", order_id="o", event_time=NOW_MS, status="returned", items=[item])
    batch, rejected = decode_orders([record(encode(order))], currency="EUR")
    assert (batch.quantity.tolist(), batch.amount.tolist(), rejected) == ([1500.0], [30_000.0], [])


def test_fields_that_are_absent_are_written_as_null() -> None:
    document = json.loads(encode(alert()))
    assert document["ends_at"] is document["reason"] is None
    assert document["schema"] == 1


@given(st.text(max_size=140))
def test_ids_are_counted_in_bytes(text: str) -> None:
    control = any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
    assert valid_id(text) == (1 <= len(text.encode()) <= MAX_ID_BYTES and not control)


@given(st.integers(0, 253_402_300_799_999))
def test_times_go_through_rfc_3339(time_ms: int) -> None:
    assert epoch_ms(msgspec.convert(rfc3339(time_ms), type=datetime)) == time_ms


def test_headers_of_a_repeated_message_are_the_same_and_of_another_are_not() -> None:
    again = msgspec.structs.replace(forecast(), issued_at=NOW_MS + 5)
    closed = msgspec.structs.replace(forecast(), kind="close")
    assert (
        dict(forecast_headers(forecast(), "/s"))["ce_id"]
        == dict(forecast_headers(again, "/s"))["ce_id"]
        == "SKU-ä/488887/10/nowcast".encode()
    )
    assert dict(forecast_headers(closed, "/s"))["ce_id"] != dict(forecast_headers(again, "/s"))["ce_id"]
    assert dict(alert_headers(alert(), "/s"))["ce_id"] == b"a1/5866666/firing"
    assert dict(doorbell_headers(Doorbell(shard=3, sequence=4, oldest_sent_at=0), "/s"))["ce_id"] == b"3/4"


def test_headers_are_those_of_cloud_events_in_binary_mode() -> None:
    headers = dict(cloud_event(TrendAlert, id="i", source="/trendcast/shop", time_ms=NOW_MS))
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"i",
        "ce_type": b"trendcast.trend-alert.v1",
        "ce_source": b"/trendcast/shop",
        "ce_time": b"2025-10-09T08:53:20.000Z",
        "content-type": b"application/json",
    }
