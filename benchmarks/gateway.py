"""One gateway process under load: open streams, slow readers, memory; and the time from a forecast that can be consumed to its painting in a real browser.

    make bench-gateway
    python -m benchmarks.gateway --rate 2000 --streams 200 --slow 10 --seconds 120 --painted 120

A real Kafka, `trendcast gateway`, one process that sends forecasts of all products in turn, and one that reads the streams, all on this machine. The browser is
Debian's Chromium (`apt-get install chromium`) with one page on a product; readers beside it follow the same stream by plain HTTP.
"""

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from benchmarks import rig
from simulator.demo.workers import Worker
from simulator.embedded import Stack
from streaming import topics
from streaming.contracts import Forecast, encode
from streaming.settings import HOUR_MS
from tests.gateway.messages import alert, facts, forecast

TARGET_PAINTED_MS: Final = 1_000
TICK_S: Final = 0.02
# The page's product: every message of it holds a value that was not seen before.
LOOKED_AT: Final = "p00000"
LOOK_EVERY_S: Final = 0.73
FIRING: Final = 40
# From product to product, so that those with an alert come evenly.
STRIDE: Final = 7_919
BATCH: Final = 120
# A slow reader takes so much, a quarter of what it is sent.
SLOW_BYTES_PER_S: Final = 2_000
SETTLE_S: Final = 10.0
PAINTED: Final = """() => { window.painted = []; const meta = () => document.getElementById('p-meta')?.textContent;
  let last = ''; new MutationObserver(() => requestAnimationFrame(() => { const text = meta(); if (text && text !== last) { last = text;
    window.painted.push([Date.now(), +text.match(/([\\d,.]+) sold/)[1].replaceAll(',', '')]); } }))
  .observe(document.body, { subtree: true, childList: true, characterData: true }); }"""


def varied(product: str, rng: random.Random, step_ms: int) -> Forecast:
    """A forecast whose numbers have the digits that real ones have."""
    mean = rng.lognormvariate(2, 1)
    plain = forecast(product, mean=mean, step_ms=step_ms)
    digits = [[round(value * rng.uniform(0.9, 1.1), 4) for value in of_level] for of_level in plain.quantiles]
    return msgspec.structs.replace(plain, quantiles=digits, mean=[round(mean * rng.uniform(0.9, 1.1), 4) for _ in plain.mean])


async def produce(bootstrap: str, name: str, products: int, rate: float, seconds: float) -> dict[str, Any]:
    """All products once, alerts of some, then `rate` forecasts a second; of the looked-at product, when the broker had confirmed which value."""
    rng, step_ms = random.Random(7), int(time.time() * 1000) // HOUR_MS * HOUR_MS
    shop = [varied(f"p{i:05}", rng, step_ms) for i in range(products)]
    confirmed: list[tuple[float, float]] = []
    waiting: set[asyncio.Task[None]] = set()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=2, max_batch_size=1 << 20) as producer:

        async def send(topic: str, key: str, value: bytes) -> Any:
            return await producer.send(f"{topic}-{name}", key=key.encode(), value=value)

        for one in shop:
            await send("facts", one.product_id, encode(facts(one.product_id, stock=round(one.mean[0] * 60))))
            await send("forecasts", one.product_id, encode(one))
        for one in shop[:FIRING]:
            await send("alerts", one.product_id, encode(alert(one.product_id, valid_until=2**45)))
        await producer.flush()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the others are ready, too

        async def look(value: float) -> None:
            changed = msgspec.structs.replace(shop[0], revision=(shop[0].revision[0], int(value)), running=_sold(shop[0], value))
            await (await send("forecasts", LOOKED_AT, encode(changed, finite=True)))
            confirmed.append((time.time() * 1000, value))

        begun, sent, looked = time.monotonic(), 0, 0
        while (elapsed := time.monotonic() - begun) < seconds:
            if (due := int(elapsed * rate) - sent) > 0:
                builder = producer.create_batch()
                for _ in range(min(due, BATCH)):
                    sent += 1
                    one = shop[1 + sent * STRIDE % (products - 1)]
                    changed = msgspec.structs.replace(one, revision=(one.revision[0], 1 + sent), running=_sold(one, float(sent % 97)))
                    builder.append(key=one.product_id.encode(), value=encode(changed, finite=True), timestamp=None)
                builder.close()
                await producer.send_batch(builder, f"forecasts-{name}", partition=sent % topics.PARTITIONS)
            if elapsed > looked * LOOK_EVERY_S:
                looked += 1
                task = asyncio.create_task(look(1_000.0 + looked))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
            await asyncio.sleep(TICK_S)
        took = time.monotonic() - begun
        await producer.flush()
        await asyncio.gather(*waiting)
    return {"sent": sent, "rate": sent / took, "confirmed": confirmed, "message_bytes": len(encode(shop[5]))}


def _sold(one: Forecast, value: float) -> Any:
    assert one.running is not None
    return msgspec.structs.replace(one.running, observed=value)


@dataclass
class Read:
    """What all awake readers got."""

    frames: int = 0
    bytes: int = 0
    delays_ms: list[float] = field(default_factory=list)
    lost: int = 0


async def read(port: int, awake: int, slow: int, seconds: float) -> dict[str, Any]:
    """Follow the stream `awake + slow` times."""
    found, slow_found = Read(), Read()
    until = time.monotonic() + seconds
    readers = [_follow(port, found, until, None) for _ in range(awake)] + [
        _follow(port, slow_found, until, SLOW_BYTES_PER_S) for _ in range(slow)
    ]
    await asyncio.gather(*readers)
    return {
        "frames_per_s": found.frames / seconds,
        "bytes_per_s": found.bytes / seconds,
        "lost": found.lost + slow_found.lost,
        "frame_p50_ms": _percentile(found.delays_ms, 50),
        "frame_p99_ms": _percentile(found.delays_ms, 99),
        "slow_frames": slow_found.frames / max(slow, 1),
        "awake_frames": found.frames / max(awake, 1),
    }


async def _follow(port: int, found: Read, until: float, bytes_per_s: float | None) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=16 * 1024)
    writer.write(b"GET /api/v1/stream?product=%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % LOOKED_AT.encode())
    tail = b""
    try:
        while (left := until - time.monotonic()) > 0:
            try:
                chunk = await asyncio.wait_for(reader.read(4096 if bytes_per_s else 65536), left)
            except TimeoutError:
                break
            if not chunk:
                found.lost += 1
                break
            text = tail + chunk
            found.frames += text.count(b"event: frame") - tail.count(b"event: frame")
            found.bytes += len(chunk)
            at = text.rfind(b'"sent":')
            if at > len(tail) and len(text) > at + 20 and bytes_per_s is None:
                found.delays_ms.append(time.time() * 1000 - int(text[at + 7 : at + 20]))
            tail = text[-24:]
            if bytes_per_s:
                await asyncio.sleep(len(chunk) / bytes_per_s)
    finally:
        writer.close()


def _percentile(values: Sequence[float], of: float) -> float:
    return float(np.percentile(values, of)) if len(values) else float("nan")


def child(*arguments: object) -> "subprocess.Popen[str]":
    """This program in another process."""
    program = [sys.executable, "-m", "benchmarks.gateway", *map(str, arguments)]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=rig.ROOT)


def prepared(process: "subprocess.Popen[str]") -> None:
    """Returns when the child has sent everything once."""
    assert process.stdout is not None
    process.stdout.readline()


def go(process: "subprocess.Popen[str]") -> None:
    """The child's time begins now."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def answered(process: "subprocess.Popen[str]") -> Any:
    """The JSON that a child prints last."""
    out, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError("a part of the benchmark failed; its error stands above")
    return json.loads(out.splitlines()[-1])


@dataclass(frozen=True)
class Rig:
    """A broker with the topics, and a gateway."""

    bootstrap: str
    name: str
    worker: Worker

    def sampled(self) -> dict[str, float]:
        """Records into the view, processor seconds, resident MiB."""
        metrics, pid = self.worker.metrics(), self.worker.server.pid
        applied = sum(value for name, value in metrics.items() if name.startswith("trendcast_gateway_records_total"))
        return {
            "applied": applied,
            "merged": metrics["trendcast_gateway_merged_changes_total"],
            "cpu_s": rig.cpu_seconds(pid),
            "mib": rig.resident_bytes(pid) / 2**20,
            "at": time.monotonic(),
        }


def begin(stack: Stack, folder: Path, name: str) -> Rig:
    """Topics and a gateway."""
    chosen = {f"{topic}_topic": f"{topic}-{name}" for topic in ("orders", "facts", "forecasts", "alerts", "scores", "feedback")}
    environment = rig.environment(
        stack, namespace=name, clickstream_topic=f"clicks-{name}", dead_letters_topic=f"dead-{name}", shards=1, **chosen
    )
    topics.create(rig.settings_of(environment))
    worker = Worker.start("gateway", f"gateway-{name}", folder, environment)
    worker.wait_until_ready()
    return Rig(stack.kafka.address, name, worker)


def loaded(whole: Rig, chosen: argparse.Namespace) -> dict[str, Any]:
    """Many streams, some of them slow."""
    producing = child("produce", whole.bootstrap, whole.name, chosen.products, chosen.rate, SETTLE_S + chosen.seconds)
    prepared(producing)
    go(producing)
    reading = child("read", whole.worker.port.number, chosen.streams - chosen.slow, chosen.slow, SETTLE_S + chosen.seconds)
    time.sleep(SETTLE_S)
    samples = [whole.sampled()]
    while samples[-1]["at"] < samples[0]["at"] + chosen.seconds - 5:
        time.sleep(5)
        samples.append(whole.sampled())
    first, last = samples[0], samples[-1]
    took = last["at"] - first["at"]
    produced, got = answered(producing), answered(reading)
    return {
        **got,
        "sent_per_s": produced["rate"],
        "message_bytes": produced["message_bytes"],
        "applied_per_s": (last["applied"] - first["applied"]) / took,
        "merged_per_s": (last["merged"] - first["merged"]) / took,
        "cores": (last["cpu_s"] - first["cpu_s"]) / took,
        "mib_after_settling": first["mib"],
        "mib_at_most": max(sample["mib"] for sample in samples),
        "mib_at_the_end": last["mib"],
    }


def painted(whole: Rig, chosen: argparse.Namespace) -> dict[str, Any]:
    """From the broker's confirmation to the painting."""
    from playwright.sync_api import sync_playwright

    producing = child("produce", whole.bootstrap, whole.name, chosen.products, chosen.rate, SETTLE_S + chosen.painted)
    prepared(producing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"http://127.0.0.1:{whole.worker.port.number}/p/{LOOKED_AT}")
        page.wait_for_selector("body[data-conn=live] #p-meta")
        page.evaluate(PAINTED)
        reading = child("read", whole.worker.port.number, chosen.readers, 0, SETTLE_S + chosen.painted)
        go(producing)
        page.wait_for_timeout(SETTLE_S * 1000)
        from_ms = time.time() * 1000
        produced = answered(producing)
        page.wait_for_timeout(2_000)
        seen = page.evaluate("() => window.painted")
        browser.close()
    got = answered(reading)
    delays = [
        min((at for at, value in seen if value >= wanted), default=float("inf")) - at_ms
        for at_ms, wanted in produced["confirmed"]
        if at_ms > from_ms
    ]
    return {
        "samples": len(delays),
        "painted_p50_ms": _percentile(delays, 50),
        "painted_p99_ms": _percentile(delays, 99),
        "painted_most_ms": max(delays),
        "sent_per_s": produced["rate"],
        "reader_frame_p99_ms": got["frame_p99_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2_000, help="forecasts a second")
    parser.add_argument("--products", type=int, default=5_000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--slow", type=int, default=10, help="of these, slow readers")
    parser.add_argument("--seconds", type=float, default=120, help="of the load")
    parser.add_argument("--painted", type=float, default=120, help="seconds with a browser")
    parser.add_argument("--readers", type=int, default=49, help="HTTP readers beside the browser")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    about = rig.machine()
    print(rig.said(about))
    with tempfile.TemporaryDirectory(prefix="bench-gateway-", ignore_cleanup_errors=True) as folder, Stack(Path(folder)) as stack:
        figures: dict[str, Any] = {"machine": about, "options": {k: v for k, v in vars(chosen).items() if k != "json"}}
        for part, measure in (("load", loaded), ("browser", painted)):
            whole = begin(stack, Path(folder), part)
            try:
                rig.progress(part)
                figures[part] = measure(whole, chosen)
            finally:
                whole.worker.stop()
    print(report(figures))
    print(f"written to {rig.write('gateway', figures, chosen.json)}")


def report(figures: dict[str, Any]) -> str:
    """Markdown."""
    load, browser, options = figures["load"], figures["browser"], figures["options"]
    rows = [
        ("forecasts in, a second", f"{load['applied_per_s']:,.0f} applied of {load['sent_per_s']:,.0f} sent, {load['message_bytes']:,} bytes each"),
        ("open streams", f"{options['streams']}, {options['slow']} of them slow; {load['lost']} lost"),
        ("frames to awake readers, a second", f"{load['frames_per_s']:,.0f}; sent → read p50 {load['frame_p50_ms']:.0f} ms, p99 {load['frame_p99_ms']:.0f} ms"),
        ("frames a reader got", f"awake {load['awake_frames']:.0f}, slow {load['slow_frames']:.0f}; {load['merged_per_s']:,.0f} changes merged a second"),
        ("processor", f"{load['cores']:.2f} cores"),
        ("memory", f"{load['mib_after_settling']:.0f} MiB settled, {load['mib_at_most']:.0f} at most, {load['mib_at_the_end']:.0f} at the end"),
        (
            f"consumable → painted, one browser and {options['readers']} readers",
            f"p50 {browser['painted_p50_ms']:.0f} ms, p99 {browser['painted_p99_ms']:.0f} ms (target {TARGET_PAINTED_MS:,}), "
            f"most {browser['painted_most_ms']:.0f} ms, of {browser['samples']}",
        ),
    ]  # fmt: skip
    return rig.table(["", "measured"], rows)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["produce", bootstrap, name, products, rate, seconds]:
            print(json.dumps(asyncio.run(produce(bootstrap, name, int(products), float(rate), float(seconds)))))
        case ["read", port, awake, slow, seconds]:
            print(json.dumps(asyncio.run(read(int(port), int(awake), int(slow), float(seconds)))))
        case _:
            main()
