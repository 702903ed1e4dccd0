"""Live traffic at an exact rate: orders and clicks on a Zipf of products, keyed by customer and so spread over all partitions, in time with a shop's clock.

A process of its own, so that what it measures beside is not slowed by it: `python -m benchmarks.load --rate 5000 --seconds 180 …`. It ends with one
line of JSON: how many were sent, and how far it fell behind its own clock.
"""

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaProducer

from streaming.settings import HOUR_MS, MINUTE_MS

PARTITIONS: Final = 6
ORDERS_SHARE: Final = 0.1  # of all events; the others are clicks
ITEMS: Final = (0.6, 0.25, 0.15)  # shares of orders with one, two, three items
CLICKS: Final = (b"view", b"view", b"view", b"view", b"view", b"view", b"add_to_cart", b"wishlist")
ZIPF: Final = 0.9
# A producer that sends this often adds half of it to freshness.
TICK_S: Final = 0.02


class Traffic:
    """Records, ready to be sent; a seed gives the same."""

    def __init__(self, products: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        weight = 1 / np.arange(1, products + 1) ** ZIPF
        self._chances = np.cumsum(weight / weight.sum())
        self._number = 0

    def records(self, n: int, time_ms: int) -> Iterator[tuple[bool, int, bytes, bytes]]:
        """`n` events that happen at one time: (is an order, partition, key, value)."""
        ordered = self._random.random(n) < ORDERS_SHARE
        items = self._random.choice(3, n, p=ITEMS) + 1
        products = np.minimum(np.searchsorted(self._chances, self._random.random((n, 3))), len(self._chances) - 1).tolist()
        customers = self._random.integers(0, 50_000, n).tolist()
        clicks = self._random.integers(0, len(CLICKS), n).tolist()
        for i in range(n):
            key = b"c%d" % customers[i]
            if ordered[i]:
                self._number += 1
                lines = b",".join(
                    b'{"product_id":"p%05d","quantity":%d,"unit_price":9.5}' % (p, 1 + p % 3) for p in products[i][: items[i]]
                )
                value = b'{"event_id":"e%d","order_id":"o%d","event_time":%d,"status":"placed","items":[%b]}' % (
                    self._number,
                    self._number,
                    time_ms,
                    lines,
                )
            else:
                value = b'{"event_time":%d,"type":"%b","product_id":"p%05d"}' % (time_ms, CLICKS[clicks[i]], products[i][0])
            yield bool(ordered[i]), customers[i] % PARTITIONS, key, value


class Sender:
    """Batches of one tick, one a partition, sent without waiting for the broker's word."""

    def __init__(self, kafka: Any, orders: str, clicks: str) -> None:
        self._kafka, self._orders, self._clicks = kafka, orders, clicks
        self._under_way: set[asyncio.Future[Any]] = set()

    async def send(self, records: Iterator[tuple[bool, int, bytes, bytes]], time_ms: int) -> None:
        """All of them; their Kafka timestamp is the shop's time, the header `sent_at` the real one."""
        headers = [("sent_at", b"%d" % (time.time() * 1000))]
        batches: dict[tuple[bool, int], Any] = {}
        for is_order, partition, key, value in records:
            place = is_order, partition
            if place not in batches:
                batches[place] = self._kafka.create_batch()
            if batches[place].append(key=key, value=value, timestamp=time_ms, headers=headers) is None:
                await self._hand_over(place, batches[place])
                batches[place] = self._kafka.create_batch()
                batches[place].append(key=key, value=value, timestamp=time_ms, headers=headers)
        for place, batch in batches.items():
            await self._hand_over(place, batch)

    async def _hand_over(self, place: tuple[bool, int], batch: Any) -> None:
        batch.close()
        future = await self._kafka.send_batch(batch, self._orders if place[0] else self._clicks, partition=place[1])
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)

    async def flush(self) -> None:
        """Until the broker has everything."""
        await asyncio.gather(*self._under_way)


def producer(broker: str) -> Any:
    """As a shop's own would be set."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a new topic's leaders take a moment; it retries
    return AIOKafkaProducer(bootstrap_servers=broker, acks=1, max_batch_size=1 << 19)


async def history(broker: str, orders: str, clicks: str, *, products: int, hours: int, per_product_hour: float, end_ms: int) -> int:
    """Thin traffic of the last hours before `end_ms`, as fast as it goes, so that every product has a past; returns how many events."""
    traffic, sent = Traffic(products, seed=1), 0
    random = np.random.default_rng(2)
    async with producer(broker) as kafka:
        sender = Sender(kafka, orders, clicks)
        for minute_ms in range(end_ms - hours * HOUR_MS, end_ms, MINUTE_MS):
            n = int(random.poisson(products * per_product_hour / 60))
            await sender.send(traffic.records(n, minute_ms), minute_ms)
            # one event of every product in each hour, so that all live
            some = [p for p in range(products) if p % 60 == minute_ms // MINUTE_MS % 60]
            rows = ((False, p % PARTITIONS, b"c", b'{"event_time":%d,"type":"view","product_id":"p%05d"}' % (minute_ms, p)) for p in some)
            await sender.send(rows, minute_ms)
            sent += n + len(some)
        await sender.flush()
    return sent


async def live(chosen: argparse.Namespace) -> dict[str, float]:
    """Events at the rate, from `--begin-ms` (real time) on; the shop's time is the real one plus `--offset-ms`."""
    traffic, sent, worst, ticks = Traffic(chosen.products, seed=3), 0, 0.0, 0
    async with producer(chosen.broker) as kafka:
        sender = Sender(kafka, chosen.orders, chosen.clicks)
        begin = chosen.begin_ms / 1000
        while (due := begin + ticks * TICK_S) < begin + chosen.seconds:
            if (ahead := due - time.time()) > 0:
                await asyncio.sleep(ahead)
            worst = max(worst, time.time() - due)
            ticks += 1
            n = round(chosen.rate * TICK_S * ticks) - sent
            time_ms = int(time.time() * 1000) + chosen.offset_ms
            await sender.send(traffic.records(n, time_ms), time_ms)
            sent += n
        await sender.flush()
    return {"sent": sent, "seconds": chosen.seconds, "worst_delay_s": round(worst, 3)}


def main() -> None:
    """Send, and say how it went."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--broker", required=True)
    arguments.add_argument("--orders", default="orders")
    arguments.add_argument("--clicks", default="clickstream")
    arguments.add_argument("--rate", type=float, required=True)
    arguments.add_argument("--seconds", type=float, required=True)
    arguments.add_argument("--products", type=int, default=2_000)
    arguments.add_argument("--begin-ms", type=int, required=True)
    arguments.add_argument("--offset-ms", type=int, required=True)
    print(json.dumps(asyncio.run(live(arguments.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
