"""What the shop knows ahead, in Redis: what is read is what was said, counted once, and nothing that may still be asked for is forgotten."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from feature_store.calls import Advance, Ahead, Applied, ApplyCall, ShardRolledBack
from feature_store.facts import ContextChange, Entry, FactChange, Facts, Version, context_field, decode_entries, decode_facts, encode, put
from feature_store.store import FeatureStore
from models.known_future import KnownFuture, Place
from streaming.settings import DAY_MS, HOUR_MS, Settings

SOURCE = "facts-id/0"
NAMES = ("price", "discount", "context:weather")
STEPS = 24 * 20


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[FeatureStore]:
    opened = await FeatureStore.open(Settings(redis_url=redis_url, namespace="ahead", shards=1))
    yield opened
    await opened.close()


def told(first: int, n: int, rng: np.random.Generator) -> list[FactChange | ContextChange]:
    """What a shop says of three products and the weather, in order of time; often what it said before."""
    steps = np.sort(rng.integers(first, first + STEPS, n)).tolist()
    found: list[FactChange | ContextChange] = []
    for step in steps:
        start_s = (step + int(rng.integers(-3, 40))) * 3600
        if rng.random() < 0.4:
            value = Entry(step, start_s, start_s + 3600 * int(rng.integers(1, 4)), float(rng.integers(0, 9)), 1)
            found.append(ContextChange("weather", "", Entry(step) if rng.random() < 0.05 else value))
            continue
        promotions = (start_s, start_s + 7200, 2_500) if rng.random() < 0.5 else ()
        version = Version(step, int(rng.choice([-1, 100, 120])), int(rng.integers(0, 2)), int(rng.integers(-1, 2)), "toys", promotions)
        found.append(FactChange(f"p{rng.integers(3)}", Version(step) if rng.random() < 0.1 else version, step))
    return found


async def apply(store: FeatureStore, some: list[FactChange | ContextChange], offset: int) -> None:
    facts = [change for change in some if isinstance(change, FactChange)]
    context = [change for change in some if isinstance(change, ContextChange)]
    moved = Advance(SOURCE, offset or None, offset + len(some), 0)
    assert isinstance((await store.apply([ApplyCall(0, (moved,), facts=facts, context=context)]))[0], Applied)


def naive(some: list[FactChange | ContextChange]) -> tuple[list[Facts | None], list[Entry]]:
    """All that was said, nothing forgotten."""
    facts: dict[str, Facts] = {}
    entries: list[Entry] = []
    for change in some:
        if isinstance(change, FactChange):
            facts[change.product] = put(facts.get(change.product), change.version)
        elif entries or change.entry.end_s:
            entries.append(change.entry)
    return [facts.get(f"p{i}") for i in range(3)], entries


PRODUCTS = [(0, f"p{i}") for i in range(3)]


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_stored_is_what_was_said(store: FeatureStore, seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = told(490_000, 120, rng)
    at = 0
    while at < len(some):
        n = int(rng.integers(1, 30))
        await apply(store, some[at : at + n], at)
        at += n
    found, context = await store.known_ahead(PRODUCTS)
    facts, entries = naive(some)
    assert [decode_facts(packed) if packed else None for packed in found] == facts
    spans = {(e.start_s, e.end_s, e.step): e for e in entries}  # what was said again within a step counts once
    assert [decode_entries(packed) for _, packed in context[0]] == [[e for e in entries if spans[e.start_s, e.end_s, e.step] is e]]


@pytest.mark.parametrize("seed", range(4))
async def test_what_may_still_be_asked_for_is_kept_and_no_more(store: FeatureStore, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = 490_000
    some = told(first, 300, rng)
    for i, change in enumerate(some):
        step = change.version.step if isinstance(change, FactChange) else change.entry.step
        await store._redis.hset(store.keys.closed(0), "step", step - 2)
        await apply(store, [change], i)
    packed, contexts = await store.known_ahead(PRODUCTS)
    facts, entries = naive(some)
    field = context_field("weather", "").encode()
    kept = KnownFuture.of(NAMES, HOUR_MS, Place("UTC"), packed, [contexts[0]])
    everything = KnownFuture.of(
        NAMES, HOUR_MS, Place("UTC"), [encode(each) if each else b"" for each in facts], [((field, encode(entries)),)]
    )
    last = max(c.version.step if isinstance(c, FactChange) else c.entry.step for c in some)
    rows = np.arange(3)
    for step in range(last - store.keep_steps + 5, last + 3):
        steps = np.full(3, step)
        np.testing.assert_array_equal(kept.of_step(rows, steps), everything.of_step(rows, steps))
        np.testing.assert_array_equal(kept.ahead(rows, steps, 48), everything.ahead(rows, steps, 48))
        np.testing.assert_array_equal(kept.out_of_stock(rows, steps), everything.out_of_stock(rows, steps))
    assert all(len(decode_facts(each).versions) < 45 for each in packed if each)  # of some sixty
    assert sum(len(decode_entries(each)) for _, each in contexts[0]) < len(entries) * 0.7


async def test_a_record_counts_once(store: FeatureStore) -> None:
    change = FactChange("p0", Version(5, 100), 1)
    call = ApplyCall(0, (Advance(SOURCE, None, 1, 0),), facts=[change])
    assert isinstance((await store.apply([call]))[0], Applied)
    assert await store.apply([call]) == [Ahead([1])]


async def test_facts_that_come_after_their_step_are_counted_as_late(store: FeatureStore) -> None:
    await store._redis.hset(store.keys.closed(0), mapping={"step": 9, "closing": 9})
    for offset, (step, price, late) in enumerate([(9, 100, 1), (10, 100, 0), (9, 120, 1), (10, 130, 0)]):
        moved = Advance(SOURCE, offset or None, offset + 1, 0)
        [outcome] = await store.apply([ApplyCall(0, (moved,), facts=[FactChange("p0", Version(step, price), 1)])])
        assert isinstance(outcome, Applied)
        assert outcome.corrected == late


async def test_only_products_that_are_forecast_and_said_something_new_are_forecast_again(store: FeatureStore) -> None:
    await store._redis.zadd(store.keys.live(0), {"p0": 1})
    said = [FactChange("p0", Version(5, 100), 7), FactChange("p1", Version(5, 100), 8)]
    await apply(store, said, 0)  # type: ignore[arg-type]
    assert await store._redis.zrange(store.keys.dirty(0), 0, -1, withscores=True) == [(b"p0", 2.0)]
    await store._redis.delete(store.keys.dirty(0))
    await apply(store, [FactChange("p0", Version(8, 100), 9)], 2)
    assert not await store._redis.exists(store.keys.dirty(0))


async def test_facts_outlive_a_silence_unless_they_were_withdrawn(store: FeatureStore) -> None:
    said = [FactChange("p0", Version(5, 100), 7), FactChange("p1", Version(5, 100), 8), FactChange("p1", Version(9), 8)]
    await apply(store, said, 0)  # type: ignore[arg-type]
    await store._redis.zadd(store.keys.live(0), {"p0": 1, "p1": 1})
    await store.claim([0], "me")
    for name in ("p0", "p1"):
        assert await store.evict(0, "me", name, 1, {})
    found, _ = await store.known_ahead([(0, "p0"), (0, "p1")])
    assert (bool(found[0]), found[1]) == (True, b"")


async def test_a_reader_notices_that_redis_forgot(store: FeatureStore) -> None:
    await apply(store, [FactChange("p0", Version(5, 100), 7)], 0)
    with pytest.raises(ShardRolledBack):
        await store.known_ahead([(0, "p0")], known={0: 2})


async def test_a_usual_product_takes_less_than_its_share_of_memory(store: FeatureStore) -> None:
    """One price, one promotion, a category: what docs/features.md says of it."""
    n = 2_000
    week_s = 7 * DAY_MS // 1000
    version = Version(490_000, 129_900, 14, 1, "kitchen-tools", (1_764_000_000, 1_764_000_000 + week_s, 2_500))
    for start in range(0, n, 500):
        await apply(store, [FactChange(f"p{i:05d}", version, 1) for i in range(start, start + 500)], start)
    assert await store._redis.memory_usage(store.keys.facts(0), samples=0) / n < 187
