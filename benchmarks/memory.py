"""What a product costs in Redis, and whether the workers' memory stays flat under full traffic.

    make bench-memory
    python -m benchmarks.memory --rate 5000 --seconds 600 --products 2000

Redis by its own account (`MEMORY USAGE` of every key of the namespace, all samples), after the traffic, in which a step was closed; workers by their
resident memory, looked at every few seconds. The slope is a straight line through the time after the first two minutes.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis

from benchmarks import rig
from benchmarks.running import PREPARATION_S, Running, finish, running

LOOK_S: Final = 5.0
CLOSE_AFTER_S: Final = 60.0
# Imports, compiled shapes, buffers and the allocator's arenas reach their size.
WARM_UP_S: Final = 120.0
TARGET_BYTES: Final = 3 * 1024
# Kinds of keys that grow with what happened, not with the number of products; stated beside.
HISTORY: Final = frozenset({"tiles", "steps"})
EVENT_IDS: Final = "seen"
# What a shard or the namespace has once, however many products there are.
FIXED: Final = frozenset(
    {
        "calibration",
        "closed",
        "context",
        "gaps",
        "idle",
        "launches",
        "levels",
        "meta",
        "offsets",
        "outbox",
        "owner",
        "sources",
        "watermarks",
    }
)
CHUNK: Final = 2_000


def watch(whole: Running, seconds: float) -> list[dict[str, float]]:
    """Resident memory, bytes, by process, while the traffic runs."""
    servers = {"kafka": whole.stack.kafka.server, "redis": whole.stack.redis.server}
    pids = {name: server.pid for name, server in servers.items() if server is not None}
    pids |= {worker.name: worker.server.pid for worker in whole.workers}
    begin, samples = whole.begin_ms / 1000, []
    while (at := time.time() - begin) < seconds:
        if at >= 0:
            samples.append({"second": round(at, 1), **{name: float(rig.resident_bytes(pid)) for name, pid in pids.items()}})
        time.sleep(LOOK_S)
        whole.check()
    return samples


def slopes(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """By process: MiB at the end of the warm-up and at the end (medians of a minute), and MiB a minute in between."""
    late = [sample for sample in samples if sample["second"] >= min(WARM_UP_S, samples[-1]["second"] / 2)]
    minutes = np.array([sample["second"] for sample in late]) / 60
    found = {}
    for name in samples[0].keys() - {"second"}:
        mib = np.array([sample[name] for sample in late]) / 2**20
        edge = max(1, min(len(mib) // 2, round(60 / LOOK_S)))
        slope = float(np.polyfit(minutes, mib, 1)[0]) if len(mib) > 1 else 0.0
        found[name] = {"first": float(np.median(mib[:edge])), "last": float(np.median(mib[-edge:])), "mib_per_minute": slope}
    return found


def keys_of(whole: Running) -> dict[str, dict[str, int]]:
    """By kind of key (what follows the shard's tag): how many there are, what they take, how many fields or members they hold."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"keys": 0, "bytes": 0, "members": 0})
    with redis.Redis(port=whole.stack.redis.port) as client:
        names: list[bytes] = list(client.scan_iter(f"trendcast:{whole.settings.namespace}:*", count=CHUNK))
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            pipe: Any = client.pipeline(transaction=False)
            for name in chunk:
                pipe.memory_usage(name, samples=0)
                pipe.type(name)
            replies = pipe.execute()
            for name, size, kind in zip(chunk, replies[::2], replies[1::2], strict=True):
                count = {b"hash": pipe.hlen, b"set": pipe.scard, b"zset": pipe.zcard}.get(kind, pipe.exists)
                count(name)
                found[kind_of(name)]["keys"] += 1
                found[kind_of(name)]["bytes"] += int(size or 0)
            for name, members in zip(chunk, pipe.execute(), strict=True):
                found[kind_of(name)]["members"] += int(members)
    return dict(found)


def kind_of(key: bytes) -> str:
    """The part of a key that says what it holds.

    >>> kind_of(b"trendcast:shop:{s017}:tiles:p:1"), kind_of(b"trendcast:shop:sources")
    ('tiles', 'sources')
    """
    parts = key.decode().split(":")
    return parts[3] if parts[2].startswith("{") else parts[2]


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rate", type=float, default=5_000)
    arguments.add_argument("--seconds", type=float, default=600.0)
    arguments.add_argument("--products", type=int, default=2_000)
    arguments.add_argument("--prepare", type=float, default=PREPARATION_S, help="seconds that the workers have to take in their past")
    arguments.add_argument("--ingest", type=int, default=1, help="ingest workers")
    arguments.add_argument("--forecast", type=int, default=1, help="forecast workers")
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/memory.json")
    chosen = arguments.parse_args()
    about = rig.machine()
    with (
        tempfile.TemporaryDirectory(prefix="bench-memory-", ignore_cleanup_errors=True) as folder,
        running(
            Path(folder),
            products=chosen.products,
            ingest=chosen.ingest,
            forecast=chosen.forecast,
            close_after_s=CLOSE_AFTER_S,
            prepare_s=chosen.prepare,
        ) as whole,
    ):
        traffic = whole.traffic(chosen.rate, chosen.seconds, chosen.products)
        samples = watch(whole, chosen.seconds)
        sent = json.loads(finish(traffic))
        kinds = keys_of(whole)
    figures = report(about, chosen, sent, kinds, slopes(samples))
    print(f"\nwritten: {rig.write('memory', {**figures, 'samples': samples}, chosen.json)}")


def report(
    about: dict[str, Any],
    chosen: argparse.Namespace,
    sent: dict[str, float],
    kinds: dict[str, dict[str, int]],
    resident: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Prints the tables; returns the figures."""
    products = kinds["live"]["members"]
    print(f"\n{rig.said(about)}; {chosen.rate:,.0f} events/s for {chosen.seconds:g} s; {products:,} live products; traffic {sent}\n")
    rows = []
    for kind, of_it in sorted(kinds.items(), key=lambda item: -item[1]["bytes"]):
        each = of_it["bytes"] / max(of_it["members"], 1)
        cells = [f"{of_it[name]:,}" for name in ("keys", "members", "bytes")]
        rows.append([kind, *cells, f"{each:,.1f}", f"{of_it['bytes'] / products:,.0f}"])
    print(rig.table(["kind of key", "keys", "members", "bytes", "bytes a member", "bytes a product"], rows))
    beside = sum(of_it["bytes"] for kind, of_it in kinds.items() if kind not in HISTORY | FIXED | {EVENT_IDS}) / products
    fixed = sum(of_it["bytes"] for kind, of_it in kinds.items() if kind in FIXED)
    print(f"\nbeside tiles, steps and remembered event ids: {beside:,.0f} bytes a product (target {TARGET_BYTES:,}),")
    print(f"and {fixed / 1024:,.0f} KiB for shards and the namespace\n")
    header = ["process", "MiB after warm-up", "MiB at the end", "MiB a minute"]
    print(
        rig.table(
            header,
            [
                [name, *(f"{v:,.1f}" for v in (m["first"], m["last"])), f"{m['mib_per_minute']:+.2f}"]
                for name, m in sorted(resident.items())
            ],
        )
    )
    return {
        "machine": about,
        "traffic": sent,
        "products": products,
        "keys": kinds,
        "bytes_per_product": beside,
        "bytes_fixed": fixed,
        "resident": resident,
    }


if __name__ == "__main__":
    main()
