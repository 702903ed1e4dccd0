"""The run that all others are compared with is itself right: its sums are a naive count's, and it has something of everything to compare."""

from collections import Counter

import pytest

from feature_store.measures import MEASURES
from streaming.settings import DAY_MS
from tests.faults.harness import SHARDS, Outcome
from tests.faults.shop_log import DROPPING, END_MS, GHOST, HOT, HOUR_MS, HOURS, SPIKING, START_MS, Cell, Sent, naive_count

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_sums_are_those_of_a_naive_count(undisturbed: Outcome, log: list[Sent]) -> None:
    for measure, expected in zip(("units", "views"), naive_count(log), strict=True):
        column = MEASURES.index(measure)
        counted = {(product, start): sums[column] for (product, start, _), sums in undisturbed.sums.items() if sums[column]}
        assert counted == {cell: n for cell, n in expected.items() if cell[0] != GHOST}
    assert all(closed for _, _, closed in undisturbed.sums)


def test_one_product_has_half_the_traffic(log: list[Sent]) -> None:
    lines: Counter[str] = Counter()
    units: Counter[Cell] = naive_count(log)[0]
    for (product, _), n in units.items():
        lines[product] += n
    assert lines[HOT] > 0.45 * lines.total()


def test_every_product_is_forecast_at_the_end_and_the_silent_one_is_forgotten(undisturbed: Outcome) -> None:
    assert set(undisturbed.forecasts) == {f"p{i:02d}" for i in range(40)}
    assert {f["complete_through"] for f in undisturbed.forecasts.values()} == {END_MS}
    assert {f["revision"][0] for f in undisturbed.forecasts.values()} == {END_MS // HOUR_MS - 1}


def test_the_shop_is_forecast_at_the_end(undisturbed: Outcome) -> None:
    assert set(undisturbed.levels) == {"level/shop"}
    shop = undisturbed.levels["level/shop"]
    assert (shop["revision"], shop["complete_through"]) == ([END_MS // HOUR_MS - 1, 0], END_MS)
    sold: Counter[int] = Counter()
    for (_, start_ms, _), measures in undisturbed.sums.items():
        sold[start_ms] += int(measures[MEASURES.index("units")])
    # The product that was forgotten was sold once, in the first hour.
    assert shop["recent"]["demand"][-HOURS + 1 :] == [sold[hour] for hour in range(START_MS + HOUR_MS, END_MS, HOUR_MS)]


def test_forecasts_were_compared_with_what_came_on_both_days(undisturbed: Outcome) -> None:
    days = {START_MS // DAY_MS, END_MS // DAY_MS - 1}
    assert {(shard, int(field.split(":")[1])) for shard, field in undisturbed.outcomes} == {(s, day) for s in range(SHARDS) for day in days}
    assert undisturbed.scores.keys() == {(s, day * DAY_MS) for s in range(SHARDS) for day in days}
    # All products from their first turn in the first day on, and the silent one until it is forgotten.
    judged = sum(score["volumes"][-1]["outcomes"] for score in undisturbed.scores.values())
    assert 40 * 24 < judged < 41 * HOURS


def test_the_spike_and_the_drop_fired_and_ended(undisturbed: Outcome) -> None:
    states = {(alert["product_id"], alert["kind"], alert["status"]) for alert in undisturbed.alerts.values()}
    for product, kind in ((SPIKING, "spike"), (DROPPING, "drop")):
        assert {(product, kind, "firing"), (product, kind, "resolved")} <= states
