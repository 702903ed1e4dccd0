"""Explained forecasts: Shapley's definition, sums that add up to what is published, and drivers that are there when they should be."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artefact import Artefact
from models.explain import Explanation, explain, shapley, usual_history
from models.features import F32, FeatureSpec
from models.forecaster import Forecaster
from models.nowcast import NowcastRule
from models.seasons import HOUR_MS
from models.weights import Sizes, initial

DAY = 24
HISTORY = 8 * DAY
FIRST = 490_008  # midnight


def naive(worth: Sequence[float], players: int) -> list[float]:
    """Mean over all orders of what each player adds when it comes."""
    found = [0.0] * players
    orders = list(permutations(range(players)))
    for order in orders:
        there = 0
        for player in order:
            found[player] += (worth[there | 1 << player] - worth[there]) / len(orders)
            there |= 1 << player
    return found


@given(st.integers(1, 4).flatmap(lambda k: st.lists(st.floats(-1e3, 1e3), min_size=1 << k, max_size=1 << k)))
def test_shapley_values_are_the_mean_over_all_orders(worth: list[float]) -> None:
    players = len(worth).bit_length() - 1
    assert shapley(np.array(worth)[:, None])[0] == pytest.approx(naive(worth, players), abs=1e-9)


@pytest.fixture(scope="session")
def shipped(repository: Path) -> Forecaster:
    return Forecaster.load(repository / "models" / "default")


def covariate_model() -> Forecaster:
    """Untrained; knows a price and a promotion."""
    spec = FeatureSpec.for_step(HOUR_MS, ("orders",), covariates=("price", "promotion"))
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, 3, covariates=2)
    profiles = tuple(np.ones(period, np.float32) for period in spec.periods)
    weights = initial(sizes, np.random.default_rng(1))
    return Forecaster(
        Artefact("test", spec, 24, 28, (0.1, 0.5, 0.9), sizes.hidden, sizes.width, NowcastRule(), (0.5, 2.0), True, profiles, weights)
    )


def demand_of(units: F32, streams: int = 3) -> F32:
    """Each order one unit, five views and one cart: (n, steps, 1 + streams)."""
    return np.stack([units, units, 5 * units, units][: streams + 1], axis=2).astype(np.float32)


def explained(
    model: Forecaster, demand: F32, *, elapsed: float = 0.0, sold: float = 0.0, ahead: F32 | None = None, covariates: F32 | None = None
) -> tuple[Explanation, float]:
    """Of products that lived through `demand`, (n, steps, 1 + streams), and what is published of the first."""
    n, steps = demand.shape[:2]
    features, state = model.fresh(n)
    for i in range(steps):
        features, state = model.advance(features, state, demand[:, i], np.full(n, FIRST + i), covariates=covariates)
    step = np.full(n, FIRST + steps - 1)
    running = np.full((n, demand.shape[2]), sold, np.float32)
    passed = np.full(n, elapsed, np.float32)
    found = explain(model, features, state, step, demand[:, -HISTORY:], running, passed, ahead=ahead)
    out = model.read_out(features, state, step, running, passed, np.empty(0, np.int64), ahead=ahead)
    return found, float(out.mean[0].sum())


def test_effects_add_up_to_the_forecast_that_is_published(shipped: Forecaster) -> None:
    demand = demand_of(np.random.default_rng(5).poisson(3, (3, 20 * DAY)).astype(np.float32))
    for elapsed, sold in ((0.0, 0.0), (0.5, 30.0)):
        found, published = explained(shipped, demand, elapsed=elapsed, sold=sold)
        assert found.total[0] == pytest.approx(published, rel=1e-5)
        np.testing.assert_allclose(found.base + found.effects.sum(axis=1), found.total, rtol=1e-9)
        running = found.effects[0, found.names.index("running_step")]
        assert (abs(running) > 5) if sold else (abs(running) < 1e-3 * published)


def test_what_happened_lately_is_told_and_what_did_not_is_not(shipped: Forecaster) -> None:
    units = np.random.default_rng(6).poisson(4, (4, 24 * DAY)).astype(np.float32)
    demand = demand_of(units)
    demand[1, -2 * DAY :] *= 4
    demand[2, -2 * DAY :] *= 0
    demand[3, -2 * DAY :, 2:] *= 4  # many look, as many buy
    found, _ = explained(shipped, demand)
    effects = {name: found.effects[:, i] for i, name in enumerate(found.names)}
    lately = effects["recent_demand"] + effects["clicks"]
    others = np.abs(found.effects[:, 2:]).max(axis=1)
    assert lately[1] > 0.3 * found.base[1]
    assert lately[2] < -0.3 * found.base[2]
    assert (np.abs(lately[1:3]) > others[1:3]).all()
    assert effects["clicks"][3] > 2 * abs(effects["recent_demand"][3])
    assert abs(lately[0]) < 0.15 * found.base[0]
    np.testing.assert_allclose(found.base / found.base[0], 1, atol=0.25)  # the base does not know what happened


def test_young_products_and_those_that_never_sold_are_explained(shipped: Forecaster) -> None:
    demand = demand_of(np.random.default_rng(7).poisson(2, (2, 30)).astype(np.float32))
    demand[1] = 0
    history = np.concatenate([np.zeros((2, HISTORY - 30, 4), np.float32), demand], axis=1)
    features, state = shipped.fresh(2)
    for i in range(30):
        features, state = shipped.advance(features, state, demand[:, i], np.full(2, FIRST + i))
    nothing = np.zeros((2, 4), np.float32)
    found = explain(shipped, features, state, np.full(2, FIRST + 29), history, nothing, nothing[:, 0])
    assert np.isfinite(found.effects).all()
    np.testing.assert_allclose(found.base + found.effects.sum(axis=1), found.total, rtol=1e-9)


def test_explanations_do_not_depend_on_batch_mates(shipped: Forecaster) -> None:
    demand = demand_of(np.random.default_rng(8).poisson(3, (5, 10 * DAY)).astype(np.float32))
    together, _ = explained(shipped, demand)
    alone, _ = explained(shipped, demand[3:4])
    np.testing.assert_allclose(together.effects[3], alone.effects[0], atol=1e-3)


def test_each_covariate_is_a_driver_that_counts_where_it_is_not_as_usual() -> None:
    model = covariate_model()
    demand = demand_of(np.random.default_rng(9).poisson(3, (2, 9 * DAY)).astype(np.float32), streams=1)
    coming = np.full((2, 24, 2), [1.0, 0.0], np.float32)
    coming[1, :, 1] = 3.0
    found, published = explained(model, demand, ahead=coming, covariates=np.tile(np.array([1, 0], np.float32), (2, 1)))
    assert found.names == ("recent_demand", "price", "promotion", "season", "shop_season", "calendar", "running_step")
    assert found.total[0] == pytest.approx(published, rel=1e-5)
    np.testing.assert_allclose(found.base + found.effects.sum(axis=1), found.total, rtol=1e-9)
    price, promotion = found.effects[:, 1], found.effects[:, 2]
    assert abs(promotion[1]) > 100 * abs(promotion[0])
    assert abs(promotion[1]) > abs(price[1])


def test_a_usual_history_holds_the_long_run_means_in_whole_orders(shipped: Forecaster) -> None:
    spec = shipped.spec
    shape = 1 - 0.8 * np.cos(2 * np.pi * np.arange(40 * DAY) / DAY)
    units = np.random.default_rng(10).poisson(np.array([[0.1], [6.0]]) * shape).astype(np.float32)
    demand = demand_of(units)
    demand[:, :, 0] *= 3  # an order holds three
    features, state = shipped.fresh(2)
    for i in range(demand.shape[1]):
        features, state = shipped.advance(features, state, demand[:, i], np.full(2, FIRST + i))
    found = usual_history(spec, features, features, np.full(2, FIRST + 40 * DAY - 1), HISTORY, shipped.artefact.profiles)
    np.testing.assert_allclose(found.sum(axis=1)[1] / HISTORY, [18, 6, 30, 6], rtol=0.1)
    assert (found[:, :, 1:] == np.rint(found[:, :, 1:])).all()
    assert set(np.rint(found[0, :, 0] / found[0, :, 0].max()).tolist()) == {0.0, 1.0}
    by_hour = found[1, :, 0].reshape(-1, DAY).mean(axis=0)
    assert by_hour[12] > 4 * by_hour[0]
