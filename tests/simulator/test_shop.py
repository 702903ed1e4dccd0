"""The simulated shop behaves like a shop, and says the truth about its demand."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simulator.demand import DROP_CAUSES, SPIKE_CAUSES, TILE_MS, Cause, Demand, ShopConfig
from simulator.dirt import Dirt
from simulator.events import DAY_MS, HOUR_MS, Events, Kind, Topic
from simulator.shop import Shop

CLEAN = Dirt.none()


def run(shop: Shop, hours: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Orders and clicks that were sent in so many hours."""
    events: dict[Topic, list[dict[str, Any]]] = {topic: [] for topic in Topic}
    start_ms = shop.config.opened_ms
    for chunk in shop.chunks(start_ms, start_ms + hours * HOUR_MS):
        for batch in chunk.batches:
            events[Topic(batch.topic)].extend(json.loads(value) for value in batch.values if value)
    return events[Topic.ORDERS], events[Topic.CLICKSTREAM]


def test_the_same_seed_makes_the_same_records_and_another_one_others() -> None:
    config = ShopConfig(products=20, lines_per_hour=50)
    assert run(Shop(config, 1), 3) == run(Shop(config, 1), 3)
    assert run(Shop(config, 1), 3) != run(Shop(config, 2), 3)


def test_sales_follow_the_expected_rates() -> None:
    """Over four days, every product's units lie within six standard deviations of what `expected` says."""
    config = ShopConfig(products=60, lines_per_hour=600, dispersion=0, cancelled=0, returned=0)
    shop = Shop(config, 4, dirt=CLEAN)
    start_ms, end_ms = config.opened_ms, config.opened_ms + 4 * DAY_MS
    feed = shop.feed(start_ms)
    truth = feed.truth()
    for chunk in feed.chunks(end_ms):
        truth.add(chunk.increment)
    expected = shop.expected(start_ms, end_ms).groupby("product_id")["units"].sum()
    counted = truth.sums().set_index("product_id")["units"].reindex(expected.index, fill_value=0.0)
    # A line's quantity is at most about 1 + exponential: its second moment is below 2 · mean² + mean.
    extra = pd.Series(shop.demand.extra_units, index=shop.names.product_ids)
    deviation = np.sqrt(expected * (3 * (1 + extra))) + 3
    assert ((counted - expected).abs() < 6 * deviation).all()


def test_purchases_are_looked_at_and_put_into_a_cart_first() -> None:
    config = ShopConfig(
        products=30, lines_per_hour=300, customers=10**9, views_per_line=1, carts_per_line=1, favourites_per_line=0, uncarts_per_line=0
    )
    orders, clicks = run(Shop(config, 2, dirt=CLEAN), 12)
    first: dict[tuple[str, str, str], int] = {}
    for click in clicks:
        way = (click["type"], click["session_id"][1:], click["product_id"])
        first[way] = min(first.get(way, click["event_time"]), click["event_time"])
    placed = [order for order in orders if order["status"] == "placed" and isinstance(order["event_time"], int)]
    later = [order for order in placed if order["event_time"] > config.opened_ms + HOUR_MS]
    assert len(later) > 300
    for order in later:
        for item in order["items"]:
            visitor = (order["customer_id"][1:], item["product_id"])
            assert first["view", *visitor] < first["add_to_cart", *visitor] < order["event_time"]
    assert max(len(order["items"]) for order in placed) > 3


def test_cancellations_and_returns_name_their_order() -> None:
    orders, _ = run(Shop(ShopConfig(products=30, lines_per_hour=200, cancelled=0.2, returned=0.2), 2, dirt=CLEAN), 48)
    placed = {order["order_id"]: order for order in orders if order["status"] == "placed"}
    assert len({order["event_id"] for order in orders}) == len(orders)
    for order in orders:
        assert order["items"] == placed[order["order_id"]]["items"]
    statuses = [order["status"] for order in orders]
    assert statuses.count("cancelled") > 0.1 * len(placed)
    assert statuses.count("returned") > 0


def test_popularity_is_very_uneven_and_days_differ_from_nights() -> None:
    demand = Demand(ShopConfig(products=1_000), 0)
    top = np.sort(demand.base)[::-1]
    assert top[:100].sum() > 0.6 * top.sum()
    assert demand.base.sum() == pytest.approx(1_000)
    hours = np.array([demand.lines(demand.config.opened_ms // HOUR_MS + hour).sum() for hour in range(168)])
    assert hours.max() > 2 * hours.min()
    assert hours.mean() == pytest.approx(1_000, rel=0.2)


def test_categories_and_prices_move_popularity_where_the_shop_says_so() -> None:
    plain = Demand(ShopConfig(products=1_000), 4)
    spread = Demand(ShopConfig(products=1_000, category_spread=1.0), 4)
    dear = Demand(ShopConfig(products=1_000, price_slope=-1.0), 4)
    assert spread.base.sum() == pytest.approx(plain.base.sum()) == pytest.approx(dear.base.sum())
    # By one factor a category, and by the price alone.
    factors = [np.unique(np.round((spread.base / plain.base)[spread.category == i], 6)) for i in range(6)]
    assert all(len(factor) == 1 for factor in factors)
    assert max(factors) > 2 * min(factors)
    revenue = dear.base / plain.base * dear.base_cents
    np.testing.assert_allclose(revenue, revenue[0])


def test_trends_change_the_rate_from_their_start_to_their_end() -> None:
    config = ShopConfig(products=200, trends_per_day=30, trend_min_lines_per_hour=0)
    demand, calm = Demand(config, 9), Demand(ShopConfig(products=200, trends_per_day=0), 9)
    start_ms = config.opened_ms
    trends = demand.trends(start_ms, start_ms + 7 * DAY_MS)
    assert {trend.kind for trend in trends} == {"spike", "drop"}
    for trend in trends[:40]:
        for moment_ms, factor in (
            (trend.start_ms - 1, 1.0),
            (trend.start_ms, trend.factor),
            (trend.end_ms - 1, trend.factor),
            (trend.end_ms, 1.0),
        ):
            hour, tile = moment_ms // HOUR_MS, moment_ms % HOUR_MS // TILE_MS
            assert demand.lines(hour)[tile, trend.product] == pytest.approx(factor * calm.lines(hour)[tile, trend.product])
    for product in {trend.product for trend in trends}:
        mine = sorted((trend.start_ms, trend.end_ms) for trend in trends if trend.product == product)
        assert all(end <= start for (_, end), (start, _) in pairwise(mine))


def test_each_cause_changes_what_it_says_and_only_that() -> None:
    config = ShopConfig(products=60, trends_per_day=20, lines_per_hour=20_000, dispersion=0)
    shop = Shop(config, 9, dirt=CLEAN)
    seen = set()
    for trend in shop.trends(config.opened_ms + 8 * DAY_MS, config.opened_ms + 11 * DAY_MS):
        hour = -(-trend.start_ms // HOUR_MS)  # the first whole one
        usual = shop.demand.usual_lines(hour).sum(axis=0)[trend.product]
        if trend.end_ms < (hour + 1) * HOUR_MS or usual < 100:
            continue
        traffic = shop.period(hour)
        lines, units = of_kind(traffic.orders, Kind.PLACED, trend.product)
        views, _ = of_kind(traffic.clicks, Kind.VIEW, trend.product)
        carts, _ = of_kind(traffic.clicks, Kind.ADD_TO_CART, trend.product)
        of_line = (1 + shop.demand.extra_units[trend.product]) * 1_000 * trend.size
        looked = config.views_per_line * (trend.factor if trend.cause is Cause.TRAFFIC else 1)
        carted = config.carts_per_line * (1 if trend.cause is Cause.CHECKOUT else trend.factor)
        if trend.cause is Cause.ORDER_SIZE:
            looked, carted = config.views_per_line - 1 + trend.factor, config.carts_per_line - 1 + trend.factor
        for found, expected in ((lines, trend.factor), (views, max(looked, trend.factor)), (carts, carted)):
            assert found == pytest.approx(usual * expected, abs=6 * (usual * expected) ** 0.5)
        assert units == pytest.approx(lines * of_line, abs=6 * of_line * (lines + 1) ** 0.5)
        assert (trend.size > 1) == (trend.cause is Cause.ORDER_SIZE)
        assert trend.cause in (SPIKE_CAUSES if trend.kind == "spike" else DROP_CAUSES)
        seen.add(trend.cause)
    assert seen == set(Cause)


def of_kind(events: Events, kind: Kind, product: int) -> tuple[int, int]:
    """Lines of a product, and thousandths of units in them."""
    mine = (events.kind[events.line_record()] == kind) & (events.product == product)
    return int(mine.sum()), int(events.quantity[mine].sum())


def test_promotions_lower_the_price_and_raise_the_demand() -> None:
    config = ShopConfig(products=300, promotions_per_day=0.05, trends_per_day=0)
    demand, dear = Demand(config, 3), Demand(ShopConfig(products=300, promotions_per_day=0, trends_per_day=0), 3)
    hour = (config.opened_ms + 10 * DAY_MS) // HOUR_MS
    promoted = sorted({promotion.product for promotion in demand.promotions(hour * HOUR_MS, hour * HOUR_MS + 1)})
    assert len(promoted) > 10
    assert (demand.cents(hour)[promoted] < dear.cents(hour)[promoted]).all()
    assert (demand.lines(hour)[0, promoted] > dear.lines(hour)[0, promoted])[dear.lines(hour)[0, promoted] > 0].all()


def test_products_are_launched_and_fade() -> None:
    config = ShopConfig(products=400, launched=0.2, fading=0.2, trends_per_day=0, drift=0, promotions_per_day=0)
    demand = Demand(config, 6)
    early = sum(demand.lines(config.opened_ms // HOUR_MS + hour).sum(axis=0) for hour in range(168))
    late = sum(demand.lines(config.opened_ms // HOUR_MS + 16 * 168 + hour).sum(axis=0) for hour in range(168))
    new = demand.launch_ms > config.opened_ms + 7 * DAY_MS
    old = demand.fade_ms < config.opened_ms + 60 * DAY_MS
    assert (early[new] == 0).all()
    assert (late[new] > 0).all()
    assert (late[old] < 0.1 * early[old]).all()


def test_dirt_comes_in_the_stated_proportions() -> None:
    dirt = Dirt()
    shop = Shop(ShopConfig(products=100, lines_per_hour=2_000), 8, dirt=dirt)
    start_ms = shop.config.opened_ms
    feed = shop.feed(start_ms)
    truth = feed.truth()
    for chunk in feed.chunks(start_ms + 2 * DAY_MS):
        truth.add(chunk.increment)
    sent = truth.total("sent")
    rejected = truth.rejected()
    assert sent > 400_000
    assert rejected["malformed"] / sent == pytest.approx(dirt.malformed, rel=0.1)
    assert rejected["future"] / sent == pytest.approx(dirt.future, rel=0.1)
    assert rejected["expired"] / sent == pytest.approx(dirt.expired, rel=0.25)
    assert truth.counts["orders.duplicates"] / truth.counts["orders.sent"] == pytest.approx(dirt.duplicated, rel=0.2)
    # Some of the late ones of these two days arrive on the third.
    assert 0.6 * dirt.late < truth.total("late") / sent < 1.05 * dirt.late
    assert sent == truth.total("counted") + truth.total("duplicates") + sum(rejected.values())


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="shares of dirt"):
        Dirt(late=0.9, malformed=0.9)
