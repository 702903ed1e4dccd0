"""What lists show of a product: some 400 bytes, made once per forecast and shared by all readers. Pure."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.cover import cover
from streaming.contracts import Forecast, ProductFacts

# Steps of the little line beside a title.
SPARK_STEPS: Final = 24

_encode: Final = msgspec.json.Encoder().encode


class Row(Struct, frozen=True, kw_only=True):
    """One product in a list. Units; times in epoch ms, shop time; None: not known."""

    id: str
    title: str
    category: str | None
    as_of: int
    valid_until: int
    quality: str
    trend: float  # the forecast's own: the coming day against the last three
    ahead: float  # expected over the forecast's horizon
    step_ms: int
    sold: float | None  # in the running step
    expected: float | None  # by now, in the running step
    stock: float | None
    lead_steps: int | None
    cover_steps: float | None  # None: beyond the forecast, or no stock known
    short: float | None  # by how much 9 in 10 demands over the lead time exceed the stock at most
    risk: float | None  # short, at the list price
    spark: Raw  # demand of the last steps, oldest first, null where it is not known


def row(forecast: Forecast, facts: ProductFacts | None) -> Row:
    """The row of a product's newest forecast."""
    stock = cover(forecast, facts)
    price = None if facts is None else facts.unit_price
    short = None if stock is None else stock.short
    running = forecast.running
    return Row(
        id=forecast.product_id,
        title=(facts.title if facts is not None else None) or forecast.product_id,
        category=None if facts is None else facts.category,
        as_of=forecast.as_of,
        valid_until=forecast.valid_until,
        quality=forecast.quality,
        trend=forecast.trend.strength,
        ahead=round(sum(forecast.mean), 2),
        step_ms=forecast.step_ms,
        sold=None if running is None else running.observed,
        expected=None if running is None else running.expected_by_now.mean,
        stock=None if facts is None else facts.stock,
        lead_steps=None if facts is None else facts.lead_time_steps,
        cover_steps=None if stock is None else stock.cover_steps,
        short=None if short is None else round(short, 2),
        risk=None if short is None or price is None else round(short * price, 2),
        spark=spark(forecast),
    )


def spark(forecast: Forecast) -> Raw:
    """JSON of the last steps' demand."""
    return Raw(_encode(forecast.recent.demand[-SPARK_STEPS:]))
