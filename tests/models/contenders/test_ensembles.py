"""Weights of ensembles: where they come from, and that they are the best."""

import numpy as np
import pytest

from models import metrics
from models.bench import BacktestForecasts, Bench, Contender, Progress, earlier, no_progress
from models.contenders import ensembles, simple
from models.contenders.ensembles import Past
from models.dataset import UnusableData
from models.metrics import LEVELS
from tests.models.benches import daily_bench, seasonal_shop, with_another_future

MEMBERS: dict[str, Contender] = {"28-day mean": simple.window_mean, "seasonal naive": simple.seasonal_naive}


def past(bench: Bench) -> Past:
    before = earlier(bench)
    return ensembles.earlier_forecasts(before, {name: member(before, no_progress) for name, member in MEMBERS.items()}, 3)


def test_an_earlier_bench_ends_where_the_test_begins() -> None:
    bench = seasonal_shop()
    before = earlier(bench)
    assert before.panel.columns == len(before.dates) == bench.cutoffs[0] + 1
    assert before.cutoffs[-1] + before.horizon == bench.cutoffs[0]
    assert set(np.diff(before.cutoffs)) == {bench.horizon}
    assert (before.panel.born <= bench.cutoffs[0]).all()


def test_half_the_history_is_left_to_learn_from() -> None:
    before = earlier(daily_bench([np.ones(40)], 14))
    assert before.cutoffs == (25,)
    with pytest.raises(UnusableData, match="too few"):
        earlier(daily_bench([np.ones(20)], 14))


def test_weights_do_not_know_the_test() -> None:
    bench = seasonal_shop()
    other = with_another_future(bench, bench.cutoffs[0])
    for learn in (ensembles.stacked, ensembles.blended):
        one, same = learn(past(bench)), learn(past(other))
        assert np.array_equal(one.mean, same.mean)
        assert all(np.array_equal(one.quantiles[level], same.quantiles[level]) for level in LEVELS)


def made_up(rows: int, *columns: np.ndarray, demand: np.ndarray) -> Past:
    forecasts = np.stack(columns, axis=1)
    return Past(demand, forecasts, dict.fromkeys(LEVELS, forecasts), np.ones(rows))


def test_stacking_finds_a_mixture() -> None:
    rng = np.random.default_rng(1)
    a, b, useless = rng.uniform(0, 5, (3, 400))
    weights = ensembles.stacked(made_up(400, a, b, useless, demand=0.7 * a + 0.3 * b))
    assert weights.mean == pytest.approx([0.7, 0.3, 0], abs=1e-4)
    assert weights.quantiles[0.9] == pytest.approx([0.7, 0.3, 0], abs=1e-4)


def test_blending_prefers_the_better_and_sums_to_one() -> None:
    rng = np.random.default_rng(2)
    demand = rng.uniform(0, 5, 400)
    weights = ensembles.blended(made_up(400, demand + rng.normal(0, 0.1, 400), demand + rng.normal(0, 2, 400), demand=demand))
    assert weights.mean.sum() == pytest.approx(1)
    assert weights.mean[0] > 0.9
    assert all((weights.quantiles[level] == weights.mean).all() for level in LEVELS)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_linear_program_against_a_search(level: float) -> None:
    rng = np.random.default_rng(3)
    forecasts, row = rng.uniform(0, 4, (200, 2)), rng.uniform(0.5, 2, 200)
    demand = rng.poisson(forecasts.mean(axis=1)).astype(float)

    def loss(first: float) -> float:
        return float((row * metrics.pinball(demand, forecasts @ [first, 1 - first], level)).sum())

    found = ensembles.least_pinball(forecasts, demand, row, level)
    assert found.sum() == pytest.approx(1)
    assert loss(found[0]) <= min(map(loss, np.linspace(0, 1, 501))) + 1e-6


def test_weights_sum_to_one_even_without_demand() -> None:
    weights = ensembles.stacked(made_up(50, np.ones(50), np.zeros(50), demand=np.zeros(50)))
    assert weights.mean == pytest.approx([0, 1])
    assert weights.quantiles[0.5] == pytest.approx([0, 1])


def test_members_are_asked_once_for_each_bench() -> None:
    asked: list[Bench] = []

    def member(bench: Bench, progress: Progress) -> BacktestForecasts:
        asked.append(bench)
        return simple.window_mean(bench, progress)

    bench = seasonal_shop()
    remembered = ensembles.remembered(member)
    for ensemble in ensembles.ensembles({"one": remembered, "other": remembered}).values():
        ensemble(bench, no_progress)
    assert len(asked) == 2
    assert asked[0] is bench
    assert asked[1].panel.columns == bench.cutoffs[0] + 1


def test_the_average_is_one() -> None:
    bench = seasonal_shop()
    found = ensembles.ensembles(MEMBERS)["average"](bench, no_progress)
    parts = [member(bench, no_progress) for member in MEMBERS.values()]
    assert np.allclose(found.mean, (parts[0].mean + parts[1].mean) / 2, equal_nan=True)
    assert np.allclose(found.quantiles[0.9], (parts[0].quantiles[0.9] + parts[1].quantiles[0.9]) / 2, equal_nan=True)
