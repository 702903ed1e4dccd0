"""Calibration in the stream is that of the backtest: the same outcomes, factors and forecasts, however the log was cut and whoever took over."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import pandas as pd
import pytest

from feature_store.calls import parted
from feature_store.store import FeatureStore
from models.backtest import Streamed
from models.bench import Bench
from models.calibration import Outcomes, day_of
from models.dataset import Panel
from models.features import F32
from models.forecaster import Forecaster
from streaming import metrics
from streaming.contracts import ForecastScores
from streaming.engine import ForecastEngine
from streaming.settings import DAY_MS, HOUR_MS, Clock, Settings
from tests.integration.shop import SOURCE, START, Sent, Shop, settle

DAYS: Final = 5
HOURS: Final = 24 * DAYS
PRODUCTS: Final = 14


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """One shard, as the backtest has; nothing is late, so that the last forecasts are those of whole steps."""
    return Settings(redis_url=redis_url, namespace="calibration", shards=1, clock=Clock.LOG, lateness_ms=0)


def orders() -> F32:
    """Orders of two units by product and hour, (products, hours): from rare to frequent, the last born in the second day, one silent from the third on."""
    rng = np.random.default_rng(7)
    rates = np.geomspace(0.05, 6, PRODUCTS)[:, None] * (1 + np.sin(np.arange(HOURS) * np.pi / 12))
    sold: F32 = rng.poisson(rates).astype(np.float32)
    sold[:, 0] = np.maximum(sold[:, 0], 1)
    sold[-1, :30], sold[-1, 30], sold[-2, 60:] = 0, 1, 0
    return sold


ORDERS: Final = orders()


def offline(model: Forecaster) -> Streamed:
    """The backtest's shop after the last hour."""
    demand = np.zeros((PRODUCTS, HOURS, 1 + len(model.spec.streams)), np.float32)
    demand[..., 0], demand[..., 1 + model.spec.streams.index("orders")] = 2 * ORDERS, ORDERS
    born = np.array([int(np.flatnonzero(row)[0]) for row in ORDERS])
    names = tuple(f"p{i}" for i in range(PRODUCTS))
    assert (np.diff(born) >= 0).all()
    panel = Panel(names, START, born, demand, "UTC")
    shop = Streamed(Bench(panel, model.spec, pd.RangeIndex(HOURS), (HOURS - 1,), model.horizon, 24), model)
    for column in range(HOURS):
        shop.live(column)
    return shop


async def replayed(
    store: FeatureStore,
    settings: Settings,
    model: Forecaster,
    cuts: int,
    *,
    crash_every: int = 0,
    products: Sequence[int] = range(PRODUCTS),
) -> Sent:
    """The same through the engine, delivered in `cuts` parts; with `crash_every`, a new owner takes over in between."""
    sent, shop = Sent(), Shop(store, shards=1)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign([0])
    for part in range(cuts):
        first, end = part * HOURS // cuts, (part + 1) * HOURS // cuts
        await shop.orders({f"p{p}": sales(p, first, end) for p in products}, (START + end) * HOUR_MS)
        if crash_every and part % crash_every == 0:
            await engine.cycle()
            engine = ForecastEngine(settings, store, model, sent.send)
            await engine.assign([0])
        else:
            await settle(engine, store, shards=1)
    await settle(engine, store, shards=1)
    return sent


def sales(product: int, first: int, end: int) -> dict[int, int]:
    """Tile → orders: all of an hour in one of its tiles."""
    return {(START + hour) * 12 + (hour + product) % 12: int(ORDERS[product, hour]) for hour in range(first, end) if ORDERS[product, hour]}


@pytest.mark.parametrize(("cuts", "crash_every"), [(1, 0), (20, 3)])
async def test_outcomes_factors_and_forecasts_are_those_of_the_backtest(
    store: FeatureStore, settings: Settings, model: Forecaster, cuts: int, crash_every: int
) -> None:
    expected = offline(model)
    sent = await replayed(store, settings, model, cuts, crash_every=crash_every)
    stored = await store.day_sums(0, model.version[:8])
    assert sorted(stored) == sorted(day for day, found in expected._outcomes.items() if found.count.any())
    for day, numbers in stored.items():
        np.testing.assert_array_equal(Outcomes.from_list(numbers).sums, expected._outcomes[day].sums)
    out, _, factors = expected.forecast(HOURS - 1, np.arange(PRODUCTS))
    out = model.published(out)
    assert (np.abs(factors - 1) > 0.02).mean() > 0.3  # they have something to do
    last = sent.last()
    assert len(last) == PRODUCTS
    for i in range(PRODUCTS):
        found = last[f"p{i}"]
        np.testing.assert_allclose(found.mean, out.mean[i], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.quantiles, out.quantiles[i], rtol=1e-4, atol=1e-4)


async def test_a_product_that_is_forgotten_was_judged_as_long_whenever_its_silence_was_noticed(
    store: FeatureStore, settings: Settings, model: Forecaster
) -> None:
    silent, rests = PRODUCTS - 2, [p for p in range(4, PRODUCTS) if p != PRODUCTS - 2]  # the first four may sell nothing for a day
    brief = settings.model_copy(update={"evict_after_ms": DAY_MS})
    found = []
    for cuts in (1, 3, 40):
        await store._redis.flushdb()
        again = await FeatureStore.open(brief)
        await again.register_sources({SOURCE: "orders/0"})
        sent = await replayed(again, brief, model, cuts, products=[*rests, silent])
        assert f"p{silent}".encode() in [m.key for m in sent.messages if m.topic == "forecasts" and m.value is None]
        found.append(await again.day_sums(0, model.version[:8]))
        await again.close()
    assert found[0] == found[1] == found[2]


async def test_scores_of_each_day_are_sent_once_and_repeated_alike(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    once = scores(await replayed(store, settings, model, cuts=1))
    day = day_of(START, HOUR_MS)
    assert [s.start // DAY_MS for s in once] == list(range(day, day + DAYS))
    for each in once:
        numbers = (await store.day_sums(0, model.version[:8]))[each.start // DAY_MS]
        found = Outcomes.from_list(numbers)
        whole = each.volumes[-1]
        assert (whole.volume, whole.outcomes) == ("all", found.count.sum())
        assert whole.mwql is not None
        assert whole.demand == found.demand.sum() / 1000
    await store._redis.flushdb()
    again = await FeatureStore.open(settings)
    await again.register_sources({SOURCE: "orders/0"})
    assert list(dict.fromkeys(msgspec.json.encode(s) for s in scores(await replayed(again, settings, model, 20, crash_every=3)))) == list(
        map(msgspec.json.encode, once)
    )
    await again.close()


def scores(sent: Sent) -> list[ForecastScores]:
    values = (m.value for m in sent.messages if m.topic == "forecast-scores" and m.value is not None)
    return [msgspec.json.decode(value, type=ForecastScores) for value in values]


async def test_metrics_tell_what_the_last_full_days_brought(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    await replayed(store, settings, model, cuts=DAYS)
    found = sum(map(Outcomes.from_list, (await store.day_sums(0, model.version[:8])).values()), Outcomes.none(len(model.levels)))
    body = metrics.render()[0].decode()
    assert f'trendcast_forecast_below_quantile_ratio{{level="{model.levels[0]}",role="serving",volume="all"}}' in body
    assert found.count.sum() > 0
    [line] = [line for line in body.splitlines() if line.startswith('trendcast_forecast_quantile_loss_ratio{role="serving",volume="all"}')]
    assert 0 < float(line.split()[-1]) < 3


async def test_what_another_model_brought_is_not_read(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    await replayed(store, settings, model, cuts=1)
    owner = model.version[:8]
    taken: dict[bytes, bytes] = await store._redis.hgetall(store.keys.calibration(0))
    await store._redis.delete(store.keys.calibration(0))
    await store._redis.hset(store.keys.calibration(0), mapping={k.replace(owner.encode(), b"another1"): v for k, v in taken.items()})
    assert await store.day_sums(0, owner) == {}
    for p in range(PRODUCTS):
        key = store.keys.scores(0, f"p{p}")
        both = await store._redis.get(key)
        owner_at = len(parted(both)[0]) + 8
        await store._redis.set(key, both[:owner_at] + b"another1" + both[owner_at + 8 :])
    sent = Sent()
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign([0])
    end = START + HOURS
    await Shop(store, shards=1, offset=10).orders({"p1": {end * 12: 1}}, (end + 3) * HOUR_MS)
    await settle(engine, store, shards=1)
    turns = [
        record
        for _, record in [parted(await store._redis.get(store.keys.scores(0, f"p{p}"))) for p in range(PRODUCTS)]
        if record[8:16] == owner.encode()
    ]
    judged = sum((Outcomes.from_list(numbers) for numbers in (await store.day_sums(0, owner)).values()), Outcomes.none(len(model.levels)))
    assert len(turns) < PRODUCTS
    assert judged.count.sum() <= 2 * len(turns)
