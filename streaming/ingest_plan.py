"""What the ingest worker decides, without I/O: where to read from, which records to count, which calls to make, which sources to hold back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import gt
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_store.calls import NO_WATERMARK, Advance, ApplyCall, Position
from feature_store.events import ABSENT, EventBatch
from feature_store.facts import ContextChange, FactChange
from feature_store.sharding import shards_of
from feature_store.tiles import Grid, tile_events
from feature_store.watermarks import Judged
from streaming.columns import concatenate
from streaming.errors import UserError

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

HOUR_MS: Final = 3_600_000
# What one atomic call may hold: Redis serves nobody else meanwhile, 2,000 cells take it about 5 ms.
MAX_CELLS: Final = 2_000
# Never counted. Offsets are not negative, so that "counted less than this record" needs no special case.
NEVER: Final = -1


class RecordsLost(UserError):
    """The log no longer holds, or does not yet hold, the record to be read next. An operator decides."""


# --- where to read from


@dataclass(frozen=True, slots=True)
class Start:
    """Where a source is read from after an assignment."""

    offset: int
    watermark_ms: int  # the source's, before that record
    gap: tuple[int, int] | None  # records [first, end) that were gone before anything was counted: to be noted


def start_of(name: str, stored: Sequence[Position], first: int, end: int, noted_gap_end: int | None) -> Start:
    """Read from the least that any shard has counted, so that a Redis that lost its last minutes heals by re-reading exactly those.

    `stored`: one position per shard; `first` and `end`: the log's bounds; `noted_gap_end`: where counting began, if that was not offset 0.
    A shard without a position among others that have one has counted nothing, and must see everything from where counting began.

    Raises RecordsLost.
    """
    counted = [p for p in stored if p.next_offset is not None]
    if not counted:
        return Start(first, NO_WATERMARK, (0, first) if first > 0 else None)
    if len(counted) < len(stored):
        offset, watermark_ms = noted_gap_end or 0, NO_WATERMARK
    else:
        offset, watermark_ms = min((p.next_offset or 0, p.watermark_ms) for p in counted)
    if offset < first:
        raise RecordsLost(
            f"{name}: records {offset} to {first - 1} were deleted (retention, or delete-records) before they were counted. They are lost to the "
            "sums. To go on without them, run `trendcast accept-gap`; forecasts then say quality: gap"
        )
    furthest = max(p.next_offset or 0 for p in counted)
    if furthest > end:  # even one shard: it would take new records for counted ones
        raise RecordsLost(
            f"{name}: {furthest} records are counted, but the log ends at {end}: its end was lost (an unclean leader election?). "
            "To go on from the log's end, run `trendcast accept-gap`; forecasts then say quality: gap"
        )
    return Start(offset, watermark_ms, None)


# --- which records to count


@dataclass(frozen=True, slots=True)
class Fold:
    """What one shard's lines add up to; `k` cells over `p` products, `e` remembered event ids."""

    products: list[str]  # (p,)
    oldest_sent_at_ms: list[int]  # (p,)
    newest_event_ms: list[int]  # (p,)
    cell_product: Ints  # (k,) index into products
    cell_tile: Ints  # (k,)
    deltas: npt.NDArray[np.float64]  # (k, N_MEASURES)
    event_hash: Ints  # (e,) distinct
    event_hour: Ints  # (e,)


@dataclass(frozen=True, slots=True)
class Part:
    """The next records of one source, decoded and judged; none, where the source only has to say how far it has come."""

    source: str
    end: int  # next offset after all of them, those that are not counted included
    start_watermark_ms: int  # the source's before them
    decoded: EventBatch | None = None
    judged: Judged | None = None
    changes: Sequence[FactChange | ContextChange | None] = ()  # of what the shop knows ahead, by record of `decoded`

    @property
    def watermark_ms(self) -> int:
        """The source's, after all of them."""
        return int(self.judged.watermark_ms[-1]) if self.judged is not None and len(self.judged.watermark_ms) else self.start_watermark_ms


@dataclass(frozen=True, slots=True)
class Noticed:
    """A change of what the shop knows ahead, and the record that brought it."""

    source: int  # place of its source
    offset: int
    change: FactChange | ContextChange


@dataclass(frozen=True, slots=True)
class Batch:
    """The next records of `s` sources, folded for the usual case that no shard has counted any of them."""

    sources: list[str]  # (s,)
    ends: list[int]  # (s,) next offsets after all of them
    watermarks_ms: list[int]  # (s,) after all of them
    first_events: list[int]  # (s,) offset of the first record that may be counted; the end where there is none
    events: EventBatch  # (n,) accepted records without heartbeats and repeated event ids, source after source; (m,) lines
    source: Ints  # (n,) place of each one's source
    before_ms: Ints  # (n,) the source's watermark before each
    remembered: Flags  # (n,) event ids that the deduplication window holds
    line_shard: npt.NDArray[np.int16]  # (m,)
    folds: Mapping[int, Fold]  # shard → fold of all its lines
    duplicates: int  # records that repeat an event id of this batch
    noticed: Mapping[int, Sequence[Noticed]]  # shard → what changes in it, in the order of the sources' logs

    @property
    def touched(self) -> Iterable[int]:
        """Shards in which something changes."""
        return self.folds.keys() | self.noticed.keys() if self.noticed else self.folds


_NO_INTS: Final[Ints] = np.zeros(0, np.int64)
_NO_EVENTS: Final = EventBatch(
    *(_NO_INTS,) * 6, np.zeros(0, np.bool_), _NO_INTS, _NO_INTS, np.zeros(0, np.int8), np.zeros(0), np.zeros(0), product_ids=()
)


def batch_of(parts: Sequence[Part], *, shards: int, grid: Grid, dedup_ms: int) -> Batch:
    """Pick what is to be counted of all parts, each of another source, and fold it per shard."""
    decoded = [(i, p.decoded, p.judged) for i, p in enumerate(parts) if p.decoded is not None and p.judged is not None]
    whole = concatenate([events for _, events, _ in decoded]) if decoded else _NO_EVENTS
    source = np.repeat(np.array([i for i, _, _ in decoded], np.int64), [len(events) for _, events, _ in decoded])
    before_ms = np.concatenate([judged.before_ms for _, _, judged in decoded]) if decoded else _NO_INTS
    keep = ~whole.heartbeat
    if decoded:
        keep &= np.concatenate([judged.accepted for _, _, judged in decoded])
    # Whether an id is remembered must not depend on how the log was cut into batches: judged by the record's own source's watermark.
    floor = np.maximum(before_ms, NO_WATERMARK + dedup_ms) - dedup_ms
    remembered = keep & (whole.event_hash != ABSENT) & (whole.event_time_ms // HOUR_MS >= floor // HOUR_MS) & (dedup_ms > 0)
    repeats = _repeats(whole.event_hash, whole.event_time_ms // HOUR_MS, remembered)
    keep &= ~repeats
    events = whole if keep.all() else whole.where(keep)
    source, before_ms, remembered = source[keep], before_ms[keep], remembered[keep]
    product_shard = shards_of(events.product_ids, shards).astype(np.int16)
    line_shard = product_shard[events.product]
    rows = np.searchsorted(source, np.arange(len(parts) + 1)).tolist()
    return Batch(
        sources=[p.source for p in parts],
        ends=[p.end for p in parts],
        watermarks_ms=[p.watermark_ms for p in parts],
        first_events=[int(events.offset[rows[i]]) if rows[i] < rows[i + 1] else p.end for i, p in enumerate(parts)],
        events=events,
        source=source,
        before_ms=before_ms,
        remembered=remembered,
        line_shard=line_shard,
        folds=_fold(events, before_ms, remembered, line_shard, product_shard, grid),
        duplicates=int(repeats.sum()),
        noticed=_noticed(parts, shards),
    )


def _noticed(parts: Sequence[Part], shards: int) -> dict[int, list[Noticed]]:
    """Changes by shard: facts to their product's, context to all."""
    found: dict[int, list[Noticed]] = {}
    for i, part in enumerate(parts):
        if not part.changes or part.decoded is None:
            continue
        some = [Noticed(i, int(offset), each) for offset, each in zip(part.decoded.offset, part.changes, strict=True) if each is not None]
        products = [n.change.product if isinstance(n.change, FactChange) else "" for n in some]
        for noticed, shard in zip(some, shards_of(products, shards).tolist(), strict=True):
            for each in (shard,) if isinstance(noticed.change, FactChange) else range(shards):
                found.setdefault(each, []).append(noticed)
    return found


def _repeats(event_hash: Ints, hour: Ints, remembered: Flags) -> Flags:
    """(n,) records whose event id and hour an earlier record of the batch has: the first wins."""
    repeats = np.zeros(len(event_hash), dtype=np.bool_)
    rows = np.flatnonzero(remembered)
    ordered = np.sort(event_hash[rows])
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return repeats
    seen: set[tuple[int, int]] = set()
    for row in rows[np.isin(event_hash[rows], again)].tolist():
        event = int(event_hash[row]), int(hour[row])
        repeats[row] = event in seen
        seen.add(event)
    return repeats


def _fold(
    events: EventBatch,
    before_ms: Ints,
    remembered: Flags,
    line_shard: npt.NDArray[np.int16],
    product_shard: npt.NDArray[np.int16],
    grid: Grid,
) -> dict[int, Fold]:
    """Fold all lines at once, then cut the cells by shard: one pass, whatever the number of shards."""
    if not len(events.record):
        return {}
    cells = tile_events(events, before_ms, grid)
    cell_shard = product_shard[cells.product]
    order = np.argsort(cell_shard, kind="stable")  # by shard, and within it by product and tile
    cell_shard, product, tile, deltas = cell_shard[order], cells.product[order], cells.tile[order], cells.deltas[order]
    starts = np.flatnonzero(np.r_[True, product[1:] != product[:-1]])  # a product has one shard
    oldest = np.minimum.reduceat(cells.oldest_sent_at_ms[order], starts).tolist()
    newest = np.maximum.reduceat(cells.newest_event_ms[order], starts).tolist()
    names = [events.product_ids[code] for code in product[starts].tolist()]
    number = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(product)]))  # (k,) index of the cell's product

    hash_shard, hash_, hour = _event_ids(events, remembered, line_shard)
    touched = np.unique(cell_shard)
    cell_at = np.r_[np.searchsorted(cell_shard, touched), len(cell_shard)].tolist()
    name_at = np.r_[np.searchsorted(cell_shard[starts], touched), len(starts)].tolist()
    hash_from, hash_to = np.searchsorted(hash_shard, touched).tolist(), np.searchsorted(hash_shard, touched, side="right").tolist()
    return {
        shard: Fold(
            products=names[name_at[i] : name_at[i + 1]],
            oldest_sent_at_ms=oldest[name_at[i] : name_at[i + 1]],
            newest_event_ms=newest[name_at[i] : name_at[i + 1]],
            cell_product=number[cell_at[i] : cell_at[i + 1]] - name_at[i],
            cell_tile=tile[cell_at[i] : cell_at[i + 1]],
            deltas=deltas[cell_at[i] : cell_at[i + 1]],
            event_hash=hash_[hash_from[i] : hash_to[i]],
            event_hour=hour[hash_from[i] : hash_to[i]],
        )
        for i, shard in enumerate(touched.tolist())
    }


def _event_ids(events: EventBatch, remembered: Flags, line_shard: npt.NDArray[np.int16]) -> tuple[npt.NDArray[np.int16], Ints, Ints]:
    """Event ids that each shard is to remember: shard, hash and hour, by shard; an order of many lines gives each of its shards its id once."""
    lines = np.flatnonzero(remembered[events.record])
    order = lines[np.argsort(line_shard[lines], kind="stable")]
    shard, record = line_shard[order], events.record[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (shard[1:] != shard[:-1]) | (record[1:] != record[:-1])
    shard, record = shard[first], record[first]
    return shard, events.event_hash[record], events.event_time_ms[record] // HOUR_MS


# --- which calls to make


def next_call(batch: Batch, shard: int, counted: Sequence[int], without: frozenset[int], grid: Grid) -> ApplyCall:
    """The call that brings `shard` on towards the batch's ends; `without`: event ids it already knows.

    `counted`, (s,): next offset of each source that the shard holds (NEVER: none). The call names the sources that it brings further. It holds at most
    MAX_CELLS cells, unless one record has more: then the caller asks again from where the call ends.
    """
    fold = batch.folds.get(shard)
    ends, watermarks_ms = batch.ends, batch.watermarks_ms
    if fold is not None and (without or len(fold.cell_tile) > MAX_CELLS or any(map(gt, counted, batch.first_events))):
        fold, ends, watermarks_ms = _refold(batch, shard, counted, without, grid)
    moves = tuple(
        Advance(source, None if from_ == NEVER else from_, end, watermark_ms)
        for source, from_, end, watermark_ms in zip(batch.sources, counted, ends, watermarks_ms, strict=True)
        if from_ < end
    )
    new = tuple(n.change for n in batch.noticed.get(shard, ()) if counted[n.source] <= n.offset < ends[n.source])
    facts = tuple(change for change in new if isinstance(change, FactChange))
    context = tuple(change for change in new if isinstance(change, ContextChange))
    if fold is None:
        return ApplyCall(shard, moves, facts=facts, context=context)
    return ApplyCall(
        shard=shard,
        sources=moves,
        facts=facts,
        context=context,
        products=fold.products,
        oldest_sent_at_ms=fold.oldest_sent_at_ms,
        newest_event_ms=fold.newest_event_ms,
        cell_product=fold.cell_product,
        cell_tile=fold.cell_tile,
        deltas=fold.deltas,
        event_hash=fold.event_hash,
        event_hour=fold.event_hour,
    )


def _refold(
    batch: Batch, shard: int, counted: Sequence[int], without: frozenset[int], grid: Grid
) -> tuple[Fold | None, list[int], list[int]]:
    """The shard's own lines that it has not counted and whose event ids it does not know: fold, next offsets, watermarks before those."""
    events = batch.events
    wanted = events.offset >= np.array(counted)[batch.source]
    if without:
        wanted &= ~np.isin(events.event_hash, np.fromiter(without, dtype=np.int64, count=len(without)))
    lines = np.flatnonzero((batch.line_shard == shard) & wanted[events.record])
    fold = _fold_lines(batch, lines, shard, grid)
    if fold is None or len(fold.cell_tile) <= MAX_CELLS:
        return fold, batch.ends, batch.watermarks_ms
    # As many records as have MAX_CELLS lines, and so no more cells than that; at least one record.
    record = events.record[lines]
    cut = int(np.searchsorted(record, record[MAX_CELLS]))
    if cut == 0:
        cut = int(np.searchsorted(record, record[0], side="right"))
    if cut == len(lines):
        return fold, batch.ends, batch.watermarks_ms
    # Sources before that of the first record that is left out come to their ends, those after it stay where they are.
    following = int(record[cut])
    at = int(batch.source[following])
    ends = [*batch.ends[:at], int(events.offset[following]), *counted[at + 1 :]]
    watermarks_ms = [*batch.watermarks_ms[:at], int(batch.before_ms[following]), *batch.watermarks_ms[at + 1 :]]
    return _fold_lines(batch, lines[:cut], shard, grid), ends, watermarks_ms


def _fold_lines(batch: Batch, lines: Ints, shard: int, grid: Grid) -> Fold | None:
    """Fold of some lines, all of one shard; None where there are none."""
    e = batch.events
    some = EventBatch(
        offset=e.offset,
        timestamp_ms=e.timestamp_ms,
        sent_at_ms=e.sent_at_ms,
        event_time_ms=e.event_time_ms,
        placed_at_ms=e.placed_at_ms,
        event_hash=e.event_hash,
        heartbeat=e.heartbeat,
        record=e.record[lines],
        product=e.product[lines],
        kind=e.kind[lines],
        quantity=e.quantity[lines],
        amount=e.amount[lines],
        product_ids=e.product_ids,
    )
    in_shard = np.full(len(e.product_ids), shard, dtype=np.int16)
    return _fold(some, batch.before_ms, batch.remembered, batch.line_shard[lines], in_shard, grid).get(shard)


# --- which sources to hold back


@dataclass(frozen=True, slots=True)
class SourceTime:
    """How far one expected source has come in event time."""

    watermark_ms: int  # greater of what its records and what the clock say; NO_WATERMARK: not heard of
    catching_up: bool  # its log holds records that are not counted yet


def too_far_ahead(
    own: Mapping[str, SourceTime], others: Iterable[SourceTime], closed_end_ms: int | None, *, ahead_ms: int, tile_retention_ms: int
) -> frozenset[str]:
    """Sources to hold back: more than `ahead_ms` of event time ahead of the slowest, or half the tile retention ahead of closed steps.

    Only sources that have records left to count make others wait: one that stands at the end of its log comes no further by waiting for it.
    `closed_end_ms`: end of the last step that every shard closed; None: nothing is counted yet.

    >>> hour, fast, slow = 3_600_000, SourceTime(10 * 3_600_000, True), SourceTime(3_600_000, True)
    >>> sorted(too_far_ahead({"a": fast, "b": slow}, [], None, ahead_ms=3 * hour, tile_retention_ms=24 * hour))
    ['a']
    >>> sorted(too_far_ahead({"a": fast, "b": SourceTime(hour, False)}, [], None, ahead_ms=3 * hour, tile_retention_ms=24 * hour))
    []
    >>> sorted(too_far_ahead({"a": fast}, [], -3 * hour, ahead_ms=3 * hour, tile_retention_ms=24 * hour))
    ['a']
    """
    slowest = min((s.watermark_ms for s in (*own.values(), *others) if s.catching_up and s.watermark_ms != NO_WATERMARK), default=None)
    limits = [base + limit for base, limit in ((slowest, ahead_ms), (closed_end_ms, tile_retention_ms // 2)) if base is not None]
    return frozenset(name for name, source in own.items() if limits and source.watermark_ms > min(limits))
