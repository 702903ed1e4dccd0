"""A whole running system for a benchmark: servers, topics, workers with a past, and live traffic in time with the shop's clock."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import load, rig
from simulator.demo.workers import Worker, total
from simulator.embedded import Stack
from streaming import topics
from streaming.settings import Settings

# A Tuesday noon: neither a day's nor a week's end.
NOON_MS: Final = 1_767_700_800_000
HISTORY_HOURS: Final = 26
EVENTS_PER_PRODUCT_HOUR: Final = 4.0
# From the workers' start until they have taken in the past; the live traffic begins exactly then, whatever the machine.
PREPARATION_S: Final = 150.0
QUIET_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Running:
    """What runs, and when its live part begins."""

    stack: Stack
    settings: Settings
    ingest: list[Worker]
    forecast: list[Worker]
    folder: Path
    begin_ms: int  # real time at which live traffic begins
    offset_ms: int  # shop's time minus real time

    @property
    def workers(self) -> list[Worker]:
        return [*self.ingest, *self.forecast]

    def check(self) -> None:
        """Raises UserError where a worker has ended."""
        for worker in self.workers:
            worker.check()

    def traffic(self, rate: float, seconds: float, products: int) -> "subprocess.Popen[str]":
        """Starts the live traffic, in a process of its own."""
        s = self.settings
        options = {
            "broker": s.kafka_bootstrap,
            "orders": s.orders_topic,
            "clicks": s.clickstream_topic,
            "rate": rate,
            "seconds": seconds,
            "products": products,
            "begin-ms": self.begin_ms,
            "offset-ms": self.offset_ms,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return subprocess.Popen([sys.executable, "-m", "benchmarks.load", *words], cwd=rig.ROOT, stdout=subprocess.PIPE, text=True)


@contextmanager
def running(
    folder: Path, *, products: int, ingest: int, forecast: int, close_after_s: float, prepare_s: float = PREPARATION_S
) -> Iterator[Running]:
    """Everything started, its past taken in; live traffic begins `prepare_s` after the start, and a step closes `close_after_s` after that."""
    with Stack(folder) as stack, ExitStack() as stopping:
        origin_ms = int(time.time() * 1000)
        begin_ms = origin_ms + int(prepare_s * 1000)
        defaults = Settings()
        # A step closes when the watermark passes its end, and the watermark stays behind the events by the allowed lateness.
        start_ms = NOON_MS + defaults.lateness_ms - int((prepare_s + close_after_s) * 1000)
        environment = rig.environment(
            stack, namespace="bench", clock="scaled", clock_speed=1, clock_origin_ms=origin_ms, clock_start_ms=start_ms
        )
        settings = rig.settings_of(environment)
        topics.create(settings)
        names = settings.kafka_bootstrap, settings.orders_topic, settings.clickstream_topic
        past = load.history(*names, products=products, hours=HISTORY_HOURS, per_product_hour=EVENTS_PER_PRODUCT_HOUR, end_ms=start_ms)
        sent = asyncio.run(past)
        rig.progress(f"{sent:,} events of {HISTORY_HOURS} h before; starting {ingest} ingest and {forecast} forecast workers")
        workers: list[Worker] = []
        for kind, count in (("ingest", ingest), ("forecast", forecast)):
            for number in range(count):
                workers.append(Worker.start(kind, f"{kind}-{number}", folder, environment))
                stopping.callback(workers[-1].stop)
        for worker in workers:
            worker.wait_until_ready()
        whole = Running(stack, settings, workers[:ingest], workers[ingest:], folder, begin_ms, start_ms - origin_ms)
        _wait_until_caught_up(whole)
        rig.progress(f"the past is taken in; live traffic begins in {whole.begin_ms / 1000 - time.time():.0f} s")
        yield whole


def _wait_until_caught_up(whole: Running) -> None:
    """Until all steps but the running one are closed, and all forecasts are published."""
    quiet_since: float | None = None
    while time.time() * 1000 < whole.begin_ms:
        time.sleep(0.5)
        whole.check()
        samples = [worker.metrics() for worker in whole.workers]
        waiting = total(samples, "trendcast_forecast_dirty_products") + total(samples, "trendcast_ingest_lag_records")
        closed = total(samples, "trendcast_forecast_closed_steps_total") / whole.settings.shards
        if waiting or closed < HISTORY_HOURS - 2:
            quiet_since = None
            continue
        quiet_since = quiet_since or time.time()
        if time.time() - quiet_since > QUIET_S:
            return
    raise SystemExit(
        "the workers have not taken in their past in time; is the machine busy with something else? --prepare gives them longer"
    )


def finish(process: "subprocess.Popen[str]") -> str:
    """What the live traffic said at its end."""
    out, _ = process.communicate()
    with contextlib.suppress(IndexError):
        return out.strip().splitlines()[-1]
    raise SystemExit("the live traffic broke off")
