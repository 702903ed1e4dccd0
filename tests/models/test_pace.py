"""How much of a step's demand has come when part of its time has passed."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import pace
from models.seasons import DAY_MS, HOUR_MS

# Open from nine to five, on Sunday from noon; nothing on Saturday.
OPEN = np.zeros((7, 24), np.float32)
OPEN[:5, 9:17], OPEN[6, 12:17] = 1, 1
MONDAY = 14_613  # 2010-01-04


def shop(weeks: int, timezone_shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hours since 1970, and units, of so many weeks of a shop that sells ten units an open hour, its clock so many hours ahead of UTC."""
    local = MONDAY * 24 + np.arange(weeks * 168)
    return local - timezone_shift, 10.0 * np.tile(OPEN.ravel(), weeks)


def share(fitted: np.ndarray, day: int, elapsed: float, timezone: str = "UTC") -> float:
    return float(pace.passed(fitted, np.array([day]), np.array([elapsed], np.float32), DAY_MS, timezone)[0])


def test_a_days_share_follows_its_opening_hours() -> None:
    fitted = pace.fit(*shop(40), "UTC")
    assert share(fitted, MONDAY, 9 / 24) < 0.02
    assert share(fitted, MONDAY, 13 / 24) == pytest.approx(0.5, abs=0.02)
    assert share(fitted, MONDAY, 17 / 24) > 0.98
    assert share(fitted, MONDAY + 6, 13 / 24) == pytest.approx(0.2, abs=0.04)


def test_hours_are_the_shops_own() -> None:
    fitted = pace.fit(*shop(40, timezone_shift=9), "Asia/Tokyo")
    # Tokyo opens at midnight UTC, nine hours before London's morning.
    assert share(fitted, MONDAY, 4 / 24, "Asia/Tokyo") == pytest.approx(0.5, abs=0.02)
    assert share(fitted, MONDAY, 13 / 24, "UTC") == pytest.approx(0.5, abs=0.02)


def test_summer_time_moves_the_hours() -> None:
    fitted = pace.fit(*shop(40), "UTC")
    winter, summer = (int(datetime(2010, month, 5, tzinfo=UTC).timestamp() // 86_400) for month in (1, 7))
    assert share(fitted, winter, 13 / 24, "Europe/London") == pytest.approx(0.5, abs=0.03)
    assert share(fitted, summer, 12 / 24, "Europe/London") == pytest.approx(0.5, abs=0.03)


def test_without_demand_it_is_the_clock() -> None:
    assert np.array_equal(pace.fit(np.empty(0, np.int64), np.empty(0), "UTC"), pace.even())
    assert share(pace.even(), MONDAY, 0.3) == pytest.approx(0.3)


@given(
    weights=st.lists(st.floats(0, 50), min_size=168, max_size=168),
    elapsed=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6).map(sorted),
    step_ms=st.sampled_from([HOUR_MS // 2, HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS]),
    step=st.integers(1_000, 9_000),
)
def test_shares_rise_from_nothing_to_all(weights: list[float], elapsed: list[float], step_ms: int, step: int) -> None:
    fitted = pace.fit(MONDAY * 24 + np.arange(168), np.array(weights), "UTC")
    assert fitted.min() > 0
    steps = np.full(len(elapsed) + 2, step)
    found = pace.passed(fitted, steps, np.array([0, *elapsed, 1], np.float32), step_ms, "Europe/London")
    assert (found[0], found[-1]) == (0, 1)
    assert (np.diff(found) >= 0).all()
    assert (found[1:-1][np.array(elapsed) < 0.999] < 1).all()


def test_products_at_different_steps_have_their_own_days() -> None:
    fitted = pace.fit(*shop(40), "UTC")
    days = np.array([MONDAY, MONDAY + 6, MONDAY, MONDAY + 5])
    together = pace.passed(fitted, days, np.array([0.5, 0.55, 0.2, 0.7], np.float32), DAY_MS, "UTC")
    alone = [share(fitted, int(day), elapsed) for day, elapsed in zip(days, (0.5, 0.55, 0.2, 0.7), strict=True)]
    assert np.allclose(together, alone)
