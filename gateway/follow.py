"""The view's food: all records of its topics, from their beginning, for ever. No consumer group: every process reads everything."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from gateway.service import Service
from gateway.view import Outcome
from streaming import metrics, topics
from streaming.contracts import WATERMARK
from streaming.errors import UserError

# Records applied before others get the event loop: some 15 ms.
TURN_RECORDS: Final = 200
FETCH_WAIT_MS: Final = 100
# How long one wait for records may take; the view is tended in between.
POLL_MS: Final = 250
TEND_S: Final = 2.0

log = structlog.stdlib.get_logger("trendcast")


async def follow(service: Service) -> None:
    """Reads until it is cancelled. Raises UserError where a topic is missing, KafkaError where no broker answers at the start or records that were
    to be read are gone: a new process then begins anew."""
    settings = service.settings
    names = [settings.forecasts_topic, settings.alerts_topic, settings.feedback_topic]
    if settings.facts_topic is not None:
        names.append(settings.facts_topic)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        client_id="trendcast-gateway",
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    try:
        await consumer.start()
        partitions = await _partitions(names, settings.kafka_bootstrap)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        log.info("gateway.reading", topics=names, records=sum(ends.values()))
        await _read(service, consumer, partitions, ends)
    finally:
        await consumer.stop()


async def _partitions(names: Sequence[str], bootstrap: str) -> list[TopicPartition]:
    places = await asyncio.to_thread(topics.offsets, bootstrap, names, "earliest")
    missing = sorted(set(names) - {topic for topic, _ in places})
    if missing:
        raise UserError(f"topics {', '.join(missing)} are not on {bootstrap}; create them with `trendcast topics create`")
    return [TopicPartition(*place) for place in sorted(places)]


async def _read(service: Service, consumer: Any, partitions: Sequence[TopicPartition], ends: dict[TopicPartition, int]) -> None:
    left = set(partitions)
    next_tending = 0.0
    while True:
        fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=TURN_RECORDS)
        now_ms = int(time.time() * 1000)
        for partition, records in fetched.items():
            with metrics.GATEWAY_APPLY_SECONDS.time():
                for record in records:
                    outcome = apply(service, record, now_ms)
                    metrics.GATEWAY_RECORDS.labels(partition.topic, outcome).inc()
        service.hub.tell(service.view.changes())
        polled = [at for at in (consumer.last_poll_timestamp(partition) for partition in partitions) if at is not None]
        service.heard_ms = max([service.heard_ms, *polled])
        if left:
            left -= {partition for partition in left if await consumer.position(partition) >= ends[partition]}
            if not left:
                service.complete = True
                log.info("gateway.complete", products=len(service.view.products), firing=len(list(service.view.open_alerts())))
        if time.monotonic() >= next_tending:
            next_tending = time.monotonic() + TEND_S
            service.view.forget(now_ms)
            service.hub.tell(service.view.changes())
            metrics.GATEWAY_PRODUCTS.set(len(service.view.products))
            metrics.GATEWAY_ALERTS.set(sum(map(len, service.view.firing.values())))
        await asyncio.sleep(0)  # a topic that is read from its beginning must not keep requests waiting


def apply(service: Service, record: Any, now_ms: int) -> Outcome:
    """One record of any of the topics."""
    settings, view = service.settings, service.view
    try:
        key = (record.key or b"").decode()
    except UnicodeDecodeError:
        return "unreadable"
    if record.topic == settings.forecasts_topic:
        outcome = view.apply_forecast(key, record.value, now_ms)
        if outcome == "applied":
            service.note_freshness(now_ms, view.oldest_input_at)
        return outcome
    if record.topic == settings.alerts_topic:
        return view.apply_alert(record.value, now_ms)
    if record.topic == settings.feedback_topic:
        return view.apply_feedback(key, record.value)
    if not record.value and any(name == WATERMARK for name, _ in record.headers):
        return "older"  # a heartbeat: it says nothing of any product
    return view.apply_facts(key, record.value)
