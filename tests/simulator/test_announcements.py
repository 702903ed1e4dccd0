"""What the simulated shop says ahead is what it then does."""

import json
from typing import Any

import numpy as np
import pytest

from simulator.announcements import announcements
from simulator.demand import ShopConfig
from simulator.dirt import Dirt
from simulator.events import CONTEXT, DAY_MS, FACTS, HOUR_MS
from simulator.feed import Partitions
from simulator.shop import Shop

CONFIG = ShopConfig(products=30, lines_per_hour=60, promotions_per_day=0.1, stock_outs_per_day=0.05, weather_effect=0.3)
START_MS = CONFIG.opened_ms
PARTITIONS = Partitions(2, 2, 3, 1)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(CONFIG, 5, dirt=Dirt.none())


def sent(shop: Shop, chunk_ms: int, days: int = 6) -> list[tuple[int, int, int, bytes | None, bytes, int | None]]:
    """Records of both topics: topic, partition, time, key, value, declared watermark."""
    found = []
    for chunk in shop.chunks(START_MS, START_MS + days * DAY_MS, chunk_ms, partitions=PARTITIONS):
        for batch in chunk.batches:
            if batch.topic in (FACTS, CONTEXT):
                rows = zip(batch.timestamps_ms, batch.keys, batch.values, strict=True)
                found += [(batch.topic, batch.partition, *row, batch.heartbeats.get(i)) for i, row in enumerate(rows)]
    return found


def test_records_do_not_depend_on_how_time_is_cut(shop: Shop) -> None:
    by_place: list[dict[Any, Any]] = [{}, {}]
    for places, chunk_ms in zip(by_place, (DAY_MS, 5 * HOUR_MS + 7), strict=True):
        for topic, partition, *record in sent(shop, chunk_ms):
            places.setdefault((topic, partition), []).append(record)
    assert by_place[0] == by_place[1]
    for records in by_place[0].values():
        times = [record[0] for record in records]
        assert times == sorted(times)
        assert records[0][3] == START_MS  # a heartbeat, so that no source is unknown


def test_a_product_has_one_partition(shop: Shop) -> None:
    places: dict[bytes, set[int]] = {}
    for topic, partition, _, key, _, _ in sent(shop, DAY_MS):
        if topic == FACTS and key is not None:
            places.setdefault(key, set()).add(partition)
    assert len(places) == CONFIG.products
    assert all(len(some) == 1 for some in places.values())


def test_the_newest_facts_say_what_holds_and_what_comes(shop: Shop) -> None:
    said = [one for one in announcements(shop.demand, START_MS, START_MS + 40 * DAY_MS, first=True) if one.topic == FACTS]
    promoted = emptied = 0
    for hour in range(START_MS // HOUR_MS + 1, START_MS // HOUR_MS + 40 * 24, 11):
        now_ms = hour * HOUR_MS
        newest = {one.key: json.loads(one.value) for one in said if one.send_ms < now_ms}
        assert len(newest) == CONFIG.products
        lines = shop.demand.lines(hour).sum(axis=0)
        for product, name in enumerate(shop.names.product_ids):
            facts = newest[name]
            now = [p["discount"] for p in facts["promotions"] if p["start"] <= now_ms < p["end"]]
            charged = shop.demand.cents(hour)[product] / 100
            listed = facts["unit_price"]
            for discount in now:
                listed *= 1 - discount
            assert charged == pytest.approx(listed, abs=0.12)
            promoted += bool(now)
            if facts.get("stock") == 0 and any(o.product == product for o in shop.demand.stock_outs(now_ms, now_ms + 1)):
                emptied += 1
                assert lines[product] == 0
    assert promoted > 20
    assert emptied > 5


def test_promotions_are_announced_before_they_begin(shop: Shop) -> None:
    promotions = shop.demand.promotions(START_MS, START_MS + 20 * DAY_MS)
    assert promotions
    assert all(12 * HOUR_MS <= p.start_ms - p.announced_ms < 5 * DAY_MS for p in promotions)


def test_the_weather_is_known_ahead_and_moves_outdoor_goods_only(shop: Shop) -> None:
    said = [one for one in announcements(shop.demand, START_MS, START_MS + DAY_MS, first=True) if one.topic == CONTEXT]
    weather = [(one.send_ms, json.loads(one.value)) for one in said if one.key == "weather"]
    assert all(value["start"] >= START_MS for _, value in weather)
    assert {value["start"] // HOUR_MS - at_ms // HOUR_MS for at_ms, value in weather if at_ms > START_MS} == {72}
    market = [(one.send_ms, json.loads(one.value)) for one in said if one.key == "market"]
    assert all(value["end"] < at_ms for at_ms, value in market)
    calm = Shop(ShopConfig(products=30, lines_per_hour=60, promotions_per_day=0.1, stock_outs_per_day=0.05), 5, dirt=Dirt.none())
    hour = START_MS // HOUR_MS + 30
    moved, plain = (each.demand.lines(hour).sum(axis=0) for each in (shop, calm))
    effect = moved[plain > 0] / plain[plain > 0]
    outdoor = np.isin(shop.demand.category, [0, 3, 5])[plain > 0]
    assert effect[~outdoor] == pytest.approx(np.ones((~outdoor).sum()))
    assert effect[outdoor] == pytest.approx(np.full(outdoor.sum(), np.exp(0.3 * shop.demand.weather(hour))))


def test_the_truth_notes_what_moves_demand(shop: Shop) -> None:
    notes = shop.notes(START_MS, START_MS + 3 * DAY_MS)
    assert notes["context"]["weather"] == {"moves": ["garden", "sports", "tools"], "effect": 0.3}
    assert notes["context"]["market"]["moves"] == []
    assert notes["stock_outs"]
    assert all("announced_ms" in promotion for promotion in notes["promotions"])


def test_a_shop_whose_topics_are_not_there_says_nothing(shop: Shop) -> None:
    for chunk in shop.chunks(START_MS, START_MS + DAY_MS, DAY_MS):
        assert all(batch.topic not in (FACTS, CONTEXT) for batch in chunk.batches)
