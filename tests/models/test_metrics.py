"""Metrics and baselines against plain loops and numbers done by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import metrics
from models.bench import no_progress
from models.contenders import simple
from tests.models import model_oracles
from tests.models.benches import daily_bench

numbers = st.floats(0, 1e3)


@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), level=st.floats(0.01, 0.99))
def test_pinball_and_wql(pairs: list[tuple[float, float]], level: float) -> None:
    demand, quantile = np.array(pairs).T
    costs = [model_oracles.pinball(y, q, level) for y, q in pairs]
    assert np.allclose(metrics.pinball(demand, quantile, level), costs)
    if demand.sum() > 1e-3:
        assert metrics.wql(demand, quantile, level) == pytest.approx(2 * sum(costs) / demand.sum())


def test_a_perfect_forecast_costs_nothing() -> None:
    demand = np.array([[1.0, 2.0], [0.0, 4.0]])
    ones = np.ones(2)
    row = metrics.table_row(demand, demand, dict.fromkeys(metrics.SCORED_LEVELS, demand), metrics.History(ones, ones, ones))
    perfect = {"R2": 1.0, "cov80": 1.0, "P(y<q90)": 0.0, "P(y<=q90)": 1.0}
    assert row == {**dict.fromkeys(row, 0.0), **perfect}
    assert set(metrics.MAIN) <= row.keys()


def test_by_hand() -> None:
    demand, mean = np.array([[2.0, 0.0], [4.0, 4.0]]), np.array([[1.0, 1.0], [6.0, 4.0]])
    assert metrics.wape(demand, mean) == pytest.approx(4 / 10)
    assert metrics.sumw(demand, mean) == pytest.approx(2 / 10)
    assert metrics.bias(demand, mean) == pytest.approx(2 / 10)
    assert metrics.rmsse(demand, mean, np.array([4.0, 0.0])) == pytest.approx(0.5)
    assert metrics.rmsse(demand, mean, np.array([4.0, 2.0]), np.array([3.0, 1.0])) == pytest.approx((3 * 0.5 + 1) / 4)
    assert metrics.mase(demand, mean, np.array([2.0, 0.0])) == pytest.approx(0.5)
    assert metrics.inside(demand, mean - 1, mean) == pytest.approx(2 / 4)


tables = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 6).map(float))


@given(demand=tables, data=st.data())
def test_errors_are_those_of_plain_loops(demand: np.ndarray, data: st.DataObject) -> None:
    forecast = data.draw(arrays(np.float64, demand.shape, elements=st.floats(0, 8)))
    pairs = list(zip(demand.ravel().tolist(), forecast.ravel().tolist(), strict=True))
    expected = model_oracles.errors(pairs)
    found = {"mse": metrics.mse, "rmse": metrics.rmse, "mae": metrics.mae, "mape": metrics.mape, "r_squared": metrics.r_squared}
    for name, metric in found.items():
        assert metric(demand, forecast) == pytest.approx(expected[name], nan_ok=True), name


@given(demand=tables, data=st.data())
def test_scaled_errors_are_those_of_plain_loops(demand: np.ndarray, data: st.DataObject) -> None:
    forecast = data.draw(arrays(np.float64, demand.shape, elements=st.floats(0, 8)))
    scale, weight = (data.draw(arrays(np.float64, demand.shape[:1], elements=st.integers(0, 3).map(float))) for _ in range(2))
    squared = [[(y - f) ** 2 for y, f in zip(*rows, strict=True)] for rows in zip(demand, forecast, strict=True)]
    roots = [(w, (float(np.mean(row)) / s) ** 0.5) for w, row, s in zip(weight, squared, scale, strict=True) if s > 0]
    total = sum(w for w, _ in roots)
    expected = sum(w * root for w, root in roots) / total if total else float("nan")
    assert metrics.rmsse(demand, forecast, scale, weight) == pytest.approx(expected, nan_ok=True)
    ratios = [float(np.mean(np.sqrt(row))) / s for row, s in zip(squared, scale, strict=True) if s > 0]
    assert metrics.mase(demand, forecast, scale) == pytest.approx(float(np.mean(ratios)) if ratios else float("nan"), nan_ok=True)


@given(below=st.floats(0, 1), extra=st.floats(0, 1), level=st.floats(0.01, 0.99))
def test_distance_from_a_level_is_that_of_the_nearest_share_between(below: float, extra: float, level: float) -> None:
    at_most = min(below + extra, 1)
    found = metrics.Calibration(level, below, at_most).distance
    assert found == pytest.approx(min(abs(level - share) for share in (below, at_most, min(max(level, below), at_most))))


def test_calibration_counts_ties_on_both_sides() -> None:
    quantile = np.full((1, 4), 2.0)
    found = metrics.calibration(np.array([[1.0, 2.0, 2.0, 3.0]]), dict.fromkeys(metrics.LEVELS, quantile))
    assert {(one.below, one.at_most) for one in found} == {(0.25, 0.75)}
    assert [one.distance for one in found] == pytest.approx([0.15, 0, 0, 0, 0.15])


@given(demand=st.integers(0, 20), steps=st.lists(st.floats(0.01, 5), min_size=5, max_size=5), seed=st.integers(0, 99))
def test_pit_is_the_interpolated_distribution_around_the_count(demand: int, steps: list[float], seed: int) -> None:
    rising = np.cumsum(steps)
    quantiles = {level: np.array([[value]]) for level, value in zip(metrics.LEVELS, rising, strict=True)}
    knots = [-0.5, *rising, rising[-1] + max(rising[-1] - rising[2], 0.5)]
    low, high = np.interp([demand - 0.5, demand + 0.5], knots, [0, *metrics.LEVELS, 1])
    found = metrics.pit(np.array([[float(demand)]]), quantiles, np.random.default_rng(seed))
    assert found.item() == pytest.approx(low + np.random.default_rng(seed).random() * (high - low))


def test_pit_of_the_true_distribution_is_even() -> None:
    rng = np.random.default_rng(3)
    demand = rng.poisson(20, (200, 50)).astype(float)
    quantiles = {
        level: np.full(demand.shape, value) for level, value in zip(metrics.LEVELS, np.quantile(demand, metrics.LEVELS), strict=True)
    }
    shares = np.histogram(metrics.pit(demand, quantiles, rng), bins=10, range=(0, 1))[0] / demand.size
    assert np.abs(shares - 0.1).max() < 0.035


def test_nothing_is_said_about_nothing() -> None:
    zeros = np.zeros((2, 3))
    row = metrics.table_row(zeros, zeros, dict.fromkeys(metrics.LEVELS, zeros), metrics.History(*np.zeros((3, 2))))
    assert {name for name, value in row.items() if np.isnan(value)} == {
        *("MWQL", "WQL.9", "RMSSE", "wRMSSE", "MASE", "WAPE", "SUMW", "bias", "MAPE", "R2")
    }


def test_window_mean_ignores_what_was_before_the_product() -> None:
    forecasts = simple.window_mean(daily_bench([[1.0, 1.0, 1.0, 1.0], [np.nan, np.nan, 2.0, 4.0]], 3), no_progress)
    assert forecasts.mean[0].tolist() == [[1.0] * 3, [3.0] * 3]
    assert forecasts.quantiles[0.5][0, 1].tolist() == [3.0] * 3


def test_seasonal_naive_repeats_the_season() -> None:
    forecasts = simple.seasonal_naive(daily_bench([[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]], 5, season=3), no_progress)
    assert forecasts.mean[0].tolist() == [[1, 2, 3, 1, 2]]
    assert all((q == forecasts.mean).all() for q in forecasts.quantiles.values())


def test_seasonal_naive_of_less_than_a_season() -> None:
    forecasts = simple.seasonal_naive(daily_bench([[5.0, 6.0]], 4), no_progress)
    assert np.isfinite(forecasts.mean).all()
