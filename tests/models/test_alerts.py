"""Spikes and drops: the walk against a naive loop, the life of alerts, independence of batches, and rates on a small synthetic shop."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.alerts_synthetic import DISPERSIONS, RATES, false_alerts, grid, run
from models import alert_evidence as row
from models.alert_evidence import exponent, reference
from models.alert_messages import Alert, Severity, alert_id, fingerprint, messages, quantiles
from models.alerts import SCORE_SIZE, Action, AlertPolicy, Kind, Reason, Transitions, close_all, fresh, judge

Floats = npt.NDArray[np.float64]
TILE_MS = 300_000
POLICY = AlertPolicy()
START = 5_000_000  # a tile of our years


def settled(n: int, rate: float = 1.0, units_per_order: float = 1.0) -> Floats:
    """Rows of products judged for years, Poisson, well forecast, `rate` orders a tile; last judged tile: START - 1."""
    scores = fresh(n)
    scores[:, row.TILE] = scores[:, row.LAST_SALE] = START
    scores[:, row.AGE] = 1 / (1 - POLICY.keep)
    scores[:, row.ORDERS] = rate * scores[:, row.AGE]
    scores[:, row.EXPECTED] = scores[:, row.UNITS] = scores[:, row.ORDERS] * units_per_order
    scores[:, row.DISPERSION] = 1 - row.DISPERSION_PRIOR
    scores[:, row.ERROR] = -row.ERROR_PRIOR
    return scores


def live(
    scores: Floats,
    orders: Iterable[float],
    expected: float,
    units_per_order: float = 1.0,
    policy: AlertPolicy = POLICY,
    sold_out: bool = False,
) -> tuple[Floats, list[Alert]]:
    """One product through the tiles that follow."""
    said = []
    for count in orders:
        units = np.array([count * units_per_order])
        counted, meant, empty = np.array([count]), np.array([expected]), np.array([sold_out])
        scores, happened = judge(scores, units, counted, meant, scores[:, row.TILE], policy, tile_ms=TILE_MS, sold_out=empty)
        said += messages(happened, ["SKU"], policy, tile_ms=TILE_MS, levels=[0.1, 0.5, 0.9])
    return scores, said


def story(alerts: Sequence[Alert]) -> list[tuple[str, str]]:
    return [(alert.kind.value, alert.action.name if alert.reason is None else alert.reason.value) for alert in alerts if not alert.updated]


# --- the walk ---


def naive_firings(orders: Sequence[float], mass: float, h: float, factor: float) -> list[int]:
    """Tiles in which the walk first reaches its level, by the definition; dispersion 1, nothing to learn, no doubt."""
    sign, walk, level = (1 if factor > 1 else -1), 0.0, h / abs(math.log(factor))
    for tile, count in enumerate(orders):
        walk = max(0.0, walk + min(sign * (count - reference(factor) * mass), 0.6 * level))
        if walk >= level:
            return [tile]
    return []


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_walk_is_the_definition(orders: list[int], mass: float) -> None:
    policy = AlertPolicy(doubt=0.0, memory_tiles=10**9, min_units=0.0)
    scores = settled(1, mass)
    scores[:, [row.AGE, row.ORDERS, row.EXPECTED]] *= 1e7
    h = math.log(row.FALSE_RATE * min(mass, row.TILE_MASS_CAP) * 288 / policy.false_alerts)
    first = live(scores, orders, mass, policy=policy)[1][:1]
    found = [(alert.kind, alert.sequence - START) for alert in first]
    naive = {Kind.SPIKE: naive_firings(orders, mass, h, 3.0), Kind.DROP: naive_firings(orders, mass, h, 0.25)}
    expected = sorted((tiles[0], kind.value) for kind, tiles in naive.items() if tiles)
    assert [(tile, kind.value) for kind, tile in found] == expected[:1]


@pytest.mark.parametrize("factor", [3.0, 0.25])
@pytest.mark.parametrize("dispersion", [1.5, 3.0, 6.0])
def test_the_exponent_is_the_root_of_the_cumulant_function(factor: float, dispersion: float) -> None:
    generator = np.random.default_rng(5)
    orders = generator.poisson(generator.gamma(1 / (dispersion - 1), dispersion - 1, 2_000_000))
    sign = 1 if factor > 1 else -1
    assert np.exp(exponent(factor, dispersion) * sign * (orders - reference(factor))).mean() == pytest.approx(1, rel=0.03)


# --- the life of alerts ---


def test_a_spike_fires_is_sent_again_and_recovers() -> None:
    _, alerts = live(settled(1), [1] * 20 + [4] * 30 + [1] * 60, expected=1)
    assert story(alerts) == [("spike", "FIRE"), ("spike", "recovered")]
    first, *updates, last = alerts
    assert 2 <= first.sequence - START - 20 + 1 <= 8
    assert [alert.sequence - first.sequence for alert in updates] == [12 * (i + 1) for i in range(len(updates))]
    assert len(updates) >= 2
    assert {alert.alert_id for alert in alerts} == {alert_id(Kind.SPIKE, "SKU", first.starts_at_ms)}
    assert first.starts_at_ms == (START + 20) * TILE_MS  # the walk left zero with the first of the many
    assert (first.firing, first.updated, first.ends_at_ms) == (True, False, None)
    assert (last.firing, last.ends_at_ms) == (False, last.updated_at_ms)
    assert first.observed == 4 * (first.sequence - START - 20 + 1)
    assert first.expected == pytest.approx(first.observed / 4)
    assert first.expected_quantiles[0] < first.expected_quantiles[1] < first.expected < first.expected_quantiles[2]
    assert first.score > 5
    assert last.score == 0
    assert first.severity is Severity.WARNING


def test_a_drop_needs_no_event_to_fire_and_ends_with_the_orders() -> None:
    _, alerts = live(settled(1), [1] * 20 + [0] * 60 + [1] * 60, expected=1)
    assert story(alerts) == [("drop", "FIRE"), ("drop", "recovered")]
    assert alerts[0].observed == 0
    assert alerts[0].severity is Severity.CRITICAL
    assert alerts[0].starts_at_ms == (START + 20) * TILE_MS


def test_a_spike_whose_product_goes_silent_ends_by_silence_and_becomes_a_drop() -> None:
    _, alerts = live(settled(1), [5] * 10 + [0] * 80, expected=1)
    assert story(alerts) == [("spike", "FIRE"), ("spike", "silence"), ("drop", "FIRE")]


def test_a_spike_of_a_product_of_which_nothing_is_expected_ends_by_silence_too() -> None:
    scores = settled(1, rate=0.005)
    scores, alerts = live(scores, [3] * 6 + [0] * 40, expected=0.0)
    assert story(alerts) == [("spike", "FIRE"), ("spike", "silence")]
    assert alerts[-1].sequence - (START + 5) == POLICY.silence_tiles


def test_an_alert_without_fresh_evidence_fades() -> None:
    scores, alerts = live(settled(1), [0] * 40, expected=1)
    assert story(alerts) == [("drop", "FIRE")]
    _, alerts = live(scores, [0] * 700, expected=0)
    assert story(alerts) == [("drop", "silence")]
    assert alerts[-1].sequence - START <= 40 + POLICY.fade_tiles


def test_one_tile_neither_fires_nor_ends_an_alert() -> None:
    assert not live(settled(1), [1, 1, 500, 1, 1, 1], expected=1)[1]
    _, alerts = live(settled(1, rate=40), [120] * 10 + [0] + [120] * 10, expected=40)
    assert story(alerts) == [("spike", "FIRE")]


def test_one_order_of_many_pieces_is_no_spike_and_a_rush_of_small_ones_is() -> None:
    scores = settled(1, rate=0.3, units_per_order=2.0)
    in_one, _ = judge(scores, np.array([900.0]), np.array([1.0]), np.array([0.6]), START, POLICY, tile_ms=TILE_MS)
    assert in_one[0, row.UP] < 1
    assert story(live(scores, [2] * 12, expected=0.6)[1]) == [("spike", "FIRE")]


def test_few_units_do_not_fire() -> None:
    orders = [1.0] * 40  # grams: an order holds a tenth of a unit
    assert not live(settled(1, 0.01), orders[:20], expected=0.001, units_per_order=0.1)[1]
    assert live(settled(1, 0.01), orders, expected=0.001, units_per_order=0.1, policy=AlertPolicy(min_units=1.0))[1]


def test_new_products_are_not_judged_for_a_day_and_rare_ones_not_missed() -> None:
    _, alerts = live(fresh(1), [9] * 287, expected=1)
    assert not alerts
    assert not live(settled(1, rate=0.005), [0] * 2_000, expected=0.05)[1]  # drop_history


@pytest.mark.parametrize("bias", [0.7, 1.3])
def test_a_lasting_bias_of_the_forecast_is_learned(bias: float) -> None:
    generator = np.random.default_rng(3)
    scores, alerts = live(fresh(1), generator.poisson(3.0, 5 * 288).astype(float), expected=3.0 * 5 * bias, units_per_order=5.0)
    assert not alerts
    assert row.known(scores, POLICY, TILE_MS).orders_per_unit[0] == pytest.approx(1 / 5 / bias, rel=0.05)


def test_bursts_and_wrong_forecasts_are_learned_apart() -> None:
    generator = np.random.default_rng(4)
    bursts, _ = live(fresh(1), generator.poisson(generator.gamma(10 / 3, 3, 6 * 288)).astype(float), expected=10.0)
    hourly = np.repeat(np.exp(0.3 * generator.standard_normal(6 * 24) - 0.045), 12)
    wrong, _ = live(fresh(1), generator.poisson(10 * hourly).astype(float), expected=10.0)
    of_bursts, of_wrong = row.known(bursts, POLICY, TILE_MS), row.known(wrong, POLICY, TILE_MS)
    assert of_bursts.dispersion[0] == pytest.approx(4, rel=0.2)
    assert of_bursts.error[0] < 0.02
    assert of_wrong.dispersion[0] < 1.8
    assert of_wrong.error[0] == pytest.approx(0.09, rel=0.35)


# --- nothing to sell ---


@pytest.mark.parametrize("orders", [0, 9])
def test_tiles_without_stock_are_no_evidence_and_teach_nothing(orders: int) -> None:
    before, _ = live(settled(1), [1] * 20, expected=1)
    after, alerts = live(before, [orders] * 300, expected=1, sold_out=True)
    assert not alerts
    learned = [row.AGE, row.ORDERS, row.EXPECTED, row.DISPERSION, row.ERROR, row.UNITS, row.UP, row.DOWN]
    np.testing.assert_array_equal(after[:, learned], [[*before[0, learned[:-2]], 0, 0]])
    _, alerts = live(after, [1] * 60, expected=1)
    assert not alerts


@pytest.mark.parametrize(("orders", "kind"), [(0, "drop"), (6, "spike")])
def test_an_open_alert_ends_as_the_stock_out_begins(orders: int, kind: str) -> None:
    scores, alerts = live(settled(1), [orders] * 40, expected=1)
    scores, more = live(scores, [orders] * 100, expected=1, sold_out=True)
    assert story(alerts + more) == [(kind, "FIRE"), (kind, "stock_out")]
    assert more[0].sequence == START + 40  # told at the end of the first such tile, which belongs to the window
    assert (more[0].observed, more[0].expected) == (41.0 * orders, 41.0)
    assert more[0].alert_id == alerts[0].alert_id


def test_what_does_not_sell_when_the_stock_is_back_is_another_drop() -> None:
    scores, before = live(settled(1), [0] * 40, expected=1)
    scores, _ = live(scores, [0] * 100, expected=1, sold_out=True)
    scores, after = live(scores, [0] * 40, expected=1)
    assert story(after) == [("drop", "FIRE")]
    assert after[0].starts_at_ms == (START + 140) * TILE_MS
    assert after[0].alert_id != before[0].alert_id
    _, after = live(scores, [1] * 40, expected=1)
    assert story(after) == [("drop", "recovered")]  # the time without stock was no silence


# --- ends that others decide ---


@pytest.mark.parametrize("reason", [Reason.EVICTED, Reason.MODEL_CHANGED])
def test_open_alerts_are_closed_and_others_left(reason: Reason) -> None:
    spiking, fired = live(settled(1), [5] * 10, expected=1)
    dropped, _ = live(settled(1), [0] * 40, expected=1)
    calm, _ = live(settled(1), [1] * 10, expected=1)
    after, happened = close_all(np.concatenate((calm, spiking, dropped)), reason, POLICY, tile_ms=TILE_MS)
    said = messages(happened, ["calm", "SKU", "dropped"], POLICY, tile_ms=TILE_MS, levels=[0.5])
    assert [(alert.product_id, alert.kind, alert.reason) for alert in said] == [("SKU", Kind.SPIKE, reason), ("dropped", Kind.DROP, reason)]
    assert said[0].alert_id == fired[0].alert_id
    assert said[0].sequence == START + 9
    assert not after[:, [row.FIRED, row.UP, row.DOWN]].any()
    assert not len(close_all(after, reason, POLICY, tile_ms=TILE_MS)[1])
    weight = 0.25 if reason is Reason.MODEL_CHANGED else 1.0
    np.testing.assert_allclose(after[0, row.ORDERS], calm[0, row.ORDERS] * weight)


def test_ids_tell_kind_product_and_start() -> None:
    ids = {alert_id(kind, product, start) for kind in Kind for product in ("1", "11") for start in (1, 11)}
    assert len(ids) == 8
    assert fingerprint(Kind.DROP, "SKU-1") == "755b6bc20e075f02d13e5cad9dfd6b56"  # stored by readers: never changes


def test_quantiles_of_nothing_are_nothing() -> None:
    assert quantiles(0.0, 0.0, [0.1, 0.9]) == (0.0, 0.0)
    assert quantiles(0.01, 5.0, [0.05])[0] == 0.0


# --- independence and order ---

streams = st.integers(0, 2**32 - 1)


def random_tiles(seed: int, n: int, tiles: int) -> tuple[Floats, Floats]:
    """Orders and expectations, (tiles, n), of products that spike, go silent and come back."""
    generator = np.random.default_rng(seed)
    rate = generator.choice([0.02, 0.3, 3.0, 30.0], n)
    regime = np.repeat(generator.choice([0.0, 0.3, 1.0, 1.0, 4.0], (tiles // 10 + 1, n)), 10, axis=0)[:tiles]
    return generator.poisson(rate * regime).astype(np.float64), np.broadcast_to(rate, (tiles, n)).astype(np.float64)


def judged(scores: Floats, orders: Floats, expected: Floats) -> tuple[Floats, list[Transitions]]:
    happened = []
    for i in range(len(orders)):
        scores, now = judge(scores, orders[i] * 2, orders[i], expected[i] * 2, START + i, POLICY, tile_ms=TILE_MS)
        happened.append(now)
    return scores, happened


@settings(max_examples=20, deadline=None)
@given(streams, st.integers(1, 36))
def test_rows_do_not_depend_on_their_batch(seed: int, cut: int) -> None:
    n = 37
    orders, expected = random_tiles(seed, n, 60)
    whole, _ = judged(settled(n), orders, expected)
    parts = [judged(settled(len(part)), orders[:, part], expected[:, part])[0] for part in (np.arange(cut), np.arange(cut, n)[::-1])]
    np.testing.assert_array_equal(whole, np.concatenate((parts[0], parts[1][::-1])))


@settings(max_examples=20, deadline=None)
@given(streams)
def test_a_tile_judged_before_changes_nothing(seed: int) -> None:
    orders, expected = random_tiles(seed, 20, 40)
    scores, _ = judged(settled(20), orders, expected)
    again, happened = judged(scores, orders, expected)
    np.testing.assert_array_equal(again, scores)
    assert not any(map(len, happened))


@settings(max_examples=20, deadline=None)
@given(streams)
def test_every_life_is_a_life(seed: int) -> None:
    n = 30
    orders, expected = random_tiles(seed, n, 200)
    scores, happened = judged(settled(n), orders, expected)
    open_: dict[str, Alert] = {}
    ids: set[str] = set()
    for alert in (alert for now in happened for alert in messages(now, list(map(str, range(n))), POLICY, tile_ms=TILE_MS, levels=[0.5])):
        before = open_.pop(alert.product_id, None)
        if alert.action is Action.FIRE:
            assert before is None
            assert alert.alert_id not in ids
            ids.add(alert.alert_id)
            assert alert.starts_at_ms + TILE_MS < alert.updated_at_ms  # at least two tiles
        else:
            assert before is not None
            assert (before.alert_id, before.kind) == (alert.alert_id, alert.kind)
            assert alert.sequence > before.sequence
        assert (alert.reason is None) == alert.firing == (alert.ends_at_ms is None)
        if alert.firing:
            open_[alert.product_id] = alert
    assert np.isfinite(scores).all()
    assert scores.shape == (n, SCORE_SIZE)
    assert {str(product) for product in np.flatnonzero(scores[:, row.FIRED])} == set(open_)


def test_nothing_given_nothing_done() -> None:
    empty = np.empty(0)
    scores, happened = judge(fresh(0), empty, empty, empty, START, POLICY, tile_ms=TILE_MS)
    assert scores.shape == (0, SCORE_SIZE)
    assert len(happened) == 0


# --- rates, on a shop small enough for a test; docs/alerts.md has the large one ---


@pytest.mark.parametrize("scenario", ["biased", "adaptive"])
def test_false_alerts_are_rare(scenario: str) -> None:
    fired = false_alerts(scenario, per_cell=20, days=5, policy=POLICY, seed=11)
    alerts = sum(counts.sum() for counts in fired.values()) * 20 * 5 / 1000  # 2,000 product-days
    assert alerts <= 10  # 4 are allowed on average


def test_a_threefold_rise_of_a_busy_product_is_found_within_a_few_tiles() -> None:
    shop = grid(per_cell=15, factor=3.0, duration=24, days=1, seed=12)
    delay = np.full(len(shop), 99)
    for tile, happened in run(shop, "biased", 1, POLICY, seed=12):
        rows = happened.rows[(happened.action == Action.FIRE) & happened.spike]
        delay[rows] = np.minimum(delay[rows], tile + 1 - shop.event_start[rows])
    of_poisson = delay.reshape(len(RATES), len(DISPERSIONS), -1)[:, 0]
    assert np.median(of_poisson[RATES.index(400.0)]) <= 2
    assert np.median(of_poisson[RATES.index(40.0)]) <= 4


def test_the_document_holds_the_policy() -> None:
    document = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    defaults = {field.name: f"{field.default:g}" for field in fields(AlertPolicy)}
    found = {name: f"{float(value):g}" for name, value in re.findall(r"^\| `(\w+)` \| ([0-9.]+) \|", document, re.MULTILINE)}
    assert found == defaults


# --- what the window held, for explanations ---


def test_an_alerts_window_counts_its_funnel_exactly_and_knows_what_is_usual() -> None:
    generator = np.random.default_rng(12)
    n, usual = 40, 4.0
    scores = fresh(n)
    clicks, sold = [], []
    fired: list[tuple[int, Transitions]] = []
    for tile in range(START, START + 600):
        rate = usual * (4 if tile >= START + 560 else 1)
        orders = generator.poisson(rate, n).astype(float)
        carts, views = generator.poisson(2 * usual, n).astype(float), generator.poisson(9 * usual, n).astype(float)
        clicks.append(np.column_stack((views, carts, orders, 3 * orders)))
        sold.append(orders)
        scores, happened = judge(
            scores, 3 * orders, orders, np.full(n, 2 * usual), tile, POLICY, tile_ms=TILE_MS, clicks=np.column_stack((carts, views))
        )
        if tile >= START + 560:
            fired.append((tile, happened))
    counted = np.stack(clicks)
    found = [(tile, t, i) for tile, t in fired for i in range(len(t))]
    assert len(found) >= n
    for tile, t, i in found:
        window = counted[t.start_tile[i] - START : tile + 1 - START, t.rows[i]].sum(axis=0)
        np.testing.assert_array_equal(t.funnel[i], window)
        assert t.funnel[i, 3] == t.observed[i]
        np.testing.assert_allclose(t.usual[i], np.array([9, 2, 1, 3]) / 2, rtol=0.2)  # two units were expected for every order


def test_rows_are_what_is_stored_of_them_whenever_that_is() -> None:
    generator = np.random.default_rng(13)
    scores = fresh(3)
    for tile in range(START, START + 50):
        orders, clicks = generator.poisson(3, 3).astype(float), generator.poisson(9, (3, 2)).astype(float)
        scores, _ = judge(scores, orders / 3, orders, orders + 0.1, tile, POLICY, tile_ms=TILE_MS, clicks=clicks)
        np.testing.assert_array_equal(scores[:, row.COARSE], scores[:, row.COARSE].astype(np.float32))


@pytest.mark.parametrize("reason", [Reason.EVICTED, Reason.MODEL_CHANGED])
def test_drivers_are_told_from_the_first_message_to_the_last(reason: Reason) -> None:
    scores, alerts = live(settled(1), [1] * 20 + [4] * 30, expected=1)
    _, ended = close_all(scores, reason, POLICY, tile_ms=TILE_MS)
    alerts += messages(ended, ["SKU"], POLICY, tile_ms=TILE_MS, levels=[0.1, 0.5, 0.9])
    assert alerts[-1].reason is reason
    for alert in alerts:
        assert math.fsum(effect for _, effect in alert.drivers) == pytest.approx(alert.observed - alert.expected)
        assert alert.drivers[0][0] == "orders"  # nobody counts clicks here
