"""Scores by parts, against plain loops over a bench's products and cut-offs."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from models import bench as benches
from models import metrics, scores
from models.bench import BacktestForecasts, no_progress
from models.contenders import simple
from models.dataset import UnusableData
from tests.models import model_oracles
from tests.models.benches import daily_bench

NAN = float("nan")


def shop(products: int = 9, steps: int = 80, cutoffs: tuple[int, ...] = (55, 62, 69)) -> benches.Bench:
    """Products that sell the more the higher their number; the last two are born between the cut-offs."""
    history = np.random.default_rng(2).poisson(np.arange(1, products + 1)[:, None] * 0.7, (products, steps)).astype(float)
    history[-2:, :60] = NAN
    return daily_bench(history, 7, cutoffs=cutoffs)


def test_outcomes_are_what_came_after_and_nothing_for_the_unborn() -> None:
    bench = shop()
    found = benches.outcomes(bench)
    for k, cutoff in enumerate(bench.cutoffs):
        for i in range(9):
            expected = bench.panel.demand[i, cutoff + 1 : cutoff + 8, 0] if bench.panel.born[i] <= cutoff else [NAN] * 7
            assert np.array_equal(found[k, i], expected, equal_nan=True)


def test_without_outcomes_there_is_no_score() -> None:
    with pytest.raises(UnusableData, match="nothing to score against"):
        benches.outcomes(shop(cutoffs=(55, 75)))


def test_scales_come_from_each_products_history_since_its_first_sale() -> None:
    history = np.array([[0, 0, 0, 2, 5, 1, 4, 3, 8, 6, 9, 9, 9, 9], [NAN] * 6 + [1] * 8])
    bench = daily_bench(history, 3, season=3, cutoffs=(9,))
    forecasts = simple.window_mean(bench, no_progress)
    row = benches.score(bench, forecasts)
    sold = [2, 5, 1, 4, 3, 8, 6]  # the other product never changes
    naive = np.mean([(b - a) ** 2 for a, b in itertools.pairwise(sold)])
    seasonal = np.mean([abs(b - a) for a, b in zip(sold, sold[3:], strict=False)])
    mean, median = forecasts.mean[0, 0], forecasts.quantiles[0.5][0, 0]
    assert row["RMSSE"] == pytest.approx(np.sqrt(np.mean((9 - mean) ** 2) / naive))
    assert row["MASE"] == pytest.approx(np.mean(np.abs(9 - median)) / seasonal)


def test_volume_classes_are_terciles_of_what_was_sold_before_the_first_cutoff() -> None:
    bench = shop()
    classes = benches.volume_classes(bench)
    units = [bench.panel.demand[i, 28:56, 0].sum() for i in range(9)]
    order = np.argsort(units)
    assert [classes[i] for i in order[:3]] == [0, 0, 0]
    assert [classes[i] for i in order[-3:]] == [2, 2, 2]
    assert classes[bench.panel.born > 55].tolist() == [0, 0]


def test_equal_products_are_of_one_class() -> None:
    assert benches.volume_classes(daily_bench(np.zeros((5, 30)), 3, cutoffs=(20,))).tolist() == [0] * 5


def test_parts_are_scored_by_themselves() -> None:
    bench = shop()
    forecasts = simple.window_mean(bench, no_progress)
    truth, classes = benches.outcomes(bench), benches.volume_classes(bench)
    by_class, by_step = scores.by_class(bench, forecasts), scores.by_step(bench, forecasts)
    found = scores.calibration(bench, forecasts)
    assert list(found) == ["all", "slow", "medium", "fast", *(f"step {h}" for h in range(1, 8))]
    for index, name in enumerate(metrics.VOLUMES):
        cells = [(k, i, h) for k in range(3) for i in range(9) for h in range(7) if classes[i] == index and np.isfinite(truth[k, i, h])]
        demand = np.array([truth[cell] for cell in cells])
        quantiles = {level: np.array([forecasts.quantiles[level][cell] for cell in cells]) for level in metrics.LEVELS}
        assert by_class[name] == pytest.approx(metrics.mwql(demand, quantiles))
        assert [one.below for one in found[name]] == pytest.approx([np.mean(demand < quantiles[level]) for level in metrics.LEVELS])
    costs = [
        2 / 3 * model_oracles.pinball(truth[k, i, 6], forecasts.quantiles[level][k, i, 6], level)
        for k in range(3)
        for i in range(9)
        for level in metrics.SCORED_LEVELS
        if bench.panel.born[i] <= bench.cutoffs[k]
    ]
    assert by_step[6] == pytest.approx(sum(costs) / (np.nansum(truth) / 7))
    assert np.mean(by_step) == pytest.approx(benches.score(bench, forecasts)["MWQL"])


def test_sums_are_scored_where_their_lead_time_has_passed() -> None:
    bench = shop()
    nothing = BacktestForecasts.nothing(bench)
    quantiles = {level: np.full((3, 9), 10.0 * level) for level in metrics.LEVELS}
    found = scores.sums(bench, replace(nothing, sums={7: quantiles, 14: quantiles, 60: quantiles}))
    assert list(found) == [7, 14]
    # 14 steps after the last cut-off, 69, the panel of 80 has ended.
    sold = [bench.panel.demand[i, c + 1 : c + 15, 0].sum() for c in (55, 62) for i in range(9) if bench.panel.born[i] <= c]
    assert found[14]["cov80"] == pytest.approx(np.mean([1 <= y <= 9 for y in sold]))
    assert found[14]["pinball 0.5"] == pytest.approx(np.mean([abs(y - 5) / 2 for y in sold]))


def test_errors_that_repeat_are_found() -> None:
    rng = np.random.default_rng(0)
    chance, level = rng.normal(size=(4, 200, 14)), rng.normal(size=(1, 200, 1))
    assert np.abs(scores.autocorrelation(chance)).max() < 0.1
    assert min(scores.autocorrelation(chance * 0.3 + level)) > 0.7
    assert abs(scores.persistence(chance)) < 0.15
    assert scores.persistence(chance * 0.3 + level) > 0.9
    assert np.isnan(scores.persistence(chance[:1]))
