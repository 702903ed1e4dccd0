"""What aiokafka has fetched, taken in whole batches. Beside `streaming.transport` the only place that touches its private API, pinned there."""

import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException, NoOffsetForPartitionError
from faust.types import TP


class Mark(NamedTuple):
    """Where reading of a partition stood when a fetch was handed over."""

    position: int  # next offset to fetch; every committed record below it was handed over
    end: int  # the log's end for a reader of committed records; -1: not known yet


class Record(msgspec.Struct, gc=False):
    """One record; what is needed of aiokafka's own."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # epoch ms
    timestamp_type: int  # 0: the producer's, 1: the broker's
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def drain(fetcher: Any, active: Iterable[TP], limit: int) -> dict[TP, list[Record]]:
    """What aiokafka has fetched of the active partitions, about `limit` records at most. Raises what fetching of a partition raised."""
    drained: dict[TP, list[Record]] = {}
    for tp, result in list(fetcher._records.items()):
        if tp not in active:
            if not fetcher._subscriptions.is_assigned(tp):
                del fetcher._records[tp]
            continue
        if not isinstance(result, FetchResult):
            if drained:
                break  # raised by the next call
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
            with contextlib.suppress(NoOffsetForPartitionError):  # nothing was ever committed: our own seek is on its way
                result.check_raise()
            continue
        records = unpack(result, limit)
        if not result.has_more():
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
        if records:
            drained[TP(*tp)] = records
            limit -= len(records)
            if limit <= 0:
                break
    return drained


def unpack(result: Any, limit: int) -> list[Record]:
    """Whole batches of a fetch until `limit` records: what `FetchResult.getall` does, at half its cost (a generator and a dataclass a record)."""
    tp = result._topic_partition
    if not result.check_assignment(tp) or not result.has_more():
        return []
    fetched = result._partition_records
    topic, partition = tp.topic, tp.partition
    unpacked: list[Record] = []
    while len(unpacked) < limit and fetched._records.has_next():
        batch = fetched._records.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {tp}")
        if _is_counted(fetched, batch):
            first = fetched.next_fetch_offset  # a fetch begins with the batch that holds its offset
            records = [Record(topic, partition, r.offset, r.timestamp, r.timestamp_type, r.key, r.value, r.headers) for r in batch]
            unpacked += records if not records or records[0].offset >= first else [r for r in records if r.offset >= first]
        fetched.next_fetch_offset = batch.next_offset
    result._update_position()
    if not fetched._records.has_next():
        result._partition_records = None
    return unpacked


def _is_counted(fetched: Any, batch: Any) -> bool:
    """Whether a batch's records were committed, and are records: not those of aborted transactions, nor transactions' markers."""
    if batch.producer_id is not None:
        fetched._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and fetched._contains_abort_marker(batch):
            fetched._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in fetched._aborted_producers:
            return False
    return not batch.is_control_batch


def marks(assignment: Any) -> dict[TP, Mark]:
    states = ((tp, assignment.state_value(tp)) for tp in assignment.tps)
    return {TP(*tp): Mark(state.position, -1 if state.lso is None else state.lso) for tp, state in states if state.has_valid_position}
