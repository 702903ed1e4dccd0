"""What the ingest worker decides: where to read from, what to count, and that no cut, rewind or repetition changes the sums."""

from collections import defaultdict
from dataclasses import dataclass, field
from operator import lt
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.calls import NO_WATERMARK, Advance, Ahead, Applied, ApplyCall, Outcome, Position, RolledBack, Seen
from feature_store.events import ABSENT, EventBatch, Kind
from feature_store.sharding import shard_of
from feature_store.tiles import Grid
from feature_store.watermarks import judge
from streaming import ingest_plan
from streaming.ingest_plan import HOUR_MS, NEVER, Batch, Part, RecordsLost, SourceTime, batch_of, next_call, start_of, too_far_ahead

GRID = Grid(tile_ms=300_000, step_ms=3_600_000)
SHARDS = 3
START_MS = 488_889 * HOUR_MS
JUDGING = {"lateness_ms": 600_000, "future_ms": 300_000, "step_ms": GRID.step_ms, "step_retention_ms": 8 * 24 * HOUR_MS}


@dataclass(frozen=True)
class Order:
    """An order in the log; its place in the list is its offset."""

    event: int  # repeated numbers are repeated event ids
    minute: int
    lines: tuple[tuple[int, int], ...]  # product, quantity


orders = st.builds(
    Order,
    event=st.integers(1, 12),
    minute=st.integers(0, 300),
    lines=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=4).map(tuple),
)


def time_of(order: Order) -> int:
    """The same event id always comes with the same time, as from a producer that repeats itself."""
    return START_MS + order.event * 7 * 60_000


def columns(log: list[Order], first: int, end: int) -> EventBatch:
    part = log[first:end]
    lines = [(i, product, quantity) for i, order in enumerate(part) for product, quantity in order.lines]
    times = np.array([time_of(order) for order in part], dtype=np.int64)
    return EventBatch(
        offset=np.arange(first, first + len(part)),
        timestamp_ms=times,
        sent_at_ms=times,
        event_time_ms=times,
        placed_at_ms=np.full(len(part), ABSENT),
        event_hash=np.array([order.event for order in part], dtype=np.int64),
        heartbeat=np.zeros(len(part), dtype=np.bool_),
        record=np.array([i for i, _, _ in lines], dtype=np.int64),
        product=np.array([product for _, product, _ in lines], dtype=np.int64),
        kind=np.full(len(lines), Kind.PLACED, dtype=np.int8),
        quantity=np.array([float(quantity) for _, _, quantity in lines]),
        amount=np.zeros(len(lines)),
        product_ids=tuple(f"p{i}" for i in range(6)),
    )


Logs = list[list[Order]]  # one a source


def batch(logs: Logs, first: list[int], end: list[int], watermark_ms: int = NO_WATERMARK) -> Batch:
    parts = []
    for i, log in enumerate(logs):
        decoded = columns(log, first[i], end[i])
        parts.append(Part(f"s/{i}", end[i], watermark_ms, decoded, judge(decoded, watermark_ms, **JUDGING)))
    return batch_of(parts, shards=SHARDS, grid=GRID, dedup_ms=24 * HOUR_MS)


@dataclass
class Shard:
    """What `apply.lua` does, in a few lines: the oracle that the plans are played against."""

    offsets: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: NEVER))
    seen: set[int] = field(default_factory=set)
    sums: dict[tuple[str, int], float] = field(default_factory=lambda: defaultdict(float))

    def apply(self, call: ApplyCall) -> Outcome:
        assert call.sources
        stored = [self.offsets[move.source] for move in call.sources]
        expected = [NEVER if move.expected is None else move.expected for move in call.sources]
        for place, (found, wanted) in enumerate(zip(stored, expected, strict=True)):
            if found < wanted:
                return RolledBack(place, found)
        if stored != expected:
            return Ahead(stored)
        hashes = [] if call.event_hash is None else call.event_hash.tolist()
        if known := sorted(self.seen & set(hashes)):
            return Seen(known)
        assert len(set(hashes)) == len(hashes)
        self.seen |= set(hashes)
        if call.deltas is not None and call.cell_tile is not None and call.cell_product is not None:
            for product, tile, delta in zip(call.cell_product.tolist(), call.cell_tile.tolist(), call.deltas, strict=True):
                self.sums[call.products[product], tile] += delta[0]
        self.offsets |= {move.source: move.next_offset for move in call.sources}
        return Applied(0, 0)


def bring_to_the_end(work: Batch, counted: list[list[int]], shards: list[Shard], rounds: int = 1_000) -> None:
    """What the worker does with one batch; a limit of rounds is a crash in the middle. `counted`: by shard and source."""
    without: dict[int, set[int]] = defaultdict(set)
    for shard in range(SHARDS):
        while any(map(lt, counted[shard], work.ends)) and rounds:
            rounds -= 1
            call = next_call(work, shard, counted[shard], frozenset(without[shard]), GRID)
            places = [work.sources.index(move.source) for move in call.sources]
            for place, move in zip(places, call.sources, strict=True):
                assert counted[shard][place] < move.next_offset <= work.ends[place]
            match shards[shard].apply(call):
                case Applied():
                    for place, move in zip(places, call.sources, strict=True):
                        counted[shard][place] = move.next_offset
                case Seen(hashes):
                    without[shard] |= set(hashes)
                case Ahead(next_offsets):
                    for place, found in zip(places, next_offsets, strict=True):
                        counted[shard][place] = found
                case RolledBack():
                    raise AssertionError


def sums_of(log: list[Order]) -> dict[tuple[str, int], float]:
    """Oracle: every event id once, by its first record."""
    sums: dict[tuple[str, int], float] = defaultdict(float)
    seen: set[tuple[int, int]] = set()
    for order in log:
        for shard in range(SHARDS):
            lines = [(p, q) for p, q in order.lines if shard_of(f"p{p}", SHARDS) == shard]
            if lines and (order.event, shard) not in seen:
                seen.add((order.event, shard))
                for product, quantity in lines:
                    sums[f"p{product}", GRID.tile_of(time_of(order))] += quantity
    return dict(sums)


def distinct_per_event(log: list[Order]) -> list[Order]:
    """Repetitions of an event id as a producer sends them: the same order again."""
    first: dict[int, Order] = {}
    return [first.setdefault(order.event, order) for order in log]


@settings(max_examples=200)
@given(
    log=st.lists(orders, min_size=1, max_size=30).map(distinct_per_event),
    chance=st.randoms(use_true_random=False),
    sources=st.integers(1, 3),
    most_cells=st.sampled_from([1, 3, 2_000]),
)
def test_neither_cuts_nor_crashes_nor_stale_beliefs_change_the_sums(
    log: list[Order], chance: Random, sources: int, most_cells: int
) -> None:
    shards = [Shard() for _ in range(SHARDS)]
    logs: Logs = [[] for _ in range(sources)]
    for order in log:  # a repetition may come by another source
        chance.choice(logs).append(order)
    names = [f"s/{i}" for i in range(sources)]
    before, ingest_plan.MAX_CELLS = ingest_plan.MAX_CELLS, most_cells  # type: ignore[misc]
    try:
        for life in range(10):
            # An assignment: read from the least that is counted; a belief may be stale, as that of an owner who was frozen.
            counted = [[chance.choice([NEVER, shard.offsets[name]]) for name in names] for shard in shards]
            at = [max(min(shard.offsets[name] for shard in shards), 0) for name in names]
            while any(at[i] < len(logs[i]) for i in range(sources)):
                behind = chance.choice([i for i in range(sources) if at[i] < len(logs[i])])
                end = [chance.randint(at[i] + (i == behind), len(logs[i])) for i in range(sources)]
                crashes = life < 9 and chance.random() < 0.5
                bring_to_the_end(batch(logs, at, end), counted, shards, rounds=chance.randint(0, 4) if crashes else 1_000)
                if crashes:
                    break
                at = end
    finally:
        ingest_plan.MAX_CELLS = before  # type: ignore[misc]
    assert {cell: value for shard in shards for cell, value in shard.sums.items()} == sums_of(log)


def test_a_call_is_cut_between_records_and_carries_the_watermark_of_its_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_plan, "MAX_CELLS", 2)
    log = [Order(event=i, minute=0, lines=((0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1))) for i in range(1, 5)]
    whole = batch([[], log, log[:0]], [0, 0, 0], [7, 4, 9])
    shard = shard_of("p0", SHARDS)
    [idle, cut] = next_call(whole, shard, [NEVER, NEVER, 9], frozenset(), GRID).sources
    assert idle == Advance("s/0", None, 7, NO_WATERMARK)  # sources before the cut come to their ends, those after it wait
    assert cut.next_offset == 1  # one record has as many cells as it has
    assert cut.watermark_ms == time_of(log[0]) - JUDGING["lateness_ms"]
    assert [move.next_offset for move in next_call(whole, shard, [7, 3, NEVER], frozenset(), GRID).sources] == [4, 9]


def test_a_batch_without_accepted_records_moves_offset_and_keeps_the_watermark() -> None:
    silent = batch_of([Part("s/0", 3, 5)], shards=SHARDS, grid=GRID, dedup_ms=0)
    assert next_call(silent, 0, [NEVER], frozenset(), GRID) == ApplyCall(0, (Advance("s/0", None, 3, 5),))


class TestStart:
    def at(self, *offsets: int | None, first: int = 0, end: int = 100, gap_end: int | None = None) -> tuple[int, int]:
        start = start_of("orders/0", [Position(o, NO_WATERMARK if o is None else 1_000 + o) for o in offsets], first, end, gap_end)
        return start.offset, start.watermark_ms

    def test_the_least_that_any_shard_has_counted(self) -> None:
        assert self.at(50, 40, 60) == (40, 1_040)

    def test_a_shard_that_counted_nothing_must_see_everything(self) -> None:
        assert self.at(50, None, 60) == (0, NO_WATERMARK)
        assert self.at(50, None, 60, first=20, gap_end=20) == (20, NO_WATERMARK)

    def test_a_first_start_reads_what_is_there_and_notes_what_is_not(self) -> None:
        assert start_of("orders/0", [Position(None, NO_WATERMARK)] * 2, 0, 100, None).gap is None
        assert start_of("orders/0", [Position(None, NO_WATERMARK)] * 2, 30, 100, None).gap == (0, 30)

    @pytest.mark.parametrize(
        ("offsets", "first", "end"), [((40, 50), 45, 100), ((None, 50), 1, 100), ((120, 130), 0, 100), ((80, 120), 0, 100)]
    )
    def test_lost_records_stop_the_worker_and_name_the_way_out(self, offsets: tuple[int | None, ...], first: int, end: int) -> None:
        with pytest.raises(RecordsLost, match="trendcast accept-gap"):
            self.at(*offsets, first=first, end=end)


LIMITS = {"ahead_ms": 3 * HOUR_MS, "tile_retention_ms": 24 * HOUR_MS}


class TestHoldingBack:
    @given(
        hours=st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 30), st.booleans()), min_size=1),
        closed=st.none() | st.integers(0, 30),
    )
    def test_somebody_may_always_go_on_unless_closing_is_behind(self, hours: dict[str, tuple[int, bool]], closed: int | None) -> None:
        own = {name: SourceTime(at * HOUR_MS, behind) for name, (at, behind) in hours.items()}
        held = too_far_ahead(own, [], None if closed is None else closed * HOUR_MS, **LIMITS)
        slowest = min(own, key=lambda name: own[name].watermark_ms)
        if closed is None or own[slowest].watermark_ms <= (closed + 12) * HOUR_MS:
            assert slowest not in held

    def test_a_source_at_the_end_of_its_log_holds_up_nobody(self) -> None:
        own = {"a": SourceTime(10 * HOUR_MS, True), "idle": SourceTime(0, False), "unheard": SourceTime(NO_WATERMARK, True)}
        assert not too_far_ahead(own, [], None, **LIMITS)

    def test_another_workers_slow_source_does(self) -> None:
        assert too_far_ahead({"a": SourceTime(10 * HOUR_MS, True)}, [SourceTime(HOUR_MS, True)], None, **LIMITS) == {"a"}
