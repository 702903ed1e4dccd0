"""How old a forecast's news is when a subscriber has it: receipt by an independent consumer minus `oldest_input_at`.

    make bench-freshness
    python -m benchmarks.freshness --rates 1000 5000 --seconds 180 --products 2000 --ingest 1 --forecast 1

Real workers on the embedded servers, all on this machine, which also makes the traffic and reads the forecasts. Products have a past of a day;
a step of the model closes one minute into each measurement, and all of its forecasts count. The first seconds of traffic do not.
"""

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer

from benchmarks import rig
from benchmarks.running import PREPARATION_S, Running, finish, running
from simulator.demo.workers import total

CLOSE_AFTER_S: Final = 60.0
# Caches, connections and the kernel's idea of our processes settle.
SETTLE_S: Final = 10.0
# What is still under way when the traffic ends.
AFTER_S: Final = 3.0
# aiokafka has one fetch in flight per broker: this bounds what a partition that was just drained waits for.
FETCH_WAIT_MS: Final = 10
TARGET_P50_MS, TARGET_P99_MS = 150, 500
ALL: Final = "all"


class Receipt(msgspec.Struct):
    """What is read of a forecast."""

    kind: str
    oldest_input_at: int | None
    complete_through: int
    level: str


@dataclass
class Received:
    """Ages at receipt, ms, by kind; with the second of the measurement in which they came."""

    from_ms: float
    ages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    timeline: list[tuple[float, float]] = field(default_factory=list)
    messages: int = 0
    without_input: int = 0  # nothing new in it: published by a close alone
    message_bytes: int = 0
    closed: set[int] = field(default_factory=set)  # `complete_through` values seen

    def add(self, record: Any, receipt: Receipt, now_ms: float) -> None:
        if now_ms < self.from_ms or receipt.level != "product":
            return
        self.messages += 1
        self.message_bytes += len(record.value)
        self.closed.add(receipt.complete_through)
        if receipt.oldest_input_at is None:
            self.without_input += 1
            return
        age = now_ms - receipt.oldest_input_at
        self.ages[receipt.kind].append(age)
        self.timeline.append(((now_ms - self.from_ms) / 1000, age))


async def receive(whole: Running, received: Received, until_ms: float) -> None:
    """Read the forecasts from now on."""
    s = whole.settings
    decode = msgspec.json.Decoder(Receipt).decode
    consumer = AIOKafkaConsumer(
        s.forecasts_topic,
        bootstrap_servers=s.kafka_bootstrap,
        auto_offset_reset="latest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    async with consumer:
        await consumer.seek_to_end()
        while time.time() * 1000 < until_ms:
            fetched = await consumer.getmany(timeout_ms=100)
            now_ms = time.time() * 1000
            for records in fetched.values():
                for record in records:
                    if record.value is not None:
                        received.add(record, decode(record.value), now_ms)
            whole.check()


def measure(rate: float, chosen: argparse.Namespace) -> dict[str, Any]:
    """One rate, on servers and workers of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-freshness-", ignore_cleanup_errors=True) as folder,
        running(
            Path(folder),
            products=chosen.products,
            ingest=chosen.ingest,
            forecast=chosen.forecast,
            close_after_s=SETTLE_S + CLOSE_AFTER_S,
            prepare_s=chosen.prepare,
        ) as whole,
    ):
        seconds = SETTLE_S + chosen.seconds
        traffic = whole.traffic(rate, seconds, chosen.products)
        received = Received(whole.begin_ms + SETTLE_S * 1000)
        time.sleep(max(0.0, whole.begin_ms / 1000 - time.time()))
        before = processors(whole)
        asyncio.run(receive(whole, received, whole.begin_ms + (seconds + AFTER_S) * 1000))
        after = processors(whole)
        sent = json.loads(finish(traffic))
        samples = {worker.name: worker.metrics() for worker in whole.workers}
        for worker in whole.workers:
            (chosen.logs or Path(folder)).mkdir(parents=True, exist_ok=True)
            if chosen.logs:
                (chosen.logs / f"{rate:g}-{worker.name}.log").write_text(worker.log.read_text(encoding="utf-8"), encoding="utf-8")
    cpu = {name: (after[name] - before[name]) / (seconds + AFTER_S) for name in after}
    ages = {ALL: [age for values in received.ages.values() for age in values], **received.ages}
    return {
        "rate": rate,
        "traffic": sent,
        "forecasts": received.messages,
        "forecasts_per_s": received.messages / chosen.seconds,
        "mean_message_bytes": received.message_bytes / max(received.messages, 1),
        "without_new_input": received.without_input,
        "steps_closed_within": max(len(received.closed) - 1, 0),
        "kinds": {kind: percentiles(values) for kind, values in ages.items()},
        "by_10_s": by_time(received.timeline),
        "cores_used": cpu,
        "stages": stages(list(samples.values())),
    }


def percentiles(ages: list[float]) -> dict[str, float]:
    """Number, and ages in ms."""
    if not ages:
        return {"n": 0}
    p50, p90, p99, p999 = np.percentile(ages, [50, 90, 99, 99.9]).round(1).tolist()
    return {"n": len(ages), "p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": round(max(ages), 1)}


def by_time(timeline: list[tuple[float, float]]) -> dict[int, dict[str, float]]:
    """Percentiles of each ten seconds: where the close is seen."""
    parts: dict[int, list[float]] = defaultdict(list)
    for second, age in timeline:
        parts[int(second // 10) * 10].append(age)
    return {at: percentiles(values) for at, values in sorted(parts.items())}


def processors(whole: Running) -> dict[str, float]:
    """Processor seconds so far, by process."""
    servers = {"kafka": whole.stack.kafka.server, "redis": whole.stack.redis.server}
    used = {name: rig.cpu_seconds(server.pid) for name, server in servers.items() if server is not None}
    return used | {worker.name: rig.cpu_seconds(worker.server.pid) for worker in whole.workers}


def stages(samples: list[dict[str, float]]) -> dict[str, float]:
    """Seconds and counts of the workers' stages since their start."""
    names = ("ingest_decode", "ingest_fold", "ingest_apply", "forecast_store", "forecast_batch", "forecast_freshness")
    sums = {f"{name}_{part}": total(samples, f"trendcast_{name}_seconds_{part}") for name in names for part in ("sum", "count")}
    return sums | {"nowcasts": total(samples, "trendcast_forecast_batch_products_sum{reason=nowcast}")}


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rates", type=float, nargs="+", default=[1_000, 5_000], help="events a second")
    arguments.add_argument("--seconds", type=float, default=180.0)
    arguments.add_argument("--products", type=int, default=2_000)
    arguments.add_argument("--prepare", type=float, default=PREPARATION_S, help="seconds that the workers have to take in their past")
    arguments.add_argument("--ingest", type=int, default=1, help="ingest workers")
    arguments.add_argument("--forecast", type=int, default=1, help="forecast workers")
    arguments.add_argument("--logs", type=Path, help="keep the workers' logs here")
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/freshness.json")
    chosen = arguments.parse_args()
    about = rig.machine()
    results = [measure(rate, chosen) for rate in chosen.rates]
    rows = []
    for result in results:
        for kind, of_it in result["kinds"].items():
            if of_it["n"]:
                figures = [f"{of_it[name]:,.0f}" for name in ("p50", "p90", "p99", "p99.9", "max")]
                rows.append([f"{result['rate']:,.0f}", kind, f"{of_it['n']:,}", *figures])
    print(
        f"\n{rig.said(about)}; {chosen.ingest} ingest and {chosen.forecast} forecast workers, {chosen.products:,} products, "
        f"{chosen.seconds:g} s each; targets p50 ≤ {TARGET_P50_MS} ms, p99 ≤ {TARGET_P99_MS} ms\n"
    )
    print(rig.table(["events/s", "kind", "forecasts", "p50 ms", "p90", "p99", "p99.9", "max"], rows))
    for result in results:
        used = ", ".join(f"{name} {cores:.2f}" for name, cores in result["cores_used"].items())
        print(
            f"\n{result['rate']:,.0f} events/s: {result['forecasts_per_s']:,.0f} forecasts/s of {result['mean_message_bytes']:,.0f} bytes, "
            f"{result['steps_closed_within']} step closed within; cores used: {used}; traffic {result['traffic']}"
        )
    with contextlib.suppress(ValueError):
        print(f"\nwritten: {rig.write('freshness', {'machine': about, 'options': options(chosen), 'rates': results}, chosen.json)}")


def options(chosen: argparse.Namespace) -> dict[str, Any]:
    """What was asked, for the file."""
    return {name: value for name, value in vars(chosen).items() if name not in ("json", "logs")}


if __name__ == "__main__":
    main()
