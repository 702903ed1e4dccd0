"""Stock Faust on the reference work: an agent takes thousands of orders at once, and adds them to Redis in one pipeline.

STYLE=stock is Faust as its guide shows it: typed records, a command per item. STYLE=tuned decodes raw bytes by orjson and folds each batch before it
asks Redis, which is about as far as one gets without leaving Faust's own stream.
"""

import asyncio
import os
import time
import uuid
from collections import Counter
from typing import Any

import faust
import orjson  # type: ignore[import-not-found]  # of the peers' environment
import redis
import redis.asyncio
import uvloop

from benchmarks.peers.result import report

N, STYLE = int(os.environ["N"]), os.environ["STYLE"]
REDIS_PORT = int(os.environ["REDIS_PORT"])
HOUR_MS = 3_600_000

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
app = faust.App(
    f"peer-{uuid.uuid4().hex[:6]}",
    broker=f"kafka://{os.environ['BROKER']}",
    topic_disable_leader=True,
    topic_allow_declare=False,
    web_enabled=False,
    store="memory://",
    stream_buffer_maxsize=16_384,
    broker_max_poll_records=5_000,
)


class Order(faust.Record, serializer="json"):  # type: ignore[call-arg, misc]
    event_id: str
    order_id: str
    event_time: int
    status: str
    customer_id: str
    items: list[Any]


if STYLE == "stock":
    orders = app.topic(os.environ["TOPIC"], value_type=Order)
else:
    orders = app.topic(os.environ["TOPIC"], key_serializer="raw", value_serializer="raw")
store: Any = redis.asyncio.Redis(port=REDIS_PORT)


def add_each(pipe: Any, batch: list[Any]) -> None:
    """A command per item."""
    for order in batch:
        for item in order.items:
            pipe.hincrby(f"units:{item['product_id']}", order.event_time // HOUR_MS, item["quantity"])


def add_folded(pipe: Any, batch: list[Any]) -> None:
    """A command per product and hour."""
    sums: Counter[tuple[str, int]] = Counter()
    for value in batch:
        order = orjson.loads(value)
        for item in order["items"]:
            sums[item["product_id"], order["event_time"] // HOUR_MS] += item["quantity"]
    for (product, hour), units in sums.items():
        pipe.hincrby(f"units:{product}", hour, units)


@app.agent(orders)
async def count(stream: Any) -> None:
    seen, first = 0, 0.0
    size = 1_000 if STYLE == "stock" else 5_000
    async for batch in stream.take(size, within=0.2):
        first = first or time.perf_counter()
        pipe = store.pipeline(transaction=False)
        (add_each if STYLE == "stock" else add_folded)(pipe, batch)
        await pipe.execute()
        seen += len(batch)
        if seen >= N:
            end(seen, time.perf_counter() - first)


def end(seen: int, seconds: float) -> None:
    """Read the sums back, say them, and leave at once."""
    client: Any = redis.Redis(port=REDIS_PORT, decode_responses=True)
    keys = list(client.scan_iter("units:*", count=10_000))
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.hgetall(key)
    hashes = zip(keys, pipe.execute(), strict=True)
    report(seen, seconds, {(key.removeprefix("units:"), int(hour)): int(units) for key, hours in hashes for hour, units in hours.items()})
    os._exit(0)


if __name__ == "__main__":
    app.main()
