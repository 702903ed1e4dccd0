"""Records of product-facts and context: what is read of them, and that nothing but `Rejected` comes of bytes that say something else."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.facts import ContextChange, Entry, FactChange, Version
from feature_store.watermarks import NO_WATERMARK, judge_states
from streaming.contracts import MAX_PROMOTIONS
from streaming.decode import Rejected
from streaming.facts import Notices, decode_context, decode_product_facts
from tests.streaming.records import NOW_MS, dump, record
from tests.streaming.test_decode_fuzz import ANYTHING, NESTED, NUMBERS, SECRET, TEXTS, TIMES, mutated, spoiled

HOUR_MS = 3_600_000
STEP = NOW_MS // HOUR_MS + 1


def promotion(**changes: Any) -> dict[str, Any]:
    return {"start": NOW_MS, "end": NOW_MS + HOUR_MS, "discount": 0.2} | changes


def facts(**changes: Any) -> dict[str, Any]:
    return {"product_id": "SKU-1", "unit_price": 9.99, "category": SECRET, "promotions": [promotion()], "stock": 3} | changes


def context(**changes: Any) -> dict[str, Any]:
    return {"series": "weather", "start": NOW_MS, "end": NOW_MS + HOUR_MS, "value": 1.5, "known_future": True} | changes


def decode(records: list[Any], of_context: bool) -> tuple[Notices, list[Rejected]]:
    return decode_context(records) if of_context else decode_product_facts(records)


def changes(records: list[Any], of_context: bool = False, start_ms: int = NO_WATERMARK) -> list[Any]:
    notices, rejected = decode(records, of_context)
    assert rejected == []
    return notices.changes(judge_states(notices.batch, start_ms)[1], HOUR_MS)


def said(document: dict[str, Any], offset: int = 0, **of_record: Any) -> Any:
    key = document.get("product_id", document.get("series", "")).encode()
    return record(dump(document), offset, **({"key": key} | of_record))


def test_facts_hold_from_the_next_step_on() -> None:
    start_s = NOW_MS // 1000
    [change] = changes([said(facts(lead_time_steps=48))])
    assert change == FactChange("SKU-1", Version(STEP, 99_900, 48, 1, SECRET, (start_s, start_s + 3_600, 2_000)), NOW_MS)
    [bare] = changes([said({"product_id": "p", "stock": 0})])
    assert bare.version == Version(STEP, stock=0)


def test_promotions_that_are_over_by_then_say_nothing() -> None:
    [change] = changes([said(facts(promotions=[promotion(start=NOW_MS - 9 * HOUR_MS, end=NOW_MS + 1_000)]))])
    assert change.version.promotions == ()


def test_a_value_of_a_series() -> None:
    start_s = NOW_MS // 1000
    [everywhere, somewhere] = changes([said(context()), said(context(scope="toys", known_future=False), 1)], of_context=True)
    assert everywhere == ContextChange("weather", "", Entry(STEP, start_s, start_s + 3_600, 1.5, 1))
    assert (somewhere.scope, somewhere.entry.known_future) == ("toys", 0)


def test_tombstones_forget_and_heartbeats_say_nothing() -> None:
    beat = record(b"", 1, key=None, headers=[("watermark", b"%d" % NOW_MS)])
    assert changes([record(b"", key=b"SKU-1"), beat]) == [FactChange("SKU-1", Version(STEP), NOW_MS), None]
    assert changes([record(None, key=b"weather"), beat], of_context=True) == [ContextChange("weather", "", Entry(STEP)), None]


def test_a_record_behind_a_later_one_takes_effect_with_it() -> None:
    """    sent   10:00   08:30   09:00 (heartbeat of 10:30)   11:05
    holds from 11:00   11:00                               12:00
    """  # fmt: skip
    ten = NOW_MS // HOUR_MS * HOUR_MS
    late = said(facts(), 1, timestamp_ms=ten - 5_400_000)
    beat = record(b"", 2, key=None, timestamp_ms=ten + 1_800_000, headers=[("watermark", b"%d" % (ten + 1_800_000))])
    found = changes([said(facts(), timestamp_ms=ten), late, beat, said(facts(), 3, timestamp_ms=ten + 3_900_000)])
    assert [change and change.version.step - ten // HOUR_MS for change in found] == [1, 1, None, 2]
    [after] = changes([late], start_ms=ten + 3_600_000)
    assert after.version.step - ten // HOUR_MS == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8), st.data())
def test_when_records_take_effect_does_not_depend_on_cuts(log: list[tuple[int, bool]], data: st.DataObject) -> None:
    records = [
        record(b"", i, key=None, timestamp_ms=NOW_MS + t * HOUR_MS, headers=[("watermark", b"%d" % (NOW_MS + t * HOUR_MS))])
        if beat
        else said(facts(), i, timestamp_ms=NOW_MS + t * HOUR_MS)
        for i, (t, beat) in enumerate(log)
    ]
    whole = changes(records)
    at, watermark, cut = 0, NO_WATERMARK, []
    while at < len(records):
        n = data.draw(st.integers(1, 3))
        notices, _ = decode_product_facts(records[at : at + n])
        judged, effect_ms = judge_states(notices.batch, watermark)
        cut += notices.changes(effect_ms, HOUR_MS)
        watermark, at = int(judged.watermark_ms[-1]), at + n
    assert cut == whole
    steps = [change.version.step for change in whole if change is not None]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("document", "key", "error", "path"),
    [
        (facts(), b"SKU-2", "bad_id", "key"),
        (facts(), None, "bad_id", "key"),
        (facts(unit_price=-1), b"SKU-1", "out_of_range", "$.unit_price"),
        (facts(category="a\nb"), b"SKU-1", "bad_id", "$.category"),
        (facts(promotions=[promotion(), promotion(end=NOW_MS)]), b"SKU-1", "out_of_range", "$.promotions[1].end"),
        (facts(promotions=[promotion()] * (MAX_PROMOTIONS + 1)), b"SKU-1", "out_of_range", "$.promotions"),
        (facts(promotions=[promotion(discount=1.5)]), b"SKU-1", "out_of_range", "$.promotions[0].discount"),
        (facts(lead_time_steps=10**9), b"SKU-1", "out_of_range", "$.lead_time_steps"),
    ],
)
def test_faults_are_named(document: dict[str, Any], key: bytes | None, error: str, path: str) -> None:
    _, [rejected] = decode_product_facts([record(dump(document), key=key)])
    assert (rejected.error_class.value, rejected.path) == (error, path)


def test_a_series_that_ends_before_it_begins() -> None:
    _, [rejected] = decode_context([said(context(end=NOW_MS - 1))])
    assert (rejected.error_class.value, rejected.path) == ("out_of_range", "$.end")


FACTS = mutated(
    facts(),
    {
        "product_id": TEXTS,
        "unit_price": NUMBERS,
        "category": TEXTS,
        "promotions": st.lists(mutated(promotion(), {"start": TIMES, "end": TIMES, "discount": NUMBERS}), max_size=2),
        "stock": NUMBERS,
        "lead_time_steps": NUMBERS,
        "title": ANYTHING,
        "unknown": NESTED,
    },
)
CONTEXTS = mutated(
    context(scope=SECRET), {"series": TEXTS, "start": TIMES, "end": TIMES, "value": NUMBERS, "known_future": ANYTHING, "scope": TEXTS}
)
KEYS = st.sampled_from([b"SKU-1", b"weather", b"x", b"", None, b"\xff", b"a\0b"])


def check(records: list[Any], of_context: bool) -> None:
    """Each record comes out once; what is rejected says why without quoting; what is accepted can be stored, and is as it would be alone."""
    notices, rejected = decode(records, of_context)
    assert sorted([*notices.batch.offset.tolist(), *(r.offset for r in rejected)]) == [r.offset for r in records]
    for r in rejected:
        assert records[r.index].offset == r.offset
        assert SECRET not in r.message + r.path
    alone = [decode([r], of_context) for r in records]
    assert notices.said == [each for one, _ in alone for each in one.said]
    for change in notices.changes(judge_states(notices.batch, None)[1], HOUR_MS):
        match change:
            case FactChange(_, version, _):
                assert all(0 <= number < 2**53 for number in version.promotions)
                assert version.price < 2**53
                assert len(version.promotions) % 3 == 0
            case ContextChange(_, _, entry):
                assert np.isfinite(entry.value)
                assert entry.end_s == 0 or entry.start_s < entry.end_s < 2**53


@given(st.lists(st.tuples(FACTS, KEYS), max_size=3))
def test_any_facts(documents: list[tuple[dict[str, Any], bytes | None]]) -> None:
    check([record(json.dumps(document).encode(), i, key=key) for i, (document, key) in enumerate(documents)], of_context=False)


@given(st.lists(st.tuples(CONTEXTS, KEYS), max_size=3))
def test_any_context(documents: list[tuple[dict[str, Any], bytes | None]]) -> None:
    check([record(json.dumps(document).encode(), i, key=key) for i, (document, key) in enumerate(documents)], of_context=True)


@given(st.lists(spoiled(dump(facts())), max_size=3), st.lists(spoiled(dump(context(scope=SECRET))), max_size=3))
def test_any_bytes(of_facts: list[bytes], of_context: list[bytes]) -> None:
    check([record(value, i, key=b"SKU-1") for i, value in enumerate(of_facts)], of_context=False)
    check([record(value, i, key=b"weather") for i, value in enumerate(of_context)], of_context=True)
