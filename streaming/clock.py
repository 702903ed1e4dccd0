"""What time it is in the shop, and how far a source may be moved by it where no event comes."""

from dataclasses import dataclass
from typing import Final

from streaming.settings import Clock, Settings

# What a record may be under way, real time, between the producer's clock and our reading of the log's end: the clock must not overtake it.
TRANSPORT_MARGIN_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class ShopClock:
    """The namespace's clock: the wall's, a simulated one that runs faster, or none (a replay knows only its records and heartbeats)."""

    mode: Clock
    speed: float = 1.0  # simulated ms per real ms
    origin_ms: int = 0  # real time at which the simulated clock stood at start_ms
    start_ms: int = 0

    @classmethod
    def of(cls, settings: Settings) -> "ShopClock":
        return cls(settings.clock, settings.clock_speed, settings.clock_origin_ms, settings.clock_start_ms)

    def now_ms(self, real_ms: int) -> int | None:
        """The shop's time at a real time, both epoch ms; None where there is no clock.

        >>> ShopClock(Clock.SCALED, speed=480, origin_ms=1_000_000, start_ms=5_000).now_ms(1_000_010)
        9800
        >>> ShopClock(Clock.WALL).now_ms(42), ShopClock(Clock.LOG).now_ms(42)
        (42, None)
        """
        match self.mode:
            case Clock.WALL:
                return real_ms
            case Clock.SCALED:
                return self.start_ms + int((real_ms - self.origin_ms) * self.speed)
            case Clock.LOG:
                return None

    def idle_ms(self, real_ms: int, at_end_since_ms: int | None, *, idle_after_ms: int, lateness_ms: int) -> int | None:
        """Watermark to which a source may be moved that has stood at the end of its log since `at_end_since_ms` (real time; None: it doesn't).

        None: not to be moved. The value keeps the allowed lateness, and the time that a record may be under way, behind the clock.

        >>> ShopClock(Clock.WALL).idle_ms(100_000, 30_000, idle_after_ms=60_000, lateness_ms=10_000)
        88000
        >>> ShopClock(Clock.WALL).idle_ms(100_000, 50_000, idle_after_ms=60_000, lateness_ms=10_000) is None
        True
        """
        if at_end_since_ms is None or real_ms - at_end_since_ms < idle_after_ms:
            return None
        now_ms = self.now_ms(real_ms - TRANSPORT_MARGIN_MS)
        return None if now_ms is None else now_ms - lateness_ms
