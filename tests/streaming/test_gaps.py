"""What is lost of a source, against the worker that stops there: what accept-gap accepts is exactly what lets it start again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.calls import NO_WATERMARK, Position
from streaming.gaps import CutOff, Deleted, Loss, gap_until_ms, losses
from streaming.ingest_plan import RecordsLost, start_of

OFFSETS = st.integers(0, 30)
POSITIONS = st.lists(st.one_of(st.none(), OFFSETS), min_size=1, max_size=4)


def positions(offsets: list[int | None]) -> list[Position]:
    return [Position(offset, NO_WATERMARK if offset is None else 1_000 + offset) for offset in offsets]


def accepted(stored: list[Position], loss: Loss) -> list[Position]:
    """What `accept` leaves in Redis."""
    match loss:
        case Deleted():
            return [replace(p, next_offset=max(-1 if p.next_offset is None else p.next_offset, loss.end)) for p in stored]
        case CutOff():
            return [replace(p, next_offset=loss.end) if shard in loss.holding else p for shard, p in enumerate(stored)]


@given(POSITIONS, OFFSETS, OFFSETS, st.one_of(st.none(), OFFSETS))
def test_the_worker_starts_exactly_where_nothing_is_lost_any_more(
    offsets: list[int | None], first: int, length: int, noted: int | None
) -> None:
    stored, end = positions(offsets), first + length
    found = losses("t/0", "id/0", stored, first, end, noted)
    if not found:
        start_of("t/0", stored, first, end, noted)
        return
    for loss in found:
        stored = accepted(stored, loss)
    assert losses("t/0", "id/0", stored, first, end, noted) == []
    start = start_of("t/0", stored, first, end, noted)
    assert first <= start.offset <= end
    assert start.gap is None


@given(POSITIONS, OFFSETS, OFFSETS, st.one_of(st.none(), OFFSETS))
def test_whatever_is_found_stops_the_worker(offsets: list[int | None], first: int, length: int, noted: int | None) -> None:
    # nobody is before the start of counting
    stored, end = positions([None if offset is None else offset + (noted or 0) for offset in offsets]), first + length
    if losses("t/0", "id/0", stored, first, end, noted):
        with pytest.raises(RecordsLost, match="accept-gap"):
            start_of("t/0", stored, first, end, noted)


def test_each_shard_beyond_the_end_is_set_back_from_what_it_holds() -> None:
    [loss] = losses("t/0", "id/0", positions([1_000, 950, 990, 940]), 0, 950, None)
    assert loss == CutOff("t/0", "id/0", 950, 1_000, {0: 1_000, 2: 990}, 2_000)


@pytest.mark.parametrize(("kept_ms", "reached"), [(None, 1_100), (900, 1_100), (500_000, 500_000)])
def test_what_was_deleted_may_be_as_new_as_what_is_left(kept_ms: int | None, reached: int) -> None:
    [loss] = losses("t/0", "id/0", positions([100, 150]), 200, 900, None, kept_ms)
    assert loss == Deleted("t/0", "id/0", 100, 200, reached)
    assert gap_until_ms(loss, 300) == reached + 300


def test_a_source_that_was_never_heard_of_has_a_gap_too() -> None:
    [loss] = losses("t/0", "id/0", [Position(0, NO_WATERMARK)], 5, 9, None, 500_000)
    assert gap_until_ms(loss, 300) == 500_300


def test_a_log_may_have_lost_both_ends() -> None:
    found = losses("t/0", "id/0", positions([100, 1_000]), 200, 900, None)
    assert found == [Deleted("t/0", "id/0", 100, 200, 1_100), CutOff("t/0", "id/0", 900, 1_000, {1: 1_000}, 2_000)]


def test_a_shard_that_counted_nothing_reads_from_where_counting_began() -> None:
    assert losses("t/0", "id/0", positions([None, 700]), 500, 900, noted_gap_end=500) == []
    [loss] = losses("t/0", "id/0", positions([None, 700]), 501, 900, noted_gap_end=500)
    assert loss == Deleted("t/0", "id/0", 500, 501, 1_700)


@pytest.mark.parametrize("stored", [[None], [None, None]])
def test_a_source_never_counted_has_lost_nothing(stored: list[int | None]) -> None:
    assert losses("t/0", "id/0", positions(stored), 500, 900, None) == []


def test_gaps_are_told_in_words() -> None:
    deleted, cut_off = Deleted("orders/3", "id/3", 120, 200, 5_000), CutOff("orders/4", "id/4", 950, 1_000, {0: 1_000}, NO_WATERMARK)
    assert str(deleted) == "orders/3: 80 records (120 to 199) were deleted before they were counted. Counting goes on at 200."
    assert "records up to 999 were counted" in str(cut_off)
    assert gap_until_ms(deleted, 300) == 5_300
    assert gap_until_ms(cut_off, 300) is None
