"""A challenger in shadow on a real Redis: for the serving model itself it finds what that one finds, and it leaves no trace."""

from typing import Any, Final

import msgspec
import numpy as np
import pytest

from feature_store.store import FeatureStore
from models.calibration import Outcomes
from models.forecaster import Forecaster
from streaming import metrics
from streaming.contracts import ForecastScores
from streaming.engine import ForecastEngine
from streaming.settings import DAY_MS, HOUR_MS, Clock, Settings
from streaming.shadow import Shadow
from tests.integration.shop import START, Sent, Shop, settle
from tests.models.another import another

PRODUCTS: Final = 14
DAY0: Final = START // 24


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """A product that is silent for a day and a half is forgotten."""
    return Settings(redis_url=redis_url, namespace="shadow", shards=1, clock=Clock.LOG, lateness_ms=0, evict_after_ms=36 * HOUR_MS)


def sales(first: int, end: int) -> dict[str, dict[int, int]]:
    """Tile → orders of each product in these hours: from rare to frequent; one is born on the third day, one falls silent on the second."""
    rates = np.geomspace(0.3, 6, PRODUCTS)
    found: dict[str, dict[int, int]] = {}
    for p in range(PRODUCTS):
        sold = np.random.default_rng(p).poisson(rates[p], 24 * 30)
        sold[0] += 1
        if p == PRODUCTS - 1:
            sold[:59] = 0
        if p == PRODUCTS - 2:
            sold[40:] = 0
        found[f"p{p}"] = {(START + hour) * 12 + (hour + p) % 12: int(sold[hour]) for hour in range(first, end) if sold[hour]}
    return found


class Live:
    """The engine and a shadow beside it, hour by hour."""

    def __init__(self, store: FeatureStore, settings: Settings, serving: Forecaster) -> None:
        self.store, self.sent, self.shop = store, Sent(), Shop(store, shards=1)
        self.engine = ForecastEngine(settings, store, serving, self.sent.send)
        self.scores: list[ForecastScores] = []

    async def live(self, first: int, end: int, shadow: Shadow | None = None, *, every: int = 1) -> None:
        for hour in range(first, end, every):
            until = min(hour + every, end)
            await self.shop.orders(sales(hour, until), (START + until) * HOUR_MS)
            await settle(self.engine, self.store, shards=1)
            if shadow is not None:
                self.scores += await shadow.look(0)

    def said(self) -> list[ForecastScores]:
        """By the serving model."""
        values = [m.value for m in self.sent.messages if m.topic == "forecast-scores" and m.value is not None]
        return [msgspec.json.decode(value, type=ForecastScores) for value in values]


async def dumped(store: FeatureStore) -> dict[bytes, Any]:
    """Everything in Redis."""
    return {key: await store._redis.dump(key) for key in sorted(await store._redis.keys("*"))}


@pytest.mark.parametrize(("begins", "every"), [(20, 1), (47, 5), (100, 24)])
async def test_the_serving_model_in_shadow_finds_what_it_finds_itself(
    store: FeatureStore, settings: Settings, model: Forecaster, begins: int, every: int
) -> None:
    """To the last integer on days that both saw whole, as long as all steps of the products are stored: then states are the very same."""
    live = Live(store, settings, model)
    await live.engine.assign([0])
    await live.live(0, begins, every=12)
    shadow = Shadow(settings, store, model)
    live.scores += await shadow.look(0)
    await live.live(begins, 168, shadow, every=every)
    found, stored = shadow.shards[0].by_day, await store.day_sums(0, model.version[:8])
    whole = range(DAY0 + -(-(begins + 24) // 24), DAY0 + 7)
    assert len(whole) >= 1
    for day in whole:
        np.testing.assert_array_equal(found[day].sums, Outcomes.from_list(stored[day]).sums)
    assert [s.start // DAY_MS for s in live.scores] == list(whole)
    assert all(s.shadow for s in live.scores)
    by_day = {s.start: s for s in live.said()}
    assert [msgspec.structs.replace(s, shadow=False) for s in live.scores] == [by_day[s.start] for s in live.scores]
    assert f"p{PRODUCTS - 2}" not in shadow.shards[0].followed.names
    assert f"p{PRODUCTS - 1}" in shadow.shards[0].followed.names


async def test_old_products_scores_are_those_of_the_serving_model_but_for_rounding(
    store: FeatureStore, settings: Settings, model: Forecaster
) -> None:
    """Of products older than what is stored, states are rebuilt to a few millionths: counts and demand are the same, losses nearly."""
    brief = settings.model_copy(update={"step_retention_ms": 4 * DAY_MS})
    again = await FeatureStore.open(brief)
    live = Live(again, brief, model)
    await live.engine.assign([0])
    await live.live(0, 24 * 9, every=12)
    shadow = Shadow(brief, again, model)
    await live.live(24 * 9, 24 * 12, shadow, every=6)
    stored = await again.day_sums(0, model.version[:8])
    day = DAY0 + 11
    mine, theirs = shadow.shards[0].by_day[day], Outcomes.from_list(stored[day])
    assert mine.count.tolist() == theirs.count.tolist()
    assert mine.demand.tolist() == theirs.demand.tolist()
    np.testing.assert_allclose(mine.published.sum(axis=0), theirs.published.sum(axis=0), rtol=0.01)
    np.testing.assert_allclose(mine.mean.sum(), theirs.mean.sum(), rtol=1e-3)
    await again.close()


async def test_a_challenger_leaves_no_trace(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    live = Live(store, settings, model)
    await live.engine.assign([0])
    await live.live(0, 90, every=12)
    challenger = Forecaster(another())
    shadow = Shadow(settings, store, challenger)
    before = await dumped(store)
    assert await shadow.look(0) == []
    assert await dumped(store) == before
    await live.live(90, 168, every=12)
    before = await dumped(store)
    scores = await shadow.look(0)
    assert await dumped(store) == before
    assert [(s.start // DAY_MS, s.model.version, s.shadow) for s in scores] == [
        (day, challenger.version, True) for day in (DAY0 + 5, DAY0 + 6)
    ]
    own = {s.start: s for s in live.said()}
    for s in scores:
        mine, theirs = s.volumes[-1], own[s.start].volumes[-1]
        assert (mine.volume, mine.outcomes, mine.demand) == (theirs.volume, theirs.outcomes, theirs.demand)
        assert mine.mwql != theirs.mwql
    body = metrics.render()[0].decode()
    assert 'trendcast_forecast_quantile_loss_ratio{role="challenger",volume="all"}' in body


async def test_a_restart_ends_where_it_would_have(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    """Except that days that it did not see whole have no scores."""
    challenger = Forecaster(another())
    live = Live(store, settings, model)
    await live.engine.assign([0])
    await live.live(0, 30, every=6)
    one = Shadow(settings, store, challenger)
    await live.live(30, 70, one, every=5)
    other = Shadow(settings, store, challenger)
    await other.look(0)
    before = len(live.scores)
    await live.live(70, 168, one, every=7)
    said = await other.look(0)
    lasting, restarted = one.shards[0].followed, other.shards[0].followed
    order = [restarted.names.index(name) for name in lasting.names]
    np.testing.assert_array_equal(lasting.state, restarted.state[order])
    np.testing.assert_array_equal(lasting.features, restarted.features[order])
    assert [s.start // DAY_MS for s in said] == [DAY0 + 4, DAY0 + 5, DAY0 + 6]
    assert {s.start for s in said} <= {s.start for s in live.scores[before:]}
