"""Events a second on the reference work, from the first to the last: `trendcast ingest` as shipped beside other streaming systems.

    make bench-ingest
    python -m benchmarks.ingest --events 1000000 --peer-events 250000 --rounds 3

One embedded Kafka and one Redis on this machine; contenders run one after another, in rounds, each one process, in the same run, and each one's sums per
product and hour are compared with the truth. Peers live in an environment of their own under `.trendcast`, which the first run makes.
Ours is measured from outside: from the moment its sources are assigned (its log says so, before the first fetch) until Redis says that
every shard has counted every record.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks import reference, rig
from benchmarks.peers.environment import peers_python
from benchmarks.peers.result import digest
from feature_store.keys import Keys
from feature_store.measures import UNITS, natural
from feature_store.store import FeatureStore
from simulator.demo.workers import Samples, Worker, total
from simulator.embedded import Stack
from streaming import topics
from streaming.settings import Settings

OURS: Final = "trendcast ingest"
# How often Redis is asked how far our worker is; a look takes it about 0.1 ms.
LOOK_S: Final = 0.02
LIMIT_S: Final = 900.0
TARGETS: Final = {"Faust, take(1000) + pipelined Redis": 8.0, "Quix Streams, group_by + window": 5.0, "Bytewax, fold_window": 5.0}
TARGET_RATE: Final = 100_000


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's way through its topic."""

    contender: str
    events: int
    seconds: float
    right: bool  # its sums are the true ones
    cpu_s: dict[str, float]  # by process: contender, kafka, redis; the start included
    stages: dict[str, float]  # ours: seconds and counts by its own metrics

    @property
    def rate(self) -> float:
        return self.events / self.seconds


@dataclass(frozen=True, slots=True)
class Peer:
    """A contender that is not ours."""

    name: str
    module: str
    durable: str
    environment: dict[str, str]
    whole: bool = False  # reads our topic, to its end: what it keeps, and with it its pace, depends on the topic's length


PEERS: Final = (
    Peer("Faust, take(1000) + pipelined Redis", "faust_redis", "no (counts twice on replay)", {"STYLE": "stock"}),
    Peer("Faust, raw bytes, orjson, folded, Redis", "faust_redis", "no (counts twice on replay)", {"STYLE": "tuned"}),
    Peer("Quix Streams, group_by + window", "quix", "changelog", {"CHANGELOG": "1"}),
    Peer("Quix Streams, the same without changelog", "quix", "no", {"CHANGELOG": "0"}),
    Peer("Bytewax, fold_window", "bytewax_fold", "no", {}, whole=True),
)


def run_peer(peer: Peer, stack: Stack, topic: str, truth: reference.Truth, scratch: Path) -> Run:
    """Start it on the topic's beginning; it ends by itself and says its result in its last line."""
    environment = {
        **os.environ,
        **peer.environment,
        "PYTHONPATH": str(rig.ROOT),
        "BROKER": stack.kafka.address,
        "REDIS_PORT": str(stack.redis.port),
        "TOPIC": topic,
        "N": str(truth.events),
        "STATE": str(scratch),
    }
    command = [str(peers_python("streaming")), "-m", f"benchmarks.peers.{peer.module}"] + (
        ["worker", "--without-web", "-l", "error"] if peer.module == "faust_redis" else []
    )
    before, children = servers_cpu(stack), os.times()
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    after = os.times()
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{peer.name} gave no result (exit status {done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    said = json.loads(lines[-1])
    own = after.children_user + after.children_system - children.children_user - children.children_system
    right = said["events"] == truth.events and said["digest"] == truth.digest
    return Run(peer.name, said["events"], said["seconds"], right, {"contender": own, **spent(before, servers_cpu(stack))}, {})


def servers_cpu(stack: Stack) -> dict[str, float]:
    """Processor time of the servers so far."""
    servers = {"kafka": stack.kafka.server, "redis": stack.redis.server}
    return {name: rig.cpu_seconds(server.pid) for name, server in servers.items() if server is not None}


def spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Differences."""
    return {name: after[name] - before[name] for name in after}


def run_ours(stack: Stack, topic: str, truth: reference.Truth, scratch: Path, number: int) -> Run:
    """One `trendcast ingest` with default settings on the topic's beginning, in a namespace of its own."""
    environment = rig.environment(stack, namespace=f"bench{number}", orders_topic=topic, clickstream_topic=f"clicks-of-{topic}")
    settings = rig.settings_of(environment)
    topics.create(settings)
    before = servers_cpu(stack)
    worker = Worker.start("ingest", f"ingest-{number}", scratch, environment)
    try:
        ended = wait_counted(worker, stack, settings, truth.events)
        own = {"contender": rig.cpu_seconds(worker.server.pid)}
        seconds = ended - assigned_at(worker.log)
        stages = stages_of(worker.metrics())
    finally:
        worker.stop()
    cpu = own | spent(before, servers_cpu(stack))
    right = asyncio.run(sums_digest(settings)) == truth.digest
    return Run(OURS, truth.events, seconds, right, cpu, stages)


def wait_counted(worker: Worker, stack: Stack, settings: Settings, events: int) -> float:
    """The time, epoch seconds, at which every shard says that it has counted every record."""
    keys, deadline = Keys(settings.namespace), time.monotonic() + LIMIT_S
    with redis.Redis(port=stack.redis.port) as client:
        while time.monotonic() < deadline:
            time.sleep(LOOK_S)
            pipe = client.pipeline(transaction=False)
            for shard in range(settings.shards):
                pipe.hget(keys.offsets(shard), "sum")
            found = pipe.execute()
            if all(value is not None and int(value) >= events for value in found):
                return time.time()
            worker.check()
    raise SystemExit(f"not counted within {LIMIT_S:g} s; see {worker.log}")


def assigned_at(log: Path) -> float:
    """When the worker said that it had been assigned all its sources, epoch seconds."""
    for line in log.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("event") == "ingest.assigned" and event["sources"]:
                return datetime.fromisoformat(event["timestamp"]).timestamp()
    raise SystemExit(f"{log} does not say when the worker began")


def stages_of(samples: Samples) -> dict[str, float]:
    """What the worker says of itself."""
    wanted = {
        "decode_s": "trendcast_ingest_decode_seconds_sum",
        "batches": "trendcast_ingest_decode_seconds_count",
        "apply_s": "trendcast_ingest_apply_seconds_sum",
        "rounds": "trendcast_ingest_apply_seconds_count",
        "calls": "trendcast_ingest_apply_cells_count",
        "cells": "trendcast_ingest_apply_cells_sum",
    }
    return {name: total([samples], prefix) for name, prefix in wanted.items()}


async def sums_digest(settings: Settings) -> str:
    """Digest of the units per product and hour that Redis holds, read tile by tile."""
    store = await FeatureStore.open(settings, create=False)
    try:
        sums: Counter[tuple[str, int]] = Counter()
        for shard in range(settings.shards):
            names = [name for name, _ in await store.live(shard)]
            for name, (tiles, _, _) in zip(names, await store.history([(shard, name) for name in names]), strict=True):
                for tile, values in tiles.items():
                    sums[name, tile * settings.tile_ms // reference.HOUR_MS] += round(float(natural(values[None])[0, UNITS]))
        return digest(sums)
    finally:
        await store.close()


def measure(events: int, peer_events: int, rounds: int, contenders: Callable[[str], bool]) -> list[Run]:
    """All rounds; every contender once in each."""
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder, Stack(Path(folder)) as stack:
        truths = {f"reference-{n}": n for n in {events, peer_events}}
        rig.progress(f"Kafka {stack.kafka.address}, Redis {stack.redis.url}")
        true: dict[str, reference.Truth] = {}
        for topic, n in truths.items():
            names = {"orders_topic": topic, "clickstream_topic": f"clicks-of-{topic}"}
            topics.create(rig.settings_of(rig.environment(stack, **names)))
            true[topic] = asyncio.run(reference.produce(stack.kafka.address, topic, n))
            rig.progress(f"{topic}: {n:,} orders, {true[topic].units:,} units")
        runs: list[Run] = []
        ours, peers = f"reference-{events}", f"reference-{peer_events}"
        for number in range(rounds):
            scratch = Path(folder)
            chosen: list[tuple[str, Callable[[], Run]]] = [(OURS, partial(run_ours, stack, ours, true[ours], scratch, number))]
            for peer in PEERS:
                topic = ours if peer.whole else peers
                chosen.append((peer.name, partial(run_peer, peer, stack, topic, true[topic], scratch)))
            for name, run in chosen:
                if not contenders(name):
                    continue
                with redis.Redis(port=stack.redis.port) as client:
                    client.flushall()
                    client.script_flush()
                runs.append(run())
                last = runs[-1]
                rig.progress(f"round {number + 1}: {last.contender}: {last.rate:,.0f} events/s" + ("" if last.right else ", SUMS WRONG"))
        return runs


def summary(runs: list[Run]) -> tuple[str, dict[str, Any]]:
    """The table, and the figures by contender."""
    rates = {name: [run.rate for run in runs if run.contender == name] for name in dict.fromkeys(run.contender for run in runs)}
    median = {name: statistics.median(values) for name, values in rates.items()}
    durable = {OURS: "Redis, exactly once"} | {peer.name: peer.durable for peer in PEERS}
    rows, figures = [], {}
    for name, values in rates.items():
        of_it = [run for run in runs if run.contender == name]
        cpu = {part: statistics.median(run.cpu_s[part] / run.events * 1e6 for run in of_it) for part in of_it[0].cpu_s}
        right = all(run.right for run in of_it)
        ratio = median[OURS] / median[name] if OURS in median else float("nan")
        wanted = f"{ratio:.1f}×" + (f" (target {TARGETS[name]:g}×)" if name in TARGETS else "")
        span = f"{min(values):,.0f}–{max(values):,.0f}"
        used = " / ".join(f"{cpu[part]:.1f}" for part in ("contender", "kafka", "redis"))
        rows.append([name, f"{median[name]:,.0f}", span, "" if name == OURS else wanted, used, "yes" if right else "NO", durable[name]])
        figures[name] = {"rates": values, "median": median[name], "ours_over_it": ratio, "cpu_us_per_event": cpu, "right": right}
    header = ["contender", "events/s, median", "range", "ours is faster", "CPU µs/event: itself / Kafka / Redis", "sums right", "durable"]
    return rig.table(header, rows), figures


def main() -> None:
    """Measure, print, write. Exit status 1 where sums are wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=1_000_000, help="orders in our topic")
    arguments.add_argument(
        "--peer-events", type=int, default=250_000, help="orders in the topic of Faust and Quix, the first of ours; Bytewax reads ours"
    )
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", default="", help="contenders whose name contains this")
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/ingest.json")
    chosen = arguments.parse_args()
    about = rig.machine()
    runs = measure(chosen.events, chosen.peer_events, chosen.rounds, lambda name: chosen.only.lower() in name.lower())
    text, figures = summary(runs)
    print(f"\n{rig.said(about)}; {chosen.events:,} orders (Faust and Quix: {chosen.peer_events:,}), {chosen.rounds} rounds\n\n{text}")
    for run in runs:
        if run.stages:
            print(
                f"\nours: {run.seconds:.2f} s; of them decoding {run.stages['decode_s']:.2f}, calls to Redis {run.stages['apply_s']:.2f}; {run.stages}"
            )
    path = rig.write("ingest", {"machine": about, "contenders": figures, "runs": [asdict(run) for run in runs]}, chosen.json)
    print(f"\nwritten: {path}")
    if not all(run.right for run in runs):
        raise SystemExit("sums are wrong")


if __name__ == "__main__":
    main()
