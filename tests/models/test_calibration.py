"""Calibration: outcomes add up in any order, factors find a known error, and forecasts do not see what they are judged by."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models import calibration
from models.calibration import CLASSES, FACTORS, Outcomes, Trials
from models.features import F32, I64
from models.metrics import pinball
from models.seasons import DAY_MS, HOUR_MS

LEVELS = (0.1, 0.5, 0.9)
HORIZON = 4
NAIVE = np.zeros(6_000, np.float32)  # where nobody looks at it


def some_trials(n: int, rng: np.random.Generator, wrong_by: float = 1.0) -> Trials:
    """Forecasts of Poisson demand with mean 20, made after step 0, their quantiles `wrong_by` times the true ones."""
    true = np.quantile(rng.poisson(20, 50_000), LEVELS).astype(np.float32)
    quantiles = np.broadcast_to(true * wrong_by, (n, HORIZON, len(LEVELS))).astype(np.float32)
    mean = np.full((n, HORIZON), 20 * wrong_by, np.float32)
    return Trials.of(np.zeros(n, np.int64), rng.integers(0, CLASSES, n), mean, quantiles, np.ones((n, len(LEVELS)), np.float32))


def same(a: Outcomes, b: Outcomes) -> bool:
    return np.array_equal(a.sums, b.sums)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 40))
def test_outcomes_do_not_depend_on_order_or_on_how_products_were_cut(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    trials, demand, step = some_trials(40, rng, 1.3), rng.poisson(20, 40).astype(np.float32), rng.integers(1, HORIZON + 1, 40)
    naive, order = rng.poisson(20, 40).astype(np.float32), rng.permutation(40)
    whole = calibration.outcomes(trials, step, demand, naive, LEVELS, whole_units=True)
    parts = [
        calibration.outcomes(trials.at(rows), step[rows], demand[rows], naive[rows], LEVELS, whole_units=True)
        for rows in (order[cut:], order[:cut])
    ]
    assert same(whole, parts[0] + parts[1])
    assert whole.count.sum() == 40


def test_only_steps_of_the_horizon_are_judged_and_gaps_judge_nobody() -> None:
    rng = np.random.default_rng(1)
    trials = some_trials(5, rng)
    trials.step[4] = calibration.NO_TRIAL
    step = np.array([0, 1, HORIZON, HORIZON + 1, 2])
    assert calibration.on_trial(trials, step).tolist() == [False, True, True, False, False]
    demand, naive = np.array([1, np.nan, 3, 4, 5], np.float32), np.zeros(5, np.float32)
    assert calibration.outcomes(trials, step, demand, naive, LEVELS, whole_units=True).count.sum() == 1


@pytest.mark.parametrize("wrong_by", [0.6, 1.0, 1.5])
def test_factors_go_part_of_the_way_that_would_have_been_right(wrong_by: float) -> None:
    rng = np.random.default_rng(2)
    trials = some_trials(6_000, rng, wrong_by)
    found = calibration.outcomes(
        trials, np.ones(6_000, np.int64), rng.poisson(20, 6_000).astype(np.float32), NAIVE[:6_000], LEVELS, whole_units=True
    )
    factors = calibration.best_factors(found)
    assert factors.shape == (CLASSES, len(LEVELS))
    assert np.allclose(factors, (1 / wrong_by) ** 0.5, atol=0.06)


def test_nothing_known_and_nothing_to_gain_leave_quantiles_as_they_are() -> None:
    assert (calibration.best_factors(Outcomes.none(3)) == 1).all()
    rng = np.random.default_rng(3)
    silent = replace(some_trials(500, rng), quantiles=np.zeros((500, HORIZON, 3), np.float16))
    found = calibration.outcomes(silent, np.ones(500, np.int64), np.zeros(500, np.float32), NAIVE[:500], LEVELS, whole_units=True)
    assert (calibration.best_factors(found) == 1).all()
    assert (found.at_most.sum(axis=0) == 500).all()
    assert 1 in FACTORS


def test_factors_of_a_day_rest_on_the_weeks_before_it_and_not_on_itself() -> None:
    rng = np.random.default_rng(4)
    wrong = calibration.outcomes(
        some_trials(2_000, rng, 2.0),
        np.ones(2_000, np.int64),
        rng.poisson(20, 2_000).astype(np.float32),
        NAIVE[:2_000],
        LEVELS,
        whole_units=True,
    )
    by_day = {100: wrong}
    used = [day for day in range(95, 140) if (calibration.factors_of(by_day, day, 3) < 0.9).all()]
    assert used == list(range(100 + calibration.LAG_DAYS, 100 + calibration.LAG_DAYS + calibration.MEMORY_DAYS))


@given(
    shares=arrays.arrays(np.float32, (3, HORIZON, len(LEVELS)), elements=st.floats(0, 1e6, width=32)),
    spoilt=st.sampled_from([np.nan, np.inf, 1e12]),
)
def test_what_is_on_trial_is_rounded_little_and_what_is_no_forecast_is_not_tried(shares: F32, spoilt: float) -> None:
    mean = shares.mean(axis=2)
    shares[2, 1, 1] = spoilt
    step, group = np.arange(3), np.zeros(3, np.int64)
    trials = Trials.of(step, group, mean, shares, np.ones((3, len(LEVELS)), np.float32))
    assert trials.step.tolist() == [0, 1, calibration.NO_TRIAL]
    held = trials.quantiles[:2].astype(np.float32) * trials.peak[:2, None, None]
    assert np.allclose(held, shares[:2], rtol=2**-11, atol=6e-8 * shares[:2].max())
    assert calibration.outcomes(trials, np.full(3, 3), np.ones(3, np.float32), NAIVE[:3], LEVELS, whole_units=False).count.sum() == 2


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), pools=st.integers(1, 4), whole_units=st.booleans())
def test_outcomes_by_pool_are_those_of_each_pool_alone(seed: int, pools: int, whole_units: bool) -> None:
    """With more products than are compared at once, and a slow count beside."""
    n, rng = 300, np.random.default_rng(seed)
    trials, demand, step = some_trials(n, rng), rng.poisson(20, n).astype(np.float32), rng.integers(0, HORIZON + 2, n)
    pool, naive = rng.integers(0, pools, n), rng.poisson(20, n).astype(np.float32)
    found = calibration.outcomes_by_pool(trials, step, demand, naive, LEVELS, pool, whole_units=whole_units)
    for number, sums in found.items():
        rows = np.flatnonzero(pool == number)
        assert same(sums, calibration.outcomes(trials.at(rows), step[rows], demand[rows], naive[rows], LEVELS, whole_units=whole_units))
        assert same(sums, one_by_one(trials.at(rows), step[rows], demand[rows], naive[rows], whole_units=whole_units))


def one_by_one(trials: Trials, step: I64, demand: F32, naive: F32, *, whole_units: bool) -> Outcomes:
    """The oracle."""
    found = Outcomes.none(len(LEVELS))
    for i in np.flatnonzero(calibration.on_trial(trials, step)):
        group, ahead = trials.group[i], step[i] - trials.step[i] - 1
        came, quantiles = float(demand[i]), trials.quantiles[i, ahead].astype(float) * float(trials.peak[i])
        found.count[group] += 1
        found.demand[group] += round(came * 1000)
        found.naive[group] += round(abs(came - float(naive[i])) * 1000)
        found.mean[group] += round(float(trials.mean[i, ahead]) * float(trials.peak[i]) * 1000)
        for k, (level, quantile) in enumerate(zip(LEVELS, quantiles.tolist(), strict=True)):
            published = round(quantile) if whole_units else quantile
            found.below[group, k] += came < published
            found.at_most[group, k] += came <= published
            found.published[group, k] += round(float(pinball(np.array(came), np.array(published), level)) * 1000)
            for f, factor in enumerate(FACTORS.tolist()):
                found.losses[group, k, f] += round(float(pinball(np.array(came), np.array(quantile * factor), level)) * 1000)
    return found


def test_a_step_waits_for_the_days_that_its_factors_rest_on() -> None:
    for step_ms in (HOUR_MS, DAY_MS, 7 * DAY_MS):
        for closed in range(1000, 1060):
            furthest = calibration.known_through(closed, step_ms)
            assert furthest > closed
            last_days = [calibration.day_of(step, step_ms) - calibration.LAG_DAYS for step in (furthest, furthest + 1)]
            open_day = calibration.day_of(closed + 1, step_ms)  # not whole yet
            assert last_days[0] < open_day <= last_days[1] or furthest == closed + 1


def test_turns_spread_products_over_the_horizon() -> None:
    turns = calibration.turn([f"p{i}" for i in range(2_400)], 24)
    assert np.bincount(turns, minlength=24).min() > 60
