"""Whatever the bytes are, nothing but `Rejected` comes out, and a record's fate does not depend on its neighbours."""

import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streaming.decode
from feature_store.events import EventBatch
from streaming.contracts import MAX_TIME_MS, MIN_TIME_MS
from streaming.decode import Rejected, decode_clicks, decode_orders
from tests.streaming.records import NOW_MS, click, dump, item, order, record, records, rows

# In every text of the records below: a message that holds it has quoted a field.
SECRET = "s3cret"


def decode(given_records: Sequence[Any], clicks: bool) -> tuple[EventBatch, list[Rejected]]:
    return decode_clicks(given_records) if clicks else decode_orders(given_records, currency="EUR")


def check(given_records: Sequence[Any], clicks: bool) -> None:
    """Each record comes out once; what is rejected says why without quoting; what is accepted is as it would be alone."""
    batch, rejected = decode(given_records, clicks)
    assert sorted([*batch.offset.tolist(), *(r.offset for r in rejected)]) == [r.offset for r in given_records]
    assert [r.index for r in rejected] == sorted(r.index for r in rejected)
    for r in rejected:
        assert given_records[r.index].offset == r.offset
        assert r.message
        assert SECRET not in r.message + r.path
    alone = [decode([r], clicks) for r in given_records]
    assert rows(batch) == [row for one, _ in alone for row in rows(one)]
    assert batch.event_hash.tolist() == [text for one, _ in alone for text in one.event_hash.tolist()]
    assert [(r.offset, r.error_class, r.path) for r in rejected] == [(r.offset, r.error_class, r.path) for _, bad in alone for r in bad]
    assert len(set(batch.product_ids)) == len(batch.product_ids)
    for column in (batch.quantity, batch.amount):
        assert (np.isfinite(column) & (column >= 0) & (column == np.rint(column))).all()


# --- documents: fields dropped, added, replaced by what JSON can say and a field must not be ---
TEXTS = st.one_of(
    st.sampled_from(
        ["", "x", "x" * 128, "x" * 129, "ä" * 64, "ä" * 65, "😀" * 32, "😀" * 33, "a\0b", "\x7f", "a\x85", "a\nb", "\ud800", "\u2028"]
    ),
    st.text(max_size=5),
)
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 0.5, 1.0005, 1e6, 1e6 + 1, 1e9, 1.1e9, 1e308, -0.0, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**40, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(1, 10**6),
)
TIMES = st.one_of(
    st.integers(MIN_TIME_MS, MAX_TIME_MS),
    st.sampled_from([MIN_TIME_MS - 1, MIN_TIME_MS, MAX_TIME_MS, MAX_TIME_MS + 1, -NOW_MS, 1_760_000_000, float(NOW_MS)]),
    st.datetimes(timezones=st.just(None)).map(lambda time: time.isoformat()),
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.sampled_from(["9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59", "2025-02-29T00:00:00Z", "2025-10-09T24:00:00Z"]),
)
NESTED = st.recursive(
    st.none() | st.booleans() | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
ANYTHING = st.one_of(st.none(), st.booleans(), TEXTS, NUMBERS, TIMES, NESTED)


def mutated(good: dict[str, Any], likely: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """The document with some fields replaced, mostly by something likely, and some dropped."""
    replaced = st.fixed_dictionaries({}, optional={name: st.one_of(strategy, strategy, ANYTHING) for name, strategy in likely.items()})
    dropped: st.SearchStrategy[set[str]] = st.sets(st.sampled_from(sorted(good)), max_size=1) | st.just(set())
    return st.tuples(replaced, dropped).map(lambda both: {name: value for name, value in (good | both[0]).items() if name not in both[1]})


ITEMS = mutated(item(), {"product_id": TEXTS, "quantity": NUMBERS, "unit_price": NUMBERS})
STATUSES = st.sampled_from(["placed", "cancelled", "returned", "Placed"])
ORDERS = mutated(
    order(),
    {
        "event_id": TEXTS,
        "order_id": TEXTS,
        "event_time": TIMES,
        "placed_at": TIMES,
        "status": STATUSES,
        "currency": st.sampled_from(["EUR", "USD", "eur", "", None]),
        "items": st.lists(ITEMS, max_size=3),
        "unknown": NESTED,
    },
)
CLICKS = mutated(
    click(), {"event_time": TIMES, "type": st.sampled_from(["view", "wishlist", "see"]), "product_id": TEXTS, "session_id": ANYTHING}
)


# --- bytes: documents cut, spliced and overwritten ---
POISON = [
    b"\xff",
    b"\xed\xa0\x80",
    b"\0",
    b"\x1f",
    b'"',
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"NaN",
    b"-Infinity",
    b"1e999",
]
POISON += [b"true", b"null", b"9" * 400, b"[" * 2000, b'{"a":' * 2000, b"\xef\xbb\xbf", b"\n", b'"event_id":"x",', b"-", b"0x1"]


@st.composite
def spoiled(draw: st.DrawFn, document: bytes) -> bytes:
    """Bytes of a record after up to three accidents."""
    value = document
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted((draw(st.integers(0, len(value))), draw(st.integers(0, len(value)))))
        filling = draw(st.sampled_from(POISON) | st.binary(max_size=4))
        value = draw(
            st.sampled_from(
                [value[:start] + filling + value[start:], value[:start] + filling + value[end:], value[:start], value[start:end]]
            )
        )
    return value


SECRETIVE = {
    False: [
        dump(
            order(
                event_id=SECRET, order_id=SECRET, currency="EUR", placed_at="2025-10-09T08:53:20Z", items=[item(product_id=SECRET), item()]
            )
        )
    ],
    True: [dump(click(product_id=SECRET, session_id=SECRET, event_time="2025-10-09T10:53:20+02:00"))],
}
SPOILED = st.sampled_from([False, True]).flatmap(
    lambda clicks: st.tuples(
        st.just(clicks), st.lists(st.sampled_from(SECRETIVE[clicks]).flatmap(spoiled) | st.binary(max_size=20), max_size=8)
    )
)


@settings(max_examples=400, deadline=None)
@given(SPOILED)
def test_spoiled_bytes(case: tuple[bool, list[bytes]]) -> None:
    clicks, values = case
    check(records(values), clicks)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ORDERS, max_size=6), st.lists(CLICKS, max_size=6))
def test_mutated_documents(orders: list[dict[str, Any]], clicks: list[dict[str, Any]]) -> None:
    check(records(map(dump, orders)), clicks=False)
    check(records(map(dump, clicks)), clicks=True)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["event_id", "order_id", "event_time", "status", "currency", "placed_at"]),
    st.text(min_size=1).map(lambda text: text + SECRET),
    st.sampled_from(["", " - at `$.items`", "` - at `$." + SECRET + "`", "Object missing required field `x`"]),
)
def test_messages_never_quote_what_was_sent(field: str, value: str, quoted: str) -> None:
    check([record(dump(order(**{field: value + quoted})), 1)], clicks=False)


@pytest.mark.parametrize("poison", [b"", b"{", dump(order(event_id="ä" * 65)), dump(order(event_time="1960-01-01T00:00:00Z"))])
def test_poison_in_every_position(poison: bytes) -> None:
    good = [dump(order(event_id=f"e-{i}", items=[item(product_id=f"p-{i}"), item()])) for i in range(5)]
    for i in range(6):
        given_records = records([*good[:i], poison, *good[i:]])
        check(given_records, clicks=False)
        batch, (rejected,) = decode(given_records, clicks=False)
        assert (len(batch), rejected.index) == (5, i)


@pytest.mark.parametrize("clicks", [False, True])
def test_results_do_not_depend_on_how_the_records_were_cut(clicks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [
        dump(click(product_id=f"p-{i % 7}") if clicks else order(items=[item(product_id=f"p-{j % 5}") for j in range(i % 3 + 1)]))
        for i in range(20)
    ]
    values[3], values[11], values[12] = b"{", dump(order(event_id="a\x7f", product_id="a\x7f", type="view")), b""
    given_records = records(values)
    given_records.append(record(None, 1000, headers=[("watermark", b"1760000000001")]))
    whole, rejected = decode(given_records, clicks)
    assert (len(rejected), len(whole)) == (3, 18)
    for size in (1, 2, 3, 7, 20, 21):
        monkeypatch.setattr(streaming.decode, "BLOCK_RECORDS", size)
        batch, again = decode(given_records, clicks)
        assert rows(batch) == rows(whole)
        assert again == rejected
        assert batch.product_ids == whole.product_ids


# --- the slow oracle: the contract in words, without msgspec and without columns ---
def is_id(value: object) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value.encode("utf-8", "surrogatepass")) <= 128
        and not {"Cc", "Cs"} & set(map(unicodedata.category, value))
    )


def is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and MIN_TIME_MS <= value <= MAX_TIME_MS


def slow_order(document: dict[str, Any]) -> tuple[int, int, list[tuple[str, float, float]]] | None:
    """Event time, hash, and (product, quantity, amount) of each line; None: rejected. Knows times in milliseconds only."""
    fields = {"event_id", "order_id", "event_time", "status", "items"}
    if not fields <= document.keys() or not is_id(document["event_id"]) or not is_id(document["order_id"]):
        return None
    if not is_time(document["event_time"]) or document["status"] not in ("placed", "cancelled", "returned"):
        return None
    lines = []
    for line in document["items"]:
        if not {"product_id", "quantity", "unit_price"} <= line.keys() or not is_id(line["product_id"]):
            return None
        if not is_number(line["quantity"], 1, 1e6) or not is_number(line["unit_price"], 0, 1e9):
            return None
        quantity = round(line["quantity"] * 1000)
        worth = quantity / 1000 * line["unit_price"]
        if worth > 1e11:
            return None
        lines.append((line["product_id"], float(quantity), float(round(worth * 10_000))))
    return (document["event_time"], xxhash.xxh3_64_intdigest(document["event_id"].encode()) >> 11, lines) if lines else None


MILLISECONDS = mutated(
    order(), {"event_id": TEXTS, "order_id": TEXTS, "event_time": st.integers(MIN_TIME_MS, MAX_TIME_MS), "status": STATUSES}
).flatmap(lambda document: st.lists(ITEMS, min_size=1, max_size=3).map(lambda items: document | {"items": items}))


def is_plain(document: dict[str, Any]) -> bool:
    """No time in RFC 3339 (the oracle doesn't read it), and no NaN, which json writes and JSON hasn't."""
    text = json.dumps(document)
    return not isinstance(document.get("event_time"), str) and "NaN" not in text and "Infinity" not in text


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(MILLISECONDS.filter(is_plain))
def test_equals_the_slow_oracle(document: dict[str, Any]) -> None:
    batch, rejected = decode_orders([record(dump(document))], currency=None)
    expected = slow_order(document)
    assert (expected is None) == bool(rejected)
    if expected is not None:
        event_time, event_hash, lines = expected
        assert (batch.event_time_ms.tolist(), batch.event_hash.tolist()) == ([event_time], [event_hash])
        assert [(product, quantity, amount) for product, _, quantity, amount in rows(batch)[0][-1]] == lines


# --- real orders, mutated ---
@pytest.fixture(scope="module")
def real_orders() -> list[bytes]:
    """A hundred invoices of the Online Retail data as orders."""
    folder = Path(os.environ.get("TRENDCAST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    path = folder / "online_retail_2009-12_2010-11.parquet"
    if not path.exists():
        pytest.skip(f"needs the Online Retail data: {path.name} in the folder that TRENDCAST_DATA names")
    import pandas as pd

    lines = pd.read_parquet(path).query("Quantity >= 1 and UnitPrice >= 0").head(2000)
    return [
        dump(
            order(
                event_id=str(invoice),
                order_id=str(invoice),
                event_time=int(part["InvoiceDate"].iloc[0].timestamp() * 1000),
                currency="GBP",
                items=[
                    item(product_id=str(code), quantity=int(quantity), unit_price=float(price))
                    for code, quantity, price in zip(part["StockCode"], part["Quantity"], part["UnitPrice"], strict=True)
                ],
            )
        )
        for invoice, part in lines.groupby("InvoiceNo", sort=False)
    ][:100]


def test_real_orders_mutated(real_orders: list[bytes]) -> None:
    batch, rejected = decode_orders(records(real_orders), currency="GBP")
    assert not rejected
    assert batch.amount.sum() > 0
    random = np.random.default_rng(7)
    for _ in range(30):
        values = list(real_orders)
        for i in random.integers(0, len(values), 20):
            start, end = sorted(random.integers(0, len(values[i]) + 1, 2).tolist())
            poison = POISON[random.integers(len(POISON))]
            values[i] = [values[i][:start] + poison + values[i][start:], values[i][:start] + poison + values[i][end:], values[i][:end]][
                random.integers(3)
            ]
        check(records(values), clicks=False)
