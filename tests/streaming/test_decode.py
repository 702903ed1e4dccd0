"""Records to columns: what is accepted, what is rejected and why, and that records don't touch one another."""

import msgspec
import pytest
import xxhash

from feature_store.events import ABSENT, Kind
from feature_store.watermarks import judge
from streaming.columns import ClickIn, ItemIn, OrderIn
from streaming.contracts import MAX_TIME_MS, Click, Doorbell, Order, OrderItem, ProductFacts
from streaming.decode import ErrorClass, Unreadable, decode_clicks, decode_orders, read, reject_judged
from tests.streaming.records import NOW_MS, click, dump, item, order, record, records, rows


def test_an_order_of_two_products_becomes_two_lines() -> None:
    value = dump(order(status="cancelled", placed_at=NOW_MS - 5, items=[item(quantity=1.2345), item(product_id="ä", unit_price=2)]))
    batch, rejected = decode_orders([record(value, 7, headers=[("sent_at", b"1760000000123")])], currency=None)
    lines = (("SKU-2", Kind.CANCELLED, 1234.0, 6170.0), ("ä", Kind.CANCELLED, 1000.0, 20_000.0))
    assert rows(batch) == [(7, NOW_MS, 1_760_000_000_123, NOW_MS, NOW_MS - 5, False, lines)]
    assert batch.event_hash.tolist() == [xxhash.xxh3_64_intdigest(b"e-1") >> 11]
    assert rejected == []


def test_a_click_becomes_one_line_without_quantity() -> None:
    kinds = ["view", "add_to_cart", "remove_from_cart", "wishlist"]
    batch, rejected = decode_clicks(records(dump(click(type=kind)) for kind in kinds))
    assert batch.kind.tolist() == [Kind.VIEW, Kind.ADD_TO_CART, Kind.REMOVE_FROM_CART, Kind.WISHLIST]
    assert batch.product_ids == ("SKU-1",)
    assert batch.event_hash.tolist() == batch.placed_at_ms.tolist() == [ABSENT] * 4
    assert not batch.quantity.any()
    assert not rejected


def test_nothing_in_nothing_out() -> None:
    for batch, rejected in (decode_orders([], currency=None), decode_clicks([])):
        assert len(batch) == len(batch.kind) == len(rejected) == 0
        assert batch.product_ids == ()


@pytest.mark.parametrize("decode", [lambda given: decode_orders(given, currency=None), decode_clicks])
def test_a_heartbeat_is_an_empty_value_with_a_watermark(decode) -> None:  # type: ignore[no-untyped-def]
    good = record(None, 1, headers=[("other", b"x"), ("watermark", b"1760000000001")])
    batch, rejected = decode([good, record(b"", 2, headers=[("watermark", b"soon")]), record(b"", 3, headers=[("sent_at", b"5")])])
    assert rows(batch) == [(1, NOW_MS, NOW_MS, 1_760_000_000_001, ABSENT, True, ())]
    assert batch.event_hash.tolist() == [ABSENT]
    assert [(r.offset, r.error_class, r.path) for r in rejected] == [(2, "bad_time", "headers.watermark"), (3, "empty", "$")]


@pytest.mark.parametrize("sent_at", [b"", b"soon", b"-5", b"1.7e12", b"9" * 5000, "١٧".encode(), None])
def test_a_time_of_sending_that_makes_no_sense_is_kafkas_timestamp(sent_at: bytes | None) -> None:
    headers = [("sent_at", sent_at)]
    batch, rejected = decode_orders([record(dump(order()), headers=headers)], currency=None)  # type: ignore[arg-type]
    assert batch.sent_at_ms.tolist() == [NOW_MS]
    assert not rejected


@pytest.mark.parametrize(
    ("time", "expected_ms"),
    [
        (NOW_MS, NOW_MS),
        ("2025-10-09T08:53:20Z", NOW_MS),
        ("2025-10-09T10:53:20.001+02:00", NOW_MS + 1),
        ("2025-10-09 08:53:20.001999z", NOW_MS + 1),
        ("9999-12-31T23:59:59.999Z", MAX_TIME_MS),
    ],
)
def test_times_come_as_milliseconds_or_as_rfc_3339(time: object, expected_ms: int) -> None:
    batch, _ = decode_orders([record(dump(order(event_time=time, placed_at=time)))], currency=None)
    assert batch.event_time_ms.tolist() == batch.placed_at_ms.tolist() == [expected_ms]
    batch, _ = decode_clicks([record(dump(click(event_time=time)))])
    assert batch.event_time_ms.tolist() == [expected_ms]


def test_milliseconds_and_rfc_3339_may_be_mixed_in_a_fetch() -> None:
    batch, _ = decode_orders(
        records(map(dump, [order(), order(event_time="2025-10-09T08:53:20Z"), order(placed_at=NOW_MS)])), currency=None
    )
    assert batch.event_time_ms.tolist() == [NOW_MS] * 3
    assert batch.placed_at_ms.tolist() == [ABSENT, ABSENT, NOW_MS]


def test_another_currency_counts_units_but_no_revenue() -> None:
    given = records(dump(order(currency=currency)) for currency in ("EUR", None, "USD"))
    batch, _ = decode_orders(given, currency="EUR")
    assert batch.amount.tolist() == [199_800.0, 199_800.0, 0.0]
    assert batch.quantity.tolist() == [2000.0] * 3
    assert decode_orders(given, currency=None)[0].amount.tolist() == [199_800.0] * 3


LIMITS_HELD = [
    order(event_id="x" * 128, order_id="ä" * 64, items=[item(product_id="😀" * 32)]),
    order(event_id=" ", order_id="a b", items=[item(product_id="\u2028")]),
    order(items=[item(quantity=1, unit_price=0), item(quantity=1e6, unit_price=1e5), item(unit_price=1e9), item(unit_price=-0.0)]),
    order(items=[item()] * 1000),
    order(placed_at=None, currency=None, customer_id=None, unknown={"deep": [[[1]]]}, schema=7),
    order(customer_id=5, unknown="\x7f" * 500),  # not read, so not checked
]


@pytest.mark.parametrize("document", LIMITS_HELD)
def test_what_lies_just_within_the_limits_is_accepted(document: dict[str, object]) -> None:
    batch, rejected = decode_orders([record(dump(document))], currency=None)
    assert (len(batch), rejected) == (1, [])
    assert not (batch.amount < 0).any()


BAD_ORDERS: list[tuple[bytes, str, str]] = [
    (b" ", "not_json", "$"),
    (b"{", "not_json", "$"),
    (dump(order())[:-1], "not_json", "$"),
    (dump(order()) + b"}", "not_json", "$"),
    (dump(order()) * 2, "not_json", "$"),
    (b"\xef\xbb\xbf" + dump(order()), "not_json", "$"),
    (dump(order()).decode().encode("utf-16"), "not_json", "$"),
    (b"[" * 100_000, "wrong_type", "$"),
    (b'{"unknown":' + b"[" * 100_000, "not_json", "$"),
    (b"null", "wrong_type", "$"),
    (dump([order()]), "wrong_type", "$"),
    (dump(order()).replace(b"e-1", b"\xff\xfe"), "not_json", "$"),
    (dump(order(event_id="\ud800")), "not_json", "$"),  # half a surrogate pair, in bytes
    (dump(order()).replace(b"e-1", b"\\ud800"), "not_json", "$"),  # and as an escape
    (dump(order(event_id="a")).replace(b'"a"', b'"a\x00"'), "not_json", "$"),
    (dump(order()).replace(b"e-1", b"a\\u0000"), "bad_id", "$.event_id"),
    (dump(order(event_id="")), "bad_id", "$.event_id"),
    (dump(order(event_id="x" * 129)), "bad_id", "$.event_id"),
    (dump(order(event_id="ä" * 65)), "bad_id", "$.event_id"),
    (dump(order(order_id="a\x85")), "bad_id", "$.order_id"),
    (dump(order(items=[item(), item(product_id="😀" * 33)])), "bad_id", "$.items[1].product_id"),
    (dump(order(items=[item(), item(product_id="a\x7f")])), "bad_id", "$.items[1].product_id"),
    (dump(order(event_id=5)), "wrong_type", "$.event_id"),
    (dump(order(event_id=None)), "wrong_type", "$.event_id"),
    (b"{}", "missing_field", "$.event_id"),
    (dump(order(items=[item(), {"product_id": "p", "quantity": 1}])), "missing_field", "$.items[1].unit_price"),
    (dump(order(items=[])), "out_of_range", "$.items"),
    (dump(order(items=[item()] * 1001)), "out_of_range", "$.items"),
    (dump(order(items=[item(), None])), "wrong_type", "$.items[1]"),
    (dump(order(items={})), "wrong_type", "$.items"),
    (dump(order(items=[item(quantity="2")])), "wrong_type", "$.items[0].quantity"),
    (dump(order(items=[item(quantity=True)])), "wrong_type", "$.items[0].quantity"),
    (dump(order(items=[item(quantity=0)])), "out_of_range", "$.items[0].quantity"),
    (dump(order(items=[item(quantity=0.9999)])), "out_of_range", "$.items[0].quantity"),
    (dump(order(items=[item(quantity=1_000_000.001)])), "out_of_range", "$.items[0].quantity"),
    (dump(order(items=[item(quantity=10**400)])), "out_of_range", "$.items[0].quantity"),
    (dump(order()).replace(b'"quantity": 2', b'"quantity": 1e400'), "out_of_range", "$.items[0].quantity"),
    (dump(order(items=[item(unit_price=float("nan"))])), "not_json", "$"),
    (dump(order(items=[item(unit_price=float("-inf"))])), "not_json", "$"),
    (dump(order(items=[item(unit_price=-0.01)])), "out_of_range", "$.items[0].unit_price"),
    (dump(order(items=[item(unit_price=1.1e9)])), "out_of_range", "$.items[0].unit_price"),
    (dump(order(items=[item(), item(quantity=1e6, unit_price=1e6)])), "out_of_range", "$.items[1]"),
    (dump(order(event_time=NOW_MS // 1000)), "bad_time", "$.event_time"),  # seconds
    (dump(order(event_time=-1)), "bad_time", "$.event_time"),
    (dump(order(event_time=10**30)), "bad_time", "$.event_time"),
    (dump(order(event_time=MAX_TIME_MS + 1)), "bad_time", "$.event_time"),
    (dump(order(event_time="9999-12-31T23:59:59-01:00")), "bad_time", "$.event_time"),
    (dump(order(event_time="1969-12-31T23:59:59.999Z")), "bad_time", "$.event_time"),
    (dump(order(event_time="0001-01-01T00:00:00+23:59")), "bad_time", "$.event_time"),
    (dump(order(event_time="2025-10-09T08:53:20")), "bad_time", "$.event_time"),
    (dump(order(event_time="2025-10-09")), "bad_time", "$.event_time"),
    (dump(order(event_time="yesterday")), "bad_time", "$.event_time"),
    (dump(order(event_time=float(NOW_MS))), "wrong_type", "$.event_time"),
    (dump(order(event_time=True)), "wrong_type", "$.event_time"),
    (dump(order(event_time=None)), "wrong_type", "$.event_time"),
    (dump(order(placed_at="1969-12-31T23:59:59.999Z")), "bad_time", "$.placed_at"),
    (dump(order(status="lost")), "bad_value", "$.status"),
    (dump(order(status=1)), "wrong_type", "$.status"),
    (dump(order(currency="eur")), "bad_value", "$.currency"),
    (dump(order(currency="EURO")), "bad_value", "$.currency"),
    (dump(order(currency="Ä€¢")), "bad_value", "$.currency"),
    (b'{"event_id":5,' + dump(order())[1:], "wrong_type", "$.event_id"),  # the second one is good
]


@pytest.mark.parametrize(("value", "error_class", "path"), BAD_ORDERS)
def test_a_bad_order_is_rejected_with_the_path_of_its_fault(value: bytes, error_class: str, path: str) -> None:
    batch, rejected = decode_orders([record(dump(order()), 4), record(value, 5, timestamp_ms=6), record(dump(order()), 7)], currency="EUR")
    assert batch.offset.tolist() == [4, 7]
    assert [(r.index, r.offset, r.timestamp_ms, r.error_class, r.path) for r in rejected] == [(1, 5, 6, ErrorClass(error_class), path)]
    assert rejected[0].message


BAD_CLICKS: list[tuple[bytes, str, str]] = [
    (dump(click(type="look")), "bad_value", "$.type"),
    (dump(click(product_id="a\n")), "bad_id", "$.product_id"),
    (dump(click(product_id="ä" * 65)), "bad_id", "$.product_id"),
    (dump(click(product_id="")), "bad_id", "$.product_id"),
    (dump({"type": "view", "product_id": "p"}), "missing_field", "$.event_time"),
    (dump(click(event_time="1960-01-01T00:00:00Z")), "bad_time", "$.event_time"),
]


@pytest.mark.parametrize(("value", "error_class", "path"), BAD_CLICKS)
def test_a_bad_click_is_rejected_with_the_path_of_its_fault(value: bytes, error_class: str, path: str) -> None:
    batch, rejected = decode_clicks([record(dump(click()), 4), record(value, 5), record(dump(click()), 7)])
    assert batch.offset.tolist() == [4, 7]
    assert [(r.index, r.offset, r.error_class, r.path) for r in rejected] == [(1, 5, ErrorClass(error_class), path)]


def test_the_last_of_two_equal_keys_counts() -> None:
    batch, rejected = decode_orders([record(b'{"event_id":"first",' + dump(order())[1:])], currency=None)
    assert batch.event_hash.tolist() == [xxhash.xxh3_64_intdigest(b"e-1") >> 11]
    assert not rejected


def test_what_the_watermark_rejects_looks_like_what_decoding_rejects() -> None:
    given = records([b"{", dump(order()), dump(order(event_time=NOW_MS + 10**9))])
    batch, _ = decode_orders(given, currency=None)
    judged = judge(batch, None, lateness_ms=0, future_ms=1000, step_ms=3_600_000, step_retention_ms=3_600_000)
    (rejected,) = reject_judged(given, batch, judged.rejections)
    assert (rejected.index, rejected.offset, rejected.timestamp_ms, rejected.error_class) == (2, 102, NOW_MS + 2, ErrorClass.FUTURE)
    assert reject_judged(given, batch, []) == []


@pytest.mark.parametrize(("read_struct", "contract"), [(OrderIn, Order), (ItemIn, OrderItem), (ClickIn, Click)])
def test_what_ingest_reads_is_part_of_the_contract_and_not_personal(
    read_struct: type[msgspec.Struct], contract: type[msgspec.Struct]
) -> None:
    promised = {field.name: field.required for field in msgspec.structs.fields(contract)}
    for field in msgspec.structs.fields(read_struct):
        assert promised[field.name] == field.required
    assert not {"customer_id", "session_id"} & set(read_struct.__struct_fields__)


def test_any_message_can_be_read_alone_and_is_checked_in_full() -> None:
    assert read(Doorbell, b'{"shard":3,"sequence":10,"oldest_sent_at":5,"more":null}').sequence == 10
    assert (
        read(ProductFacts, dump({"product_id": "p", "promotions": [{"start": NOW_MS, "end": NOW_MS + 1, "discount": 0.2}]})).stock is None
    )
    for kind, value, path in (
        (ProductFacts, dump({"product_id": "ä" * 65}), "$.product_id"),
        (ProductFacts, dump({"product_id": "a\n"}), "$.product_id"),
        (Order, dump(order(items=[item(), item(product_id="ä" * 65)])), "$.items[1].product_id"),
        (ProductFacts, b"", "$"),
    ):
        with pytest.raises(Unreadable) as caught:
            read(kind, value)
        assert caught.value.fault.path == path
