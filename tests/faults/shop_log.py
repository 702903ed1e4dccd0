"""Two days of a small shop as a fixed list of records: what all fault tests feed, and what a naive count makes of it.

    p00        every other order line                      p02   nothing from 32:00 to 44:00, a drop
    p01        eight times its usual from 30:00 to 33:00   p99   one order at 00:30 of the first day: evicted a day later
    p03 … p39  some orders an hour

No record is late and no order is cancelled, so that forecasts and alerts are the same whatever the order of work. Some records stand in their
partition behind later ones, within the lateness. The last record of every source is a heartbeat that ends the second day: everything closes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

import numpy as np

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
START_MS: Final = 20_458 * 24 * HOUR_MS  # a day begins, UTC
HOURS: Final = 48
END_MS: Final = START_MS + HOURS * HOUR_MS
LATENESS_MS: Final = 10 * MINUTE_MS
PARTITIONS: Final = 6
HEARTBEAT_MS: Final = 15 * MINUTE_MS
HOT, SPIKING, DROPPING, GHOST = "p00", "p01", "p02", "p99"


class Topic(IntEnum):
    ORDERS = 0
    CLICKS = 1


# Topics of what the shop knows ahead; the log has none of it (`test_known_ahead`).
FACTS, CONTEXT = 2, 3


@dataclass(frozen=True, slots=True)
class Sent:
    """One record to be sent."""

    topic: int
    partition: int
    time_ms: int  # Kafka timestamp
    value: bytes
    watermark_ms: int | None = None  # of a heartbeat, whose value is empty
    key: bytes | None = None


def order(event_id: str, event_ms: int, products: Iterable[str]) -> bytes:
    """An order of one piece of each product, at prices that differ."""
    items = [{"product_id": product, "quantity": 1, "unit_price": 1 + int(product[1:]) / 4} for product in products]
    return json.dumps({"event_id": event_id, "order_id": event_id, "event_time": event_ms, "status": "placed", "items": items}).encode()


def shop_log(seed: int = 1) -> list[Sent]:
    """All records by sending time."""
    rng = np.random.default_rng(seed)
    records = [Sent(Topic.ORDERS, 0, START_MS + 30 * MINUTE_MS, order("ghost", START_MS + 30 * MINUTE_MS, [GHOST]))]
    for hour in range(HOURS):
        rates = {HOT: 80.0, SPIKING: 64.0 if 30 <= hour < 33 else 8.0, DROPPING: 0.0 if 32 <= hour < 44 else 10.0}
        rates |= {f"p{i:02d}": 1.2 for i in range(3, 40)}
        for product, rate in rates.items():
            for _ in range(rng.poisson(rate)):
                records += _purchase(rng, START_MS + hour * HOUR_MS, product, len(records))
    beats = range(START_MS, END_MS + 1, HEARTBEAT_MS)
    everywhere = [(topic, partition) for topic in Topic for partition in range(PARTITIONS)]
    records += [Sent(topic, partition, at, b"", at - LATENESS_MS) for at in beats for topic, partition in everywhere]
    records += [Sent(topic, partition, END_MS + LATENESS_MS, b"", END_MS) for topic, partition in everywhere]
    return sorted(records, key=lambda record: record.time_ms)


def _purchase(rng: np.random.Generator, hour_ms: int, product: str, number: int) -> list[Sent]:
    """A view and the order that follows it, to any partitions; one of ten is sent up to five minutes after it happened."""
    at_ms = hour_ms + int(rng.integers(0, HOUR_MS))
    sent_ms = at_ms + (int(rng.integers(0, 5 * MINUTE_MS)) if rng.random() < 0.1 else 0)
    second = [f"p{rng.integers(3, 40):02d}"] if rng.random() < 0.1 else []
    click = json.dumps({"event_time": at_ms, "type": "view", "product_id": product}).encode()
    of_order, of_click = (int(partition) for partition in rng.integers(0, PARTITIONS, 2))
    return [
        Sent(Topic.ORDERS, of_order, sent_ms, order(f"e{number}", at_ms, [product, *second])),
        Sent(Topic.CLICKS, of_click, sent_ms, click),
    ]


def between(log: Sequence[Sent], first_hour: float, end_hour: float) -> list[Sent]:
    """What is sent in [first_hour, end_hour) after the start; the last hour includes the end of the log."""
    start_ms, end_ms = START_MS + first_hour * HOUR_MS, START_MS + end_hour * HOUR_MS
    return [record for record in log if start_ms <= record.time_ms and (record.time_ms < end_ms or end_hour >= HOURS)]


def with_noise(log: Sequence[Sent]) -> list[Sent]:
    """The log with records that must not count: a copy of every 20th order, a little later and elsewhere, and poison of every kind."""
    noisy: list[Sent] = []
    for i, record in enumerate(log):
        noisy.append(record)
        if record.topic is Topic.ORDERS and record.value and i % 20 == 0:
            noisy.append(replace(record, partition=(record.partition + i // 20) % PARTITIONS))
        if i % 50 == 0:
            noisy.append(replace(record, value=POISON[i // 50 % len(POISON)], watermark_ms=None))
    return noisy


POISON: Final = (b"", b"{", b"null", b'{"event_id": 1}', b"\xff\xfe", b'{"event_time": 1e400}', b"[]" * 100)


Cell = tuple[str, int]  # product, start of an hour


def naive_count(log: Iterable[Sent]) -> tuple[Counter[Cell], Counter[Cell]]:
    """Units and views per product and hour; each event id once, nothing of what is no record of the shop."""
    units: Counter[Cell] = Counter()
    views: Counter[Cell] = Counter()
    known: set[str] = set()
    for record in log:
        try:
            event = json.loads(record.value)
            hour_ms = event["event_time"] // HOUR_MS * HOUR_MS
        except (ValueError, KeyError, TypeError):
            continue
        if record.topic is Topic.CLICKS:
            views[event["product_id"], hour_ms] += 1
        elif event["event_id"] not in known:
            known.add(event["event_id"])
            units.update((item["product_id"], hour_ms) for item in event["items"])
    return units, views
