"""What a simulated shop says ahead: prices, promotions, stock and lead times of its products, and two series, of which one moves demand.

The whole catalogue is said at the beginning, later what changes: a promotion when it is announced and when it is over, a price list and an empty
shelf a minute before they hold. The weather is foretold three days ahead; the market index, which means nothing, is known afterwards.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from msgspec import json

from simulator.demand import CATEGORIES, MOST_DAYS_AHEAD, WEEK_MS, Demand
from simulator.encode import Batch
from simulator.events import CONTEXT, DAY_MS, FACTS, HOUR_MS, MINUTE_MS

WEATHER_HOURS: Final = 72
PRICE_LIST_MS: Final = 4 * WEEK_MS
# Of the shop's own products so many of ten keep count of their stock.
COUNTED_OF_TEN: Final = 7
# What a product is called, by its category and its number.
NOUNS: Final = {
    "garden": ("Watering can", "Pruning shears", "Hose", "Bird feeder", "Compost bin"),
    "kitchen": ("Espresso grinder", "Cast-iron pan", "Kettle", "Chef's knife", "Milk frother"),
    "toys": ("Wooden train", "Puzzle", "Plush otter", "Marble run", "Card game"),
    "tools": ("Cordless drill", "Spirit level", "Socket set", "Hand saw", "Clamp"),
    "books": ("Atlas", "Cookbook", "Detective novel", "Field guide", "Poetry"),
    "sports": ("Running socks", "Yoga mat", "Climbing rope", "Swim goggles", "Dry bag"),
}
VARIANTS: Final = ("blue", "green", "white", "black", "large", "small", "set of 2")
# Longest promotion and stock-out.
_LONGEST_MS: Final = 8 * DAY_MS


@dataclass(frozen=True, slots=True)
class Announcement:
    """One record."""

    topic: int  # FACTS or CONTEXT
    key: str
    send_ms: int
    value: bytes


def announcements(demand: Demand, start_ms: int, end_ms: int, *, first: bool) -> list[Announcement]:
    """What is said in [start_ms, end_ms), in order of time; `first`: with everything that was said before and still holds."""
    found = [*_facts(demand, start_ms, end_ms, first), *_context(demand, start_ms, end_ms, first)]
    return sorted(found, key=lambda one: (one.send_ms, one.topic, one.key))


def title(product: int, category: str) -> str:
    """What the shop calls a product.

    >>> title(0, "toys"), title(41, "toys")
    ('Wooden train, blue', 'Puzzle, green 1')
    """
    nouns = NOUNS[category]
    number, variant = divmod(product // len(nouns), len(VARIANTS))
    return f"{nouns[product % len(nouns)]}, {VARIANTS[variant]}{f' {number}' if number else ''}"


def _facts(demand: Demand, start_ms: int, end_ms: int, first: bool) -> Iterator[Announcement]:
    products = range(demand.config.products)
    moments = {(start_ms, product) for product in products} if first else set()
    lists = range(-(-(start_ms + MINUTE_MS) // PRICE_LIST_MS), -(-(end_ms + MINUTE_MS) // PRICE_LIST_MS))
    moments |= {(index * PRICE_LIST_MS - MINUTE_MS, product) for index in lists for product in products}
    for promotion in demand.promotions(start_ms - MINUTE_MS, end_ms + MOST_DAYS_AHEAD * DAY_MS):
        moments |= {(promotion.announced_ms, promotion.product), (promotion.end_ms + MINUTE_MS, promotion.product)}
    for out in demand.stock_outs(start_ms - MINUTE_MS, end_ms + MINUTE_MS):
        moments |= {(out.start_ms - MINUTE_MS, out.product), (out.end_ms + MINUTE_MS, out.product)}
    due = sorted((at_ms, product) for at_ms, product in moments if start_ms <= at_ms < end_ms)
    near = demand.promotions(start_ms - _LONGEST_MS, end_ms + MOST_DAYS_AHEAD * DAY_MS)
    empty = demand.stock_outs(start_ms, end_ms + MINUTE_MS)
    for at_ms, product in due:
        name = demand.product_ids[product]
        counted = product % 10 < COUNTED_OF_TEN
        gone = any(out.product == product and out.start_ms - MINUTE_MS <= at_ms < out.end_ms + MINUTE_MS for out in empty)
        facts: dict[str, Any] = {
            "product_id": name,
            "title": title(product, CATEGORIES[demand.category[product]]),
            "category": CATEGORIES[demand.category[product]],
            "unit_price": float(demand.list_cents((at_ms + MINUTE_MS) // HOUR_MS)[product]) / 100,
            "promotions": [
                {"start": p.start_ms, "end": p.end_ms, "discount": p.discount}
                for p in near
                if p.product == product and p.announced_ms <= at_ms < p.end_ms
            ],
            "lead_time_steps": int(demand.lead_hours[product]),
            **({"stock": 0 if gone else int(demand.shelf_units[product]), "stock_at": at_ms} if counted else {}),
        }
        yield Announcement(FACTS, name, at_ms, json.encode(facts))


def _context(demand: Demand, start_ms: int, end_ms: int, first: bool) -> Iterator[Announcement]:
    half = HOUR_MS // 2
    if first:
        for hour in range(start_ms // HOUR_MS, start_ms // HOUR_MS + WEATHER_HOURS):
            yield _value("weather", start_ms, hour, demand.weather(hour), known_future=True)
    for hour in range(-(-(start_ms - half) // HOUR_MS), -(-(end_ms - half) // HOUR_MS)):
        yield _value("weather", hour * HOUR_MS + half, hour + WEATHER_HOURS, demand.weather(hour + WEATHER_HOURS), known_future=True)
        yield _value("market", hour * HOUR_MS + half, hour - 1, demand.market(hour - 1), known_future=False)


def _value(series: str, send_ms: int, hour: int, value: float, *, known_future: bool) -> Announcement:
    span = {"start": hour * HOUR_MS, "end": (hour + 1) * HOUR_MS}
    said = {"series": series, **span, "value": round(value, 4), "known_future": known_future}
    return Announcement(CONTEXT, series, send_ms, json.encode(said))


def batches(said: Iterable[Announcement], beats: Iterable[tuple[int, int]], partitions: dict[int, int]) -> list[Batch]:
    """Records of each topic and partition in sending order, heartbeats (sent, declared) first; `partitions` by topic, 0: not sent."""
    rows: dict[tuple[int, int], list[tuple[int, bytes | None, bytes, int | None]]] = {}
    for topic, n in partitions.items():
        for partition in range(n):
            rows[topic, partition] = [(send_ms, None, b"", declared_ms) for send_ms, declared_ms in beats]
    for one in said:
        if partitions[one.topic]:
            key = one.key.encode()
            rows[one.topic, crc32(key) % partitions[one.topic]].append((one.send_ms, key, one.value, None))
    made = []
    for (topic, partition), some in rows.items():
        some.sort(key=lambda row: (row[0], row[3] is None))
        if some:
            beat = {i: row[3] for i, row in enumerate(some) if row[3] is not None}
            made.append(Batch(topic, partition, [row[1] for row in some], [row[2] for row in some], [row[0] for row in some], beat))
    return made
