"""The demo from start to summary. Everything it starts ends with it, and its folder goes."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from simulator import producer
from simulator.compare import differences
from simulator.demand import ShopConfig
from simulator.demo import screen
from simulator.demo.check import detection, errors
from simulator.demo.watch import Watcher
from simulator.demo.workers import Samples, Worker, total
from simulator.embedded import Stack
from simulator.embedded.cache import state_dir
from simulator.embedded.processes import Port
from simulator.feed import Chunk, Feed
from simulator.producer import Pace, Producer
from simulator.replay import Replay, load
from simulator.session import NEVER_MS, chunk_ms, describe, moment, stop_on_signals, user_console
from simulator.shop import Shop
from simulator.truth import Rules, Truth
from streaming import topics
from streaming.errors import UserError
from streaming.settings import DAY_MS, HOUR_MS, Clock, Settings

# A Monday, so that the weekly rhythm of the history is easy to see.
START_MS: Final = 1_767_571_200_000
SHARDS: Final = 8
WORKERS: Final = 2  # of each kind
SHOWN_PRODUCTS: Final = 8
LOOK_S: Final = 0.5
# Where the dashboard is, unless another program has that port.
GATEWAY_PORT: Final = 8080
LINE_S: Final = 5.0  # between lines where the output is no terminal
# Steps, and silent products, are kept for longer than anything in a demo lasts, so that all sums can be compared from the first event on.
KEEP_MS: Final = 500 * DAY_MS
# Workers that are only so many real seconds behind (beside the hour that is open, and the lateness) have caught up with the shop.
NEAR_S: Final = 5.0
# Everything counted and closed within this, after the last record was sent; a busy machine takes a while for a year of real orders.
SETTLE_S: Final = 1_800.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    minutes: float | None = None  # of the live part; None: until Ctrl-C
    data: Path | None = None  # a real log instead of the simulated shop
    speed: float | None = None  # simulated time per real time; None: 480 live, a log as fast as it goes
    products: int = 1_000
    lines_per_hour: float = 600.0
    history_days: float = 28.0
    click_scale: float = 0.1
    seed: int = 0


def run(options: Options) -> int:
    """Returns the exit status: 1 where counts disagree with the truth."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # until the demo listens itself: everything that was started ends
    console = user_console()
    replay = None
    if options.data is not None:
        with console.status(f"reading {options.data.name} …"):
            replay = load(options.data, click_scale=options.click_scale, seed=options.seed, rules=Rules(step_retention_ms=KEEP_MS))
        describe(replay.notes(), console)
    home = state_dir()
    home.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="demo-", dir=home))
    try:
        with ExitStack() as stack:
            console.print("starting Kafka and Redis (the first time, Kafka is downloaded: 45 MB)", style="dim")
            servers = stack.enter_context(Stack(directory, progress=lambda text: console.print(text, style="dim")))
            demo = Demo(options, console, directory, servers, replay)
            stack.callback(demo.stop_workers)
            return asyncio.run(demo.run())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Demo:
    """One run."""

    def __init__(self, options: Options, console: Console, directory: Path, servers: Stack, replay: Replay | None) -> None:
        self._options, self._console, self._directory, self._replay = options, console, directory, replay
        self._speed = options.speed or 480.0
        self._live_ms = START_MS + int(options.history_days * DAY_MS)
        # The shop's clock shows the end of the history now, and runs on while the history is being fed: feeding catches up with it.
        self._origin_ms = int(time.time() * 1000)
        scaled = {"clock": Clock.SCALED, "clock_speed": self._speed, "clock_origin_ms": self._origin_ms, "clock_start_ms": self._live_ms}
        fields: dict[str, Any] = {
            "kafka_bootstrap": servers.kafka.address,
            "redis_url": servers.redis.url,
            "namespace": "demo",
            "shards": SHARDS,
            "step_retention_ms": KEEP_MS,
            "evict_after_ms": KEEP_MS,
            **({"clock": Clock.LOG} if replay else scaled),
            # Real logs say nothing of prices, stocks and categories.
            **({"timezone": "Europe/London", "currency": "GBP"} if replay else {"facts_topic": "product-facts"}),
        }
        self._settings = Settings(**fields)
        self._environment = {**os.environ, **{f"TRENDCAST_{name.upper()}": str(value) for name, value in fields.items()}}
        self._workers: list[Worker] = []
        self._produced = 0
        self._end_ms = NEVER_MS
        self._seen: tuple[float, int, int] = (time.monotonic(), 0, 0)
        self._rates = (0.0, 0.0)
        self._printed = 0.0

    def stop_workers(self) -> None:
        for worker in self._workers:
            worker.stop()

    async def run(self) -> int:
        s = self._settings
        topics.create(s)
        with self._console.status("starting a gateway, two forecast and two ingest workers (TensorFlow takes a few seconds) …"):
            gateway = await self._started("gateway", [_port(GATEWAY_PORT)])
            await self._started("forecast", [None] * WORKERS)
            # Last, and the history follows at once: sources without a record for a minute go with the clock, past the history.
            await self._started("ingest", [None] * WORKERS)
        self._console.print(f"dashboard: [bold]http://127.0.0.1:{gateway[0].port.number}/[/]")
        stop = stop_on_signals()
        async with (
            Watcher(s.kafka_bootstrap, s.forecasts_topic, s.alerts_topic) as watcher,
            Producer(
                s.kafka_bootstrap,
                producer.TopicNames(s.orders_topic, s.clickstream_topic, s.facts_topic, s.context_topic),
                compression="lz4",
            ) as sender,
        ):
            partitions = await sender.partitions()
            if self._replay is not None:
                return await self._run_log(self._replay, self._replay.feed(partitions=partitions), sender, watcher, stop)
            config = ShopConfig(
                products=self._options.products, lines_per_hour=self._options.lines_per_hour, opened_ms=START_MS, trends_per_day=24.0
            )
            shop = Shop(config, self._options.seed, rules=Rules.of(s))
            return await self._run_shop(shop, shop.feed(START_MS, partitions=partitions), sender, watcher, stop)

    async def _started(self, kind: str, ports: Sequence[Port | None]) -> list[Worker]:
        """A worker of this kind for each port (None: any), once they are ready."""
        made = [Worker.start(kind, f"{kind}-{n}", self._directory, self._environment, port) for n, port in enumerate(ports, 1)]
        self._workers += made
        for worker in made:
            await asyncio.to_thread(worker.wait_until_ready)
        return made

    # ---- the simulated shop

    async def _run_shop(self, shop: Shop, feed: Feed, sender: Producer, watcher: Watcher, stop: asyncio.Event) -> int:
        truth = feed.truth()
        watcher.live_from_ms = self._live_ms
        await self._send_history(feed, truth, sender, stop)
        # From here on the pace is the clock's; what it has passed meanwhile is sent at once. The live part begins when the workers have caught up.
        pace = Pace(self._speed, self._origin_ms, self._live_ms)
        sending = asyncio.create_task(self._sending(self._until_the_end(feed), truth, sender, stop, pace))
        await self._while_looking("catching up", self._caught_up(stop), watcher)
        live_from_ms = self._shop_ms()
        watcher.live_from_ms = live_from_ms
        watcher.freshness_ms.clear()
        if self._options.minutes is not None:
            self._end_ms = live_from_ms + int(self._options.minutes * 60_000 * self._speed)
        await self._while_looking("live", sending, watcher)
        await producer.send([feed.finish(feed.now_ms)], sender, truth=truth)
        await self._while_looking("settling", self._settled(watcher), watcher)
        good = self._compare(truth)
        self._say_published(watcher)
        found = detection(shop.trends(START_MS, truth.until_ms), watcher.alerts, live_from_ms, truth.until_ms)
        self._console.print(
            f"trend events while live: {found.injected} injected, {found.detected} of them detected; "
            f"{found.alerts} alerts fired, {found.false_alerts} of them false"
        )
        accuracy = errors(truth.by_step(live_from_ms - 8 * DAY_MS), watcher.issued, live_from_ms, truth.until_ms - HOUR_MS)
        if accuracy is None:
            self._console.print("forecast error: no hour began and ended while live; let it run longer")
        else:
            self._console.print(
                f"forecast error (WAPE of the next hour, {accuracy.pairs:,} product hours): {accuracy.forecast:.3f}, "
                f"seasonal naive (a week before): {accuracy.seasonal_naive:.3f}"
            )
        return 0 if good else 1

    async def _send_history(self, feed: Feed, truth: Truth, sender: Producer, stop: asyncio.Event) -> None:
        """As fast as it goes, until the shop's clock is caught up with."""

        def chunks() -> Iterator[Chunk]:
            while feed.now_ms < self._shop_ms() - HOUR_MS:
                yield feed.advance(min(feed.now_ms + 6 * HOUR_MS, self._shop_ms()))

        await self._with_bar("history", chunks(), START_MS, self._live_ms, truth, sender, stop)

    def _until_the_end(self, feed: Feed) -> Iterator[Chunk]:
        while feed.now_ms < self._end_ms:
            yield feed.advance(min(feed.now_ms + chunk_ms(self._speed), self._end_ms))

    async def _caught_up(self, stop: asyncio.Event) -> None:
        """Returns when the workers have counted, closed and forecast what came until a few real seconds ago."""
        near_s = 2 * 3600 + self._speed * NEAR_S
        while not stop.is_set():
            samples = await self._look()
            behind_s = max((process.get("trendcast_forecast_watermark_lag_seconds", 0.0) for process in samples), default=0.0)
            if self._produced and 0 < behind_s < near_s:
                return
            await asyncio.sleep(LOOK_S)

    # ---- a real log

    async def _run_log(self, replay: Replay, feed: Feed, sender: Producer, watcher: Watcher, stop: asyncio.Event) -> int:
        truth, speed = feed.truth(), self._options.speed
        chunks = replay.chunks(feed) if speed is None else replay.chunks(feed, chunk_ms(speed))
        pace = None if speed is None else Pace(speed, time.time() * 1000, replay.start_ms)
        await self._while_looking("replay", self._sending(chunks, truth, sender, stop, pace), watcher)
        if stop.is_set():
            await producer.send([feed.finish(feed.now_ms)], sender, truth=truth)
        await self._while_looking("settling", self._settled(watcher), watcher)
        good = self._compare(truth)
        self._say_published(watcher)
        return 0 if good else 1

    # ---- sending and looking

    async def _sending(self, chunks: Any, truth: Truth, sender: Producer, stop: asyncio.Event, pace: Pace | None) -> None:
        before = self._produced

        def count(progress: producer.Progress) -> None:
            self._produced = before + progress.records

        await producer.send(chunks, sender, truth=truth, pace=pace, progress=count, stop=stop)

    async def _with_bar(
        self, title: str, chunks: Any, start_ms: int, end_ms: int, truth: Truth, sender: Producer, stop: asyncio.Event
    ) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as bars:
            task = bars.add_task(title, total=end_ms - start_ms, state="")

            def show(progress: producer.Progress) -> None:
                self._produced = progress.records
                bars.update(task, completed=progress.until_ms - start_ms, state=f"{moment(progress.until_ms)}  {progress.records:,} events")

            await producer.send(chunks, sender, truth=truth, progress=show, stop=stop)

    async def _while_looking(self, phase: str, work: Any, watcher: Watcher) -> None:
        """Run `work` and draw what happens meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            await self._look_until_done(phase, task, watcher)
        finally:
            task.cancel()
            await asyncio.wait({task})
        task.result()

    async def _look_until_done(self, phase: str, task: "asyncio.Future[None]", watcher: Watcher) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, vertical_overflow="crop") as live:
                while not task.done():
                    live.update(screen.draw(await self._view(phase, watcher)), refresh=True)
                    await asyncio.wait({task}, timeout=LOOK_S)
        else:
            while not task.done():
                if time.monotonic() - self._printed >= LINE_S:
                    self._printed = time.monotonic()
                    self._console.print(screen.line(await self._view(phase, watcher)), highlight=False, soft_wrap=True)
                await asyncio.wait({task}, timeout=LOOK_S)

    async def _look(self) -> list[Samples]:
        """Metrics of all workers. Raises UserError where one has ended."""
        for worker in self._workers:
            worker.check()
        return list(await asyncio.gather(*(asyncio.to_thread(worker.metrics) for worker in self._workers)))

    async def _view(self, phase: str, watcher: Watcher) -> screen.View:
        samples = await self._look()
        now, produced, forecasts = time.monotonic(), self._produced, watcher.forecasts
        then, produced_then, forecasts_then = self._seen
        if now - then >= 1.0:
            self._rates = (produced - produced_then) / (now - then), (forecasts - forecasts_then) / (now - then)
            self._seen = now, produced, forecasts
        best = sorted(watcher.last.values(), key=lambda f: -f.cumulative[0].mean)[:SHOWN_PRODUCTS]
        reached = max((f.as_of for f in best), default=START_MS)
        return screen.View(
            phase=phase,
            shop_ms=reached if self._replay else self._shop_ms(),
            produced=produced,
            produced_per_s=self._rates[0],
            counted=int(_records(samples, "accepted")),
            rejected=int(_records(samples, "rejected")),
            duplicates=int(total(samples, "trendcast_ingest_duplicates_total")),
            lag=int(total(samples, "trendcast_ingest_lag_records")),
            products=int(total(samples, "trendcast_forecast_live_products")),
            forecasts=forecasts,
            forecasts_per_s=self._rates[1],
            freshness_ms=watcher.percentiles(watcher.recent_ms),
            firing=watcher.firing(),
            forecasts_of=best,
        )

    def _shop_ms(self) -> int:
        return self._live_ms + int((time.time() * 1000 - self._origin_ms) * self._speed)

    # ---- the end

    async def _settled(self, watcher: Watcher) -> None:
        """Until everything that was sent is counted, and forecasts have followed."""
        deadline = time.monotonic() + SETTLE_S
        quiet, last = 0, (-1.0, -1)
        while quiet < 4:
            samples = await self._look()
            at = total(samples, "trendcast_ingest_records_total"), watcher.forecasts
            waiting = total(samples, "trendcast_ingest_lag_records") + total(samples, "trendcast_forecast_dirty_products")
            quiet = quiet + 1 if not waiting and at == last else 0
            last = at
            if time.monotonic() > deadline:
                raise UserError(
                    f"not everything was counted and forecast within {SETTLE_S:g} s; the workers' logs are in {self._directory}"
                )
            await asyncio.sleep(LOOK_S)

    def _compare(self, truth: Truth) -> bool:
        """Export what Redis holds and compare it with the truth; says what differs."""
        path = self._directory / "features.parquet"
        command = [sys.executable, "-m", "streaming.cli", "export", "features", str(path)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"the export failed: {done.stderr.strip()}")
        counted = pd.read_parquet(path)
        wrong = differences(truth, counted)
        self._console.rule("summary")
        rejected = truth.rejected()
        self._console.print(
            f"events: {truth.total('sent'):,} produced = {truth.total('counted'):,} to be counted + {truth.total('duplicates'):,} duplicates + "
            f"{sum(rejected.values()):,} to be rejected ({', '.join(f'{n:,} {name}' for name, n in rejected.items())})"
        )
        if wrong.empty:
            self._console.print(
                f"[green]counted in Redis: the same, product by product[/]: {counted['product_id'].nunique():,} products, all measures, no difference"
            )
        else:
            self._console.print(f"[red]counted in Redis: {len(wrong):,} sums differ from the truth[/], the first of them:")
            self._console.print(wrong.head(20).to_string(index=False))
        return bool(wrong.empty)

    def _say_published(self, watcher: Watcher) -> None:
        said = ", ".join(f"{n:,} {status}" for status, n in sorted(watcher.alert_messages.items())) or "none"
        self._console.print(f"published: {watcher.forecasts:,} forecasts of {len(watcher.last):,} products; alert messages: {said}")
        fresh = watcher.percentiles(watcher.freshness_ms)
        if fresh is not None:
            self._console.print(f"freshness (event sent → forecast received): p50 {fresh[0]:.0f} ms, p99 {fresh[1]:.0f} ms")


def _port(wanted: int) -> Port:
    """That port, or any free one where another program has it."""
    try:
        return Port(wanted)
    except UserError:
        return Port()


def _records(samples: list[Samples], outcome: str) -> float:
    return sum(
        value
        for process in samples
        for name, value in process.items()
        if name.startswith("trendcast_ingest_records_total{") and f"outcome={outcome}" in name
    )
