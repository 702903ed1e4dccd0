"""What the running step's observed part does to a forecast."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.batches import Batch
from models.features import F32
from models.fit_nowcast import fit_nowcast
from models.nowcast import Forecasts, NowcastRule, nowcast

LENGTHS = np.array([[1, 24, 168]])
RULE = NowcastRule(weight=4.0, persistence=0.8)


def decoded(scale: float = 2.0) -> tuple[F32, F32]:
    """A forecast of 24 steps and three sums, with five quantiles."""
    mean = np.concatenate([np.full(24, scale), scale * LENGTHS[0]])[None].astype(np.float32)
    spread = np.array([0.2, 0.6, 0.9, 1.3, 2.2], np.float32)
    return mean, mean[..., None] * spread


def at(observed: float, elapsed: float, scale: float = 2.0, rule: NowcastRule = RULE) -> Forecasts:
    return nowcast(rule, decoded(scale), 24, LENGTHS, np.array([observed], np.float32), np.array([elapsed], np.float32))


def test_nothing_elapsed_changes_nothing() -> None:
    mean, quantiles = decoded()
    out = at(0, 0)
    assert np.allclose(out.mean, mean[:, :24])
    assert np.allclose(out.quantiles, quantiles[:, :24].transpose(0, 2, 1))
    assert np.allclose(out.cumulative_mean, mean[:, 24:])
    assert np.allclose(out.cumulative_quantiles, quantiles[:, 24:])
    assert out.running.by_now_mean == 0
    assert (out.running.by_now_quantiles == 0).all()


def test_a_finished_step_is_what_was_observed() -> None:
    out = at(7, 1)
    assert out.running.step_mean == 7
    assert (out.running.step_quantiles == 7).all()
    assert out.mean[0, 0] == 7
    assert np.allclose(out.cumulative_mean[0, 0], 7)


def test_as_expected_changes_no_later_step() -> None:
    out = at(1.0, 0.5)
    assert np.allclose(out.mean, 2.0)
    assert np.allclose(out.cumulative_mean[0], 2.0 * LENGTHS[0])


def test_more_than_expected_raises_later_steps_less_and_less() -> None:
    out = at(10, 0.5)
    assert (np.diff(out.mean[0, 1:]) < 0).all()
    assert out.mean[0, 23] > 2.0
    assert (at(0, 0.5).mean[0, 1:] < 2.0).all()


demands = st.floats(0, 1e4, width=32)


@given(observed=demands, elapsed=st.floats(0, 1, width=32), scale=st.floats(1e-3, 1e4))
def test_forecasts_are_finite_ordered_and_hold_what_is_known(observed: float, elapsed: float, scale: float) -> None:
    out = at(observed, elapsed, scale)
    everything = [out.mean, out.quantiles, out.cumulative_mean, out.cumulative_quantiles, out.running.step_quantiles]
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in everything)
    slack = 1e-4 * (observed + scale)
    assert (np.diff(out.quantiles, axis=1) >= -slack).all()
    assert (np.diff(out.cumulative_quantiles, axis=2) >= -slack * 168).all()
    assert (np.diff(out.running.by_now_quantiles, axis=1) >= -slack).all()
    seen = np.float32(observed)
    assert (out.running.step_quantiles >= seen).all()
    assert (out.cumulative_quantiles >= seen).all()
    assert out.mean[0, 0] == out.running.step_mean[0]


@pytest.mark.parametrize(("truth", "low", "high"), [(0.5, 0.0, 2.0), (16.0, 8.0, 64.0)])
def test_the_fitted_weight_follows_the_data(truth: float, low: float, high: float) -> None:
    """Rates drawn from Gamma(truth, truth) around a forecast of 5: the less they vary, the more the forecast is worth."""
    rng = np.random.default_rng(1)
    rate = rng.gamma(truth, 1 / truth, (4_000, 1))
    demand = rng.poisson(5 * rate, (4_000, 8)).astype(np.float32)
    nothing = np.empty(0, np.float32)
    batch = Batch(nothing, np.empty(0, np.int64), nothing, nothing, demand, np.ones_like(demand))
    rule = fit_nowcast([(batch, np.full_like(demand, 5))], horizon=8)
    assert low <= rule.weight <= high
    assert rule.persistence >= 0.95
