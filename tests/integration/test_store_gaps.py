"""A source's position moved by an operator, on a real Redis: forwards over deleted records, backwards where a log has lost its end."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from feature_store.calls import NO_WATERMARK, Advance, Applied, ApplyCall, RolledBack
from feature_store.measures import N_MEASURES, UNITS
from feature_store.store import FeatureStore
from streaming.settings import Settings

SOURCE = "topic-id/0"
TILE = 490_000 * 12


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[FeatureStore]:
    opened = await FeatureStore.open(Settings(redis_url=redis_url, namespace="t", shards=3))
    yield opened
    await opened.close()


def one_unit(shard: int, expected: int | None, next_offset: int) -> ApplyCall:
    deltas = np.zeros((1, N_MEASURES))
    deltas[0, UNITS] = 1_000
    moves = (Advance(SOURCE, expected, next_offset, 9_000),)
    return ApplyCall(shard, moves, ["a"], [1], [TILE * 300_000], np.zeros(1, np.int64), np.array([TILE]), deltas)


async def offsets(store: FeatureStore) -> list[int | None]:
    found = await store.positions(range(3), [SOURCE])
    return [found[shard, SOURCE].next_offset for shard in range(3)]


async def sequence(store: FeatureStore, shard: int) -> int:
    await store.claim([shard], "token")
    [view] = await store.take([shard], "token", 10)
    return view.sequence


async def units(store: FeatureStore, shard: int) -> float:
    [(tiles, _, _)] = await store.history([(shard, "a")])
    return float(sum(sums[UNITS] for sums in tiles.values()))


async def test_a_source_set_back_is_counted_on_from_there_and_the_sequence_only_grows(store: FeatureStore) -> None:
    await store.apply([one_unit(0, None, 1_000), one_unit(1, None, 940)])
    assert await store.set_back(SOURCE, {0: 1_000}, 950) == []
    assert await offsets(store) == [950, 940, None]
    assert await sequence(store, 0) == 1_000
    assert await units(store, 0) == 1_000  # what was counted of the lost records stays
    assert await store.apply([one_unit(0, 950, 953)]) == [Applied(sequence=1_003, corrected=0)]
    assert await units(store, 0) == 2_000


async def test_a_worker_that_still_believes_the_old_position_is_told(store: FeatureStore) -> None:
    await store.apply([one_unit(0, None, 1_000)])
    await store.set_back(SOURCE, {0: 1_000}, 950)
    assert await store.apply([one_unit(0, 1_000, 1_002)]) == [RolledBack(0, found=950)]


async def test_a_shard_that_was_counted_on_meanwhile_is_not_set_back(store: FeatureStore) -> None:
    await store.apply([one_unit(0, None, 1_000), one_unit(1, None, 1_200)])
    assert await store.set_back(SOURCE, {0: 1_000, 1: 1_000}, 950) == [1]
    assert await offsets(store) == [950, 1_200, None]


async def test_setting_back_may_be_repeated(store: FeatureStore) -> None:
    await store.apply([one_unit(0, None, 1_000)])
    for _ in range(2):
        assert await store.set_back(SOURCE, {0: 1_000}, 950) == []
    assert await sequence(store, 0) == 1_000


async def test_a_shard_without_a_position_gets_one(store: FeatureStore) -> None:
    assert await store.set_back(SOURCE, {2: None}, 950) == []
    assert await offsets(store) == [None, None, 950]
    assert await store.apply([one_unit(2, 950, 951)]) == [Applied(sequence=951, corrected=0)]


async def test_a_shard_that_got_a_position_meanwhile_is_left_alone(store: FeatureStore) -> None:
    await store.apply([one_unit(2, None, 7)])
    assert await store.set_back(SOURCE, {2: None}, 950) == [2]
    assert await offsets(store) == [None, None, 7]


async def test_skipping_moves_forwards_only_and_raises_the_sequence_with_it(store: FeatureStore) -> None:
    await store.apply([one_unit(0, None, 150), one_unit(1, None, 400)])
    assert await store.skip_to(range(3), SOURCE, 200) == 200  # the third shard had counted nothing
    assert await offsets(store) == [200, 400, 200]
    assert [await sequence(store, shard) for shard in range(3)] == [200, 400, 200]
    assert await store.skip_to(range(3), SOURCE, 200) == 0


async def test_gaps_are_remembered(store: FeatureStore) -> None:
    for _ in range(2):
        await store.note_gap(SOURCE, 0, 200, NO_WATERMARK)
    await store.note_gap(SOURCE, 950, 1_000, 9_000)
    found = sorted((gap["first"], gap["end"], gap["watermark_ms"]) for gap in await store.gaps())
    assert found == [(0, 200, NO_WATERMARK), (950, 1_000, 9_000)]
