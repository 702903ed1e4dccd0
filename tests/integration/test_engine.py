"""The forecast engine on a real Redis and the shipped model, without Kafka: what it closes, publishes and leaves behind, whatever the order of work."""

import asyncio
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from feature_store.calls import HEADER_BYTES, OwnerLost, ProductRecord
from feature_store.facts import FactChange, Version
from feature_store.store import FeatureStore
from models.forecaster import Forecaster
from streaming.contracts import Forecast
from streaming.engine import ForecastEngine
from streaming.ownership import FrozenWorker
from streaming.settings import Clock, Settings
from tests.integration.shop import SOURCE, START, TILE, Sent, Shop, settle

SHARDS = 2
HOUR = 3_600_000


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, namespace="engine", shards=SHARDS, clock=Clock.LOG)


def shard_of(product: str) -> int:
    return int(product[1:]) % SHARDS


def hours(product: int, first: int, n: int, *, rate: int = 6) -> dict[int, int]:
    """A steady product: `rate` orders every hour, spread over its tiles."""
    return {(START + first + hour) * 12 + (product + 5 * k) % 12: 1 + (k + product) % 2 for hour in range(n) for k in range(rate)}


async def run_through(store: FeatureStore, settings: Settings, model: Forecaster, cuts: int, *, crash_every: int = 0) -> Sent:
    """Two days of eight products, delivered in `cuts` parts; with `crash_every`, a new owner takes over in between."""
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    n = 48
    for part in range(cuts):
        first, end = part * n // cuts, (part + 1) * n // cuts
        await shop.orders({f"p{p}": hours(p, first, end - first) for p in range(8)}, (START + end) * HOUR)
        if crash_every and part % crash_every == 0:
            await engine.cycle()
            engine = ForecastEngine(settings, store, model, sent.send)
            await engine.assign(range(SHARDS))
        else:
            await settle(engine, store, SHARDS)
    await settle(engine, store, SHARDS)
    return sent


async def test_every_product_is_forecast_after_the_last_close(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent = await run_through(store, settings, model, cuts=6)
    last = sent.last()
    assert set(last) == {f"p{p}" for p in range(8)}
    for forecast in last.values():
        assert forecast.revision[0] == START + 47
        assert forecast.complete_through == (START + 48) * HOUR == forecast.first_step
        assert forecast.kind == "close"
        assert len(forecast.mean) == model.horizon
        assert [c.steps for c in forecast.cumulative] == [168, 336]
        assert forecast.quality == "ok"
        assert forecast.recent.demand[-1] is not None
    assert await store.closed(range(SHARDS)) == dict.fromkeys(range(SHARDS), START + 47)


async def test_cuts_and_crashes_change_neither_states_nor_last_forecasts(
    settings: Settings, model: Forecaster, store: FeatureStore
) -> None:
    one = (await run_through(store, settings, model, cuts=1)).last()
    products = [(shard_of(f"p{p}"), f"p{p}") for p in range(8)]
    states = await lasting(store, products)
    for cuts, crash_every in ((12, 0), (16, 2)):
        await store._redis.flushdb()
        again = await FeatureStore.open(settings)
        await again.register_sources({SOURCE: "orders/0"})
        other = (await run_through(again, settings, model, cuts=cuts, crash_every=crash_every)).last()
        assert await lasting(again, products) == states
        for product, forecast in one.items():
            assert comparable(other[product]) == comparable(forecast)
        await again.close()


async def lasting(store: FeatureStore, products: list[tuple[int, str]]) -> list[ProductRecord]:
    """What is stored of the products, without what stands ready or does not, by how much was counted at once."""
    return [replace(record, running=b"") for record in await store.records(products)]


def comparable(forecast: Forecast) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(forecast)
    for name in ("issued_at", "valid_until", "oldest_input_at", "revision"):
        del fields[name]
    return fields


async def test_an_order_changes_the_forecast_of_the_running_step(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await shop.orders({"p1": hours(1, 0, 30)}, (START + 30) * HOUR)
    await settle(engine, store, SHARDS)
    before = sent.last()["p1"]
    await shop.orders({"p1": {(START + 30) * 12: 40}}, (START + 30) * HOUR + TILE)
    await settle(engine, store, SHARDS)
    after = sent.last()["p1"]
    assert (before.kind, after.kind) == ("close", "nowcast")
    assert after.running is not None
    assert after.running.observed == 80
    assert after.revision > before.revision
    assert after.mean[0] > before.mean[0] + 40
    assert after.oldest_input_at == 1


async def test_a_product_with_broken_numbers_does_not_stop_its_neighbours(
    store: FeatureStore, settings: Settings, model: Forecaster
) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await shop.orders({"p1": hours(1, 0, 30), "p3": hours(3, 0, 30)}, (START + 30) * HOUR)
    await settle(engine, store, SHARDS)
    [record] = await store.records([(1, "p1")])
    broken = record.features[:HEADER_BYTES] + np.full(model.feature_size, np.nan, np.float32).tobytes()
    await store._redis.setrange(store.keys.state(1, "p1"), 0, broken)
    sent.messages.clear()
    running = {(START + 30) * 12: 40}
    await shop.orders({"p1": running, "p3": running}, (START + 30) * HOUR + TILE)
    await settle(engine, store, SHARDS)
    assert set(sent.last()) == {"p3"}


async def test_silent_products_advance_too(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await shop.orders({"p1": hours(1, 0, 40), "p3": hours(3, 0, 10)}, (START + 40) * HOUR)
    await settle(engine, store, SHARDS)
    last = sent.last()
    assert last["p3"].revision[0] == START + 39
    assert sum(last["p3"].mean) < sum(last["p1"].mean)


async def test_an_ancient_event_does_not_hold_up_the_shard(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    decade = 10 * 365 * 24
    await shop.orders({"p1": {(START - decade) * 12: 1} | hours(1, 0, 3), "p3": hours(3, 0, 3)}, (START + 3) * HOUR)
    cycles = 0
    while (await store.closed([1]))[1] != START + 2:
        await engine.cycle()
        cycles += 1
        assert cycles < 100
    await settle(engine, store, SHARDS)
    assert set(sent.last()) == {"p1", "p3"}


async def test_a_worker_that_froze_sends_nothing(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent = Sent()
    engine = ForecastEngine(settings.model_copy(update={"session_timeout_ms": 1}), store, model, sent.send)
    await engine.assign(range(SHARDS))
    await Shop(store, SHARDS).orders({"p1": hours(1, 0, 3)}, (START + 3) * HOUR)
    with pytest.raises(FrozenWorker):
        await settle(engine, store, SHARDS)
    assert not sent.messages


async def test_an_owner_that_lost_its_shard_stops(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    old = ForecastEngine(settings, store, model, Sent().send)
    await old.assign(range(SHARDS))
    new = ForecastEngine(settings, store, model, Sent().send)
    await new.assign(range(SHARDS))
    with pytest.raises(OwnerLost):
        await old.cycle()
    await settle(new, store, SHARDS)


async def test_two_engines_share_the_shards(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engines = [ForecastEngine(settings, store, model, sent.send) for _ in range(SHARDS)]
    for shard, engine in enumerate(engines):
        await engine.assign([shard])
    await shop.orders({f"p{p}": hours(p, 0, 5) for p in range(4)}, (START + 5) * HOUR)
    await asyncio.gather(*(settle(engine, store, SHARDS) for engine in engines))
    assert set(sent.last()) == {"p0", "p1", "p2", "p3"}


async def test_products_silent_for_too_long_leave_a_tombstone(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    brief = settings.model_copy(update={"evict_after_ms": 24 * HOUR})
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(brief, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await shop.orders({"p1": hours(1, 0, 2), "p3": hours(3, 0, 2)}, (START + 2) * HOUR)
    await settle(engine, store, SHARDS)
    await shop.orders({"p3": hours(3, 2, 30)}, (START + 32) * HOUR)
    await settle(engine, store, SHARDS)
    tombstones = [m.key for m in sent.messages if m.topic == "forecasts" and m.value is None]
    assert tombstones == [b"p1"]
    assert [name for name, _ in await store.live(1)] == ["p3"]


async def test_a_rise_fires_once_and_resolves(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    usual = hours(1, 0, 24 * 6, rate=12)
    await shop.orders({"p1": usual}, (START + 144) * HOUR)
    await settle(engine, store, SHARDS)
    sent.messages.clear()
    rise = dict.fromkeys(range((START + 144) * 12, (START + 148) * 12), 20)
    await shop.orders({"p1": rise | hours(1, 148, 40, rate=12)}, (START + 188) * HOUR)
    await settle(engine, store, SHARDS)
    fired = next(a for a in sent.alerts() if a.kind == "spike" and a.updated_at > (START + 144) * HOUR)
    assert fired.updated_at < (START + 148) * HOUR
    said = [a for a in sent.alerts() if a.alert_id == fired.alert_id]
    assert said[0].status == "firing"
    assert said[-1].status == "resolved"
    assert [a.sequence for a in said] == sorted({a.sequence for a in said})
    assert all(a.replay for a in said)


def days(product: int, n: int) -> dict[int, int]:
    """Sales from 8 to 22 o'clock, in each tile, of the first `n` hours: the model expects quiet nights, whatever a product sells in them."""
    return {tile: orders for tile, orders in hours(product, 0, n, rate=24).items() if 8 <= tile // 12 % 24 < 22}


async def test_a_stock_out_ends_a_drop_and_begins_none(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    """Three products stop selling at noon. Of one the shop says hours later that nothing is left, of one at once, of one never.

    sales        |************|            |
    stock of p1  |            |     0      |
    stock of p5  |            |0           |
    """
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings.model_copy(update={"facts_topic": "product-facts", "alerts_floor": 0.0}), store, model, sent.send)
    await engine.assign(range(SHARDS))
    silent, gone, now = START + 60, START + 64, START + 68
    await shop.orders({f"p{p}": days(p, silent - START) for p in (1, 3, 5)}, silent * HOUR)
    await settle(engine, store, SHARDS)
    assert not sent.alerts()
    facts = [FactChange("p1", Version(gone, stock=0), 1), FactChange("p5", Version(silent, stock=0), 1)]
    await shop.orders({}, now * HOUR, facts)
    await settle(engine, store, SHARDS)
    explained, missing, never = ([alert for alert in sent.alerts() if alert.product_id == product] for product in ("p1", "p3", "p5"))
    assert [alert.status for alert in explained] == [*["firing"] * (len(explained) - 1), "resolved"]
    assert {(alert.kind, alert.alert_id) for alert in explained} == {("drop", explained[0].alert_id)}
    assert silent * HOUR < explained[0].updated_at <= gone * HOUR
    assert (explained[-1].reason, explained[-1].ends_at) == ("stock_out", gone * HOUR + TILE)  # the first tile in which it holds
    assert explained[-1].drivers[0].name == "stock_out"
    assert {(alert.kind, alert.status) for alert in missing} == {("drop", "firing")}
    assert missing[-1].updated_at > (now - 1) * HOUR
    assert never == []
