"""Cleaning: what is no demand goes, every change is told, and gaps never reach the network as numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import batches, cleaning, dataset
from models.batches import Recipe
from models.cleaning import ADJUSTMENTS, OUTAGES, OUTLIERS, STOCK_OUTS, Policy
from models.dataset import Encoded, Panel
from models.features import FeatureSpec
from models.seasons import DAY_MS, HOUR_MS

DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))
HOURLY = FeatureSpec.for_step(HOUR_MS, ("orders",))
MONDAY = 14_613  # 2010-01-04
POLICY = Policy()


def panel(units: np.ndarray, names: tuple[str, ...] | None = None, first: int = MONDAY, timezone: str = "UTC") -> Panel:
    """Products all born at the first step, with an order for every three units."""
    units = np.asarray(units, np.float32)
    names = names or tuple(f"p{i}" for i in range(len(units)))
    return Panel(names, first, np.zeros(len(units), np.int64), np.stack([units, np.ceil(units / 3)], axis=2), timezone)


def shop(days: int = 140, products: int = 20, closed: tuple[int, ...] = (), rate: float = 3.0, seed: int = 0) -> np.ndarray:
    """Daily demand, (products, days), of a shop that is closed on some weekdays (Monday is 0)."""
    units = np.random.default_rng(seed).poisson(rate, (products, days)) + 0.0
    units[:, np.isin(np.arange(days) % 7, closed)] = 0
    return units


def gaps(source: Panel) -> list[int]:
    """Columns in which every product has a gap."""
    return np.flatnonzero(np.isnan(source.demand[..., 0]).all(axis=0)).tolist()


# Adjustments


def test_postage_and_tests_are_no_products() -> None:
    names = (*(f"{i}A" for i in range(22_000, 22_080)), "POST", "m", "gift_0001_20", "BANK CHARGES")
    source = panel(np.ones((84, 40)), names)
    cleaned, change = cleaning.adjustments(source, DAILY, POLICY)
    assert cleaned.product_ids == names[:80]
    assert (change.products, change.cells, change.units_before, change.units_after) == (4, 160, 84 * 40, 80 * 40)
    assert "POST: 40 units" in change.examples
    assert source.product_ids == names


@pytest.mark.parametrize("name", ["85123A", "POSTER", "p0001", "TESTER", "DOTS", "79323P", "gift", "M1", "SKU-TEST-1", "ADJUSTABLE"])
def test_products_are_kept(name: str) -> None:
    names = (name, *(f"x{i}" for i in range(99)))
    cleaned, _ = cleaning.adjustments(panel(np.ones((100, 5)), names), DAILY, POLICY)
    assert (name in cleaned.product_ids) == (name != "gift")  # a voucher


def test_a_shop_that_calls_its_products_so_keeps_them() -> None:
    source = panel(np.ones((4, 5)), ("S", "M", "L", "XL"))
    cleaned, change = cleaning.adjustments(source, DAILY, POLICY)
    assert cleaned is source
    assert (change.products, change.cells) == (0, 0)
    assert "fits 50% of the products" in change.did


def test_the_pattern_is_the_users() -> None:
    names = ("FEE-1", *(f"x{i}" for i in range(30)))
    cleaned, _ = cleaning.adjustments(panel(np.ones((31, 5)), names), DAILY, Policy(adjustment_ids=r"fee-\d+"))
    assert "FEE-1" not in cleaned.product_ids


# Outages:    open  ▇▇▇▇▇▁▇ ▇▇▇▇▇▁▇ ▇▇▇▁▁▁▁ ▁▁▁▁▁▁▁ ▇▇▇▇▇▁▇      Saturdays are a season, ten silent days are not


def test_a_long_silence_of_the_whole_shop_is_a_gap() -> None:
    units = shop(closed=(5,))
    units[:, 73:84] = 0
    cleaned, change = cleaning.outages(panel(units), DAILY, POLICY)
    assert gaps(cleaned) == list(range(73, 84))
    assert not cleaned.demand[:, 73:84, 1].any()
    assert change.cells == 20 * 11
    assert change.units_before == change.units_after == units.sum()
    assert change.examples == ("2010-03-18 until 2010-03-29: 11 steps",)


@pytest.mark.parametrize("closed", [(5,), (5, 6), (0, 1, 2, 3, 4), ()])
def test_closed_weekdays_and_bank_holidays_are_no_outage(closed: tuple[int, ...]) -> None:
    units = shop(closed=closed)
    for holiday in (30, 60, 61, 62, 63):
        units[:, holiday] = 0
    cleaned, change = cleaning.outages(panel(units), DAILY, POLICY)
    assert gaps(cleaned) == []
    assert change.cells == 0


def test_a_small_shop_may_have_quiet_days() -> None:
    rare = shop(days=400, products=3, rate=0.08, seed=3)
    assert gaps(cleaning.outages(panel(rare), DAILY, POLICY)[0]) == []


def test_a_shop_that_often_closes_for_weeks_has_no_outages() -> None:
    units = shop(days=280)
    for start in range(20, 280, 40):
        units[:, start : start + 10] = 0
    assert gaps(cleaning.outages(panel(units), DAILY, POLICY)[0]) == []


@pytest.mark.parametrize(("hours", "lost"), [(24, False), (150, True)])
@pytest.mark.parametrize("nights", [True, False])
def test_nights_are_no_outage_and_a_week_is(hours: int, lost: bool, nights: bool) -> None:
    columns = 24 * 70
    units = np.random.default_rng(1).poisson(2.0, (10, columns)) + 0.0
    if nights:
        units[:, np.isin(np.arange(columns) % 24, (22, 23, 0, 1, 2, 3, 4, 5))] = 0
    units[:, 24 * 30 : 24 * 30 + hours] = 0
    found = gaps(cleaning.outages(panel(units, first=MONDAY * 24), HOURLY, POLICY)[0])
    assert set(range(24 * 30, 24 * 30 + hours)) <= set(found) if lost else not found


def test_hours_that_were_never_sold_at_do_not_break_the_odds() -> None:
    units = np.zeros((3, 24 * 70))
    units[:, 12::24] = 2
    assert gaps(cleaning.outages(panel(units, first=MONDAY * 24), HOURLY, POLICY)[0]) == []


def test_clicks_show_that_data_came_in() -> None:
    units = shop()
    units[:, 73:90] = 0
    source = panel(units)
    source.demand[4, 73:90, 1] = 1
    assert gaps(cleaning.outages(source, DAILY, POLICY)[0]) == []


def test_a_product_has_no_gap_before_it_is_born() -> None:
    units = shop()
    units[:, 73:84] = 0
    units[-1, :100] = 0
    source = replace(panel(units), born=np.array([0] * 19 + [100]))
    cleaned, _ = cleaning.outages(source, DAILY, POLICY)
    assert np.isnan(cleaned.demand[:19, 73:84, 0]).all()
    assert not np.isnan(cleaned.demand[19]).any()


@pytest.mark.parametrize("step_ms", [7 * DAY_MS, 5 * HOUR_MS])
def test_any_length_of_a_step(step_ms: int) -> None:
    spec = FeatureSpec.for_step(step_ms, ("orders",))
    units = shop(days=300)
    units[:, 100:160] = 0
    assert gaps(cleaning.outages(panel(units), spec, POLICY)[0]) == list(range(100, 160))


# Stock-outs


def test_what_was_not_there_could_not_be_sold() -> None:
    units = np.array([[3, 2, 0, 0, 4], [1, 1, 1, 1, 1]])
    stock = np.array([[5, 0, 0, 9, 5], [np.nan, np.nan, 4, 3, 2]], np.float32)
    cleaned, change = cleaning.stock_outs(replace(panel(units), stock=stock), DAILY, POLICY)
    assert np.isnan(cleaned.demand[0, :, 0]).tolist() == [False, True, True, False, False]
    assert cleaned.demand[0, 1:3, 1].tolist() == [0, 0]
    assert np.array_equal(cleaned.demand[1], panel(units).demand[1])
    assert (change.products, change.cells, change.units_before, change.units_after) == (1, 2, 14, 12)
    assert change.examples == ("p0 2010-01-05 until 2010-01-07",)


def test_a_product_that_sells_without_stock_is_left_alone() -> None:
    source = replace(panel(np.ones((2, 30))), stock=np.zeros((2, 30), np.float32))
    cleaned, change = cleaning.stock_outs(source, DAILY, POLICY)
    assert cleaned is source
    assert "2 products sell without stock" in change.did


def test_without_stocks_the_rule_says_so() -> None:
    source = panel(np.ones((2, 3)))
    cleaned, change = cleaning.stock_outs(source, DAILY, POLICY)
    assert cleaned is source
    assert "no stock is known" in change.did


def test_stocks_find_their_product_and_step() -> None:
    source = panel(np.ones((2, 3)), ("a", "b"))
    found = cleaning.with_stock(source, ["b", "a", "z", "b"], [MONDAY, MONDAY + 2, MONDAY, MONDAY + 9], [4, 0, 1, 1]).stock
    assert found is not None
    assert np.array_equal(found, [[np.nan, np.nan, 0], [4, np.nan, np.nan]], equal_nan=True)


def test_stocks_follow_their_products_and_steps() -> None:
    stock = np.arange(6, dtype=np.float32).reshape(2, 3)
    source = replace(panel(np.ones((2, 3))), stock=stock)
    part = source.only([1]).until(2)
    assert part.stock is not None
    assert part.stock.tolist() == [[3, 4]]
    assert source.fingerprint != panel(np.ones((2, 3))).fingerprint


# Outliers:  cap ┄┄┄┄┄┄┄┄┄┄█┄┄┄┄
#                 ▃▂▃▄▂▃▂▃▃█▂▃     cut to the cap of the days before it


def test_a_spike_is_cut_to_a_cap_that_the_past_gives() -> None:
    units = shop(days=60, products=2) + 1
    units[1, 40] = 30_000
    cleaned, change = cleaning.outliers(panel(units), DAILY, POLICY)
    past = np.log1p(units[1, :40])
    median = np.median(past)
    cap = np.expm1(median + 6 * max(1.4826 * np.median(np.abs(past - median)), 0.35))
    assert cleaned.demand[1, 40, 0] == pytest.approx(cap, rel=1e-5)
    assert (change.cells, change.products) == (1, 1)
    assert change.units_before - change.units_after == pytest.approx(30_000 - cap, rel=1e-5)
    assert change.examples == (f"p1 2010-02-13: 30,000 to {cap:,.0f}",)
    assert np.isfinite(cleaned.demand).all()


def test_a_rise_that_lasts_becomes_the_rule() -> None:
    units = np.full((1, 200), 2.0)
    units[0, 60:] = 100
    cleaned, change = cleaning.outliers(panel(units), DAILY, POLICY)
    assert 0 < change.cells <= 40
    assert (cleaned.demand[0, 110:, 0] == 100).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(30, 90))
def test_no_cap_knows_the_future(seed: int, until: int) -> None:
    units = np.random.default_rng(seed).negative_binomial(0.4, 0.05, (4, 90)) + 0.0
    whole, _ = cleaning.outliers(panel(units), DAILY, Policy(outlier_spreads=1.0))
    part, _ = cleaning.outliers(panel(units).until(until), DAILY, Policy(outlier_spreads=1.0))
    assert np.array_equal(whole.demand[:, :until], part.demand)


def test_a_new_product_is_left_alone() -> None:
    units = np.zeros((1, 50))
    units[0, 5:10] = 1
    units[0, 20] = 9_999
    assert cleaning.outliers(panel(units), DAILY, POLICY)[1].cells == 0


# Rows


def test_repeated_rows_are_counted_and_the_last_one_stays() -> None:
    frame = pd.DataFrame({"product_id": ["a", "a", "b"], "start_ms": [5, 5, 5], "units": [1.0, 3.0, 2.0]})
    kept, change = cleaning.repeated_rows(frame)
    assert kept["units"].tolist() == [3, 2]
    assert (change.products, change.cells, change.units_before, change.units_after) == (1, 1, 6, 5)
    assert change.examples == ("a 5",)


# All rules


def test_the_default_rules_leave_a_clean_shop_alone() -> None:
    source = panel(shop(closed=(5,)))
    cleaned, changes = cleaning.clean(source, DAILY)
    assert cleaned is source
    assert [change.rule for change in changes] == [ADJUSTMENTS, STOCK_OUTS, OUTAGES]
    assert all(change.cells == 0 for change in changes)


def test_rules_can_be_switched_off_and_on() -> None:
    units = shop(days=60, products=40)
    units[1, 50] = 30_000
    source = panel(units, ("POST", *(f"p{i}" for i in range(39))))
    assert cleaning.clean(source, DAILY, POLICY.without([ADJUSTMENTS]))[0] is source
    cleaned, changes = cleaning.clean(source, DAILY, Policy(rules=(OUTLIERS, ADJUSTMENTS)))
    assert [(change.rule, change.cells > 0) for change in changes] == [(ADJUSTMENTS, True), (OUTLIERS, True)]
    assert changes[0].units_after == changes[1].units_before
    assert cleaned.demand[..., 0].max() < 30_000
    with pytest.raises(ValueError, match=f"no rule nights; choose from adjustments, {STOCK_OUTS}"):
        cleaning.clean(source, DAILY, Policy(rules=("nights",)))


# Gaps on their way to the network

QUICK = Recipe(batch=6, forks=8, segment=40, burn_in=6, youngest=5)


def encoded(source: Panel) -> Encoded:
    return dataset.encode(source, DAILY, dataset.shop_profiles(source, DAILY), longest=28)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_targets_with_a_gap_are_unknown_and_all_arrays_are_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = panel(shop(days=100, products=8, seed=seed))
    source = cleaning.with_gaps(source, (rng.random((8, 100)) < 0.05) | (np.arange(100) // 7 == 9))
    one = encoded(source)
    batch = batches.draw([one], QUICK, 14, 28, np.random.default_rng(seed))
    assert all(np.isfinite(array).all() for array in batch.arrays())

    product, column = np.arange(8).repeat(60), np.tile(np.arange(20, 80), 8)
    lengths = rng.integers(1, 29, (len(product), 2))
    demand, known = batches._targets(one, QUICK, product, column, 14, lengths)
    for i in range(len(product)):
        after = source.demand[product[i], column[i] + 1 :, 0]
        grown = one.age[product[i], column[i]] >= QUICK.youngest
        for row, span in enumerate([*(after[h : h + 1] for h in range(14)), *(after[:length] for length in lengths[i])]):
            whole = len(span) == (1 if row < 14 else lengths[i, row - 14]) and np.isfinite(span).all()
            assert known[i, row] == (grown and whole)
            assert demand[i, row] == (pytest.approx(span.mean(), abs=1e-5) if whole else 0)


def test_a_gap_does_not_move_the_shops_profile() -> None:
    week = np.array([7.0, 1, 1, 1, 1, 1, 2])
    units = np.tile(week, 20)[None].repeat(5, axis=0)
    source = panel(units)
    mask = np.zeros(units.shape, bool)
    mask[:, 70:78] = True
    mask[2, 30:60] = True
    (whole,), (holed,) = (dataset.shop_profiles(one, DAILY) for one in (source, cleaning.with_gaps(source, mask)))
    assert np.allclose(whole, holed, rtol=0.03)
    (zeros,) = dataset.shop_profiles(panel(np.where(mask, 0, units)), DAILY)
    assert not np.allclose(whole, zeros, rtol=0.03)


def test_a_product_does_not_age_in_a_gap() -> None:
    source = panel(shop(days=60, products=3))
    mask = np.zeros((3, 60), bool)
    mask[1, 20:30] = True
    one = encoded(cleaning.with_gaps(source, mask))
    assert one.age[:, -1].tolist() == [60, 50, 60]
