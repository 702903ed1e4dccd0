import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feature_store.events import Kind
from feature_store.watermarks import NO_WATERMARK, Judged, judge
from tests.feature_store.events_of import MINUTE_MS, batch_of, pieces, streams
from tests.oracles import Line, Record, judgements

LATENESS_MS = 10
RULES = {"lateness_ms": LATENESS_MS, "future_ms": 5, "step_ms": 60, "step_retention_ms": 120}
RULES_IN_MINUTES = {name: ms * MINUTE_MS for name, ms in RULES.items()}


def order(event_time_ms: int, timestamp_ms: int | None = None) -> Record:
    return Record(event_time_ms, event_time_ms if timestamp_ms is None else timestamp_ms, Kind.PLACED, (Line(0, 1_000),))


def heartbeat(declared_ms: int, timestamp_ms: int) -> Record:
    return Record(declared_ms, timestamp_ms, None)


def verdicts(judged: Judged) -> list[str]:
    reasons = dict(judged.rejections)
    assert sorted(reasons) == np.flatnonzero(~judged.accepted).tolist()
    return [str(reasons.get(i, "late" if late else "on time")) for i, late in enumerate(judged.late.tolist())]


def test_watermark_follows_the_highest_event_time() -> None:
    """
    event time   100   300   295   289          lateness 10
    watermark  -∞    90   290   290   290
    verdict      ok    ok    ok   late
    """
    judged = judge(batch_of([order(100), order(300), order(295), order(289)]), None, **RULES)
    assert judged.watermark_ms.tolist() == [90, 290, 290, 290]
    assert judged.before_ms.tolist() == [NO_WATERMARK, 90, 290, 290]
    assert verdicts(judged) == ["on time", "on time", "on time", "late"]


def test_a_future_event_is_rejected_and_moves_nothing() -> None:
    """
    event time   100   206   205          Kafka's timestamps 100, 200, 200; 5 ms into the future are forgiven
    verdict       ok  future  ok
    watermark     90    90   190          capped by the Kafka timestamp: 200 - 10
    """
    judged = judge(batch_of([order(100), order(206, 200), order(205, 200)]), None, **RULES)
    assert verdicts(judged) == ["on time", "future", "on time"]
    assert judged.watermark_ms.tolist() == [90, 90, 190]


def test_an_event_expires_with_the_steps_that_could_hold_it() -> None:
    """
    steps          |0---|60--|120-|180-|240-|          kept for 120 after their end
    watermark                          ^ 240
    event time        ^ 59: its step ended at 60, 180 ago   ^ 119: 120 ago    ^ 120: its step ended at 180, 60 ago
    """
    judged = judge(batch_of([order(59), order(119), order(120)]), 240, **RULES)
    assert verdicts(judged) == ["expired", "expired", "late"]
    assert judged.watermark_ms.tolist() == [240, 240, 240]


def test_a_heartbeat_declares_a_watermark_that_the_kafka_timestamp_caps() -> None:
    judged = judge(batch_of([heartbeat(500, 700), heartbeat(900, 800), heartbeat(100, 900), order(795)]), None, **RULES)
    assert judged.watermark_ms.tolist() == [500, 800, 800, 800]
    assert verdicts(judged) == ["on time", "on time", "on time", "late"]


def test_nothing_follows_from_nothing() -> None:
    judged = judge(batch_of([]), None, **RULES)
    assert len(judged.watermark_ms) == len(judged.before_ms) == len(judged.accepted) == 0
    assert judged.rejections == []


@given(streams(span_minutes=600))
def test_judged_as_one_by_one(stream: list[Record]) -> None:
    judged = judge(batch_of(stream), None, **RULES_IN_MINUTES)
    before = [-math.inf if ms == NO_WATERMARK else ms for ms in judged.before_ms.tolist()]
    assert list(zip(before, verdicts(judged), strict=True)) == judgements(stream, **RULES_IN_MINUTES)


@given(streams(span_minutes=600), st.lists(st.integers(0, 100)))
def test_any_cut_gives_the_same_judgement(stream: list[Record], cuts: list[int]) -> None:
    whole = judge(batch_of(stream), None, **RULES_IN_MINUTES)
    watermark, found = None, []
    for piece in pieces(stream, cuts):
        judged = judge(batch_of(piece), watermark, **RULES_IN_MINUTES)
        watermark = int(judged.watermark_ms[-1])
        found += list(zip(judged.before_ms.tolist(), judged.watermark_ms.tolist(), verdicts(judged), strict=True))
    assert found == list(zip(whole.before_ms.tolist(), whole.watermark_ms.tolist(), verdicts(whole), strict=True))
