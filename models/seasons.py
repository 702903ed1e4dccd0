"""Where in the shop's day and week a step lies: phases of the seasonal profiles, and calendar waves for the network.

A step belongs to the local hour and day that hold its middle, so that a step of a day does not fall on two days.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
# 1970-01-01 was a Thursday: three days later in its week than Monday, where phases begin.
_MONDAY_MS: Final = 3 * DAY_MS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Season:
    """Consecutive steps `first .. first + n - 1`."""

    phases: tuple[npt.NDArray[np.int64], ...]  # (n,) for each period: 0 .. period - 1
    waves: npt.NDArray[np.float32]  # (n, n_waves(step_ms)); the first `n_encoder_waves` go to the encoder too
    waves_before: npt.NDArray[np.float64]  # (n + 1, n_waves) sums of the waves of all earlier steps of the span

    def __len__(self) -> int:
        return len(self.waves)


def n_encoder_waves(step_ms: int) -> int:
    """Weekday as sine and cosine; below a day also the hour."""
    return 4 if step_ms < DAY_MS else 2


def n_waves(step_ms: int) -> int:
    """Those of the encoder, day of month as sine and cosine, weekend; below a day also half days."""
    return n_encoder_waves(step_ms) + (5 if step_ms < DAY_MS else 3)


def utc_offsets_ms(times_ms: npt.NDArray[np.int64], timezone: str) -> npt.NDArray[np.int64]:
    """What to add to UTC to get the zone's local time at each of `times_ms`, shape (n,).

    >>> utc_offsets_ms(np.array([0, 1_277_942_400_000]), "Europe/London").tolist()
    [3600000, 3600000]
    >>> utc_offsets_ms(np.array([1_262_304_000_000]), "Europe/London").tolist()
    [0]
    """
    if timezone == "UTC":
        return np.zeros(len(times_ms), np.int64)
    zone = ZoneInfo(timezone)
    # No zone changes its offset within a quarter of an hour that starts on one.
    quarters, where = np.unique(times_ms // (HOUR_MS // 4), return_inverse=True)
    offsets = [_offset_ms(int(quarter), zone) for quarter in quarters]
    return np.asarray(offsets, np.int64)[where]


def _offset_ms(quarter: int, zone: ZoneInfo) -> int:
    local = (_EPOCH + timedelta(minutes=15 * quarter)).astimezone(zone)
    offset = local.utcoffset() or timedelta()
    return round(offset.total_seconds() * 1000)


def season(first: int, n: int, *, step_ms: int, periods: Sequence[int], timezone: str) -> Season:
    """Phases and waves of the steps `first .. first + n - 1`.

    >>> monday = season(96, 2, step_ms=HOUR_MS, periods=(24, 168), timezone="UTC")  # 1970-01-05 00:00
    >>> [phase.tolist() for phase in monday.phases]
    [[0, 1], [0, 1]]
    >>> season(4, 3, step_ms=DAY_MS, periods=(7,), timezone="UTC").phases[0].tolist()
    [0, 1, 2]
    """
    steps = np.arange(first, first + n, dtype=np.int64)
    middle_ms = steps * step_ms + step_ms // 2
    local_ms = middle_ms + utc_offsets_ms(middle_ms, timezone)
    since_monday = (local_ms + _MONDAY_MS) // step_ms
    waves = _waves(local_ms, step_ms)
    before = np.zeros((n + 1, waves.shape[1]))
    np.cumsum(waves, axis=0, dtype=np.float64, out=before[1:])
    return Season(tuple(since_monday % period for period in periods), waves, before)


def _waves(local_ms: npt.NDArray[np.int64], step_ms: int) -> npt.NDArray[np.float32]:
    days = local_ms // DAY_MS
    weekday = (days + 3) % 7
    dates = days.astype("datetime64[D]")
    month_day = (dates - dates.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64) + 1
    columns = [*_wave(weekday, 7)]
    day = local_ms % DAY_MS // step_ms
    steps_per_day = max(DAY_MS // step_ms, 1)
    if step_ms < DAY_MS:
        columns += _wave(day, steps_per_day)
    columns += [*_wave(month_day, 31), (weekday >= 5).astype(np.float32)]
    if step_ms < DAY_MS:
        columns += _wave(2 * day, steps_per_day)
    return np.stack(columns, axis=-1)


def _wave(phase: npt.NDArray[np.int64], period: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    sine, cosine = _circle(period)
    return sine[phase % period], cosine[phase % period]


@lru_cache(maxsize=64)
def _circle(period: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A table, so that a phase has the same bits wherever it stands in a batch."""
    angle = 2 * np.pi * np.arange(period) / period
    return np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)
