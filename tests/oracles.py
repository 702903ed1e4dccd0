"""Slow, obvious answers that the fast paths must equal: plain loops over raw events, in the words of the definitions."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from feature_store.events import ABSENT, Kind
from feature_store.measures import MEASURES, N_MEASURES, SCALES

Cells = dict[tuple[int, int], list[int]]  # (product, tile) → N_MEASURES integers


class Line(NamedTuple):
    product: int
    quantity: int = 0  # thousandths
    amount: int = 0  # 1/10,000 of the currency


class Record(NamedTuple):
    """One record of one source, as a producer sent it."""

    event_time_ms: int  # of a heartbeat: the declared watermark
    timestamp_ms: int
    kind: Kind | None  # None: a heartbeat
    lines: tuple[Line, ...] = ()
    placed_at_ms: int = ABSENT
    sent_at_ms: int = 0


class Fact(NamedTuple):
    """What one line adds to one measure of one product, and when."""

    time_ms: int
    product: int
    measure: str
    value: int


def judgements(
    records: Iterable[Record], lateness_ms: int, future_ms: int, step_ms: int, step_retention_ms: int
) -> list[tuple[float, str]]:
    """Per record: the source's watermark before it (-inf: none), and on time / late / expired / future."""
    watermark = -math.inf
    found = []
    for record in records:
        on_arrival = watermark
        verdict = "on time"
        if record.kind is not None:
            step_end_ms = (record.event_time_ms // step_ms + 1) * step_ms
            if record.event_time_ms > record.timestamp_ms + future_ms:
                verdict = "future"
            elif step_end_ms <= watermark - step_retention_ms:
                verdict = "expired"
            elif record.event_time_ms < watermark:
                verdict = "late"
        if verdict in ("on time", "late"):
            reached = min(record.event_time_ms, record.timestamp_ms)
            watermark = max(watermark, reached if record.kind is None else reached - lateness_ms)
        found.append((on_arrival, verdict))
    return found


def facts(records: Iterable[Record], watermarks_before: Iterable[float], step_ms: int) -> list[Fact]:
    """What accepted records count, line by line."""
    found = []
    clicks = {Kind.VIEW: "views", Kind.ADD_TO_CART: "carts", Kind.REMOVE_FROM_CART: "uncarts", Kind.WISHLIST: "favourites"}
    for record, watermark in zip(records, watermarks_before, strict=True):
        placed_at, now = record.placed_at_ms, record.event_time_ms
        nets = record.kind is Kind.CANCELLED and ABSENT != placed_at <= now and (placed_at // step_ms + 1) * step_ms > watermark
        for i, line in enumerate(record.lines):
            if record.kind is Kind.PLACED or nets:
                sign, at = (-1, placed_at) if nets else (1, now)
                first = line.product not in [other.product for other in record.lines[:i]]
                sold = {"units": line.quantity, "orders": int(first), "revenue": line.amount}
                found += [Fact(at, line.product, measure, sign * value) for measure, value in sold.items()]
                found += [Fact(at, line.product, f"netted_{measure}", sold[measure]) for measure in ("units", "orders") if nets]
            elif record.kind in clicks:
                found.append(Fact(now, line.product, clicks[record.kind], 1))
            else:
                measure = "returned_units" if record.kind is Kind.RETURNED else "cancelled_units"
                found.append(Fact(now, line.product, measure, line.quantity))
    return found


def cells(counted: Iterable[Fact], interval_ms: int) -> Cells:
    """Facts summed per product and tile (or step)."""
    sums: Cells = defaultdict(lambda: [0] * N_MEASURES)
    for fact in counted:
        sums[fact.product, fact.time_ms // interval_ms][MEASURES.index(fact.measure)] += fact.value
    return dict(sums)


def total(counted: Iterable[Fact], product: int, measure: str, start_ms: int, end_ms: int) -> float:
    """One measure of one product in `[start_ms, end_ms)`, in natural units."""
    held = [fact.value for fact in counted if fact.product == product and fact.measure == measure and start_ms <= fact.time_ms < end_ms]
    return float(sum(held) / SCALES[MEASURES.index(measure)])


def window(as_of_ms: int, length_ms: int, hop_ms: int) -> tuple[int, int]:
    """`[start, end)` of the hopping window that ends with the interval that runs at `as_of_ms`."""
    end_ms = math.ceil(as_of_ms / hop_ms) * hop_ms
    return end_ms - math.ceil(length_ms / hop_ms) * hop_ms, end_ms


def units_by_step(counted: Sequence[Fact], product: int, as_of_ms: int, count: int, step_ms: int) -> list[float]:
    """Units of the last whole steps, the newest last."""
    end = as_of_ms // step_ms
    return [total(counted, product, "units", step * step_ms, (step + 1) * step_ms) for step in range(end - count, end)]


def ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def std(values: Sequence[float]) -> float:
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / len(values))


def ewma(values: Sequence[float], half_life: float) -> float:
    """The newest value weighs 1, one that is `half_life` older weighs a half."""
    weights = [2 ** (-age / half_life) for age in reversed(range(len(values)))]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def cycle(as_of_ms: int, timezone: str) -> dict[str, float]:
    """Local time of day and weekday on the circle."""
    local = datetime.fromtimestamp(as_of_ms / 1000, ZoneInfo(timezone))
    day = (local - local.replace(hour=0, minute=0, second=0, microsecond=0)).seconds / 86_400
    week = local.isoweekday() % 7 / 7 - 1 / 7
    angles = {"hour": math.tau * day, "weekday": math.tau * week}
    return {f"{name}_{of.__name__}": of(angle) for name, angle in angles.items() for of in (math.sin, math.cos)}


def hours_since_sale(
    counted: Sequence[Fact], product: int, as_of_ms: int, tile_ms: int, tile_retention_ms: int, step_ms: int, kept_steps: int
) -> float:
    """Since the end of the last tile with orders left, looking back as far as tiles are kept; else of the last such step; else NaN."""
    tile_end, step_end = math.ceil(as_of_ms / tile_ms), math.ceil(as_of_ms / step_ms)
    tiles = range(tile_end - tile_retention_ms // tile_ms, tile_end)
    steps = range(as_of_ms // step_ms - kept_steps, step_end)
    for interval_ms, candidates in ((tile_ms, tiles), (step_ms, steps)):
        sold = cells((fact for fact in counted if fact.product == product and fact.measure == "orders"), interval_ms)
        for index in reversed(candidates):
            if sum(sold.get((product, index), [0])) > 0:
                return (as_of_ms - min((index + 1) * interval_ms, as_of_ms)) / 3_600_000
    return math.nan
