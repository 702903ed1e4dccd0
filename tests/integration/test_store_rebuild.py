"""What rebuilding states asks of the store: steps as they are kept, and states put where products still stand."""

from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest

from feature_store.calls import OwnerLost, RebuiltState, ShardRolledBack, StoreUnusable
from feature_store.measures import N_MEASURES, UNITS
from feature_store.store import FeatureStore
from feature_store.store.forecasting import FEW_STEPS
from models.records import header
from streaming.settings import Settings

SPEC = b"spec-one"


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[FeatureStore]:
    opened = await FeatureStore.open(Settings(redis_url=redis_url, namespace="t", shards=3))
    await opened.claim([0, 1], "token")
    yield opened
    await opened.close()


async def keep(store: FeatureStore, shard: int, product: str, steps: dict[int, float]) -> None:
    for step, units in steps.items():
        sums = [0.0] * N_MEASURES
        sums[UNITS] = units
        await store._redis.hset(store.keys.steps(shard, product), step, msgspec.msgpack.encode(sums))


@pytest.mark.parametrize("count", [3, FEW_STEPS, FEW_STEPS + 1, 200])
async def test_steps_come_oldest_first_each_product_s_up_to_its_own(store: FeatureStore, count: int) -> None:
    await keep(store, 0, "a", {step: float(step) for step in range(500, 700, 2)})
    await keep(store, 1, "b", {690: 1.0, 695: 2.0, 696: 3.0})
    found = (await store.steps([(0, "a"), (1, "b"), (1, "nobody")], [690, 695, 5], count))[..., UNITS]
    assert found.shape == (3, count)
    wanted = np.arange(691 - count, 691)
    assert found[0].tolist() == np.where((wanted % 2 == 0) & (wanted >= 500), wanted, 0).tolist()
    assert found[1, -1] == 2
    assert found[1].sum() == (3 if count > 5 else 2)
    assert not found[2].any()


async def test_a_state_is_put_where_the_product_still_stands(store: FeatureStore) -> None:
    names = ("there", "gone on", "forgotten")
    for name, step in zip(names, (7, 8), strict=False):
        features, state = header(step, SPEC) + b"numbers", header(step, b"old-one-") + b"old"
        await store._redis.set(store.keys.state(0, name), features + state + len(features).to_bytes(4, "little"))
    read, new = header(7, SPEC), header(7, b"new-one-") + b"other size"
    await store.rebuild(0, "token", [RebuiltState(name, read, new) for name in names])
    found = await store.records([(0, name) for name in names])
    assert [record.state for record in found] == [new, header(8, b"old-one-") + b"old", b""]
    assert [record.features for record in found] == [read + b"numbers", header(8, SPEC) + b"numbers", b""]
    headers = await store.headers([(0, name) for name in names], features_bytes=len(read) + 7)
    assert headers == [(read, new[:16]), (header(8, SPEC), header(8, b"old-one-")), (b"", b"")]
    assert await store._redis.zrange(store.keys.dirty(0), 0, -1) == [b"there"]


async def test_only_the_owner_puts_states_and_only_on_what_it_knew(store: FeatureStore) -> None:
    with pytest.raises(OwnerLost):
        await store.rebuild(0, "another", [])
    await store._redis.hset(store.keys.offsets(0), "sum", 4)
    with pytest.raises(ShardRolledBack):
        await store.rebuild(0, "token", [], known=5)
    await store.rebuild(0, "token", [], known=4)


async def test_a_pointer_that_is_none_says_so(store: FeatureStore) -> None:
    assert await store.model() is None
    await store._redis.hset(store.keys.meta, "model", b"lstm/3")
    with pytest.raises(StoreUnusable, match="promote one again"):
        await store.model()
