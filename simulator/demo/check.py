"""What came out against what is true: detected trends and forecast errors (sums: `simulator.compare`). Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from simulator.demand import Trend
from streaming.contracts import TrendAlert

HOUR_MS: Final = 3_600_000
WEEK_MS: Final = 168 * HOUR_MS
# A rise is still found, and not falsely, shortly after it has ended.
AFTER_MS: Final = 2 * HOUR_MS

Issued = Sequence[tuple[int, int, Sequence[float]]]  # (as_of, first_step, mean)


@dataclass(frozen=True, slots=True)
class Detection:
    """Injected trends against alerts."""

    injected: int
    detected: int
    alerts: int
    false_alerts: int


def detection(trends: Sequence[Trend], alerts: Mapping[str, Sequence[TrendAlert]], start_ms: int, end_ms: int) -> Detection:
    """Trends that begin in [start_ms, end_ms), and alerts that first fired there. An alert is false when no trend of its product and direction
    overlaps its first window."""
    injected = [trend for trend in trends if start_ms <= trend.start_ms < end_ms]
    fired = [messages[0] for messages in alerts.values() if start_ms <= messages[0].updated_at < end_ms]

    def belongs(alert: TrendAlert, trend: Trend) -> bool:
        same = alert.product_id == trend.product_id and alert.kind == trend.kind
        return same and alert.window.start < trend.end_ms + AFTER_MS and alert.window.end > trend.start_ms

    detected = sum(any(belongs(alert, trend) for alert in fired) for trend in injected)
    false_alerts = sum(not any(belongs(alert, trend) for trend in trends) for alert in fired)
    return Detection(len(injected), detected, len(fired), false_alerts)


@dataclass(frozen=True, slots=True)
class Errors:
    """Weighted absolute percentage errors, one step ahead, over the same products and steps."""

    pairs: int
    forecast: float
    seasonal_naive: float


def errors(actual: pd.DataFrame, issued: Mapping[str, Issued], start_ms: int, end_ms: int) -> Errors | None:
    """Per product and step that starts in [start_ms, end_ms): the newest forecast made by its start, against the units a week before.

    `actual`: product_id, start_ms, units; absent steps are zero. None where no forecast speaks of any such step.
    """
    units = {(p, s): u for p, s, u in zip(actual["product_id"], actual["start_ms"], actual["units"], strict=True)}
    steps = np.arange(-(-start_ms // HOUR_MS), end_ms // HOUR_MS) * HOUR_MS
    pairs, total, forecast_error, naive_error = 0, 0.0, 0.0, 0.0
    for product, made in issued.items():
        ordered = sorted(made, key=lambda one: one[0])
        as_of = np.array([one[0] for one in ordered])
        for step in steps.tolist():
            newest = int(np.searchsorted(as_of, step, side="right")) - 1
            if newest < 0:
                continue
            _, first, mean = ordered[newest]
            ahead = (step - first) // HOUR_MS
            if not 0 <= ahead < len(mean):
                continue
            true = units.get((product, step), 0.0)
            pairs, total = pairs + 1, total + true
            forecast_error += abs(true - mean[ahead])
            naive_error += abs(true - units.get((product, step - WEEK_MS), 0.0))
    return Errors(pairs, forecast_error / total, naive_error / total) if pairs and total else None
