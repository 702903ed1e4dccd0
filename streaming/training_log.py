"""From a log's records to the sums that ingest would store: the same decoding, watermarks and tiles, without Kafka and Redis."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, Self

from feature_store.events import EventBatch
from feature_store.facts import Entry, FactChange, Facts, context_field, encode, put
from feature_store.tiles import Grid, roll_up, tile_events
from feature_store.watermarks import NO_WATERMARK, judge, judge_states
from models.dataset import Cells
from models.known_future import KnownFuture, Place
from streaming.columns import Record
from streaming.contracts import WATERMARK
from streaming.decode import decode_clicks, decode_orders
from streaming.facts import Change, decode_context, decode_product_facts
from streaming.rejections import Rejected

_NAMES: Final = ("orders", "clickstream", "product-facts", "context")
FACTS: Final = 2
CONTEXT: Final = 3
AHEAD: Final = (FACTS, CONTEXT)


class Sent(Protocol):
    """Records of one partition in offset order, as the simulator and replay make them."""

    @property
    def topic(self) -> int: ...  # 0: orders, 1: clickstream, 2: product-facts, 3: context
    @property
    def partition(self) -> int: ...
    @property
    def keys(self) -> Sequence[bytes | None]: ...
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


class Dated(NamedTuple):
    """What changes of what a shop knows ahead, and the time from which on, epoch ms."""

    effect_ms: int
    change: Change


class LoggedRecord(NamedTuple):
    """A record as Kafka would hand it out."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    key: bytes | None = None


class Ahead:
    """What a log has said of what the shop knows ahead, as the store would hold it, without forgetting what is long over."""

    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}
        self._context: dict[str, list[Entry]] = {}

    @classmethod
    def of(cls, said: Iterable[Dated]) -> Self:
        """With what several sources have said, by the time from which it holds; what more than one of them says, once."""
        ahead = cls()
        in_order = sorted(said, key=lambda dated: dated.effect_ms)
        for _, change in reversed(dict.fromkeys(reversed(in_order))):
            ahead.take(change)
        return ahead

    def take(self, change: Change) -> None:
        """One more change, in the order of the log."""
        if isinstance(change, FactChange):
            self._facts[change.product] = put(self._facts.get(change.product), change.version)
            return
        own = context_field(change.series, change.scope)
        forgets = change.entry.end_s == 0
        for name in [field for field in self._context if field.startswith(own)] if forgets else [own]:
            self._context.setdefault(name, []).append(change.entry)

    @property
    def said_anything(self) -> bool:
        return bool(self._facts or self._context)

    def known_from(self) -> dict[str, int]:
        """The first step of which anything is known, of each product that something was said of."""
        return {name: facts.versions[0].step for name, facts in self._facts.items()}

    def known(self, names: tuple[str, ...], step_ms: int, place: Place, product_ids: Sequence[str]) -> KnownFuture:
        """Covariates of these names, of products in this order."""
        facts = [encode(self._facts[name]) if name in self._facts else b"" for name in product_ids]
        context = tuple(sorted((name.encode(), encode(entries)) for name, entries in self._context.items()))
        return KnownFuture.of(names, step_ms, place, facts, [context])


def cells(
    slices: Iterable[Slice],
    rules: LogRules,
    grid: Grid,
    part_ms: int,
    progress: Callable[[int], None] = lambda end_ms: None,
    ahead: Ahead | None = None,
) -> Iterator[Cells]:
    """Sums per product and part of a step, which is a whole number of tiles; one piece for each slice and partition.

    Orders that a producer sent twice count twice: use a log without them. `progress` is told how far in the log's time it has come. `ahead` takes
    what the shop knows ahead.
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
            if sent.topic in AHEAD:
                found, watermarks[source], _ = changes(records, sent.topic, watermarks.get(source), grid.step_ms)
                if ahead is not None:
                    for _, change in found:
                        ahead.take(change)
                continue
            batch, _ = decode_clicks(records) if sent.topic else decode_orders(records, currency=rules.currency)
            if len(batch):
                sums, watermarks[source] = fold(batch, watermarks.get(source), rules, grid, parts)
                if len(sums.part):
                    yield sums
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


def changes(records: Sequence[Record], topic: int, watermark_ms: int | None, step_ms: int) -> tuple[list[Dated], int, list[Rejected]]:
    """What records of one source, of `FACTS` or `CONTEXT`, change, in their order; the source's watermark after them; and those that say nothing."""
    notices, rejected = decode_product_facts(records) if topic == FACTS else decode_context(records)
    judged, effect_ms = judge_states(notices.batch, watermark_ms)
    found = zip(effect_ms.tolist(), notices.changes(effect_ms, step_ms), strict=True)
    after = int(judged.watermark_ms[-1]) if len(notices.batch) else NO_WATERMARK if watermark_ms is None else watermark_ms
    return [Dated(at_ms, change) for at_ms, change in found if change is not None], after, rejected


def _records(sent: Sent, first_offset: int) -> list[LoggedRecord]:
    records = [
        LoggedRecord(_NAMES[sent.topic], sent.partition, first_offset + i, timestamp, value, (), key)
        for i, (value, timestamp, key) in enumerate(zip(sent.values, sent.timestamps_ms, sent.keys, strict=True))
    ]
    for i, declared in sent.heartbeats.items():
        records[i] = records[i]._replace(headers=((WATERMARK, b"%d" % declared),))
    return records
