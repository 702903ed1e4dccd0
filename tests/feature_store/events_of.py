"""Batches and random streams of raw records, for the property tests of the feature store."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from feature_store.events import ABSENT, EventBatch, Kind
from tests.oracles import Line, Record

PRODUCT_IDS = ("apple", "bread", "cheese")
MINUTE_MS = 60_000


def batch_of(records: Sequence[Record], first_offset: int = 0) -> EventBatch:
    """The columns that decoding would make."""
    lines = [(i, record, line) for i, record in enumerate(records) for line in record.lines]

    def column(values: list[int]) -> npt.NDArray[np.int64]:
        return np.array(values, dtype=np.int64)

    return EventBatch(
        offset=np.arange(first_offset, first_offset + len(records)),
        timestamp_ms=column([record.timestamp_ms for record in records]),
        sent_at_ms=column([record.sent_at_ms for record in records]),
        event_time_ms=column([record.event_time_ms for record in records]),
        placed_at_ms=column([record.placed_at_ms for record in records]),
        event_hash=column([ABSENT] * len(records)),
        heartbeat=np.array([record.kind is None for record in records], dtype=np.bool_),
        record=column([i for i, _, _ in lines]),
        product=column([line.product for _, _, line in lines]),
        kind=np.array([record.kind for _, record, _ in lines], dtype=np.int8),
        quantity=np.array([line.quantity for _, _, line in lines], dtype=np.float64),
        amount=np.array([line.amount for _, _, line in lines], dtype=np.float64),
        product_ids=PRODUCT_IDS,
    )


@st.composite
def records(draw: st.DrawFn, span_minutes: int, start_ms: int = 0) -> Record:
    """A heartbeat, a click or an order (of several lines, some of one product); now and then late, or with a broken clock."""
    event_time_ms = start_ms + draw(st.integers(0, span_minutes)) * MINUTE_MS
    timestamp_ms = event_time_ms + draw(st.integers(-20, 20)) * MINUTE_MS
    sent_at_ms = draw(st.integers(0, 1000))
    kind = draw(st.sampled_from([None, *Kind]))
    if kind is None:
        return Record(event_time_ms, timestamp_ms, None, sent_at_ms=sent_at_ms)
    product = st.integers(0, len(PRODUCT_IDS) - 1)
    if kind >= Kind.VIEW:
        return Record(event_time_ms, timestamp_ms, kind, (Line(draw(product)),), sent_at_ms=sent_at_ms)
    lines = draw(st.lists(st.builds(Line, product, st.integers(1, 5_000), st.integers(0, 90_000)), min_size=1, max_size=5))
    placed_ago = draw(st.none() | st.integers(-5, 300)) if kind is Kind.CANCELLED else None
    placed_at_ms = ABSENT if placed_ago is None else event_time_ms - placed_ago * MINUTE_MS
    return Record(event_time_ms, timestamp_ms, kind, tuple(lines), placed_at_ms, sent_at_ms)


def streams(span_minutes: int, max_size: int = 40, start_ms: int = 0) -> st.SearchStrategy[list[Record]]:
    """Records of one source in offset order; mostly forward in event time, as real sources are."""
    anyhow = st.lists(records(span_minutes, start_ms), max_size=max_size)
    return st.one_of(anyhow, anyhow.map(lambda drawn: sorted(drawn, key=lambda record: record.timestamp_ms)))


def pieces(stream: Sequence[Record], cuts: Sequence[int]) -> list[Sequence[Record]]:
    """The stream cut at `cuts` (any numbers)."""
    at = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(at)]
