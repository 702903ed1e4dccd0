"""A newborn product on a real Redis: forecast near what its category's launches did, marked as such, and as the backtest forecasts it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pytest

from feature_store.facts import Facts, Version, encode
from feature_store.store import FeatureStore
from models.backtest import Streamed
from models.bench import Bench
from models.dataset import Panel
from models.features import F32
from models.forecaster import Forecaster
from models.known_future import KnownFuture, Place
from streaming.contracts import Forecast
from streaming.engine import ForecastEngine
from streaming.settings import HOUR_MS, Clock, Settings
from tests.integration.shop import SOURCE, START, Sent, Shop, settle

HOURS: Final = 96
OLD: Final = 16
# Mugs sell one order in two hours, teapots six an hour; two of each are born an hour before the end, with one order each.
RATES: Final = {"mugs": 0.5, "teapots": 6.0}
NEWBORN: Final = {"p16": "mugs", "p17": "teapots"}
NAMES: Final = tuple(f"p{i}" for i in range(OLD + len(NEWBORN)))
CATEGORIES: Final = [list(RATES)[i % 2] for i in range(OLD)] + list(NEWBORN.values())


def orders() -> F32:
    """Orders of two units by product and hour; the old ones are launched in the first day."""
    rng = np.random.default_rng(11)
    sold: F32 = rng.poisson(np.array([RATES[name] for name in CATEGORIES])[:, None], (len(NAMES), HOURS)).astype(np.float32)
    for i in range(OLD):
        sold[i, :i], sold[i, i] = 0, 1
    sold[OLD:, :-1], sold[OLD:, -1] = 0, 1
    return sold


ORDERS: Final = orders()
FACTS: Final = [encode(Facts(50_000, [Version(START, 50_000, category=name)])) for name in CATEGORIES]


@pytest.fixture(scope="module")
def model(repository: Path) -> Forecaster:
    loaded = Forecaster.load(repository / "models" / "default")
    loaded.warm_up()
    return loaded


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """One shard, as the backtest has; nothing is late, so that the last forecasts are those of whole steps."""
    return Settings(redis_url=redis_url, namespace="cold", shards=1, clock=Clock.LOG, lateness_ms=0, facts_topic="product-facts")


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[FeatureStore]:
    opened = await FeatureStore.open(settings)
    await opened.register_sources({SOURCE: "orders/0"})
    yield opened
    await opened.close()


async def streamed(store: FeatureStore, settings: Settings, model: Forecaster, *, cuts: int, crash_every: int = 0) -> dict[str, Forecast]:
    """The last forecasts, of a log that came in parts, with new owners in between."""
    await store._redis.hset(store.keys.facts(0), mapping=dict(zip(NAMES, FACTS, strict=True)))
    sent, shop = Sent(), Shop(store, shards=1)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign([0])
    for part in range(cuts):
        first, end = part * HOURS // cuts, (part + 1) * HOURS // cuts
        sold = {
            name: {(START + hour) * 12 + 3: int(ORDERS[i, hour]) for hour in range(first, end) if ORDERS[i, hour]}
            for i, name in enumerate(NAMES)
        }
        await shop.orders(sold, (START + end) * HOUR_MS)
        if crash_every and part % crash_every == 0:
            await engine.cycle()
            engine = ForecastEngine(settings, store, model, sent.send)
            await engine.assign([0])
        else:
            await settle(engine, store, shards=1)
    await settle(engine, store, shards=1)
    return sent.last()


def offline(model: Forecaster) -> Streamed:
    """The backtest's shop after the last hour."""
    demand = np.zeros((len(NAMES), HOURS, 1 + len(model.spec.streams)), np.float32)
    demand[..., 0], demand[..., 1 + model.spec.streams.index("orders")] = 2 * ORDERS, ORDERS
    born = np.array([int(np.flatnonzero(row)[0]) for row in ORDERS])
    known = KnownFuture.of((), HOUR_MS, Place("UTC"), FACTS)
    panel = Panel(NAMES, START, born, demand, "UTC", known=known)
    shop = Streamed(Bench(panel, model.spec, pd.RangeIndex(HOURS), (HOURS - 1,), model.horizon, 24), model, (168, 336))
    for column in range(HOURS):
        shop.live(column)
    return shop


@pytest.mark.parametrize(("cuts", "crash_every"), [(2, 0), (24, 5)])
async def test_newborn_products_are_forecast_as_their_categories_launches_were_and_as_in_the_backtest(
    store: FeatureStore, settings: Settings, model: Forecaster, cuts: int, crash_every: int
) -> None:
    last = await streamed(store, settings, model, cuts=cuts, crash_every=crash_every)
    expected = offline(model)
    lived = {day: of_day for (_, day), of_day in expected._lived.by_day.items()}
    stored = await store.lived(0)
    assert stored == {day: {name: sums.ravel().tolist() for name, sums in of_day.items()} for day, of_day in lived.items()}
    out = model.published(expected.forecast(HOURS - 1, np.arange(len(NAMES)))[0])
    for i, name in enumerate(NAMES):
        np.testing.assert_allclose(last[name].mean, out.mean[i], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(last[name].quantiles, out.quantiles[i], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose([c.mean for c in last[name].cumulative], out.cumulative_mean[i], rtol=1e-4, atol=1e-3)

    prior = expected.prior(HOURS - 1, np.arange(len(NAMES)))
    step, nothing = np.full(len(NAMES), START + HOURS - 1), np.zeros((len(NAMES), 1 + len(model.spec.streams)), np.float32)
    rows = expected._features, expected._state, step, nothing, nothing[:, 0], np.array([168])
    alone = model.read_out(*rows).mean.mean(axis=1)
    without = model.read_out(*rows, prior=replace(prior, rows=np.empty(0, np.intp))).mean.mean(axis=1)
    np.testing.assert_array_equal(alone, without)
    for name, category in NEWBORN.items():
        found, of_launches = last[name], 2 * RATES[category]
        assert found.quality == "cold_start"
        week = found.cumulative[0]
        assert of_launches / 2.5 < week.mean / 168 < 2.5 * of_launches
        assert week.quantiles[0] < 168 * of_launches < week.quantiles[-1]
    # Though each has sold the same, and the network says the same of them.
    assert last["p17"].cumulative[0].mean > 3 * last["p16"].cumulative[0].mean
    assert alone[NAMES.index("p17")] == pytest.approx(alone[NAMES.index("p16")], rel=1e-3)
    assert last["p1"].quality == "ok"  # a teapot of four days
