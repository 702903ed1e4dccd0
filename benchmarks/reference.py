"""The reference work: single-item orders, keyed by order, a bounded Zipf over products, ten hours of event time per million; and their true sums."""

import logging
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaProducer

from benchmarks.peers.result import digest

PARTITIONS: Final = 6
PRODUCTS: Final = 10_000
ZIPF: Final = 1.1
START_MS: Final = 1_760_000_000_000
SPACING_MS: Final = 36
HOUR_MS: Final = 3_600_000
# As producers of high volume are set: batches of 256 KiB, lz4.
BATCH_BYTES: Final = 262_144


@dataclass(frozen=True, slots=True)
class Truth:
    """What every contender must come to."""

    events: int
    units: int
    digest: str  # of the units per product and hour


async def produce(broker: str, topic: str, n: int) -> Truth:
    """Fill the topic, which exists, with the first n orders; returns when the broker has them all."""
    random = np.random.default_rng(0)
    weight = 1 / np.arange(1, PRODUCTS + 1) ** ZIPF
    product = random.choice(PRODUCTS, n, p=weight / weight.sum()).tolist()
    quantity = random.integers(1, 6, n).tolist()
    sums: Counter[tuple[str, int]] = Counter()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a new topic's leaders take a moment; it retries
    async with AIOKafkaProducer(bootstrap_servers=broker, compression_type="lz4", max_batch_size=BATCH_BYTES) as kafka:
        batches: list[Any] = [kafka.create_batch() for _ in range(PARTITIONS)]
        for i in range(n):
            time_ms, name = START_MS + i * SPACING_MS, f"p{product[i]:06d}"
            key = b"o%010d" % i
            value = (
                b'{"event_id":"e%012d","order_id":"%b","event_time":%d,"status":"placed","customer_id":"c%d",'
                b'"items":[{"product_id":"%b","quantity":%d,"unit_price":9.99}]}'
                % (i, key, time_ms, i % 50_000, name.encode(), quantity[i])
            )
            partition = zlib.crc32(key) % PARTITIONS  # librdkafka's own choice
            while batches[partition].append(key=key, value=value, timestamp=None) is None:
                await _send(kafka, batches, topic, partition)
            sums[name, time_ms // HOUR_MS] += quantity[i]
        for partition in range(PARTITIONS):
            await _send(kafka, batches, topic, partition)
    return Truth(n, sums.total(), digest(sums))


async def _send(kafka: Any, batches: list[Any], topic: str, partition: int) -> None:
    batches[partition].close()
    await (await kafka.send_batch(batches[partition], topic, partition=partition))
    batches[partition] = kafka.create_batch()
