"""How far the stock goes: demand over the lead time, as the forecast says it, against what the shop says it has. Pure.

Sums are the forecast's own (`cumulative`: over 7 days, 14 days and the lead time): quantiles are never added up. Between their ends the
curve is a straight line. Open purchase orders are not known here.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from streaming.contracts import Cumulative, Forecast, ProductFacts, epoch_ms

MEDIAN: Final = 0.5
CAUTIOUS: Final = 0.9  # nine times in ten demand stays below
LOW: Final = 0.1


class Cover(Struct, frozen=True, kw_only=True):
    """The answer for one product. Units, and epoch ms in the shop's time; None: not within the forecast, or not known."""

    stock: float
    lead_steps: int | None  # of the shop; None: not told, and then nothing below speaks of it
    median: float | None  # demand over the lead time
    low: float | None
    high: float | None
    short: float | None  # by how much the cautious demand exceeds the stock; 0: it does not
    short_median: float | None
    cover_steps: float | None  # until the median demand has used the stock up; None: beyond the forecast
    out_at: int | None  # when that is
    out_early: int | None  # when it is for the cautious demand


def quantile(levels: Sequence[float], values: Sequence[float], level: float) -> float:
    """The value at a level, linear between the levels that there are, and flat beyond them.

    >>> quantile([0.1, 0.5, 0.9], [1.0, 5.0, 13.0], 0.5), quantile([0.1, 0.5, 0.9], [1.0, 5.0, 13.0], 0.7), quantile([0.5], [5.0], 0.9)
    (5.0, 9.0, 5.0)
    """
    i = bisect_left(levels, level)
    if i == len(levels):
        return values[-1]
    if levels[i] == level or i == 0:
        return values[i]
    share = (level - levels[i - 1]) / (levels[i] - levels[i - 1])
    return round(values[i - 1] + share * (values[i] - values[i - 1]), 9)


def crossing(curve: Sequence[tuple[float, float]], amount: float) -> float | None:
    """Steps after which a curve of (steps, units), rising from (0, 0), reaches an amount; None: it does not.

    >>> crossing([(10, 5.0), (20, 25.0)], 2.5), crossing([(10, 5.0), (20, 25.0)], 15.0), crossing([(10, 5.0)], 6.0)
    (5.0, 15.0, None)
    """
    before, reached = 0.0, 0.0
    for steps, units in curve:
        if units >= amount:
            return before + (steps - before) * ((amount - reached) / (units - reached) if units > reached else 0.0)
        before, reached = steps, max(units, reached)
    return None


def cover(forecast: Forecast, facts: ProductFacts | None) -> Cover | None:
    """None where the shop has not said what it has, or the forecast has no sums.

    What was sold in the running step before the stock was counted is not demanded again.
    """
    if facts is None or facts.stock is None or not forecast.cumulative:
        return None
    running = forecast.running
    counted_now = facts.stock_at is None or epoch_ms(facts.stock_at) >= forecast.first_step
    sold = running.observed if running is not None and counted_now else 0.0
    sums = sorted(forecast.cumulative, key=lambda one: one.steps)
    curves = {level: [(float(one.steps), _left(forecast, one, level, sold)) for one in sums] for level in (LOW, MEDIAN, CAUTIOUS)}
    lead = facts.lead_time_steps
    own = next((i for i, one in enumerate(sums) if one.steps == lead), None)
    low, median, high = (None if own is None else curves[level][own][1] for level in (LOW, MEDIAN, CAUTIOUS))
    out, early = crossing(curves[MEDIAN], facts.stock), crossing(curves[CAUTIOUS], facts.stock)
    return Cover(
        stock=facts.stock,
        lead_steps=lead,
        median=median,
        low=low,
        high=high,
        short=None if high is None else max(high - facts.stock, 0.0),
        short_median=None if median is None else max(median - facts.stock, 0.0),
        cover_steps=None if out is None else round(out, 2),
        out_at=_at(forecast, out),
        out_early=_at(forecast, early),
    )


def _left(forecast: Forecast, one: Cumulative, level: float, sold: float) -> float:
    return max(quantile(forecast.levels, one.quantiles, level) - sold, 0.0)


def _at(forecast: Forecast, steps: float | None) -> int | None:
    """Steps count from the running one's start; nothing runs out before now."""
    return None if steps is None else max(forecast.first_step + int(steps * forecast.step_ms), forecast.as_of)
