"""Quantiles of a part of an interval's demand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features import F32
from models.thinning import gamma_log_quantile, moments, part

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def f32(*values: float) -> F32:
    return np.array(values, np.float32)


@pytest.mark.parametrize("shape", [0.02, 0.3, 1.0, 7.0, 29.0, 31.0, 900.0])
def test_gamma_quantiles_are_those_of_draws(shape: float) -> None:
    draws = np.random.default_rng(0).gamma(shape, size=400_000)
    for level in LEVELS:
        quantile = float(np.exp(gamma_log_quantile(level, np.array([shape]))[0]))
        assert (draws <= quantile).mean() == pytest.approx(level, abs=0.003)


def test_the_rest_of_a_lumpy_step_is_most_likely_nothing() -> None:
    """One order in three steps: of the last tenth of one, more than nineteen in twenty bring none."""
    rest = part(f32(0, 0, 0, 0, 2, 10, 20)[None], f32(0.1), f32(0.1), LEVELS)
    assert (rest[0, :6] < 0.01).all()
    assert rest[0, 6] < 1


def compound(rate: float, bulk: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Units of Poisson orders, now and then one of twenty."""
    orders = rng.poisson(rate, n)
    return orders + 20 * rng.binomial(orders, bulk)


@pytest.mark.parametrize("bulk", [0.0, 0.05])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("rate", [0.3, 3.0, 25.0, 300.0])
def test_parts_of_demand_in_independent_orders_are_calibrated(rate: float, share: float, bulk: float) -> None:
    rng = np.random.default_rng(0)
    whole = np.quantile(compound(rate, bulk, 100_000, rng), LEVELS).astype(np.float32)[None]
    centre, variance = moments(whole, LEVELS)
    shape = (centre**2 / np.maximum(variance, 1e-6)).astype(np.float32)
    found = np.rint(part(whole, f32(share), shape, LEVELS)[0])
    draws = compound(rate * share, bulk, 100_000, rng)
    # Of single units with few bulk orders between them no gamma process has the shape: its middle is too low in small parts.
    far = 0.18 if bulk else 0.08
    for level, quantile in zip(LEVELS, found, strict=True):
        assert (draws < quantile).mean() - far <= level <= (draws <= quantile).mean() + far


@given(
    whole=st.lists(st.floats(0, 1e6, width=32), min_size=7, max_size=7).map(sorted),
    shares=st.lists(st.floats(0, 5, width=32), min_size=2, max_size=2).map(sorted),
    shape=st.floats(0, 1e9),
)
def test_it_rises_with_share_and_level(whole: list[float], shares: list[float], shape: float) -> None:
    quantiles = f32(*whole)[None]
    small, large = (part(quantiles, f32(share), f32(shape), LEVELS)[0] for share in shares)
    slack = 1e-5 * np.maximum(large, 1e-30)
    assert np.isfinite(large).all()
    assert (small >= 0).all()
    assert (small <= large + slack).all()
    assert (np.diff(large) >= -slack[1:]).all()
    assert np.array_equal(part(quantiles, f32(1), f32(shape), LEVELS), quantiles)
    assert (part(quantiles, f32(0), f32(shape), LEVELS) == 0).all()
