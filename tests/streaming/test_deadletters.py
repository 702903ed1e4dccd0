"""Dead letters keep the record as it was, name it, and can always be sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.contracts import Headers
from streaming.deadletters import HEADERS, MAX_KEY_BYTES, MAX_VALUE_BYTES, ORIGINAL, dead_letter
from streaming.decode import Record, decode_orders
from tests.streaming.records import NOW_MS, dump, item, order, record

# What brokers (message.max.bytes) and producers (max_request_size) take by default.
BROKERS_LIMIT = 1_048_576


def letter_of(rejected_record: Record) -> tuple[bytes | None, bytes | None, Headers]:
    _, (rejected,) = decode_orders([rejected_record], currency=None)
    return dead_letter(rejected_record, rejected, "ingest")


def test_a_dead_letter_says_where_it_came_from_and_what_is_wrong() -> None:
    value = dump(order(event_id="s3cret", items=[item(), item(quantity="s3cret")]))
    key, kept, headers = letter_of(record(value, 4711, key=b"\xff\0", headers=[("sent_at", b"5"), ("x", b"\xff")]))
    assert (key, kept) == (b"\xff\0", value)
    said = dict(headers)
    assert said == {
        "ce_specversion": b"1.0",
        "ce_id": b"orders/3/4711",
        "ce_type": b"trendcast.dead-letter.v1",
        "ce_source": b"/kafka/orders/3",
        "ce_time": b"2025-10-09T08:53:20.000Z",
        "source_topic": b"orders",
        "source_partition": b"3",
        "source_offset": b"4711",
        "source_timestamp": str(NOW_MS).encode(),
        "stage": b"ingest",
        "error_class": b"wrong_type",
        "path": b"$.items[1].quantity",
        "message": b"Expected `number`, got `str`",
        "original.sent_at": b"5",
        "original.x": b"\xff",
    }
    assert set(HEADERS) - set(said) == {"key_bytes", "value_bytes", "headers_bytes"}
    assert not any(b"s3cret" in text for _, text in headers)


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 2**62])
def test_any_kafka_timestamp_can_be_told(timestamp_ms: int) -> None:
    _, _, headers = letter_of(record(b"{", timestamp_ms=timestamp_ms))
    assert dict(headers)["source_timestamp"] == str(timestamp_ms).encode()


def test_what_is_too_large_to_be_sent_is_cut_and_said() -> None:
    many = [("h", b"")] * 10_000
    key, value, headers = letter_of(record(b"{" * 5_000_000, key=b"k" * 2_000_000, headers=many))
    said = dict(headers)
    assert (key, value) == (b"k" * MAX_KEY_BYTES, b"{" * MAX_VALUE_BYTES)
    assert (said["key_bytes"], said["value_bytes"], said["headers_bytes"]) == (b"2000000", b"5000000", b"170000")
    assert not any(name.startswith(ORIGINAL) for name, _ in headers)


HEADER = st.tuples(st.text(max_size=20), st.binary(max_size=2000))


@given(
    st.none() | st.binary(max_size=50), st.binary(max_size=50), st.integers(1, 100_000), st.lists(HEADER, max_size=5), st.integers(1, 5000)
)
def test_it_can_always_be_sent(key: bytes | None, value: bytes, times: int, headers: Headers, copies: int) -> None:
    spoiled = record(b"{" + value * times, key=key and key * times, headers=headers * copies)
    key, kept, letter_headers = letter_of(spoiled)
    size = len(key or b"") + len(kept or b"") + sum(len(name.encode()) + len(text) + 6 for name, text in letter_headers)
    assert size < BROKERS_LIMIT - 10_000
    if spoiled.value and len(spoiled.value) <= MAX_VALUE_BYTES:
        assert kept == spoiled.value


def test_tombstones_and_missing_keys_stay_what_they_are() -> None:
    key, value, _ = letter_of(record(None, key=None))
    assert key is value is None
