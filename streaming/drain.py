"""Reading parts of topics once, from a place to a place, beside the workers: for operators' commands and trainings."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from streaming.errors import UserError
from streaming.settings import Settings

POLL_RECORDS: Final = 2_000
POLL_MS: Final = 1_000
# No broker that answers at all lets a reader wait for so long.
SILENCE_S: Final = 30.0


@contextmanager
def reading(settings: Settings, **options: Any) -> Iterator[Any]:
    """A kafka-python consumer of no group, which commits nothing. Raises UserError where Kafka fails."""
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    try:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap.split(","),
            client_id="trendcast",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # retention may delete what we are about to read
            allow_auto_create_topics=False,
            max_poll_records=POLL_RECORDS,
            **options,
        )
        try:
            yield consumer
        finally:
            consumer.close(autocommit=False)
    except KafkaError as error:
        raise UserError(f"Kafka at {settings.kafka_bootstrap}: {error}") from error


def drain(consumer: Any, starts: Mapping[Any, int], ends: Mapping[Any, int]) -> Iterator[tuple[Any, list[Any]]]:
    """Records of each partition in order, some at a time, from `starts` up to `ends`; once a consumer. Raises UserError where Kafka sends nothing."""
    left = {tp: end for tp, end in ends.items() if starts[tp] < end}
    consumer.assign(list(left))
    for tp in left:
        consumer.seek(tp, starts[tp])
    moved_at = time.monotonic()
    while left:
        before = {tp: consumer.position(tp) for tp in left}
        for tp, records in consumer.poll(timeout_ms=POLL_MS).items():
            yield tp, [record for record in records if record.offset < ends[tp]]
        after = {tp: consumer.position(tp) for tp in left}
        if before != after:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > SILENCE_S:  # a poll may come back early, with an answer to what is not asked any more
            raise UserError(f"Kafka does not send {', '.join(sorted({tp.topic for tp in left}))}; `trendcast check` may say why")
        done = [tp for tp, position in after.items() if position >= ends[tp]]
        if done:
            consumer.pause(*done)
        left = {tp: end for tp, end in left.items() if tp not in done}
