"""The shop's newest days from its topics, for training, and what it knew ahead: the same decoding, judgement and tiles as ingest's, without Redis.

Transactions that were aborted are not read; an order's `event_id` counts once within the namespace's deduplication window.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from feature_store.events import ABSENT, EventBatch
from feature_store.tiles import Grid
from models.dataset import Cells, Panel, from_cells, part_ms
from models.features import FeatureSpec
from streaming import topics
from streaming.decode import decode_clicks, decode_orders
from streaming.drain import drain, reading
from streaming.errors import UserError
from streaming.settings import DAY_MS, HOUR_MS, Settings
from streaming.training_log import CONTEXT, FACTS, Dated, changes, fold

# A partition's newest record is among so many, unless nothing but aborted transactions came for long.
TAIL_RECORDS: Final = 1_000

Progress = Callable[[float], object]  # told which share of the records is read


class Seen:
    """Ids of orders by the hour of their event time, for as long as they count once."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._by_hour: defaultdict[int, np.ndarray[Any, np.dtype[np.int64]]] = defaultdict(lambda: np.empty(0, np.int64))

    def first(self, batch: EventBatch) -> EventBatch:
        """Without the orders that came before.

        Kept for twice the window: partitions are not read abreast.
        """
        if not self._window_ms:
            return batch
        keep = np.ones(len(batch), np.bool_)
        hours = batch.event_time_ms // HOUR_MS
        named = batch.event_hash != ABSENT
        for hour in np.unique(hours[named]).tolist():
            rows = np.flatnonzero(named & (hours == hour))
            hashes, places = np.unique(batch.event_hash[rows], return_index=True)
            new = ~np.isin(hashes, self._by_hour[hour])
            keep[rows] = False
            keep[rows[places[new]]] = True
            self._by_hour[hour] = np.concatenate([self._by_hour[hour], hashes[new]])
        newest = max(self._by_hour, default=0)
        for old in [hour for hour in self._by_hour if hour < newest - 2 * self._window_ms // HOUR_MS]:
            del self._by_hour[old]
        return batch.where(keep)


def newest_days(settings: Settings, days: int, spec: FeatureSpec, products: int, progress: Progress = lambda _: None) -> Panel:
    """The panel of the last `days` up to now of the namespace's topics, whole steps only; `products`: those with the most demand.

    Now is the time of the newest record, by Kafka's timestamps. Raises UserError, and UnusableData where nothing is in it.
    """
    of_part = part_ms(spec.step_ms, settings.tile_ms)
    per_step = spec.step_ms // of_part
    log = _Log(settings, Grid(settings.tile_ms, spec.step_ms), Grid(settings.tile_ms, of_part))
    pieces = list(log.read(days * DAY_MS, progress))
    if log.through_ms is None or log.since_ms is None:
        raise UserError(
            f"nothing to learn from in {settings.orders_topic} and {settings.clickstream_topic} in Kafka at {settings.kafka_bootstrap}"
        )
    first = -(-log.since_ms // spec.step_ms) * per_step
    found = (_from(piece, first) for piece in pieces)
    return from_cells(found, spec, settings.timezone, end=log.through_ms // spec.step_ms, limit=products, per_step=per_step)


def whole(settings: Settings, name: str, progress: Progress = lambda _: None) -> Iterator[tuple[Any, list[Any]]]:
    """All that a topic holds now, some records at a time, those of a partition in order. Raises UserError."""
    from kafka import TopicPartition

    firsts = {TopicPartition(*place): at for place, at in topics.offsets(settings.kafka_bootstrap, (name,), "earliest").items()}
    if not firsts:
        raise UserError(f"there is no topic {name} in Kafka at {settings.kafka_bootstrap}")
    with reading(settings, isolation_level="read_committed") as consumer:
        ends = consumer.end_offsets(list(firsts))
        total, done = max(sum(ends[tp] - firsts[tp] for tp in ends), 1), 0
        for tp, records in drain(consumer, firsts, ends):
            yield tp, records
            done += len(records)
            progress(min(done / total, 1.0))


def said_ahead(settings: Settings, step_ms: int) -> list[Dated]:
    """What the topics of what the shop knows ahead hold, as far as the settings name them. Of a compacted topic the oldest records may be gone."""
    found: list[Dated] = []
    for name, kind in ((settings.facts_topic, FACTS), (settings.context_topic, CONTEXT)):
        watermarks: dict[Any, int] = {}
        for tp, records in whole(settings, name) if name is not None else ():
            some, watermarks[tp], _ = changes(records, kind, watermarks.get(tp), step_ms)
            found += some
    return found


def _from(piece: Cells, first: int) -> Cells:
    later = piece.part >= first
    return Cells(piece.product_ids, piece.product[later], piece.part[later], piece.measures[later])


class _Log:
    """One reading of both topics."""

    def __init__(self, settings: Settings, grid: Grid, parts: Grid) -> None:
        self._settings, self._grid, self._parts = settings, grid, parts
        self._seen = Seen(settings.dedup_ms)
        self.since_ms: int | None = None  # records sent before were not read; None: nothing was found
        self.through_ms: int | None = None  # event time that the furthest partition has reached

    def read(self, span_ms: int, progress: Progress) -> Iterator[Cells]:
        """Sums of what was sent in the last `span_ms`, up to what is committed now."""
        from kafka import TopicPartition

        settings = self._settings
        names = (settings.orders_topic, settings.clickstream_topic)
        firsts = {TopicPartition(*place): at for place, at in topics.offsets(settings.kafka_bootstrap, names, "earliest").items()}
        watermarks: dict[Any, int] = {}
        with reading(settings, isolation_level="read_committed") as consumer:
            ends = consumer.end_offsets(list(firsts)) if firsts else {}
            newest = _newest_ms(consumer, firsts, ends)
        if newest is None:
            return
        self.since_ms = newest - span_ms
        with reading(settings, isolation_level="read_committed") as consumer:
            found = consumer.offsets_for_times(dict.fromkeys(firsts, self.since_ms))
            starts = {tp: ends[tp] if at is None else min(at.offset, ends[tp]) for tp, at in found.items()}
            total, done = max(sum(ends[tp] - starts[tp] for tp in ends), 1), 0
            for tp, records in drain(consumer, starts, ends):
                if not records:
                    continue
                batch = self._decoded(tp.topic, records)
                if len(batch):
                    cells, watermarks[tp] = fold(batch, watermarks.get(tp), settings, self._grid, self._parts)
                    self.through_ms = max(watermarks.values())
                    if len(cells.part):
                        yield cells
                done += len(records)
                progress(min(done / total, 1.0))

    def _decoded(self, topic: str, records: list[Any]) -> EventBatch:
        if topic == self._settings.clickstream_topic:
            return decode_clicks(records)[0]
        return self._seen.first(decode_orders(records, currency=self._settings.currency)[0])


def _newest_ms(consumer: Any, firsts: Mapping[Any, int], ends: Mapping[Any, int]) -> int | None:
    """Timestamp of the newest record; of the ends of the partitions, for the broker's own answer counts its markers of transactions, too."""
    tails = {tp: max(firsts[tp], end - TAIL_RECORDS) for tp, end in ends.items()}
    return max((record.timestamp for _, records in drain(consumer, tails, ends) for record in records), default=None)
