"""Young products: sums that do not depend on order, what follows from them, and forecasts that begin as their category's and become their own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.stats import gamma

from models import cold_start
from models import features as rows
from models.cold_start import (
    AGE_ENDS,
    CLASSES,
    COUNT,
    CROSS,
    PRICED,
    PRICES,
    SLOW_EXCESS,
    SLOW_UNITS,
    UNITS,
    Facts,
    Launches,
    Lived,
    Prior,
)
from models.features import F32, FeatureSpec
from models.seasons import DAY_MS, HOUR_MS

SPEC = FeatureSpec.for_step(HOUR_MS, ("orders",))
DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))
FLAT = tuple(np.ones(period, np.float32) for period in SPEC.periods)
LEVELS = (0.1, 0.5, 0.9)
HORIZON = 4
SUMS = (7, 30)


def f32(values: ArrayLike) -> F32:
    return np.asarray(values, np.float32)


def shop(seed: int, n: int = 30, steps: int = 40) -> tuple[F32, list[str | None], np.ndarray]:
    """Demand, (n, steps), categories and logarithms of prices."""
    rng = np.random.default_rng(seed)
    demand = rng.poisson(rng.gamma(0.7, 2, n)[:, None], (n, steps)).astype(np.float32)
    demand[rng.random((n, steps)) < 0.02] = np.nan
    names: list[str | None] = [(None, "mugs", "teapots")[i] for i in rng.integers(0, 3, n)]
    return demand, names, np.where(rng.random(n) < 0.3, np.nan, rng.normal(9, 1, n))


def added_up(demand: F32, names: list[str | None], prices: np.ndarray, order: np.ndarray, cuts: int) -> Lived:
    """In parts of the products, in some order."""
    lived = Lived()
    for part in np.array_split(order, cuts):
        features = rows.fresh(SPEC, len(part))
        for step in range(demand.shape[1]):
            facts = Facts([names[i] for i in part], prices[part])
            pool = part % 2
            lived.add(SPEC, features, demand[part, step], pool, step // 24, facts)
            both = np.stack([demand[part, step], np.nan_to_num(demand[part, step])], axis=1)
            features = rows.advance(SPEC, features, both, np.full(len(part), step))
    return lived


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.integers(1, 6))
def test_sums_do_not_depend_on_the_order_of_products_or_on_how_they_were_cut(seed: int, cuts: int) -> None:
    demand, names, prices = shop(seed)
    whole = added_up(demand, names, prices, np.arange(len(names)), 1)
    parts = added_up(demand, names, prices, np.random.default_rng(seed).permutation(len(names)), cuts)
    assert whole.by_day.keys() == parts.by_day.keys()
    for key, of_day in whole.by_day.items():
        assert of_day.keys() == parts.by_day[key].keys()
        for name, found in of_day.items():
            np.testing.assert_array_equal(found, parts.by_day[key][name])


def test_sums_are_those_of_a_plain_loop() -> None:
    demand, names, prices = shop(5)
    lived = added_up(demand, names, prices, np.arange(len(names)), 3)
    expected: dict[tuple[int, int, str], np.ndarray] = {}
    for i, name in enumerate(names):
        features, age = rows.fresh(SPEC, 1), 0
        for step, units in enumerate(demand[i].tolist()):
            if np.isfinite(units):
                sums = expected.setdefault((i % 2, step // 24, name or ""), np.zeros(cold_start.SHAPE, np.int64))
                at = next((k for k, end in enumerate(AGE_ENDS) if age < end), CLASSES - 1)
                mean = float(rows.long_run(SPEC, features)[0][0])
                counted, slow = min(units, 10 * (mean + 1)), 1000 / (1 + mean) ** 3
                sums[at, [COUNT, UNITS, CROSS]] += [1, round(units * 1000), round(counted * mean * 1000)]
                sums[at, [SLOW_UNITS, SLOW_EXCESS]] += [round(counted * slow), round(counted * (counted - mean) * slow)]
                if np.isfinite(prices[i]):
                    log = prices[i] * 1000
                    sums[PRICES] += [1, round(log), round(log * log / 1000), int(units > 0), round(log) if units > 0 else 0]
                age += 1
            features = rows.advance(SPEC, features, f32([[units, np.nan_to_num(units)]]), np.array([step]))
    assert {(p, day, name) for (p, day), of_day in lived.by_day.items() for name in of_day} == expected.keys()
    for (pool, day, name), sums in expected.items():
        np.testing.assert_array_equal(lived.by_day[pool, day][name], sums)


def of(lived: Lived) -> Launches:
    found = Launches.of({day: of_day for (_, day), of_day in lived.by_day.items()}, 24)
    assert found is not None
    return found


def launched(rates: dict[str, float], seed: int = 1, products: int = 60, steps: int = 200, spread: float = 0.5) -> Launches:
    """What is known after so many products of each category, with gamma rates and orders of one piece."""
    rng, lived = np.random.default_rng(seed), Lived()
    names: list[str | None] = [name for name in rates for _ in range(products)]
    rate = np.array([rates[str(name)] for name in names]) * rng.gamma(1 / spread, spread, len(names))
    features = rows.fresh(SPEC, len(names))
    for step in range(steps):
        units = rng.poisson(rate).astype(np.float32)
        lived.add(SPEC, features, units, np.zeros(len(names), np.int64), 0, Facts(names, np.full(len(names), np.nan)))
        features = rows.advance(SPEC, features, np.stack([units, units], axis=1), np.full(len(names), step))
    return of(lived)


def test_rates_spread_and_orders_are_found() -> None:
    found = launched({"mugs": 0.4, "teapots": 3.0}, products=150)
    assert found.rates["mugs"] == pytest.approx(0.4, rel=0.4)
    assert found.rates["teapots"] == pytest.approx(3.0, rel=0.25)
    assert found.spread == pytest.approx(0.5, rel=0.4)
    assert found.order == pytest.approx(1.0, abs=0.5)
    np.testing.assert_array_equal(found.curve, 1)  # they were there when the first day began


def test_launches_grow_as_they_did_and_what_was_there_before_is_none() -> None:
    """Two hundred products that sell two pieces an hour from the first one on, and fifty a day later that need a day to get to one."""
    rng, lived = np.random.default_rng(2), Lived()
    born = np.repeat([0, 24 + 5], [200, 50])
    features = rows.fresh(SPEC, len(born))
    for step in range(24 * 8):
        there = np.flatnonzero(born <= step)
        age = step - born[there]
        rate = np.where(born[there] == 0, 2.0, np.minimum(age / 24, 1))
        units = rng.poisson(rate).astype(np.float32)
        none = np.full(len(there), np.nan)
        lived.add(SPEC, features[there], units, np.zeros(len(there), np.int64), step // 24, Facts([None] * len(there), none))
        features[there] = rows.advance(SPEC, features[there], np.stack([units, units], axis=1), np.full(len(there), step))
    found = of(lived)
    assert found.rate == pytest.approx(0.9 + 0.15, abs=0.1)  # launches sell .92, drawn a little towards the 1.8 of all
    assert found.curve[2] < 0.5 < found.curve[4] < 0.9 < found.curve[5]


def test_nothing_is_known_where_nobody_sold_anything() -> None:
    assert Launches.of({}, 24) is None
    lived, features = Lived(), rows.fresh(SPEC, 2)
    lived.add(SPEC, features, f32([0, 0]), np.zeros(2, np.int64), 0, Facts([None, None], np.full(2, np.nan)))
    assert Launches.of({0: lived.by_day[0, 0]}, 24) is None


def test_a_category_nobody_has_heard_of_is_like_the_shop() -> None:
    many = launched({"mugs": 0.5, "teapots": 4.0})
    assert many.rates["mugs"] < many.rate < many.rates["teapots"]
    assert many.of_product("never heard of", np.nan) == many.of_product(None, np.nan) == many.rate


def prior_of(known: Launches, n: int, name: str | None, features: F32) -> Prior:
    weight = cold_start.weight(SPEC, features)
    young = np.flatnonzero(weight > 0)
    return Prior.of(young, weight[young], [known] * len(young), Facts([name] * len(young), np.full(len(young), np.nan)))


def blend(prior: Prior, features: F32, step: int, decoded: tuple[F32, F32], factors: F32 | None = None) -> tuple[F32, F32]:
    n = len(features)
    nothing, lengths = np.zeros(n, np.float32), np.tile(np.array(SUMS), (n, 1))
    at = np.full(n, step)
    return cold_start.blended(prior, SPEC, FLAT, features, at, lengths, LEVELS, decoded, factors, nothing, nothing)


def network(n: int, mean: float = 2.0) -> tuple[F32, F32]:
    """The same for all."""
    whole = f32([mean] * HORIZON + [mean * length for length in SUMS])
    quantiles = whole[:, None] * f32([0.2, 0.9, 2.0])
    return np.tile(whole, (n, 1)), np.tile(quantiles, (n, 1, 1))


def lived_through(units: list[float]) -> F32:
    """The row of a product with this demand."""
    features = rows.fresh(SPEC, 1)
    for step, sold in enumerate(units):
        features = rows.advance(SPEC, features, f32([[sold, sold]]), np.array([step]))
    return features


def test_a_newborn_s_forecast_is_its_category_s_and_later_ones_are_the_network_s() -> None:
    known = launched({"mugs": 0.5, "teapots": 4.0})
    means = {}
    for name in ("mugs", "teapots", None):
        features = lived_through([])
        mean, _ = blend(prior_of(known, 1, name, features), features, 10, network(1, 50.0))
        means[name] = float(mean[0, 0])
    share = float(cold_start.weight(SPEC, lived_through([]))[0])
    assert share == 1
    assert means["mugs"] == pytest.approx(known.rates["mugs"], rel=0.2)
    assert means["teapots"] == pytest.approx(known.rates["teapots"], rel=0.2)
    assert means["mugs"] < means[None] < means["teapots"]
    old = lived_through([1.0] * AGE_ENDS[-1])
    assert cold_start.weight(SPEC, old).tolist() == [0]
    assert blend(prior_of(known, 1, "mugs", old), old, 600, network(1))[0].tolist() == network(1)[0].tolist()


@settings(max_examples=40, deadline=None)
@given(
    units=st.lists(st.sampled_from([0.0, 0.0, 1.0, 3.0, 40.0, 9_999.0, np.nan]), max_size=30),
    name=st.sampled_from(["mugs", "teapots", "unheard", None]),
    mean=st.sampled_from([0.0, 0.01, 3.0, 1e6]),
    seed=st.integers(0, 5),
)
def test_forecasts_are_finite_and_ordered_and_lie_between_what_is_averaged(
    units: list[float], name: str | None, mean: float, seed: int
) -> None:
    known = KNOWN
    features, decoded = lived_through(units), network(1, mean)
    factors = np.random.default_rng(seed).uniform(0.5, 2, (1, len(LEVELS))).astype(np.float32)
    prior = prior_of(known, 1, name, features)
    mixed, quantiles = blend(prior, features, 40, decoded, factors)
    alone = replace(prior, weight=np.ones_like(prior.weight))
    other, other_quantiles = blend(alone, features, 40, decoded, factors)
    assert np.isfinite(mixed).all()
    assert np.isfinite(quantiles).all()
    assert (mixed >= 0).all()
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    for both, a, b in ((mixed, decoded[0], other), (quantiles, decoded[1], other_quantiles)):
        slack = 1e-5 * (np.abs(a) + np.abs(b)) + 1e-6
        assert (both >= np.minimum(a, b) - slack).all()
        assert (both <= np.maximum(a, b) + slack).all()


KNOWN = launched({"mugs": 0.5, "teapots": 4.0}, products=30, steps=60)


def test_the_prior_s_forecast_is_that_of_its_definition() -> None:
    """A product of the category, with some steps behind it, by the words of the module: one loop over what is asked for."""
    units = [2.0, 0.0, 0.0, 5.0, 1.0, 0.0]
    features, step = lived_through(units), 5
    known = replace(KNOWN, order=1.5, spread=0.8, curve=np.linspace(0.5, 1.5, CLASSES))
    prior = prior_of(known, 1, "teapots", features)
    week = tuple(np.random.default_rng(1).uniform(0.2, 2, period).astype(np.float32) for period in SPEC.periods)
    nothing = np.zeros(1, np.float32)
    alone = replace(prior, weight=np.ones_like(prior.weight))
    mean, quantiles = cold_start.blended(
        alone, SPEC, week, features, np.array([step]), np.array([SUMS]), LEVELS, network(1), None, nothing, nothing
    )

    def usual(age: int) -> float:
        """Of one step, counted from birth, which was step 0."""
        at = next((k for k, end in enumerate(AGE_ENDS) if age < end), CLASSES - 1)
        return float(known.curve[at] * week[-1][SPEC.season(age, 1).phases[-1][0]])

    slow = float(rows.slowest(SPEC, features)[0])
    exposed = sum(usual(age) for age in range(len(units))) - usual(0) / 2
    orders = max(slow * len(units) - 0.8 * known.order, 0) / known.order
    shape, trust = 1 / known.spread, 1 / (1 + orders / 5)
    rate = (shape + trust * orders) / (shape / known.rates["teapots"] + trust * exposed / known.order)
    targets = [[k] for k in range(HORIZON)] + [list(range(length)) for length in SUMS]
    for place, ahead in enumerate(targets):
        total = rate * sum(usual(len(units) + k) for k in ahead)
        variance = known.order * total + 2 * total**2 / (shape + trust * orders)
        assert mean[0, place] == pytest.approx(total, rel=1e-4)
        for level, found in zip(LEVELS, quantiles[0, place], strict=True):
            expected = gamma.ppf(level, total**2 / variance, scale=variance / total)
            assert found == pytest.approx(expected if expected >= 0.5 else 0, rel=0.05)


def test_intervals_narrow_and_the_prior_s_weight_falls_as_a_product_sells() -> None:
    widths, weights = [], []
    for n in (1, 3, 10, 30):
        features = lived_through([4.0] * n)
        prior = prior_of(KNOWN, 1, "teapots", features)
        weights.append(float(prior.weight[0]))
        mean, quantiles = blend(replace(prior, weight=np.ones_like(prior.weight)), features, n, network(1))
        widths.append(float((quantiles[0, -1, -1] - quantiles[0, -1, 0]) / mean[0, -1]))
    assert widths == sorted(widths, reverse=True)
    assert weights == sorted(weights, reverse=True)


def test_products_of_which_nothing_is_known_keep_every_bit_whoever_is_beside_them() -> None:
    features = np.concatenate([lived_through([1.0] * 600), lived_through([2.0]), lived_through([])])
    weight = cold_start.weight(SPEC, features)
    young = np.flatnonzero(weight > 0)
    prior = Prior.of(young, weight[young], [None, KNOWN], Facts([None] * 2, np.full(2, np.nan)))
    assert prior.rows.tolist() == [2]
    decoded = network(3)
    mean, quantiles = blend(prior, features, 700, decoded)
    np.testing.assert_array_equal(mean[:2], decoded[0][:2])
    np.testing.assert_array_equal(quantiles[:2], decoded[1][:2])
    assert mean[2, 0] != decoded[0][2, 0]
    [alone] = [blend(prior_of(KNOWN, 1, None, features[2:]), features[2:], 700, network(1))]
    np.testing.assert_array_equal(alone[0][0], mean[2])
    np.testing.assert_array_equal(alone[1][0], quantiles[2])


def test_what_the_running_step_brings_moves_the_rate_at_once() -> None:
    """The first hours count: on the first day of a shop that closes days, too."""
    features, lengths = lived_through([]), np.array([SUMS])
    prior = prior_of(KNOWN, 1, "teapots", features)
    week, at = FLAT, np.array([9])

    def first(observed: float, passed: float) -> float:
        seen, time = f32([observed]), f32([passed])
        return float(cold_start.blended(prior, SPEC, week, features, at, lengths, LEVELS, network(1), None, seen, time)[0][0, 1])

    assert first(40, 0.5) > 1.4 * first(4, 0.5)
    assert first(4, 0.5) > first(1, 0.5)
    assert first(1, 0.9) < first(1, 0.1)


def test_dear_products_of_a_shop_where_they_sell_less_are_forecast_less() -> None:
    rng, lived, n = np.random.default_rng(3), Lived(), 300
    log = rng.normal(9, 0.7, n)
    rate = 0.3 * np.exp(-0.8 * (log - 9)) * rng.gamma(2, 0.5, n)
    features = rows.fresh(SPEC, n)
    for step in range(100):
        units = rng.poisson(rate).astype(np.float32)
        lived.add(SPEC, features, units, np.zeros(n, np.int64), 0, Facts(["mugs"] * n, log))
        features = rows.advance(SPEC, features, np.stack([units, units], axis=1), np.full(n, step))
    assert lived.by_day[0, 0]["mugs"][PRICES, PRICED] == n * 100
    found = of(lived)
    assert found.slope == pytest.approx(-0.8, abs=0.4)
    dear, usual, cheap = (found.of_product("mugs", 9.0 + d) for d in (0.7, 0.0, -0.7))
    assert dear < usual < cheap
    assert found.of_product("mugs", np.nan) == found.rates["mugs"]
    drawn = np.mean([found.of_product("mugs", each) for each in log])
    assert drawn == pytest.approx(found.rates["mugs"], rel=0.2)  # the category's mean stays what it is
