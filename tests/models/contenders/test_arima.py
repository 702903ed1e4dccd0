"""ARIMA forecasts against what is known of such processes."""

import numpy as np
import pytest

from models.contenders import arima


def test_an_autoregression_is_forecast_like_one() -> None:
    rng = np.random.default_rng(1)
    series = np.zeros(400)
    for t in range(1, 400):
        series[t] = 0.8 * series[t - 1] + rng.normal()
    mean, deviation = arima.one_product(series + 100, 1, 30)
    assert mean[0] - 100 == pytest.approx(0.8 * series[-1], abs=0.6)
    assert deviation[0] == pytest.approx(1, rel=0.15)
    assert deviation[-1] == pytest.approx(series.std(), rel=0.1)


def test_a_random_walk_is_differenced_and_grows_uncertain() -> None:
    walk = np.cumsum(np.random.default_rng(2).normal(size=400)) + 200
    mean, deviation = arima.one_product(walk, 1, 16)
    assert mean[0] == pytest.approx(walk[-1], abs=1)
    assert deviation[15] == pytest.approx(4 * deviation[0], rel=0.35)


def test_a_season_is_repeated() -> None:
    demand = np.tile([9.0, 1, 1, 1, 1, 1, 1], 30)[:-2]
    mean, _ = arima.one_product(demand, 7, 9)
    assert mean.round().argmax() == 2
    assert mean[2] == pytest.approx(9, abs=1.5)


@pytest.mark.parametrize("demand", [[0.0], [3.0, 3.0], [0.0] * 200, [5.0] * 200, [0.0] * 199 + [1.0], [1.0, 0.0] * 100])
def test_short_and_silent_series_are_forecast_too(demand: list[float]) -> None:
    mean, deviation = arima.one_product(np.array(demand), 7, 5)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
    assert (deviation >= 0).all()
