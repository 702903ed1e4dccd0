"""Real logs as a stream of records, in their own time; clicks are synthesised where a log has only orders."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet

from simulator.announcements import Announcement
from simulator.events import HOUR_MS, MINUTE_MS, Events, Kind
from simulator.feed import Chunk, Feed, Partitions, Traffic
from simulator.retail import Log, is_retail, read_retail
from simulator.taobao import END_MS, FIRST_MS, is_taobao, read_taobao
from simulator.truth import Rules
from streaming.errors import UserError

# A year has 35,000 quarters of an hour: real logs have long nights, and one heartbeat in five minutes would outnumber the orders.
HEARTBEAT_MS: Final = 15 * MINUTE_MS
BROWSING_MS: Final = 30 * MINUTE_MS
ANY_MS: Final = 1 << 53  # later than any event


@dataclass(frozen=True, slots=True)
class ClickRatios:
    """Synthetic clicks per purchase line; the defaults were counted in the Taobao log."""

    views: float = 39.5
    carts: float = 2.4
    favourites: float = 1.4

    def scaled(self, factor: float) -> "ClickRatios":
        """So many times as many clicks."""
        return ClickRatios(self.views * factor, self.carts * factor, self.favourites * factor)


class Replay:
    """A real log as a Source for a Feed."""

    def __init__(self, log: Log, *, clicks: ClickRatios | None = None, seed: int = 0, rules: Rules | None = None) -> None:
        """`clicks`: how many to synthesise; None: the log's own only."""
        if not len(log.orders) and not len(log.clicks):
            raise UserError(f"nothing to replay: all {log.rows} rows were left out ({log.skipped})")
        self.log = log
        self.names = log.names
        self.rules = rules or Rules()
        self.period_ms = HOUR_MS
        self._ratios = clicks
        self._seed = seed
        self.lead_ms = BROWSING_MS if clicks else 0
        times = np.concatenate([log.orders.event_ms, log.clicks.event_ms])
        step_ms = self.rules.step_ms
        self.start_ms = int((times.min() - self.lead_ms) // step_ms * step_ms)
        self.last_event_ms = int(times.max())
        self.last_step_end_ms = (self.last_event_ms // step_ms + 1) * step_ms

    def feed(self, *, partitions: Partitions = Partitions(), heartbeat_ms: int = HEARTBEAT_MS) -> Feed:
        """A new stream of the whole log."""
        return Feed(self, self.start_ms, rules=self.rules, partitions=partitions, heartbeat_ms=heartbeat_ms)

    def chunks(self, feed: Feed, chunk_ms: int = 6 * HOUR_MS) -> Iterator[Chunk]:
        """Everything that the feed has not sent yet, then heartbeats just beyond the end of the last step, so that it closes."""
        yield from feed.chunks(self.last_event_ms + 1, chunk_ms)
        yield feed.finish(self.last_step_end_ms + MINUTE_MS)

    def announced(self, start_ms: int, end_ms: int, first: bool) -> list[Announcement]:
        """Nothing: real logs hold no word of what their shops knew ahead."""
        return []

    def period(self, index: int) -> Traffic:
        """The log's orders and clicks of an hour since 1970, and the synthetic clicks before these orders."""
        orders = _between(self.log.orders, index * HOUR_MS, (index + 1) * HOUR_MS)
        clicks = _between(self.log.clicks, index * HOUR_MS, (index + 1) * HOUR_MS)
        if self._ratios:
            clicks = Events.concatenate([clicks, synthetic_clicks(orders, self._ratios, np.random.default_rng([self._seed, index]))])
        return Traffic(orders, clicks)

    def notes(self) -> dict[str, Any]:
        """What a truth file or a summary says about the replay."""
        orders, clicks = self.log.orders, "real, from the log"
        if self._ratios:
            ratio = self._ratios
            clicks = f"SYNTHETIC: {ratio.views:g} views, {ratio.carts:g} carts, {ratio.favourites:g} favourites per purchase line, seed {self._seed}"
        return {
            "log": self.log.about,
            "clicks": clicks,
            "rows": self.log.rows,
            "skipped": self.log.skipped,
            "orders": int((orders.kind == Kind.PLACED).sum()),
            "cancellations": int((orders.kind == Kind.CANCELLED).sum()),
            "order_lines": len(orders.product),
            "products": len(self.names.product_ids),
            "start_ms": self.start_ms,
            "last_event_ms": self.last_event_ms,
            "last_step_end_ms": self.last_step_end_ms,
        }


def synthetic_clicks(orders: Events, ratios: ClickRatios, rng: np.random.Generator) -> Events:
    """Poisson numbers of clicks for each line of a placed order, within half an hour before it, more of them shortly before."""
    placed = orders.where(orders.kind == Kind.PLACED)
    at_ms, key = placed.event_ms[placed.line_record()], placed.key[placed.line_record()]
    line, kind = [], []
    for each, mean in ((Kind.VIEW, ratios.views), (Kind.ADD_TO_CART, ratios.carts), (Kind.WISHLIST, ratios.favourites)):
        line.append(np.repeat(np.arange(len(at_ms)), rng.poisson(mean, len(at_ms))))
        kind.append(np.full(len(line[-1]), each))
    of = np.concatenate(line)
    event_ms = at_ms[of] - 1 - (rng.random(len(of)) ** 2 * (BROWSING_MS - 1)).astype(np.int64)
    return Events.of(
        len(of), len(of), send_ms=event_ms, event_ms=event_ms, kind=np.concatenate(kind), key=key[of], product=placed.product[of]
    )


def load(
    path: Path,
    *,
    click_scale: float = 1.0,
    by: str = "item",
    seed: int = 0,
    start_ms: int = 0,
    end_ms: int = ANY_MS,
    rules: Rules | None = None,
) -> Replay:
    """A log in one of its owners' formats, recognised by its columns; only the events of [start_ms, end_ms).

    Online Retail: xlsx, csv, parquet; its clicks are synthesised at `click_scale` times the ratios (0: none). Taobao: csv, parquet; products are its
    items or categories (`by`).
    """
    kind = recognise(path)
    if kind == "taobao":
        return Replay(read_taobao(path, by=by, start_ms=start_ms or FIRST_MS, end_ms=min(end_ms, END_MS)), seed=seed, rules=rules)
    log = read_retail(path)
    if start_ms > 0 or end_ms < ANY_MS:
        log = _cut(log, start_ms, end_ms)
    ratios = ClickRatios().scaled(click_scale) if click_scale > 0 else None
    return Replay(log, clicks=ratios, seed=seed, rules=rules)


def recognise(path: Path) -> str:
    """retail or taobao; raises UserError for anything else."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix not in (".parquet", ".csv", ".xlsx"):
        raise UserError(
            f"{path.name}: a log is a .parquet, .csv or .xlsx file, in the format of Online Retail (UCI) or User Behavior (Taobao)"
        )
    if path.suffix == ".xlsx":
        return "retail"  # its reader says which columns are missing
    try:
        if path.suffix == ".parquet":
            fields = pyarrow.parquet.read_schema(path).names
        else:
            with path.open(encoding="latin-1") as file:
                fields = [field.strip('"\ufeffï»¿ ') for field in file.readline().rstrip("\r\n").split(",")]
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path.name} cannot be read: {error}") from error
    if is_taobao(fields):
        return "taobao"
    if is_retail(fields):
        return "retail"
    raise UserError(f"{path.name} is neither an Online Retail nor a Taobao file; its columns are {', '.join(fields[:12])}")


def _between(events: Events, start_ms: int, end_ms: int) -> Events:
    """Records of [start_ms, end_ms) of events that are sorted by event time."""
    first, last = np.searchsorted(events.event_ms, [start_ms, end_ms])
    return events.take(np.arange(first, last))


def _cut(log: Log, start_ms: int, end_ms: int) -> Log:
    orders = _between(log.orders, start_ms, end_ms)
    skipped = {**log.skipped, "outside the chosen days": len(log.orders.product) - len(orders.product)}
    return Log(orders, log.clicks, log.names, log.rows, skipped, log.about)
