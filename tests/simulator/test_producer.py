"""Sending to a real broker: everything arrives, once, in order, with its time and headers; and the commands."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from rich.console import Console
from typer.testing import CliRunner

from simulator.demand import ShopConfig
from simulator.events import CONTEXT, FACTS, HOUR_MS
from simulator.feed import Chunk, Partitions
from simulator.producer import Pace, Producer, Progress, TopicNames, send
from simulator.session import Leg, run
from simulator.shop import Shop
from streaming.cli import build
from streaming.errors import UserError

CONFIG = ShopConfig(products=50, lines_per_hour=500)
START_MS = CONFIG.opened_ms
PARTITIONS = Partitions(3, 2, 2, 1)

Seen = list[tuple[int, bytes | None, bytes, dict[str, bytes]]]


@pytest.fixture
def topics(kafka: str) -> Iterator[TopicNames]:
    """Topics of this test's own."""
    unique = uuid4().hex[:8]
    names = TopicNames(f"orders-{unique}", f"clickstream-{unique}", f"facts-{unique}", f"context-{unique}")
    there = {str(name): n for name, n in zip(names, PARTITIONS, strict=True)}
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics([NewTopic(name, n, 1, topic_configs={"retention.ms": "-1"}) for name, n in there.items()])
    yield names
    admin.delete_topics(list(there))
    admin.close()


async def consume(bootstrap: str, topic: str, partition: int) -> Seen:
    """All records of a partition."""
    source = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([source])
        end = (await consumer.end_offsets([source]))[source]
        seen: Seen = []
        while await consumer.position(source) < end:
            for record in (await consumer.getmany(timeout_ms=1_000)).get(source, []):
                seen.append((record.timestamp, record.key, record.value, dict(record.headers)))
        return seen
    finally:
        await consumer.stop()


async def test_every_record_arrives_once_in_order(kafka: str, topics: TopicNames) -> None:
    shop = Shop(CONFIG, 3)
    async with Producer(kafka, topics, compression="lz4") as producer:
        partitions = await producer.partitions()
        assert partitions == PARTITIONS
        feed = shop.feed(START_MS, partitions=partitions)
        truth = feed.truth()
        chunks = list(feed.chunks(START_MS + 12 * HOUR_MS))
        shown: list[Progress] = []
        before = time.time()
        total = await send(chunks, producer, truth=truth, progress=shown.append)
        after = time.time()
    ahead = sum(len(batch) for chunk in chunks for batch in chunk.batches if batch.topic in (FACTS, CONTEXT))
    assert total.records - ahead == truth.total("sent") + truth.total("heartbeats")
    assert ahead > CONFIG.products
    assert shown[-1].records == total.records
    assert shown[-1].until_ms == truth.until_ms == START_MS + 12 * HOUR_MS
    for topic, n in enumerate(partitions):
        for partition in range(n):
            mine = [batch for chunk in chunks for batch in chunk.batches if (batch.topic, batch.partition) == (topic, partition)]
            seen = await consume(kafka, str(topics[topic]), partition)
            assert [record[:3] for record in seen] == [
                row for batch in mine for row in zip(batch.timestamps_ms, batch.keys, batch.values, strict=True)
            ]
            beats = [declared for batch in mine for declared in batch.heartbeats.values()]
            assert [int(headers["watermark"]) for *_, headers in seen if "watermark" in headers] == beats
            assert all(int(before * 1000) <= int(headers["sent_at"]) <= after * 1000 for *_, headers in seen)


async def test_a_batch_larger_than_the_limit_is_cut(kafka: str, topics: TopicNames) -> None:
    shop = Shop(ShopConfig(products=50, lines_per_hour=3_000), 3)
    (chunk,) = shop.chunks(START_MS, START_MS + HOUR_MS, partitions=Partitions(1, 1))
    assert max(sum(map(len, batch.values)) for batch in chunk.batches) > 2 * 512 * 1024
    async with Producer(kafka, topics) as producer:
        await send([chunk], producer)
    for batch in chunk.batches:
        assert [record[2] for record in await consume(kafka, str(topics[batch.topic]), 0)] == batch.values


async def test_sending_keeps_the_pace_and_can_be_stopped(kafka: str, topics: TopicNames) -> None:
    shop = Shop(CONFIG, 3)
    stop = asyncio.Event()
    pace = Pace(speed=36_000, origin_ms=time.time() * 1000, start_ms=START_MS)
    sent: list[tuple[float, int]] = []

    def show(progress: Progress) -> None:
        sent.append((time.time() * 1000, progress.until_ms))
        if len(sent) == 5:
            stop.set()

    async with Producer(kafka, topics) as producer:
        feed = shop.feed(START_MS, partitions=await producer.partitions())
        truth = feed.truth()
        total = await send(feed.chunks(START_MS + 24 * HOUR_MS), producer, truth=truth, pace=pace, progress=show, stop=stop)
    assert total.chunks == 5
    assert truth.until_ms == START_MS + 5 * HOUR_MS
    # Never before the simulated clock shows the chunk's end.
    assert all(real_ms >= pace.due_ms(until_ms) - 1 for real_ms, until_ms in sent)


async def test_what_is_missing_is_said(kafka: str) -> None:
    with pytest.raises(UserError, match="no Kafka broker answers at 127"):
        await Producer("127.0.0.1:1").__aenter__()
    async with Producer(kafka, TopicNames("no-such-topic", "nor-this"), metadata_timeout_s=0.3) as producer:
        with pytest.raises(UserError, match="trendcast topics create"):
            await producer.partitions()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_between_two_chunks_with_a_true_truth(kafka: str, topics: TopicNames, number: signal.Signals) -> None:
    async with Producer(kafka, topics) as producer:
        feed = Shop(CONFIG, 3).feed(START_MS, partitions=await producer.partitions())
        truth = feed.truth()

        def interrupted() -> Iterator[Chunk]:
            for i, chunk in enumerate(feed.chunks(START_MS + 100 * HOUR_MS)):
                if i == 3:
                    os.kill(os.getpid(), number)
                yield chunk

        leg = Leg("live", interrupted(), START_MS, None, speed=1e9)
        assert not await run([leg], producer, truth, Console(quiet=True))
    assert START_MS + 3 * HOUR_MS <= truth.until_ms < START_MS + 100 * HOUR_MS
    seen = [record for p in range(3) for record in await consume(kafka, topics.orders, p) if "watermark" not in record[3]]
    assert len(seen) == truth.counts["orders.sent"]


def command(kafka: str, topics: TopicNames, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setenv("TRENDCAST_KAFKA_BOOTSTRAP", kafka)
    monkeypatch.setenv("TRENDCAST_ORDERS_TOPIC", topics.orders)
    monkeypatch.setenv("TRENDCAST_CLICKSTREAM_TOPIC", topics.clickstream)
    monkeypatch.setenv("TRENDCAST_FACTS_TOPIC", str(topics.facts))
    monkeypatch.setenv("TRENDCAST_CONTEXT_TOPIC", str(topics.context))
    result = CliRunner().invoke(build(), list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_simulate_sends_and_writes_its_truth(kafka: str, topics: TopicNames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (
        "--history",
        "0.25",
        "--live",
        "1",
        "--speed",
        "14400",
        "--products",
        "20",
        "--lines-per-hour",
        "100",
        "--truth",
        str(tmp_path),
    )
    command(kafka, topics, monkeypatch, "simulate", *options)
    summary = json.loads((tmp_path / "truth.json").read_text())
    assert summary["until_ms"] == START_MS + 7 * HOUR_MS
    seen = [record for p in range(3) for record in asyncio.run(consume(kafka, topics.orders, p)) if "watermark" not in record[3]]
    assert len(seen) == summary["counts"]["orders.sent"]
    assert pd.read_parquet(tmp_path / "products.parquet")["units"].sum() > 0
    facts = [record for p in range(2) for record in asyncio.run(consume(kafka, str(topics.facts), p))]
    assert len({record[1] for record in facts if record[1] is not None}) == 20
    assert summary["context"]["weather"]["effect"] > 0


def test_replay_sends_and_writes_its_truth(kafka: str, topics: TopicNames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"
    (tmp_path / "log.csv").write_text(
        header + "489434,85048,LIGHTS,12,2009-12-01 07:45:00,6.95,13085,UK\n489435,85048,,-1,2009-12-01 07:46:00,0,,UK\n"
    )
    command(kafka, topics, monkeypatch, "replay", str(tmp_path / "log.csv"), "--truth", str(tmp_path / "truth"))
    summary = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert "SYNTHETIC" in summary["clicks"]
    beats = asyncio.run(consume(kafka, str(topics.context), 0))
    assert beats  # a real log knows nothing ahead, and must not hold up time
    assert all("watermark" in record[3] for record in beats)
    assert summary["skipped"] == {"quantity of zero or less (adjustment)": 1}
    products = pd.read_parquet(tmp_path / "truth" / "products.parquet")
    assert products[["product_id", "units"]].to_numpy().tolist() == [["85048", 12.0]]


def test_chunks_count_their_records() -> None:
    chunk: Chunk = Shop(CONFIG, 1).feed(START_MS).advance(START_MS + HOUR_MS)
    assert len(chunk) == sum(len(batch.values) for batch in chunk.batches)
    assert len(chunk) - sum(len(batch.heartbeats) for batch in chunk.batches) == sum(
        chunk.increment.counts[f"{t}.sent"] for t in ("orders", "clickstream")
    )
