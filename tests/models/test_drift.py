"""The control chart finds what has changed within days, leaves what has not alone, and is a function of the stored days only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import drift
from models.calibration import CLASSES, MEMORY_DAYS, Outcomes
from models.drift import MEASURES, WARM_UP_DAYS, chart, drifting

LEVELS = (0.1, 0.5, 0.9)
DAY = 20_000
BOTH = np.ones(1, np.bool_)


def first_off(series: np.ndarray, two_sided: np.ndarray) -> np.ndarray:
    """Days until each series is off, (k,); the number of days where it never is."""
    days = series.shape[0]
    off = np.array([chart(series[: day + 1], two_sided) for day in range(days)])
    return np.asarray(np.where(off.any(axis=0), off.argmax(axis=0), days))


def test_what_does_not_change_is_left_alone() -> None:
    series = np.random.default_rng(1).normal(5, 2, (MEMORY_DAYS, 4_000))
    found = first_off(series, np.ones(4_000, np.bool_))
    assert (found < MEMORY_DAYS).mean() < 0.02


@pytest.mark.parametrize(("deviations", "days", "share"), [(3, 4, 0.55), (3, 8, 0.97), (2, 10, 0.75)])
def test_a_change_is_found_within_days(deviations: float, days: int, share: float) -> None:
    series = np.random.default_rng(2).normal(5, 2, (MEMORY_DAYS, 1_000))
    series[18:] += 2 * deviations
    found = first_off(series, np.ones(1_000, np.bool_))
    assert (found >= 18).mean() > 0.98
    assert (found < 18 + days).mean() > share


def test_a_rise_alone_counts_where_a_fall_is_good() -> None:
    series = np.random.default_rng(3).normal(0, 1, (MEMORY_DAYS, 2))
    series[20:] -= 5
    assert chart(series, np.array([True, False])).tolist() == [True, False]


def test_one_strange_day_is_no_change_and_what_returns_is_back() -> None:
    series = np.random.default_rng(4).normal(0, 1, (MEMORY_DAYS, 1))
    series[20] = 50
    assert first_off(series, BOTH).tolist() == [MEMORY_DAYS]
    series[16:20] = 5
    assert 17 < first_off(series, BOTH)[0] <= 19
    assert not chart(series, BOTH)[0]


def slow_chart(values: list[float], *, two_sided: bool) -> bool:
    """The words of the definition, one series."""
    usual: list[float] = []
    up = down = 0.0
    off = False
    for value in values:
        if np.isnan(value):
            continue
        if len(usual) >= WARM_UP_DAYS:
            n, mean = len(usual), float(np.mean(usual))
            deviation = max(float(np.std(usual, ddof=1)), 1e-3 * max(abs(mean), 1e-3))
            t = (value - mean) / (deviation * (1 + 1 / n) ** 0.5)
            score = float(np.sign(t)) * (8 * (n - 1) + 1) / (8 * (n - 1) + 3) * ((n - 1) * np.log1p(t * t / (n - 1))) ** 0.5
            score = max(-drift.LARGEST, min(drift.LARGEST, score))
            up = min(max(up + score - drift.ALLOWANCE, 0), drift.LEVEL)
            down = min(max(down - score - drift.ALLOWANCE, 0), drift.LEVEL) if two_sided else 0.0
        off = max(up, down) >= drift.LEVEL or (off and max(up, down) > drift.LEVEL / 2)
        if not off:
            usual.append(value)
    return off


@given(
    seed=st.integers(0, 10_000), shift=st.floats(-4, 4), day=st.integers(0, MEMORY_DAYS), holes=st.floats(0, 0.5), two_sided=st.booleans()
)
def test_the_chart_is_that_of_the_slow_way(seed: int, shift: float, day: int, holes: float, two_sided: bool) -> None:
    rng = np.random.default_rng(seed)
    series = rng.normal(3, 1, (MEMORY_DAYS, 5))
    series[day:] += shift
    series[rng.random(series.shape) < holes] = np.nan
    found = chart(series, np.full(5, two_sided))
    assert found.tolist() == [slow_chart(column.tolist(), two_sided=two_sided) for column in series.T]


def outcomes(rng: np.random.Generator, *, wrong_by: float = 1.0, count: int = 2_000) -> Outcomes:
    """A day of every class: losses near a fifth of demand, means near it; `wrong_by` multiplies both."""
    found = Outcomes.none(len(LEVELS))
    found.count[:] = count
    found.demand[:] = rng.normal(10_000_000, 300_000, CLASSES).astype(np.int64)
    found.mean[:] = (found.demand * wrong_by * rng.normal(1, 0.02, CLASSES)).astype(np.int64)
    found.published[:] = (found.demand[:, None] * 0.1 * wrong_by * rng.normal(1, 0.03, (CLASSES, 3))).astype(np.int64)
    found.below[:] = rng.binomial(count, np.array(LEVELS) - 0.02, (CLASSES, 3))
    found.at_most[:] = found.below + count // 50
    return found


def test_a_model_that_goes_wrong_is_seen_by_class_and_measure_and_days_after_are_not_looked_at() -> None:
    rng = np.random.default_rng(5)
    by_day = {DAY + i: outcomes(rng, wrong_by=1.0 if i < 20 else 1.3) for i in range(26)}
    assert drifting(by_day, DAY + 19, LEVELS) == {}
    found = drifting(by_day, DAY + 23, LEVELS)
    assert found.keys() == set(drift.CLASSES)
    assert all({"loss", "bias"} <= set(measures) <= set(MEASURES) for measures in found.values())
    assert found == drifting({day: each for day, each in by_day.items() if day <= DAY + 23}, DAY + 23, LEVELS)
    assert found == drifting(by_day | {DAY - 40: outcomes(rng, wrong_by=9)}, DAY + 23, LEVELS)


def test_little_or_nothing_that_came_says_nothing() -> None:
    rng = np.random.default_rng(6)
    few = {DAY + i: outcomes(rng, wrong_by=1.0 if i < 20 else 3.0, count=drift.FEWEST_OUTCOMES - 1) for i in range(26)}
    found = drifting(few, DAY + 25, LEVELS)
    assert found.keys() == {"all"}  # of three classes it is enough
    assert drifting({}, DAY, LEVELS) == {}
    assert drifting({DAY: Outcomes.none(3)}, DAY, LEVELS) == {}
