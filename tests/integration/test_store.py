"""The store's scripts on a real Redis: what each outcome leaves behind, and that a refused call writes nothing."""

import random
import struct
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.calls import (
    NO_WATERMARK,
    Advance,
    Ahead,
    Applied,
    ApplyCall,
    DaySums,
    LivedSums,
    OwnerLost,
    ProductCommit,
    RolledBack,
    Seen,
    ShardRolledBack,
    Stale,
    StoreUnusable,
    decode_running,
)
from feature_store.measures import N_MEASURES, ORDERS, REVENUE, UNITS
from feature_store.store import FeatureStore
from feature_store.store.client import LIVE_CELLS
from streaming.settings import HOUR_MS, Settings

SHARD = 3
SOURCE = "topic-id/0"
STEP = 490_000  # hours since 1970, some day in 2025
TILE = STEP * 12


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[FeatureStore]:
    opened = await FeatureStore.open(Settings(redis_url=redis_url, namespace="t"))
    yield opened
    await opened.close()


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


def call(
    expected: int | None,
    next_offset: int,
    *,
    products: tuple[str, ...] = ("a", "b"),
    tile: int = TILE,
    hashes: tuple[int, ...] = (),
    watermark_ms: int = TILE * 300_000,
    source: str = SOURCE,
) -> ApplyCall:
    """Two units and one order of 99.9 for each product in one tile."""
    deltas = np.zeros((len(products), N_MEASURES))
    deltas[:, [UNITS, ORDERS, REVENUE]] = 2_000, 1, 999_000
    return ApplyCall(
        shard=SHARD,
        sources=(Advance(source, expected, next_offset, watermark_ms),),
        products=list(products),
        oldest_sent_at_ms=[500] * len(products),
        newest_event_ms=[tile * 300_000 + 1] * len(products),
        cell_product=np.arange(len(products)),
        cell_tile=np.full(len(products), tile),
        deltas=deltas,
        event_hash=np.array(hashes, dtype=np.int64),
        event_hour=np.full(len(hashes), STEP, dtype=np.int64),
    )


async def units(store: FeatureStore, product: str = "a") -> float:
    [(tiles, _, _)] = await store.history([(SHARD, product)])
    return float(sum(sums[UNITS] for sums in tiles.values()))


def header(position: int) -> bytes:
    return struct.pack("<q8s", position, b"12345678")


def close_of(product: str, first: int, last: int, *, before: bytes = b"") -> ProductCommit:
    return ProductCommit(
        product=product,
        expected_features=before and header(first - 1),
        expected_scores=before,
        first_step=first,
        last_step=last,
        features=header(last) + b"f" * 40,
        state=header(last) + b"s" * 40,
        scores=header(last * 12 + 11) + b"c" * 40,
        dirty_since_ms=700,
    )


async def test_equal_offsets_are_counted_and_a_repetition_is_not(store: FeatureStore) -> None:
    assert await store.apply([call(None, 5)]) == [Applied(sequence=5, corrected=0)]
    assert await store.apply([call(5, 8)]) == [Applied(sequence=8, corrected=0)]
    assert await store.apply([call(5, 8)]) == [Ahead([8])]
    assert await units(store) == 4_000


async def test_a_store_that_forgot_is_noticed_and_left_alone(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    assert await store.apply([call(7, 9)]) == [RolledBack(0, found=5)]
    assert await units(store) == 2_000


async def test_an_empty_store_where_counts_are_expected_is_a_rollback(store: FeatureStore) -> None:
    assert await store.apply([call(7, 9)]) == [RolledBack(0, found=-1)]
    assert await units(store) == 0


async def test_known_event_ids_come_back_and_nothing_is_written(store: FeatureStore) -> None:
    largest = 2**53 - 1
    await store.apply([call(None, 5, hashes=(largest, 7))])
    [outcome] = await store.apply([call(5, 8, hashes=(7, 9, largest))])
    assert isinstance(outcome, Seen)
    assert sorted(outcome.event_hashes) == [7, largest]
    assert await units(store) == 2_000
    # an unrelated id of the refused call was not remembered
    assert await store.apply([call(5, 8, hashes=(9,))]) == [Applied(sequence=8, corrected=0)]


async def test_watermarks_only_rise(store: FeatureStore) -> None:
    await store.apply([call(None, 5, watermark_ms=1_000)])
    await store.apply([call(5, 6, watermark_ms=500)])
    assert (await store.positions([SHARD], [SOURCE]))[SHARD, SOURCE].watermark_ms == 1_000


async def test_records_without_lines_move_offset_and_watermark_only(store: FeatureStore) -> None:
    heartbeat = ApplyCall(SHARD, (Advance(SOURCE, None, 3, 9_000),))
    assert await store.apply([heartbeat]) == [Applied(sequence=3, corrected=0)]
    position = (await store.positions([SHARD], [SOURCE]))[SHARD, SOURCE]
    assert (position.next_offset, position.watermark_ms) == (3, 9_000)
    assert await store.closed([SHARD]) == {SHARD: None}


async def test_a_source_never_heard_has_no_position(store: FeatureStore) -> None:
    position = (await store.positions([SHARD], ["other/1"]))[SHARD, "other/1"]
    assert position.next_offset is None
    assert position.watermark_ms == NO_WATERMARK


async def test_sources_advance_together_or_not_at_all(store: FeatureStore) -> None:
    await store.apply([call(None, 5), call(None, 40, source="other/1")])
    both = replace(call(5, 8), sources=(Advance(SOURCE, 5, 8, 1), Advance("other/1", 40, 41, 2), Advance("new/0", None, 3, 3)))
    ahead = replace(both, sources=(*both.sources[:1], Advance("other/1", 30, 41, 2)))
    assert await store.apply([ahead]) == [Ahead([5, 40])]
    behind = replace(both, sources=(*both.sources[:1], Advance("other/1", 30, 41, 2), Advance("third/0", 7, 9, 2)))
    assert await store.apply([behind]) == [RolledBack(2, found=-1)]
    assert await units(store) == 4_000
    assert await store.apply([both]) == [Applied(sequence=45 + 3 + 1 + 3, corrected=0)]
    assert await units(store) == 6_000
    offsets = await store.positions([SHARD], [SOURCE, "other/1", "new/0"])
    assert [p.next_offset for p in offsets.values()] == [8, 41, 3]
    assert [p.watermark_ms for p in offsets.values()] == [TILE * 300_000, TILE * 300_000, 3]


async def test_the_sequence_sums_all_sources_and_repeats_on_a_replay(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    assert await store.apply([call(None, 40, source="other/1")]) == [Applied(sequence=45, corrected=0)]


async def test_closing_rolls_tiles_up_and_marks_what_to_publish(store: FeatureStore) -> None:
    await store.apply([call(None, 5), call(5, 9, tile=TILE + 3), call(9, 10, tile=TILE + 12)])
    await store.claim([SHARD], "token")
    [view] = await store.take([SHARD], "token", 10)
    await store.settle(SHARD, "token", view.dirty)
    assert await store.commit(SHARD, "token", [close_of("a", STEP, STEP)], {"alert/1": b"message"}) == 10
    [(tiles, steps, closed)] = await store.history([(SHARD, "a")])
    assert closed == STEP
    assert steps[STEP][UNITS] == 4_000
    assert set(tiles) == {TILE, TILE + 3, TILE + 12}
    [view] = await store.take([SHARD], "token", 10)
    assert (view.dirty, view.serving_since, view.outbox) == ([("a", 10)], [700], 1)
    assert await store.outbox(SHARD) == {"alert/1": b"message"}


async def test_a_commit_on_other_records_than_those_read_writes_nothing(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "token")
    await store.commit(SHARD, "token", [close_of("a", STEP, STEP)], {})
    again = [close_of("b", STEP, STEP), close_of("a", STEP, STEP)]
    assert await store.commit(SHARD, "token", again, {"alert/2": b"message"}) == Stale(["a"])
    assert await store.outbox(SHARD) == {}
    [record] = await store.records([(SHARD, "b")])
    assert record.features == b""


def sums_of(day: int, *numbers: int, model: str = "model-12") -> DaySums:
    return DaySums(model, {day: numbers}, keep_days=30)


async def test_sums_are_added_with_the_commit_and_only_then(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "token")
    exact = 2**53 - 3
    first = close_of("a", STEP, STEP)
    assert await store.commit(SHARD, "token", [first], {}, sums=sums_of(20_000, 1, exact, 0)) == 5
    assert await store.commit(SHARD, "token", [first], {}, sums=sums_of(20_000, 1, 1, 1)) == Stale(
        ["a"]
    )  # as after an answer that was lost
    assert await store.commit(SHARD, "token", [close_of("b", STEP, STEP)], {}, sums=sums_of(20_000, 2, 2, 7)) == 5
    with pytest.raises(OwnerLost):
        await store.commit(SHARD, "other", [close_of("c", STEP, STEP)], {}, sums=sums_of(20_000, 1, 1, 1))
    with pytest.raises(ShardRolledBack):
        await store.commit(SHARD, "token", [close_of("c", STEP, STEP)], {}, sums=sums_of(20_000, 1, 1, 1), known=6)
    assert await store.day_sums(SHARD, "model-12") == {20_000: [3, exact + 2, 7]}
    assert await store.day_sums(SHARD, "model-13") == {}
    assert await store.day_sums(SHARD + 1, "model-12") == {}


async def test_sums_of_days_long_past_are_forgotten_whatever_the_model(store: FeatureStore) -> None:
    await store.claim([SHARD], "token")
    names = iter("abcdef")
    for day, model in ((20_000, "model-12"), (20_000, "model-13"), (20_001, "model-12"), (20_031, "model-12"), (20_031, "model-12")):
        await store.commit(SHARD, "token", [close_of(next(names), STEP, STEP)], {}, sums=sums_of(day, 1, model=model))
    assert await store.day_sums(SHARD, "model-12") == {20_001: [1], 20_031: [2]}
    assert await store.day_sums(SHARD, "model-13") == {}


async def test_sums_of_what_was_lived_through_go_by_day_and_category(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "token")

    def lived(by_day: dict[int, dict[str, list[int]]]) -> LivedSums:
        return LivedSums(by_day, keep_days=2)

    first = close_of("a", STEP, STEP)
    names = {"": [1, 2], "gärten: and \n more": [0, 2**53 - 5], "y" * 300: [3, -4]}
    await store.commit(SHARD, "token", [first], {}, lived=lived({-1: {"": [9, 9]}, 1: names}))
    assert await store.commit(SHARD, "token", [first], {}, lived=lived({1: names})) == Stale(["a"])
    await store.commit(SHARD, "token", [close_of("b", STEP, STEP)], {}, lived=lived({1: {"": [1, 1], "y" * 300: [4, 4]}, 2: {"": [5, 6]}}))
    assert await store.lived(SHARD) == {1: {**names, "": [2, 3], "y" * 300: [7, 0]}, 2: {"": [5, 6]}}
    assert await store.lived(SHARD + 1) == {}


async def test_a_trial_stays_until_it_is_replaced(store: FeatureStore) -> None:
    await store.claim([SHARD], "token")
    scores = close_of("a", STEP, STEP).scores
    tried = replace(close_of("a", STEP, STEP), trial=b"first")
    later = replace(close_of("a", STEP + 1, STEP + 1), expected_features=tried.features, expected_scores=scores)
    # Beside a product that has none, so that blobs would be mistaken for each other.
    await store.commit(SHARD, "token", [close_of("b", STEP, STEP), tried, close_of("c", STEP, STEP)], {"alert/1": b"message"})
    await store.commit(SHARD, "token", [later], {})
    found = await store.records([(SHARD, name) for name in "abc"])
    assert [record.trial for record in found] == [b"first", b"", b""]
    assert [record.scores for record in found] == [later.scores, scores, scores]
    assert await store.outbox(SHARD) == {"alert/1": b"message"}


async def test_closing_leaves_its_messages_in_the_outbox(store: FeatureStore) -> None:
    await store.claim([SHARD], "token")
    await store.close_step(SHARD, "token", STEP, 0, {"scores/1": b"message"})
    assert await store.outbox(SHARD) == {"scores/1": b"message"}
    with pytest.raises(OwnerLost):
        await store.close_step(SHARD, "other", STEP, 0, {"scores/2": b"message"})
    assert await store.outbox(SHARD) == {"scores/1": b"message"}


async def test_another_owner_s_commit_is_refused(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "old")
    await store.claim([SHARD], "new")
    with pytest.raises(OwnerLost):
        await store.commit(SHARD, "old", [close_of("a", STEP, STEP)], {})
    with pytest.raises(OwnerLost):
        await store.take([SHARD], "old", 1)
    with pytest.raises(OwnerLost):
        await store.settle(SHARD, "old", [("a", 5)])
    with pytest.raises(OwnerLost):
        await store.evict(SHARD, "old", "a", 0, {})
    with pytest.raises(OwnerLost):
        await store.begin_closing(SHARD, "old", STEP)
    with pytest.raises(OwnerLost):
        await store.close_step(SHARD, "old", STEP, 0, {})


async def test_late_events_correct_closed_steps_and_are_counted(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "token")
    await store.begin_closing(SHARD, "token", STEP)
    await store.commit(SHARD, "token", [close_of("a", STEP, STEP)], {})
    assert await store.apply([call(5, 6)]) == [Applied(sequence=6, corrected=2)]  # b has not closed the step, but may have been read
    [(tiles, steps, _), (b_tiles, b_steps, _)] = await store.history([(SHARD, "a"), (SHARD, "b")])
    assert (tiles[TILE][UNITS], steps[STEP][UNITS]) == (4_000, 4_000)
    assert (b_tiles[TILE][UNITS], b_steps) == (4_000, {})


async def test_sums_of_the_newest_two_steps_stand_ready(store: FeatureStore) -> None:
    chance = random.Random(7)
    at: int | None = None
    heard: list[int] = []
    for i in range(60):  # events of half a day, up to two hours late, some calls with cells of several steps
        late = min(chance.randint(0, 30), i)
        tiles = sorted({TILE + 2 * i - late + chance.randint(0, 14) for _ in range(3)})
        deltas = np.zeros((len(tiles), N_MEASURES))
        deltas[:, [UNITS, REVENUE]] = [[chance.randint(-5, 90), chance.randint(0, 10**9)] for _ in tiles]
        if chance.random() < 0.2:  # a large call is history: no sums stand ready until the next small one
            tiles = [TILE + 2 * i - 150 + k for k in range(LIVE_CELLS + 1)]
            deltas = np.ones((len(tiles), N_MEASURES))
        cells = replace(
            call(at, i + 1, products=("a",), tile=tiles[-1]),
            cell_product=np.zeros(len(tiles), int),
            cell_tile=np.array(tiles),
            deltas=deltas,
        )
        await store.apply([cells])
        at, heard = i + 1, [*heard, *tiles]
        [record] = await store.records([(SHARD, "a")], known={SHARD: i + 1})
        if len(tiles) > LIVE_CELLS:
            assert not record.running
            continue
        running, newest = decode_running(record.running), max(heard) // 12
        sums = (await store.tiles([(SHARD, "a")], (newest - 1) * 12, 36))[0].reshape(3, 12, -1).sum(axis=1)
        assert running.step == newest
        assert [running.of(newest - 1), running.of(newest), running.of(newest + 1)] == sums.tolist()
        assert running.of(newest - 2) is None


async def test_records_of_a_shard_that_was_rolled_back_are_refused(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    with pytest.raises(ShardRolledBack):
        await store.records([(SHARD, "a")], known={SHARD: 6})


async def test_a_late_event_that_comes_while_a_product_is_born_is_kept(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "token")
    born = close_of("a", STEP, STEP)  # decided on what was read: nothing before STEP
    await store.apply([call(5, 6, products=("a",), tile=TILE - 30), call(6, 7, products=("a",), tile=TILE - 1_000)])
    assert await store.commit(SHARD, "token", [born], {}) == 7
    [(tiles, steps, closed)] = await store.history([(SHARD, "a")])
    assert closed == STEP
    assert sum(sums[UNITS] for sums in steps.values()) == 6_000
    assert set(tiles) == {TILE, TILE - 30}


async def test_old_tiles_and_steps_go_when_a_step_closes(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "token")
    await store.commit(SHARD, "token", [close_of("a", STEP, STEP)], {})
    kept = store.keep_tiles
    later = close_of("a", STEP + 1, STEP + kept, before=header(STEP * 12 + 11))
    assert await store.commit(SHARD, "token", [later], {}) == 5
    [(tiles, steps, _)] = await store.history([(SHARD, "a")])
    assert tiles == {}
    assert steps[STEP][UNITS] == 2_000
    far = close_of("a", STEP + kept + 1, STEP + store.keep_steps, before=header((STEP + kept) * 12 + 11))
    assert await store.commit(SHARD, "token", [far], {}) == 5
    assert (await store.history([(SHARD, "a")]))[0][1] == {}


async def test_what_changed_since_it_was_taken_stays_dirty(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    await store.claim([SHARD], "token")
    [view] = await store.take([SHARD], "token", 10)
    await store.apply([replace(call(5, 6, products=("a",)), oldest_sent_at_ms=[900])])
    await store.settle(SHARD, "token", view.dirty)
    [after] = await store.take([SHARD], "token", 10)
    assert after.dirty == [("a", 6)]
    assert after.serving_since == [900]  # not 500: the older change was served


async def test_a_product_that_closed_its_step_on_the_way_to_its_forecast_owes_nothing_more(store: FeatureStore) -> None:
    await store.apply([call(None, 5, products=("a",))])
    await store.claim([SHARD], "token")
    [view] = await store.take([SHARD], "token", 10)
    await store.commit(SHARD, "token", [close_of("a", STEP, STEP)], {})  # marks it again, at the same sequence
    await store.settle(SHARD, "token", view.dirty)
    await store.apply([replace(call(5, 6, products=("a",)), oldest_sent_at_ms=[900])])
    [after] = await store.take([SHARD], "token", 10)
    assert after.serving_since == [900]


async def test_a_crash_before_settling_keeps_the_older_sending_time(store: FeatureStore) -> None:
    await store.apply([call(None, 5, products=("a",))])
    await store.claim([SHARD], "token")
    await store.take([SHARD], "token", 10)
    await store.apply([replace(call(5, 6, products=("a",)), oldest_sent_at_ms=[900])])
    await store.claim([SHARD], "next owner")
    [view] = await store.take([SHARD], "next owner", 10)
    assert view.serving_since == [500]


async def test_event_ids_are_forgotten_behind_the_window(store: FeatureStore, raw: redis.asyncio.Redis) -> None:
    await store.apply([call(None, 5, hashes=tuple(range(100)))])
    await store.claim([SHARD], "token")
    assert await raw.keys("*seen:*")
    await store.close_step(SHARD, "token", STEP, (STEP + 1) * HOUR_MS, {})
    assert await raw.keys("*seen:*")
    await store.close_step(SHARD, "token", STEP + 400, (STEP + 401) * HOUR_MS, {})
    assert not await raw.keys("*seen:*")
    assert await store.closed([SHARD]) == {SHARD: STEP + 400}


async def test_eviction_rechecks_and_leaves_only_its_messages(store: FeatureStore, raw: redis.asyncio.Redis) -> None:
    await store.apply([call(None, 5, products=("a",))])
    await store.claim([SHARD], "token")
    await store.commit(SHARD, "token", [replace(close_of("a", STEP, STEP), trial=b"trial")], {})
    [(_, heard)] = await store.live(SHARD)
    assert not await store.evict(SHARD, "token", "a", heard - 1, {"tombstone/a": b"x"})
    assert await store.evict(SHARD, "token", "a", heard, {"tombstone/a": b"x"})
    assert await store.outbox(SHARD) == {"tombstone/a": b"x"}
    assert await store.live(SHARD) == []
    assert not [key for key in await raw.keys("*") if isinstance(key, bytes) and key.endswith(b":a")]


async def test_scripts_are_loaded_again_when_redis_forgot_them(store: FeatureStore, raw: redis.asyncio.Redis) -> None:
    await store.apply([call(None, 5)])
    await raw.script_flush()
    assert await store.apply([call(5, 6)]) == [Applied(sequence=6, corrected=0)]


async def test_accepting_a_gap_skips_in_every_shard_that_is_behind(store: FeatureStore) -> None:
    await store.apply([call(None, 5)])
    assert await store.skip_to([SHARD, SHARD + 1], SOURCE, 9) == 9
    found = await store.positions([SHARD, SHARD + 1], [SOURCE])
    assert [position.next_offset for position in found.values()] == [9, 9]
    assert await store.skip_to([SHARD], SOURCE, 7) == 0


async def test_other_settings_than_the_namespace_s_are_refused(store: FeatureStore, redis_url: str) -> None:
    with pytest.raises(StoreUnusable, match="made with shards='32'"):
        await FeatureStore.open(Settings(redis_url=redis_url, namespace="t", shards=8))


async def test_a_redis_that_evicts_is_refused(raw: redis.asyncio.Redis, redis_url: str) -> None:
    await raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnusable, match="noeviction"):
            await FeatureStore.open(Settings(redis_url=redis_url, namespace="t"))
    finally:
        await raw.config_set("maxmemory-policy", "noeviction")


async def test_a_redis_that_is_not_there_is_named(unused_tcp_port: int) -> None:
    with pytest.raises(StoreUnusable, match=f"127.0.0.1:{unused_tcp_port}"):
        await FeatureStore.open(Settings(redis_url=f"redis://:secret@127.0.0.1:{unused_tcp_port}/0"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_any_cut_into_calls_and_any_repetition_gives_the_same_sums(
    store: FeatureStore, raw: redis.asyncio.Redis, data: st.DataObject
) -> None:
    await raw.flushdb()
    tiles = data.draw(st.lists(st.integers(TILE, TILE + 30), min_size=1, max_size=12))
    at: int | None = None
    for offset, tile in enumerate(tiles):
        one = call(at, offset + 1, tile=tile)
        for _ in range(data.draw(st.integers(1, 3))):
            [outcome] = await store.apply([one])
            assert isinstance(outcome, Applied | Ahead)
        at = offset + 1
    assert await units(store) == 2_000 * len(tiles)
