"""What a perfect consumer would have counted: the rules of counting, written a second time and kept apart from the program's own.

A record is judged against the watermark of its own source (topic and partition) before it: the running maximum, over counted records and
heartbeats in sending order, of min(event time, Kafka timestamp) − lateness (heartbeats: min(declared, Kafka timestamp)).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from simulator.events import ABSENT, DAY_MS, HOUR_MS, MINUTE_MS, Events, Kind, Names, Topic
from simulator.faults import fault_name

MEASURES: Final = (
    *("units", "orders", "revenue", "cancelled_units", "returned_units"),
    *("views", "carts", "uncarts", "favourites"),
    *("netted_units", "netted_orders"),
)
# Integers per natural unit: thousandths of units, 1/10,000 of money, whole counts.
SCALES: Final = np.array([1_000, 1, 10_000, 1_000, 1_000, 1, 1, 1, 1, 1_000, 1])
UNITS, ORDERS, REVENUE, CANCELLED, RETURNED = range(5)
CLICK_MEASURE: Final = {Kind.VIEW: 5, Kind.ADD_TO_CART: 6, Kind.REMOVE_FROM_CART: 7, Kind.WISHLIST: 8}
NETTED_UNITS, NETTED_ORDERS = 9, 10

# Rows of sums that may lie about unmerged: some 9 MB.
MERGE_ROWS: Final = 100_000
NEVER: Final = np.iinfo(np.int64).min  # watermark of a source that has said nothing yet


class ConsumerSettings(Protocol):
    """The program's settings, as far as they decide what counts."""

    @property
    def lateness_ms(self) -> int: ...
    @property
    def future_ms(self) -> int: ...
    @property
    def step_ms(self) -> int: ...
    @property
    def step_retention_ms(self) -> int: ...
    @property
    def currency(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What the consumer does; the defaults are its own."""

    lateness_ms: int = 10 * MINUTE_MS
    future_ms: int = 5 * MINUTE_MS
    step_ms: int = HOUR_MS
    step_retention_ms: int = 8 * DAY_MS
    currency: str | None = None  # orders in another one have no revenue; None: all have

    @classmethod
    def of(cls, settings: ConsumerSettings) -> Self:
        """The rules of a consumer with these settings."""
        return cls(settings.lateness_ms, settings.future_ms, settings.step_ms, settings.step_retention_ms, settings.currency)


class Cells(NamedTuple):
    """Sums per step and product, sorted and distinct."""

    step: npt.NDArray[np.int64]  # (k,) step index
    product: npt.NDArray[np.int64]  # (k,) index
    sums: npt.NDArray[np.int64]  # (k, measures) integers, see SCALES


@dataclass(frozen=True, slots=True)
class Increment:
    """What some records add to the truth."""

    cells: Cells
    counts: Mapping[str, int]  # see Truth
    until_ms: int  # everything that was sent before is in it


@dataclass(frozen=True, slots=True)
class Judged:
    """The fate of each record; shape (n,) each."""

    before_ms: npt.NDArray[np.int64]  # its source's watermark before it
    future: npt.NDArray[np.bool_]
    expired: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]  # decodable and not rejected; copies are "counted" here, and folded once


class Sources:
    """The watermarks of one topic's partitions; records are shown to it in sending order."""

    def __init__(self, rules: Rules, partitions: int) -> None:
        self._rules = rules
        self.watermark_ms = np.full(partitions, NEVER, dtype=np.int64)

    def judge(self, events: Events, partition: npt.NDArray[np.int64]) -> Judged:
        """Judge records that are sorted by partition (shape (n,)), in sending order within each; remember the watermarks."""
        rules = self._rules
        heartbeat = events.kind == Kind.HEARTBEAT
        decodable = (events.fault == 0) & ~heartbeat
        future = decodable & (events.event_ms > events.send_ms + rules.future_ms)
        said = np.minimum(events.event_ms, events.send_ms) - np.where(heartbeat, 0, rules.lateness_ms)
        # An expired record lies far behind its watermark, so it never raises it and need not be known here.
        raises = np.where((decodable & ~future) | heartbeat, said, NEVER)
        before = np.empty(len(events), dtype=np.int64)
        edges = np.searchsorted(partition, np.arange(len(self.watermark_ms) + 1))
        for source, (start, end) in enumerate(pairwise(edges.tolist())):
            running = np.maximum.accumulate(np.concatenate(([self.watermark_ms[source]], raises[start:end])))
            before[start:end] = running[:-1]
            self.watermark_ms[source] = running[-1]
        step_end = (events.event_ms // rules.step_ms + 1) * rules.step_ms
        oldest = np.where(before == NEVER, NEVER, before - np.where(before == NEVER, 0, rules.step_retention_ms))
        expired = decodable & ~future & (step_end <= oldest)
        return Judged(before, future, expired, decodable & ~future & ~expired)


def fold(events: Events, judged: Judged, rules: Rules, names: Names) -> Cells:
    """Sums of the counted records, copies once.

    A cancellation nets the step of `placed_ms`, unless that is after the cancellation, while the step ends after the source's watermark, and counts
    there as netted; otherwise it counts as cancelled at its own time.
    """
    products = len(names.product_ids)
    paid = rules.currency is None or names.currency in (None, rules.currency)
    counted = judged.counted & ~events.copy
    placed_step_end = (events.placed_ms // rules.step_ms + 1) * rules.step_ms
    placed_before = (events.placed_ms != ABSENT) & (events.placed_ms <= events.event_ms)
    nets = (events.kind == Kind.CANCELLED) & placed_before & (placed_step_end > judged.before_ms)
    step = np.where(nets, events.placed_ms, events.event_ms) // rules.step_ms

    all_records = events.line_record()
    chosen = counted[all_records]
    record, product, quantity = all_records[chosen], events.product[chosen], events.quantity[chosen]
    amount = np.rint(quantity / 1_000 * events.price[chosen] * 10_000).astype(np.int64)
    kind = events.kind[record]
    sign = np.where(kind == Kind.PLACED, 1, np.where(nets[record], -1, 0))
    once = np.zeros(len(record), dtype=np.int64)  # two lines of one product in one order are one order
    once[np.unique(record * products + product, return_index=True)[1]] = 1

    lines = np.zeros((len(MEASURES), len(record)), dtype=np.int64)
    lines[UNITS], lines[ORDERS], lines[REVENUE] = sign * quantity, sign * once, sign * amount * paid
    lines[CANCELLED] = np.where((kind == Kind.CANCELLED) & ~nets[record], quantity, 0)
    lines[NETTED_UNITS], lines[NETTED_ORDERS] = nets[record] * quantity, nets[record] * once
    lines[RETURNED] = np.where(kind == Kind.RETURNED, quantity, 0)
    for click, measure in CLICK_MEASURE.items():
        lines[measure] = kind == click
    return sum_cells(step[record] * products + product, lines.T, products)


def sum_cells(cell: npt.NDArray[np.int64], values: npt.NDArray[np.int64], products: int) -> Cells:
    """Sum `values` (m, measures) over equal cells (m,) = step · products + product: steps (k,), products (k,), sums (k, measures).

    >>> [column.tolist() for column in sum_cells(np.array([12, 3, 12]), np.array([[1], [5], [2]]), products=10)]
    [[0, 1], [3, 2], [[5], [3]]]
    """
    if not len(cell):
        return Cells(cell, cell, values)
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return Cells(ordered[first] // products, ordered[first] % products, np.add.reduceat(values[order], first, axis=0))


def count(topic: Topic, events: Events, judged: Judged) -> Counter[str]:
    """How many records met which fate, by the names of Truth.counts."""
    name = topic.name.lower()
    heartbeat = events.kind == Kind.HEARTBEAT
    kept = judged.counted & ~events.copy
    counts = Counter(
        {
            f"{name}.sent": int((~heartbeat).sum()),
            f"{name}.heartbeats": int(heartbeat.sum()),
            f"{name}.counted": int(kept.sum()),
            f"{name}.duplicates": int((judged.counted & events.copy).sum()),
            f"{name}.late": int((kept & (events.event_ms < judged.before_ms)).sum()),
            "rejected.future": int(judged.future.sum()),
            "rejected.expired": int(judged.expired.sum()),
            "rejected.malformed": int((events.fault > 0).sum()),
        }
    )
    for fault, n in zip(*np.unique(events.fault[events.fault > 0], return_counts=True), strict=True):
        counts[f"malformed.{name}.{fault_name(topic, int(fault))}"] = int(n)
    return counts


def increment_of(parts: Sequence[tuple[Topic, Events, Judged]], rules: Rules, names: Names, until_ms: int) -> Increment:
    """What judged records of both topics add."""
    products = len(names.product_ids)
    folded = [fold(events, judged, rules, names) for _, events, judged in parts]
    cells = np.concatenate([part.step * products + part.product for part in folded])
    counts: Counter[str] = Counter()
    for topic, events, judged in parts:
        counts.update(count(topic, events, judged))
    return Increment(sum_cells(cells, np.concatenate([part.sums for part in folded]), products), counts, until_ms)


@dataclass(slots=True)
class Truth:
    """Expected sums per product and step, and expected counts of records, up to the last increment that was added.

    Counts: `<topic>.sent` (all records without heartbeats) = `.counted` + `.duplicates` + the rejected; `.late` are counted ones behind their
    watermark; `rejected.malformed|future|expired`; `malformed.<topic>.<fault>` says which faults.
    """

    product_ids: tuple[str, ...]
    rules: Rules = field(default_factory=Rules)
    counts: Counter[str] = field(default_factory=Counter)
    until_ms: int = NEVER
    notes: dict[str, Any] = field(default_factory=dict)  # goes into truth.json: configuration, seed, injected trends
    _parts: list[Cells] = field(default_factory=list)
    _loose: int = 0  # rows since the last merge

    def add(self, increment: Increment) -> None:
        """Take in what was sent."""
        self.counts.update(increment.counts)
        self.until_ms = max(self.until_ms, increment.until_ms)
        self._parts.append(increment.cells)
        self._loose += len(increment.cells.step)
        # Merged when what came since is as much as what was merged: linear cost altogether, at most twice the memory.
        if self._loose > max(len(self._parts[0].step), MERGE_ROWS):
            self._merge()

    def _merge(self) -> Cells:
        n = len(self.product_ids)
        parts = self._parts or [Cells(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(MEASURES)), np.int64))]
        if len(parts) > 1:
            cells = np.concatenate([part.step * n + part.product for part in parts])
            parts = [sum_cells(cells, np.concatenate([part.sums for part in parts]), n)]
        self._parts, self._loose = parts, 0
        return parts[0]

    def by_step(self, start_ms: int | None = None, end_ms: int | None = None) -> pd.DataFrame:
        """Columns product_id, start_ms and the measures in natural units, for the steps that start in [start_ms, end_ms).

        Steps without events are absent; one whose events net each other is there, with zeros.
        """
        step, product, sums = self._merge()
        starts = step * self.rules.step_ms
        chosen = np.ones(len(starts), dtype=bool)
        if start_ms is not None:
            chosen &= starts >= start_ms
        if end_ms is not None:
            chosen &= starts < end_ms
        frame = pd.DataFrame({"product_id": np.array(self.product_ids, dtype=object)[product[chosen]], "start_ms": starts[chosen]})
        frame[list(MEASURES)] = sums[chosen] / SCALES
        return frame

    def sums(self, start_ms: int | None = None, end_ms: int | None = None) -> pd.DataFrame:
        """Columns product_id and the measures in natural units, summed over the steps that start in [start_ms, end_ms), sorted by product."""
        return self.by_step(start_ms, end_ms).drop(columns="start_ms").groupby("product_id", as_index=False, sort=True).sum()

    def rejected(self) -> dict[str, int]:
        """Expected numbers of rejected records by class: malformed, future, expired."""
        return {name: self.counts[f"rejected.{name}"] for name in ("malformed", "future", "expired")}

    def total(self, what: str) -> int:
        """Records of both topics: total("sent"), total("counted"), total("duplicates"), total("late"), total("heartbeats")."""
        return sum(self.counts[f"{topic.name.lower()}.{what}"] for topic in Topic)

    def write(self, directory: Path) -> None:
        """steps.parquet (`by_step`), products.parquet (`sums`), truth.json (counts, rules and notes)."""
        directory.mkdir(parents=True, exist_ok=True)
        self.by_step().to_parquet(directory / "steps.parquet", index=False)
        self.sums().to_parquet(directory / "products.parquet", index=False)
        rules = {name: getattr(self.rules, name) for name in Rules.__dataclass_fields__}
        summary = {"until_ms": self.until_ms, "counts": dict(sorted(self.counts.items())), "rules": rules, **self.notes}
        (directory / "truth.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
