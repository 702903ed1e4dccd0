"""Bytewax on the reference work: `fold_window` per product and hour by event time, without a recovery store (its fastest, not durable)."""

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op  # type: ignore[import-not-found]  # of the peers' environment
import bytewax.operators.windowing as win  # type: ignore[import-not-found]
import orjson  # type: ignore[import-not-found]
from bytewax.connectors.kafka import KafkaSource  # type: ignore[import-not-found]
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found]
from bytewax.testing import TestingSink, run_main  # type: ignore[import-not-found]

from benchmarks.peers.result import report

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
closed: list[tuple[str, tuple[int, int]]] = []
seen, first, last = 0, 0.0, 0.0


def decode(message: Any) -> list[tuple[str, tuple[int, int]]]:
    """`(product, (event time, quantity))` of each item."""
    global seen, first
    first = first or time.perf_counter()
    order = orjson.loads(message.value)
    seen += 1
    return [(item["product_id"], (order["event_time"], item["quantity"])) for item in order["items"]]


def add(total: int, event: tuple[int, int]) -> int:
    """The fold; the last one ends the measurement."""
    global last
    last = time.perf_counter()
    return total + event[1]


flow = Dataflow("peer")
source = KafkaSource([os.environ["BROKER"]], [os.environ["TOPIC"]], tail=False, batch_size=5_000)
items = op.flat_map("decode", op.input("orders", flow, source), decode)
# Partitions are read unevenly; nothing may be late.
clock = win.EventClock(lambda event: datetime.fromtimestamp(event[0] / 1000, UTC), wait_for_system_duration=timedelta(hours=24))
hours = win.TumblingWindower(length=HOUR, align_to=EPOCH)
sums = win.fold_window("sum", items, clock, hours, lambda: 0, add, int.__add__)
op.output("sink", sums.down, TestingSink(closed))

if __name__ == "__main__":
    run_main(flow)
    report(seen, last - first, {(product, hour): units for product, (hour, units) in closed})
