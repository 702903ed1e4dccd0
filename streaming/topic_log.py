"""The shop's newest days from its topics, for training: the same decoding, judgement and tiles as ingest's, without Redis.

Transactions that were aborted are not read; an order's `event_id` counts once within the namespace's deduplication window.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from feature_store.events import ABSENT, EventBatch
from feature_store.tiles import Grid
from models.dataset import Cells, Panel, UnusableData, from_cells, part_ms
from models.features import FeatureSpec
from streaming import topics
from streaming.decode import decode_clicks, decode_orders
from streaming.drain import drain, reading
from streaming.errors import UserError
from streaming.settings import DAY_MS, HOUR_MS, Settings
from streaming.training_log import fold

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

    The day that is now is that of the newest record, by Kafka's timestamps. Raises UserError, and UnusableData where nothing is in it.
    """
    names = (settings.orders_topic, settings.clickstream_topic)
    newest = topics.newest_ms(settings.kafka_bootstrap, names)
    if newest is None:
        raise UserError(f"no record in {' and '.join(names)} in Kafka at {settings.kafka_bootstrap}; nothing to learn from")
    since_ms = newest - days * DAY_MS
    of_part = part_ms(spec.step_ms, settings.tile_ms)
    per_step = spec.step_ms // of_part
    log = _Log(settings, Grid(settings.tile_ms, spec.step_ms), Grid(settings.tile_ms, of_part))
    first = -(-since_ms // spec.step_ms) * per_step
    pieces = [_from(piece, first) for piece in log.read(since_ms, progress)]
    if log.through_ms is None:
        raise UnusableData("no record of the topics can be counted")
    return from_cells(pieces, spec, settings.timezone, end=log.through_ms // spec.step_ms, limit=products, per_step=per_step)


def _from(piece: Cells, first: int) -> Cells:
    later = piece.part >= first
    return Cells(piece.product_ids, piece.product[later], piece.part[later], piece.measures[later])


class _Log:
    """One reading of both topics."""

    def __init__(self, settings: Settings, grid: Grid, parts: Grid) -> None:
        self._settings, self._grid, self._parts = settings, grid, parts
        self._seen = Seen(settings.dedup_ms)
        self.through_ms: int | None = None  # event time that the furthest partition has reached

    def read(self, since_ms: int, progress: Progress) -> Iterator[Cells]:
        """Sums of what was sent since then, up to what is committed now."""
        from kafka import TopicPartition

        settings = self._settings
        bootstrap, names = settings.kafka_bootstrap, (settings.orders_topic, settings.clickstream_topic)
        places = [TopicPartition(*place) for place in topics.offsets(bootstrap, names, "earliest")]
        watermarks: dict[Any, int] = {}
        with reading(settings, isolation_level="read_committed") as consumer:
            ends = consumer.end_offsets(places)
            found = consumer.offsets_for_times(dict.fromkeys(places, since_ms))
            starts = {tp: ends[tp] if at is None else min(at.offset, ends[tp]) for tp, at in found.items()}
            total, done = max(sum(ends[tp] - starts[tp] for tp in places), 1), 0
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
