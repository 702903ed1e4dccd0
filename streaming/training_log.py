"""From a log's records to the sums that ingest would store: the same decoding, watermarks and tiles, without Kafka and Redis."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from feature_store.events import EventBatch
from feature_store.tiles import Grid, roll_up, tile_events
from feature_store.watermarks import judge
from models.dataset import Cells
from streaming.contracts import WATERMARK
from streaming.decode import decode_clicks, decode_orders


class Sent(Protocol):
    """Records of one partition in offset order, as the simulator and replay make them."""

    @property
    def topic(self) -> int: ...  # 0: orders, 1: clickstream
    @property
    def partition(self) -> int: ...
    @property
    def values(self) -> Sequence[bytes]: ...
    @property
    def timestamps_ms(self) -> Sequence[int]: ...
    @property
    def heartbeats(self) -> Mapping[int, int]: ...  # index → declared watermark


class Slice(Protocol):
    """A stretch of the log."""

    @property
    def end_ms(self) -> int: ...
    @property
    def batches(self) -> Sequence[Sent]: ...


class LogRules(Protocol):
    """What decides how records are judged."""

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


class _Record(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    key: bytes | None = None


def cells(
    slices: Iterable[Slice], rules: LogRules, grid: Grid, part_ms: int, progress: Callable[[int], None] = lambda end_ms: None
) -> Iterator[Cells]:
    """Sums per product and part of a step, which is a whole number of tiles; one piece for each slice and partition.

    Orders that a producer sent twice count twice: use a log without them. `progress` is told how far in the log's time it has come.
    """
    parts = Grid(grid.tile_ms, part_ms)
    watermarks: dict[tuple[int, int], int] = {}
    offsets: dict[tuple[int, int], int] = {}
    for piece in slices:
        for sent in piece.batches:
            source = (sent.topic, sent.partition)
            first = offsets.get(source, 0)
            offsets[source] = first + len(sent.values)
            records = _records(sent, first)
            batch, _ = decode_clicks(records) if sent.topic else decode_orders(records, currency=rules.currency)
            if len(batch):
                found, watermarks[source] = fold(batch, watermarks.get(source), rules, grid, parts)
                if len(found.part):
                    yield found
        progress(piece.end_ms)


def fold(batch: EventBatch, watermark_ms: int | None, rules: LogRules, grid: Grid, parts: Grid) -> tuple[Cells, int]:
    """What records of one source add, by tiles of `grid` and then by steps of `parts`, and the source's watermark after them; `batch` holds at least one."""
    judged = judge(
        batch,
        watermark_ms,
        lateness_ms=rules.lateness_ms,
        future_ms=rules.future_ms,
        step_ms=rules.step_ms,
        step_retention_ms=rules.step_retention_ms,
    )
    deltas = tile_events(batch.where(judged.accepted), judged.before_ms[judged.accepted], grid)
    product, part, sums = roll_up(deltas.product, deltas.tile, deltas.deltas, parts)
    return Cells(batch.product_ids, product, part, sums), int(judged.watermark_ms[-1])


def _records(sent: Sent, first_offset: int) -> list[_Record]:
    topic = "clickstream" if sent.topic else "orders"
    records = [
        _Record(topic, sent.partition, first_offset + i, timestamp, value, ())
        for i, (value, timestamp) in enumerate(zip(sent.values, sent.timestamps_ms, strict=True))
    ]
    for i, declared in sent.heartbeats.items():
        records[i] = records[i]._replace(headers=((WATERMARK, b"%d" % declared),))
    return records
