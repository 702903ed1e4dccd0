"""Phases and waves against plain datetime arithmetic, daylight saving included."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.features import FeatureSpec
from models.seasons import DAY_MS, HOUR_MS, n_waves, season
from tests.models.model_oracles import hour_of_week, local_middle

ZONES = st.sampled_from(["UTC", "Europe/London", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"])


@given(first=st.integers(-100_000, 600_000), zone=ZONES)
def test_hours_have_the_phase_of_their_local_middle(first: int, zone: str) -> None:
    spec = FeatureSpec.for_step(HOUR_MS, (), zone)
    days, weeks = season(first, 50, step_ms=HOUR_MS, periods=spec.periods, timezone=zone).phases
    expected = [hour_of_week(first + i, spec) for i in range(50)]
    assert weeks.tolist() == expected
    assert days.tolist() == [hour % 24 for hour in expected]


@given(first=st.integers(-3_000, 25_000), zone=ZONES)
def test_days_have_the_weekday_of_their_local_middle(first: int, zone: str) -> None:
    spec = FeatureSpec.for_step(DAY_MS, (), zone)
    (weekdays,) = season(first, 20, step_ms=DAY_MS, periods=(7,), timezone=zone).phases
    assert weekdays.tolist() == [local_middle(first + i, spec).weekday() for i in range(20)]


def test_a_clock_change_repeats_or_skips_a_phase() -> None:
    #  Europe/London, 2010-03-28: 00 [01 does not exist] 02 03      2010-10-31: 00 01 01 02
    first = int(np.datetime64("2010-03-28T00", "h").astype(int))
    assert season(first, 3, step_ms=HOUR_MS, periods=(24,), timezone="Europe/London").phases[0].tolist() == [0, 2, 3]
    first = int(np.datetime64("2010-10-30T23", "h").astype(int))
    assert season(first, 4, step_ms=HOUR_MS, periods=(24,), timezone="Europe/London").phases[0].tolist() == [0, 1, 1, 2]


@given(first=st.integers(0, 500_000), step_ms=st.sampled_from([HOUR_MS, HOUR_MS // 2, DAY_MS, 7 * DAY_MS]))
def test_waves_lie_on_circles_and_their_sums_add_up(first: int, step_ms: int) -> None:
    span = season(first, 30, step_ms=step_ms, periods=(), timezone="UTC")
    assert span.waves.shape == (30, n_waves(step_ms))
    assert np.allclose(span.waves[:, 0] ** 2 + span.waves[:, 1] ** 2, 1)
    assert np.allclose(np.diff(span.waves_before, axis=0), span.waves)


def test_half_days_are_twice_as_fast_as_days() -> None:
    noon = season(12, 1, step_ms=HOUR_MS, periods=(), timezone="UTC").waves[0]
    assert np.allclose(noon[[2, 3]], [0, -1], atol=1e-6)
    assert np.allclose(noon[[-2, -1]], [0, 1], atol=1e-6)
