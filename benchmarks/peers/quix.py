"""Quix Streams on the reference work: expand items, group by product (a repartition topic), tumbling hour, sum.

State is in RocksDB, with the changelog that makes it durable; CHANGELOG=0 leaves that away, which is faster and loses everything with the process.
"""

import os
import tempfile
import time
import uuid
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found]  # of the peers' environment

from benchmarks.peers.result import report

N = int(os.environ["N"])
HOUR_MS = 3_600_000

app = Application(
    broker_address=os.environ["BROKER"],
    consumer_group=f"peer-{uuid.uuid4().hex[:6]}",
    auto_offset_reset="earliest",
    state_dir=tempfile.mkdtemp(dir=os.environ["STATE"]),
    use_changelog_topics=os.environ["CHANGELOG"] == "1",
    loglevel="ERROR",
    producer_extra_config={"linger.ms": 20, "batch.size": 262_144, "compression.type": "lz4"},
    consumer_extra_config={"queued.min.messages": 200_000},
)
orders = app.topic(os.environ["TOPIC"], value_deserializer="json", timestamp_extractor=lambda value, *_: value["event_time"])
sums: dict[tuple[str, int], int] = {}
seen, first = 0, 0.0


def begin(value: Any) -> Any:
    """The clock starts with the first order."""
    global first
    first = first or time.perf_counter()
    return value["items"]


def note(value: Any, key: Any, *_: Any) -> None:
    """Every update of a window comes by; the last one of each is its sum."""
    global seen
    seen += 1
    sums[key if isinstance(key, str) else key.decode(), value["start"] // HOUR_MS] = value["value"]
    if seen >= N:
        report(seen, time.perf_counter() - first, sums)
        os._exit(0)


items = app.dataframe(orders).apply(begin, expand=True).group_by("product_id")
units = items.apply(lambda item: item["quantity"])
# Partitions are read unevenly; nothing may be late.
units.tumbling_window(HOUR_MS, grace_ms=24 * HOUR_MS).sum().current().update(note, metadata=True)

if __name__ == "__main__":
    app.run()
