"""The shop's clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.clock import TRANSPORT_MARGIN_MS, ShopClock
from streaming.settings import Clock, Settings

LATENESS = {"idle_after_ms": 60_000, "lateness_ms": 600_000}
SCALED = ShopClock(Clock.SCALED, speed=480.0, origin_ms=1_760_000_000_000, start_ms=1_700_000_000_000)


def test_it_is_made_from_the_settings() -> None:
    settings = Settings(clock=Clock.SCALED, clock_speed=480, clock_origin_ms=SCALED.origin_ms, clock_start_ms=SCALED.start_ms)
    assert ShopClock.of(settings) == SCALED


@pytest.mark.parametrize("clock", [ShopClock(Clock.WALL), SCALED])
def test_a_source_is_moved_only_after_its_wait(clock: ShopClock) -> None:
    since = SCALED.origin_ms + 1
    assert clock.idle_ms(since + 59_999, since, **LATENESS) is None
    assert clock.idle_ms(since + 60_000, since, **LATENESS) is not None
    assert clock.idle_ms(since + 60_000, None, **LATENESS) is None


def test_a_replayed_log_has_no_clock() -> None:
    clock = ShopClock(Clock.LOG)
    assert clock.now_ms(1_760_000_000_000) is None
    assert clock.idle_ms(1_760_000_000_000, 0, **LATENESS) is None


@given(real_ms=st.integers(SCALED.origin_ms + TRANSPORT_MARGIN_MS, SCALED.origin_ms + 10**9), lateness_ms=st.integers(0, 10**7))
def test_a_moved_source_never_overtakes_what_may_be_under_way(real_ms: int, lateness_ms: int) -> None:
    moved = SCALED.idle_ms(real_ms, 0, idle_after_ms=1, lateness_ms=lateness_ms)
    sent_last = SCALED.now_ms(real_ms - TRANSPORT_MARGIN_MS)
    assert moved is not None
    assert sent_last is not None
    assert moved <= sent_last - lateness_ms
