"""What the running step's observed part does to a forecast."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features import F32
from models.nowcast import Forecasts, NowcastRule, change, nowcast

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
LENGTHS = np.array([[1, 24, 168]])
RULE = NowcastRule(weight=4.0, independent=1.0, carry=0.6, persistence=0.8)


def f32(*values: float) -> F32:
    return np.array(values, np.float32)


def decoded(scale: float = 2.0, spread: tuple[float, ...] = (0.2, 0.6, 0.9, 1.3, 2.2)) -> tuple[F32, F32]:
    """A forecast of 24 steps and three sums, with five quantiles."""
    mean = np.concatenate([np.full(24, scale), scale * LENGTHS[0]])[None].astype(np.float32)
    return mean, mean[..., None] * np.array(spread, np.float32)


def at(observed: float, passed: float, scale: float = 2.0, rule: NowcastRule = RULE, **shape: tuple[float, ...]) -> Forecasts:
    seen = np.array([observed], np.float32), np.array([passed], np.float32)
    return nowcast(rule, LEVELS, decoded(scale, **shape), 24, LENGTHS, *seen)


def everything(out: Forecasts) -> list[F32]:
    running = out.running
    return [out.mean, out.quantiles, out.cumulative_mean, out.cumulative_quantiles, running.step_mean, running.step_quantiles]


def test_nothing_passed_and_nothing_observed_changes_no_bit() -> None:
    mean, quantiles = decoded()
    out = at(0, 0)
    assert np.array_equal(out.mean, mean[:, :24])
    assert np.array_equal(out.quantiles, quantiles[:, :24].transpose(0, 2, 1))
    assert np.array_equal(out.cumulative_mean, mean[:, 24:])
    assert np.array_equal(out.cumulative_quantiles, quantiles[:, 24:])
    assert out.running.by_now_mean == 0
    assert (out.running.by_now_quantiles == 0).all()


def test_a_finished_step_is_what_was_observed() -> None:
    out = at(7, 1)
    assert out.running.step_mean == 7
    assert (out.running.step_quantiles == 7).all()
    assert out.mean[0, 0] == 7
    assert out.cumulative_mean[0, 0] == 7
    assert (out.cumulative_quantiles[0, 0] == 7).all()


def test_as_expected_changes_no_later_step() -> None:
    out = at(1.0, 0.5)
    assert np.allclose(out.mean, 2.0)
    assert np.allclose(out.cumulative_mean[0], 2.0 * LENGTHS[0])


def test_more_than_expected_raises_later_steps_less_and_less() -> None:
    out = at(10, 0.5)
    assert (np.diff(out.mean[0, 1:]) < 0).all()
    assert out.mean[0, 23] > 2.0
    assert (at(0, 0.5).mean[0, 1:] < 2.0).all()


def test_a_sums_mean_is_that_of_its_steps() -> None:
    for observed in (0, 1, 9):
        out = at(observed, 0.5)
        assert out.cumulative_mean[0, 1] == pytest.approx(out.mean[0].sum(), rel=1e-5)


def test_a_bulk_order_says_less_of_a_lumpy_product() -> None:
    even, lumpy = (at(10, 0.5, spread=spread) for spread in ((0.6, 0.8, 1.0, 1.2, 1.6), (0.0, 0.0, 0.1, 1.0, 9.0)))
    assert even.mean[0, 1] > lumpy.mean[0, 1] > 2


demands = st.floats(0, 1e4, width=32)
shares = st.floats(0, 1, width=32)
scales = st.floats(1e-3, 1e4)
rules = st.builds(
    NowcastRule, weight=st.floats(0.5, 500), independent=st.floats(0.1, 8), carry=st.floats(0, 1), persistence=st.floats(0.1, 0.99)
)
spreads = st.lists(st.floats(0, 5), min_size=5, max_size=5).map(lambda values: tuple(sorted(values)))


@given(observed=demands, passed=shares, scale=scales, rule=rules, spread=spreads)
def test_forecasts_are_finite_ordered_and_hold_what_is_known(
    observed: float, passed: float, scale: float, rule: NowcastRule, spread: tuple[float, ...]
) -> None:
    out = at(observed, passed, scale, rule, spread=spread)
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in everything(out))
    slack = 1e-4 * (observed + scale)
    assert (np.diff(out.quantiles, axis=1) >= -slack).all()
    assert (np.diff(out.cumulative_quantiles, axis=2) >= -slack * 168).all()
    assert (np.diff(out.running.by_now_quantiles, axis=1) >= -slack).all()
    seen = np.float32(observed)
    assert (out.running.step_quantiles >= seen).all()
    assert (out.cumulative_quantiles >= seen).all()
    assert out.mean[0, 0] == out.running.step_mean[0]
    if passed == 1:
        assert (out.quantiles[0, :, 0] == seen).all()


@given(less=demands, more=demands, passed=shares, scale=scales, rule=rules, spread=spreads)
def test_what_is_observed_raises_everything(
    less: float, more: float, passed: float, scale: float, rule: NowcastRule, spread: tuple[float, ...]
) -> None:
    less, more = sorted([less, more])
    few, many = (everything(at(observed, passed, scale, rule, spread=spread)) for observed in (less, more))
    for low, high in zip(few, many, strict=True):
        assert (high >= low - 1e-4 * (np.abs(low) + scale)).all()


@given(expected=st.floats(1, 50), times=st.floats(0, 3), weight=st.floats(1, 50))
def test_with_single_units_it_is_the_posterior_mean_of_a_gamma_poisson_rate(expected: float, times: float, weight: float) -> None:
    """Numerically: prior Gamma(weight, weight) on the rate's ratio times a Poisson likelihood."""
    observed = int(times * expected)
    grid = np.linspace(1e-4, 60, 200_000)
    log_density = (weight - 1) * np.log(grid) - weight * grid + observed * np.log(grid) - expected * grid
    density = np.exp(log_density - log_density.max())
    found = change(NowcastRule(weight=weight), f32(observed), f32(expected), f32(1))
    assert found[0] == pytest.approx((grid * density).sum() / density.sum(), rel=0.01)


def test_a_bulk_order_is_not_taken_for_a_surge() -> None:
    rule = NowcastRule(weight=4)
    assert change(rule, f32(10_000), f32(2), f32(1)) == change(rule, f32(8), f32(2), f32(1)) > change(rule, f32(7), f32(2), f32(1))


def test_it_needs_neither_sums_nor_products() -> None:
    mean, quantiles = decoded()
    for n in (1, 0):
        some = mean[:n, :24], quantiles[:n, :24]
        out = nowcast(RULE, LEVELS, some, 24, np.empty((n, 0), np.int64), np.ones(n, np.float32), np.full(n, 0.5, np.float32))
        assert (out.mean.shape, out.cumulative_mean.shape, out.cumulative_quantiles.shape) == ((n, 24), (n, 0), (n, 0, 5))
