"""Metrics and baselines against plain loops and numbers done by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    row = metrics.table_row(demand, demand, dict.fromkeys(metrics.SCORED_LEVELS, demand), np.array([1.0, 1.0]))
    assert {name: row[name] for name in ("MWQL", "RMSSE", "WAPE", "SUMW", "bias")} == dict.fromkeys(
        ("MWQL", "RMSSE", "WAPE", "SUMW", "bias"), 0
    )
    assert (row["P(y<q90)"], row["P(y<=q90)"]) == (0, 1)


def test_by_hand() -> None:
    demand, mean = np.array([[2.0, 0.0], [4.0, 4.0]]), np.array([[1.0, 1.0], [6.0, 4.0]])
    assert metrics.wape(demand, mean) == pytest.approx(4 / 10)
    assert metrics.sumw(demand, mean) == pytest.approx(2 / 10)
    assert metrics.bias(demand, mean) == pytest.approx(2 / 10)
    assert metrics.rmsse(demand, mean, np.array([4.0, 0.0])) == pytest.approx(0.5)


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
