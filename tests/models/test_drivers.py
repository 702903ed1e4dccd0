"""Drivers of alerts: they add up whatever was counted, a change of one factor is told as that factor's, and zeros say nothing absurd."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.facts import Facts as StoredFacts
from feature_store.facts import Version, encode
from models.drivers import NAMES, PSEUDO_ORDERS, Facts, ranked, split, told
from models.known_future import KnownFuture, Place
from models.seasons import HOUR_MS

Floats = npt.NDArray[np.float64]

counts = st.integers(0, 10_000)
rates = st.floats(0.001, 100)
# Views and carts may be unknown, orders and units are not.
usual_of_one = st.tuples(st.one_of(st.just(0.0), rates), st.one_of(st.just(0.0), rates), rates, rates)
VIEWS, CARTS, ORDERS, UNITS = 200.0, 26.0, 20.0, 40.0  # usual, at 20 expected units: the forecast is half of what comes
USUAL = np.array([[VIEWS, CARTS, ORDERS, UNITS]]) / 20


def drivers_of(views: float, carts: float, orders: float, units: float, usual: Floats = USUAL, expected: float = 20.0) -> dict[str, float]:
    [found] = ranked(split(np.array([[views, carts, orders, units]]), usual, np.array([expected])))
    return dict(found)


def naive(observed: list[float], usual: list[float]) -> list[float]:
    """The method's definition, factor by factor: views, carts a view, orders a cart, units an order."""
    factors = [[side[0], side[1] / side[0], side[2] / side[1], side[3] / side[2]] for side in (observed, usual)]
    same = math.isclose(observed[3], usual[3], rel_tol=1e-7)  # closer than that, the quotient is rounding
    mean = observed[3] if same else (observed[3] - usual[3]) / (math.log(observed[3]) - math.log(usual[3]))
    return [mean * math.log(a / b) for a, b in zip(*factors, strict=True)]


@given(st.tuples(counts, counts, counts, st.floats(0, 1e5)), usual_of_one, st.floats(0, 1e4))
def test_effects_add_up(observed: tuple[float, ...], usual: tuple[float, ...], expected: float) -> None:
    [effects] = split(np.array([observed], float), np.array([usual]), np.array([expected]))
    [found] = ranked(effects[None])
    assert len(found) >= 3
    size = max(observed[3], expected * max(usual[3], 1), 1)
    assert math.fsum(effect for _, effect in found) == pytest.approx(observed[3] - expected, abs=1e-8 * size)


@given(st.tuples(counts, counts, counts, st.floats(0, 1e5)), st.tuples(rates, rates, rates, rates), st.floats(0, 1e4))
def test_the_split_is_the_definition(observed: tuple[float, ...], usual: tuple[float, ...], expected: float) -> None:
    added = [PSEUDO_ORDERS * rate / usual[2] for rate in usual]
    seen = [value + more for value, more in zip(observed, added, strict=True)]
    meant = [expected * rate + more for rate, more in zip(usual, added, strict=True)]
    [effects] = split(np.array([observed], float), np.array([usual]), np.array([expected]))
    found = [effects[NAMES.index(name)] for name in ("traffic", "cart_rate", "checkout_rate", "order_size")]
    assert found == pytest.approx(naive(seen, meant), rel=1e-6, abs=1e-6 * max(seen[3], meant[3]))
    assert effects[NAMES.index("forecast")] == pytest.approx(expected * (usual[3] - 1))


@pytest.mark.parametrize("factor", [4.0, 0.2])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("traffic", (1, 1, 1, 1)),
        ("cart_rate", (0, 1, 1, 1)),
        ("checkout_rate", (0, 0, 1, 1)),
        ("order_size", (0, 0, 0, 1)),
    ],
)
def test_what_changed_is_the_first_driver_and_the_others_hardly_count(name: str, changes: tuple[int, ...], factor: float) -> None:
    usual = np.array([VIEWS, CARTS, ORDERS, UNITS]) / UNITS  # no bias of the forecast
    views, carts, orders, units = (np.array([VIEWS, CARTS, ORDERS, UNITS]) * factor ** np.array(changes)).tolist()
    found = drivers_of(views, carts, orders, units, usual=usual[None], expected=UNITS)
    assert next(iter(found)) == name
    assert found[name] == pytest.approx(UNITS * (factor - 1), rel=0.15)
    assert sum(abs(effect) for other, effect in found.items() if other != name) < 0.15 * abs(found[name])


def test_a_lasting_bias_of_the_forecast_is_told_as_its_own() -> None:
    assert drivers_of(VIEWS, CARTS, ORDERS, UNITS) == pytest.approx(
        {"forecast": 20.0, "traffic": 0, "cart_rate": 0, "checkout_rate": 0, "order_size": 0}
    )


def test_nothing_sold_while_as_many_look_is_buyers_doing() -> None:
    assert next(iter(drivers_of(VIEWS, 0, 0, 0, expected=20.0))) == "cart_rate"
    assert next(iter(drivers_of(VIEWS, CARTS, 0, 0, expected=20.0))) == "checkout_rate"
    assert next(iter(drivers_of(0, 0, 0, 0, usual=USUAL / 2, expected=40.0))) == "traffic"
    assert drivers_of(0, 0, 0, 0, expected=0.0) == dict.fromkeys(drivers_of(0, 0, 0, 0, expected=0.0), 0.0)


def test_what_the_shop_does_not_count_is_not_told() -> None:
    without_carts, without_clicks = USUAL * [1, 0, 1, 1], USUAL * [0, 0, 1, 1]
    assert set(drivers_of(VIEWS, 0, ORDERS, UNITS, usual=without_carts)) == {"traffic", "conversion", "order_size", "forecast"}
    assert set(drivers_of(0, 0, ORDERS, UNITS, usual=without_clicks)) == {"orders", "order_size", "forecast"}
    assert next(iter(drivers_of(0, 0, 5 * ORDERS, 5 * UNITS, usual=without_clicks))) == "orders"


@pytest.mark.parametrize(
    ("facts", "carts", "name"),
    [
        (Facts(np.zeros(1), np.array([False]), np.full(1, np.nan)), 0.1, "stock_out"),
        (Facts(np.zeros(1), np.array([False]), np.full(1, np.nan)), 5.0, "cart_rate"),  # sold out in the end, and sold more before
        (Facts(np.ones(1), np.array([True]), np.full(1, np.nan)), 5.0, "promotion"),
        (Facts(np.ones(1), np.array([True]), np.full(1, np.nan)), 0.1, "cart_rate"),
        (Facts(np.full(1, np.nan), np.array([False]), np.array([0.7])), 5.0, "price"),
        (Facts(np.full(1, np.nan), np.array([False]), np.array([1.5])), 0.1, "price"),
        (Facts(np.full(1, np.nan), np.array([False]), np.array([0.99])), 5.0, "cart_rate"),
        (Facts(np.full(1, np.nan), np.array([False]), np.array([0.7])), 0.1, "cart_rate"),
    ],
)
def test_facts_tell_why_buyers_changed_where_they_point_that_way(facts: Facts, carts: float, name: str) -> None:
    observed, usual = np.array([[VIEWS, CARTS * carts, ORDERS * carts, UNITS * carts]]), USUAL / 2
    plain = split(observed, usual, np.array([40.0]))
    found, before = (dict(ranked(effects)[0]) for effects in (told(plain, facts), plain))
    assert next(iter(found)) == name
    assert math.fsum(found.values()) == pytest.approx(UNITS * carts - 40)
    if name != "cart_rate":
        assert not {"cart_rate", "checkout_rate"} & set(found)
        assert found[name] == pytest.approx(before["cart_rate"] + before["checkout_rate"])


def shop_of(versions: list[Version]) -> KnownFuture:
    return KnownFuture.of((), HOUR_MS, Place("UTC"), [b"", encode(StoredFacts(10_000, versions))])


def test_what_the_shop_said_since_the_day_before_the_window_is_the_reason() -> None:
    """A product without facts, then one whose stock, promotion and price are those of the window's last step, and of a day before its first."""
    first, last = np.array([500, 500]), np.array([503, 503])
    plan = (480 * 3600, 520 * 3600, 2_000)
    both = [np.arange(2), first, last]
    nothing = Facts.of(shop_of([]), *both)
    assert np.isnan(nothing.stock).all()
    assert not nothing.promoted.any()
    gone = Facts.of(shop_of([Version(400, price=10_000, stock=1), Version(502, price=9_000, stock=0, promotions=plan)]), *both)
    assert np.isnan(gone.stock[0])
    assert np.isnan(gone.price[0])
    assert (gone.stock[1], gone.promoted[1], round(float(gone.price[1]), 9)) == (0, True, 0.9)
    later = Facts.of(shop_of([Version(400, price=10_000, stock=1), Version(504, price=9_000, stock=0, promotions=plan)]), *both)
    assert (later.stock[1], later.promoted[1], later.price[1]) == (1, False, 1)
    always = Facts.of(shop_of([Version(400, price=10_000, promotions=(470 * 3600, 520 * 3600, 2_000))]), *both)
    assert not always.promoted[1]
