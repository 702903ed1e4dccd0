"""Forecasts of categories and of the shop on a real Redis and the shipped model: what they add up to, who publishes them, and when."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
import pytest

from feature_store.facts import UNKNOWN, Facts, Version, encode
from feature_store.sharding import shard_of
from feature_store.store import FeatureStore
from models import levels
from models.forecaster import Forecaster
from streaming.contracts import Forecast
from streaming.engine import ForecastEngine
from streaming.settings import Clock, Settings
from tests.integration.shop import SOURCE, START, Sent, Shop, settle

SHARDS: Final = 2
HOUR: Final = 3_600_000
SHOP: Final = "level/shop"
PRODUCTS: Final = 8


@pytest.fixture
def settings(redis_url: str) -> Settings:
    # Without lateness a shard's time stands where its last step ended, and products' forecasts know nothing of the running one.
    return Settings(redis_url=redis_url, namespace="levels", shards=SHARDS, clock=Clock.LOG, lateness_ms=0)


def sold(product: int, first: int, end: int) -> dict[int, int]:
    """Tile → orders in these hours: a steady product of its own size."""
    found = {}
    for hour in range(first, end):
        tile, n = np.random.default_rng([product, hour]).poisson([5, 1 + product]).tolist()
        if n:
            found[(START + hour) * 12 + min(tile, 11)] = n
    return found


async def feed(shop: Shop, first: int, end: int, products: Iterable[int] = range(PRODUCTS)) -> None:
    await shop.orders({f"p{p}": sold(p, first, end) for p in products}, (START + end) * HOUR)


async def until_said(engines: Sequence[ForecastEngine], sent: Sent, step: int, names: Iterable[str] = (SHOP,)) -> dict[str, Forecast]:
    """Rounds until these aggregates are forecast after `step`; returns their last messages."""
    async with asyncio.timeout(60):
        while True:
            for engine in engines:
                await engine.cycle()
            said = {f.product_id: f for f in sent.levels() if f.revision[0] == step}
            if said.keys() >= set(names):
                return said
            await asyncio.sleep(0.01)


def engine_of(store: FeatureStore, settings: Settings, model: Forecaster, sent: Sent) -> ForecastEngine:
    return ForecastEngine(settings.model_copy(update={"facts_topic": "product-facts"}), store, model, sent.send)


async def belong(store: FeatureStore, categories: dict[str, list[tuple[int, str]]]) -> None:
    """Facts of products that say nothing but their categories, each from a step on."""
    for name, said in categories.items():
        facts = Facts(UNKNOWN, [Version(step, category=category) for step, category in said])
        await store._redis.hset(store.keys.facts(int(name[1:]) % SHARDS), name, encode(facts))


async def two_days(store: FeatureStore, settings: Settings, model: Forecaster, *, cuts: int, crash_every: int = 0) -> Sent:
    """In `cuts` parts; with `crash_every`, a new owner takes over after a round here and there."""
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = engine_of(store, settings, model, sent)
    await engine.assign(range(SHARDS))
    for part in range(cuts):
        await feed(shop, part * 48 // cuts, (part + 1) * 48 // cuts)
        if crash_every and part % crash_every == 0:
            await engine.cycle()
            engine = engine_of(store, settings, model, sent)
            await engine.assign(range(SHARDS))
        else:
            await settle(engine, store, SHARDS)
    await settle(engine, store, SHARDS)
    await until_said([engine], sent, START + 47)
    return sent


def comparable(forecast: Forecast) -> dict[str, object]:
    """Without what tells real time."""
    return {name: value for name, value in msgspec.structs.asdict(forecast).items() if name not in ("issued_at", "valid_until")}


async def test_the_shop_is_the_sum_of_its_products_as_published(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent = await two_days(store, settings, model, cuts=8)
    products = [f for f in sent.last().values() if f.revision[0] == START + 47]
    [shop] = [f for f in sent.levels() if f.revision[0] == START + 47]
    assert len(products) == PRODUCTS
    assert shop.level == "shop"
    assert shop.category is None
    assert (shop.revision, shop.kind, shop.running) == ((START + 47, 0), "close", None)
    assert shop.complete_through == shop.as_of == shop.first_step == (START + 48) * HOUR
    np.testing.assert_allclose(shop.mean, np.sum([f.mean for f in products], axis=0), rtol=1e-9)
    for mine, theirs in zip(shop.cumulative, zip(*(f.cumulative for f in products), strict=True), strict=True):
        assert mine.steps == theirs[0].steps
        assert mine.mean == pytest.approx(sum(c.mean for c in theirs), rel=1e-9)
        assert mine.quantiles == sorted(mine.quantiles)
    demand = np.array([[np.nan if d is None else d for d in f.recent.demand] for f in products])
    assert shop.recent.demand[-48:] == np.nansum(demand, axis=0)[-48:].tolist()
    assert shop.recent.demand[:-48] == [None] * 24
    quantiles = np.array(shop.quantiles)
    assert (np.diff(quantiles, axis=0) >= 0).all()
    assert quantiles.min() >= 0
    # Its interval is its own: far narrower than products' intervals laid end to end.
    low, high = model.levels.index(0.1), model.levels.index(0.9)
    added = np.sum([f.quantiles for f in products], axis=0)
    assert (quantiles[high] - quantiles[low]).sum() != pytest.approx((added[high] - added[low]).sum(), rel=1e-3)
    assert shop.quality == "cold_start"


async def test_cuts_and_crashes_do_not_change_it(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    one = comparable((await two_days(store, settings, model, cuts=1)).levels()[-1])
    for cuts, crash_every in ((12, 0), (16, 2)):
        await store._redis.flushdb()
        again = await FeatureStore.open(settings)
        await again.register_sources({SOURCE: "orders/0"})
        sent = await two_days(again, settings, model, cuts=cuts, crash_every=crash_every)
        assert comparable(sent.levels()[-1]) == one
        await again.close()


async def test_a_new_owner_says_the_same_again(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    first = await two_days(store, settings, model, cuts=8)
    sent = Sent()
    engine = engine_of(store, settings, model, sent)
    await engine.assign(range(SHARDS))
    again = await until_said([engine], sent, START + 47)
    assert comparable(again[SHOP]) == comparable(first.levels()[-1])
    for _ in range(50):
        await engine.cycle()
    assert len(sent.levels()) == 1


async def test_the_owner_of_its_key_publishes_once_all_shards_have_closed(
    store: FeatureStore, settings: Settings, model: Forecaster
) -> None:
    whole = comparable((await two_days(store, settings, model, cuts=8)).levels()[-1])
    await store._redis.flushdb()
    again = await FeatureStore.open(settings)
    await again.register_sources({SOURCE: "orders/0"})
    of_shop = shard_of(SHOP, SHARDS)
    mine, theirs = Sent(), Sent()
    owner, other = engine_of(again, settings, model, mine), engine_of(again, settings, model, theirs)
    await owner.assign([of_shop])
    await feed(Shop(again, SHARDS), 0, 48)
    async with asyncio.timeout(60):
        while (await again.summed_steps([of_shop]))[of_shop][-1:] != [START + 47]:
            await owner.cycle()
            await asyncio.sleep(0.01)
    for _ in range(20):
        await owner.cycle()
    assert mine.levels() == []  # the other shard has no owner
    await other.assign([1 - of_shop])
    said = await until_said([owner, other], mine, START + 47)
    assert comparable(said[SHOP]) == whole
    assert theirs.levels() == []
    await again.close()


async def test_a_shard_that_nothing_is_sold_of_holds_nothing_back(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = engine_of(store, settings, model, sent)
    await engine.assign(range(SHARDS))
    await feed(shop, 0, 20, products=range(0, PRODUCTS, 2))
    said = await until_said([engine], sent, START + 19)
    assert said[SHOP].recent.demand[-1] is not None


async def test_a_step_that_was_held_back_says_so(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    of_shop = shard_of(SHOP, SHARDS)
    sent, shop = Sent(), Shop(store, SHARDS)
    owner, other = (engine_of(store, settings, model, sent) for _ in range(2))
    await owner.assign([of_shop])
    await other.assign([1 - of_shop])
    await feed(shop, 0, 20)
    await until_said([owner, other], sent, START + 19)
    for hour in (20, 21):
        await feed(shop, hour, hour + 1)
        async with asyncio.timeout(60):
            while (await store.summed_steps([of_shop]))[of_shop][-1] != START + hour:
                await owner.cycle()
                await asyncio.sleep(0.01)
        if hour == 20:
            async with asyncio.timeout(60):
                while (await store.summed_steps([1 - of_shop]))[1 - of_shop][-1] != START + hour:
                    await other.cycle()
                    await asyncio.sleep(0.01)
    # Both have added up hour 20; the owner has gone on to 21.
    late = await until_said([owner], sent, START + 20)
    assert late[SHOP].quality == "late"
    assert (await until_said([owner, other], sent, START + 21))[SHOP].quality == "cold_start"


async def test_categories_add_up_and_end(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    # Even products are cups; of the odd ones, the first half are plates for a while, and then cups. One is a mug for an hour of the second day.
    await belong(store, {f"p{p}": [(START, "cups")] for p in (0, 2, 4, 6)})
    await belong(store, {f"p{p}": [(START, "plates"), (START + 31, "cups")] for p in (1, 3)})
    await belong(store, {"p5": [(START + 27, "mugs"), (START + 28, "cups")]})
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = engine_of(store, settings, model, sent)
    await engine.assign(range(SHARDS))
    cups, plates, mugs = "level/category/cups", "level/category/plates", "level/category/mugs"
    await feed(shop, 0, 24)
    said = await until_said([engine], sent, START + 23, [SHOP, cups, plates])
    await settle(engine, store, SHARDS)
    last = {int(name[1:]): f for name, f in sent.last().items()}
    for key, members in ((cups, (0, 2, 4, 6)), (plates, (1, 3)), (SHOP, range(PRODUCTS))):
        np.testing.assert_allclose(said[key].mean, np.sum([last[p].mean for p in members], axis=0), rtol=1e-9)
    assert (said[cups].level, said[cups].category) == ("category", "cups")
    await feed(shop, 24, 27)
    said = await until_said([engine], sent, START + 26, [SHOP, cups, plates, mugs])
    assert said[mugs].recent.demand[-1] is not None
    await feed(shop, 27, 31)
    said = await until_said([engine], sent, START + 30, [SHOP, cups])
    assert said.keys() == {SHOP, cups}
    await feed(shop, 31, 32)
    await until_said([engine], sent, START + 31, [SHOP, cups])
    assert sorted(m.key or b"" for m in sent.messages if m.value is None) == [mugs.encode(), plates.encode()]  # once
    assert {f.revision[0] for f in sent.levels() if f.product_id == mugs} == {START + 26}


async def test_too_many_categories_leave_the_shop_alone(
    store: FeatureStore, settings: Settings, model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "MOST_CATEGORIES", 3)
    await belong(store, {f"p{p}": [(START, f"category {p}")] for p in range(PRODUCTS)})
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = engine_of(store, settings, model, sent)
    await engine.assign(range(SHARDS))
    await feed(shop, 0, 20)
    assert set(await until_said([engine], sent, START + 19)) == {SHOP}
