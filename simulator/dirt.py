"""What real streams do to good events: late, out of order, sent twice, malformed, from the future, hopelessly old."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from simulator.events import DAY_MS, HOUR_MS, MINUTE_MS, Events, Kind, Topic
from simulator.faults import FAULTS
from simulator.truth import Rules

# Everything takes up to so long from the shop to the log.
TRANSIT_MS: Final = 2_000
# A late event and its copy, two hours later, must lie within a day: that is as long as consumers know an event again (and keep tiles).
LATEST_MS: Final = 18 * HOUR_MS
COPY_AFTER_MS: Final = 2 * HOUR_MS
# How far before the lateness's or the future's limit the honest ones stay: two partitions' heartbeats and clocks never decide a case.
HONEST: Final = 0.8


@dataclass(frozen=True, slots=True)
class Dirt:
    """Shares of all records; exclusive of each other, except that a copy's original may be late or out of order."""

    out_of_order: float = 0.05  # sent behind later events, within the lateness: counted
    late: float = 0.005  # beyond the lateness, within retention: counted
    skewed: float = 0.01  # a clock that is a little ahead, within the future limit: counted
    duplicated: float = (
        0.01  # orders only; the copy must not count. Half of the copies of placed and returned orders go to another partition
    )
    malformed: float = 0.003  # rejected
    future: float = 0.002  # event time beyond Kafka's timestamp + the future limit: rejected
    expired: float = 0.0005  # older than the steps that are kept: rejected

    @classmethod
    def none(cls) -> "Dirt":
        """A clean stream."""
        return cls(0, 0, 0, 0, 0, 0, 0)

    def __post_init__(self) -> None:
        shares = (self.out_of_order, self.late, self.skewed, self.malformed, self.future, self.expired)
        if min(*shares, self.duplicated) < 0 or sum(shares) > 1 or self.duplicated > 1:
            raise ValueError("shares of dirt must not be negative, nor be more than 1 together")


def soil(topic: Topic, clean: Events, dirt: Dirt, rules: Rules, rng: np.random.Generator) -> Events:
    """Clean events (whose sending time is their event time), as the real world would send them."""
    n = len(clean)
    fates = np.array([dirt.out_of_order, dirt.late, dirt.skewed, dirt.malformed, dirt.future, dirt.expired])
    fate = np.searchsorted(np.cumsum(fates), rng.random(n), side="right")
    send = clean.event_ms + rng.integers(0, TRANSIT_MS, n)
    event = clean.event_ms.copy()
    fault = np.zeros(n, dtype=np.int64)

    def within(chosen: npt.NDArray[np.int64], low: float, high: float) -> npt.NDArray[np.int64]:
        return rng.uniform(low, high, len(chosen)).astype(np.int64)

    unordered, late, skewed, malformed, future, expired = (np.flatnonzero(fate == i) for i in range(len(fates)))
    send[unordered] += within(unordered, 0, max(HONEST * rules.lateness_ms - TRANSIT_MS, 1))
    # Heartbeats may be five minutes old: ten more than the lateness is behind the watermark for certain.
    send[late] += within(late, rules.lateness_ms + 10 * MINUTE_MS, rules.lateness_ms + LATEST_MS)
    event[skewed] = send[skewed] + within(skewed, 0, HONEST * rules.future_ms)
    fault[malformed] = rng.integers(1, len(FAULTS[topic]) + 1, len(malformed))
    event[future] = send[future] + within(future, rules.future_ms + MINUTE_MS, rules.future_ms + 2 * DAY_MS)
    oldest = rules.step_retention_ms + rules.lateness_ms + rules.step_ms + 10 * MINUTE_MS
    event[expired] = send[expired] - within(expired, oldest, oldest + 3 * DAY_MS)
    return clean.but(send_ms=send, event_ms=event, fault=fault)


def is_clean(events: Events, rules: Rules) -> npt.NDArray[np.bool_]:
    """Shape (n,): records that will count, from their content alone."""
    ahead, behind = events.event_ms - events.send_ms, events.send_ms - events.event_ms
    clean: npt.NDArray[np.bool_] = (events.fault == 0) & (ahead <= rules.future_ms) & (behind < rules.step_retention_ms)
    return clean


def with_copies(orders: Events, dirt: Dirt, rules: Rules, rng: np.random.Generator) -> Events:
    """The orders, and behind them the copies that producers send again.

    The partition that a cancellation stands in decides what it nets, so its copy stays there.
    """
    again = orders.where((rng.random(len(orders)) < dirt.duplicated) & is_clean(orders, rules))
    hop = (rng.random(len(again)) < 0.5) & (again.kind != Kind.CANCELLED)
    later = rng.integers(1, COPY_AFTER_MS, len(again))
    return Events.concatenate([orders, again.but(send_ms=again.send_ms + later, hop=hop, copy=True)])
