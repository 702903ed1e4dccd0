"""A producing command from its first record to its summary: signals, progress, truth file, table."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from simulator import producer
from simulator.feed import Chunk, Feed
from simulator.producer import Pace, Producer
from simulator.truth import Truth
from streaming.errors import UserError


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch of simulated time that is sent in one way."""

    title: str
    chunks: Iterable[Chunk]
    start_ms: int
    end_ms: int | None  # None: until it is stopped
    speed: float | None = None  # simulated per real time; None: as fast as it goes


# Chunks a second of a leg with a speed: smooth to look at.
CHUNKS_PER_SECOND: Final = 4
# The end of a leg that has none.
NEVER_MS: Final = 1 << 60


def chunk_ms(speed: float) -> int:
    """Simulated length of the chunks at a speed."""
    return max(int(speed * 1000 / CHUNKS_PER_SECOND), 1)


def legs(feed: Feed, live_ms: int, end_ms: int | None, speed: float) -> list[Leg]:
    """What the feed has before `live_ms` as fast as it goes, then at `speed` to `end_ms` (None: until it is stopped)."""
    start_ms = feed.now_ms
    parts = [Leg("history", feed.chunks(live_ms), start_ms, live_ms)] if live_ms > start_ms else []
    if end_ms is None or end_ms > live_ms:
        parts.append(Leg("live", feed.chunks(NEVER_MS if end_ms is None else end_ms, chunk_ms(speed)), live_ms, end_ms, speed))
    return parts


async def run(legs: Iterable[Leg], sender: Producer, truth: Truth, console: Console) -> bool:
    """Send legs one after another, with a bar for each; SIGINT and SIGTERM end between two chunks. Returns whether everything was sent."""
    stop = stop_on_signals()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        for leg in legs:
            length = None if leg.end_ms is None else leg.end_ms - leg.start_ms
            task = bars.add_task(leg.title, total=length, state="")
            started = time.monotonic()

            def show(progress: producer.Progress, task: Any = task, leg: Leg = leg, started: float = started) -> None:
                rate = progress.records / max(time.monotonic() - started, 1e-3)
                state = f"{moment(progress.until_ms)}  {progress.records:,} records  {rate:,.0f}/s"
                bars.update(task, completed=progress.until_ms - leg.start_ms, state=state)

            pace = None if leg.speed is None else Pace(leg.speed, time.time() * 1000, leg.start_ms)
            await producer.send(leg.chunks, sender, truth=truth, pace=pace, progress=show, stop=stop)
            if stop.is_set():
                return False
    return True


def user_console() -> Console:
    """Where commands talk to people. aiokafka's warnings would tear the bars apart; what matters of them is raised as UserError."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return Console(stderr=True)


def stop_on_signals() -> asyncio.Event:
    """An event that the first SIGINT or SIGTERM sets; the second one ends the program as usual, should the broker keep us waiting."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, first)
    return stop


def summarise(truth: Truth, console: Console, truth_dir: Path | None) -> None:
    """Print what was sent and what a perfect consumer counts of it; write the truth where a folder is named."""
    table = Table(title="sent, and what of it must be counted", title_justify="left")
    for title in ("records", "orders", "clickstream"):
        table.add_column(title, justify="left" if title == "records" else "right")
    for row in ("sent", "counted", "late", "duplicates", "heartbeats"):
        table.add_row(row, f"{truth.counts[f'orders.{row}']:,}", f"{truth.counts[f'clickstream.{row}']:,}")
    console.print(table)
    console.print("to be rejected: " + ", ".join(f"{n:,} {name}" for name, n in truth.rejected().items()))
    if truth_dir is not None:
        truth.write(truth_dir)
        console.print(f"truth written to {truth_dir}: truth.json, products.parquet, steps.parquet")


def describe(notes: Mapping[str, Any], console: Console) -> None:
    """Print what a replay is going to send, and what of the file it leaves out."""
    console.print(notes["log"], highlight=False)
    console.print(
        f"{notes['rows']:,} rows: {notes['orders']:,} orders and {notes['cancellations']:,} cancellations of {notes['order_lines']:,} lines, "
        f"{notes['products']:,} products, {moment(notes['start_ms'])} to {moment(notes['last_event_ms'])} UTC"
    )
    for reason, n in notes["skipped"].items():
        console.print(f"left out: {n:,} rows, {reason}")
    console.print(f"clicks: {notes['clicks']}")


def moment(ms: int) -> str:
    """A moment for people, in UTC.

    >>> moment(1_760_000_000_000)
    '2025-10-09 08:53'
    """
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def parse_moment(text: str, now_ms: Callable[[], float] = lambda: time.time() * 1000) -> int:
    """Epoch ms of `now`, or of a date or time in ISO 8601 (UTC unless it says otherwise); raises UserError.

    >>> parse_moment("2026-01-05"), parse_moment("2026-01-05T01:00+01:00"), parse_moment("now", now_ms=lambda: 61_000)
    (1767571200000, 1767571200000, 60000)
    """
    if text == "now":
        return int(now_ms()) // 60_000 * 60_000
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no date or time; write it like 2026-01-05 or 2026-01-05T12:00+01:00") from error
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)
