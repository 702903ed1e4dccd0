"""`trendcast ingest` as a process of its own, on a real Kafka and a real Redis: each event counts once, whatever happens in between."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from pydantic import SecretStr

from feature_store.keys import Keys
from feature_store.measures import ORDERS, UNITS, VIEWS
from feature_store.sharding import shard_of
from simulator.embedded import Redis
from streaming import topics
from streaming.failpoints import NAMES
from streaming.settings import HOUR_MS, Clock, Settings

SHARDS = 8
START_MS = 488_889 * HOUR_MS
PRODUCTS = 23
WAIT_S = 60.0


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        time.sleep(0.05)


def order(i: int, *, event: str | None = None) -> bytes:
    """One or two products; five seconds between orders."""
    items = [{"product_id": f"p{(i * 7) % PRODUCTS:03d}", "quantity": 1 + i % 3, "unit_price": 2.5}]
    items += [{"product_id": f"p{(i * 11 + 1) % PRODUCTS:03d}", "quantity": 1, "unit_price": 1}] if i % 4 == 0 else []
    fields = {"event_id": event or f"e{i}", "order_id": f"o{i}", "event_time": START_MS + i * 5_000, "status": "placed", "items": items}
    return json.dumps(fields).encode()


def units_of(values: list[bytes]) -> Counter[str]:
    units: Counter[str] = Counter()
    for value in values:
        for item in json.loads(value)["items"]:
            units[item["product_id"]] += 1000 * item["quantity"]
    return units


@dataclass
class World:
    """One namespace with topics of its own on the session's broker."""

    settings: Settings
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        s = self.settings
        named = s.model_dump(mode="json", exclude={"redis_url"}, exclude_none=True)
        return os.environ | {f"TRENDCAST_{name.upper()}": str(value) for name, value in named.items()} | {"TRENDCAST_REDIS_URL": s.redis}

    def with_settings(self, **changes: Any) -> "World":
        return World(Settings(**(self.settings.model_dump() | changes)), self.directory)

    @contextlib.contextmanager
    def producer(self, **options: Any) -> Iterator[KafkaProducer]:
        producer = KafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap, **options)
        yield producer
        producer.flush()
        producer.close()

    def produce(self, values: list[bytes], *, topic: str | None = None, first: int = 0) -> None:
        with self.producer() as producer:
            for i, value in enumerate(values, first):
                producer.send(
                    topic or self.settings.orders_topic, value, partition=i % topics.PARTITIONS, timestamp_ms=START_MS + i * 5_000
                )

    @contextlib.contextmanager
    def worker(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "streaming.cli", "ingest"], env=self.environment | environment, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def counted(self) -> dict[str, list[int | None]]:
        """`topic/partition` → next offset in every shard."""
        keys = Keys(self.settings.namespace)
        with redis.Redis.from_url(self.settings.redis) as client:
            sources = {source.decode(): name.decode() for source, name in client.hgetall(keys.sources).items()}
            stored = [client.hmget(keys.offsets(shard), list(sources)) if sources else [] for shard in range(SHARDS)]
        return {name: [None if row[i] is None else int(row[i]) for row in stored] for i, name in enumerate(sources.values())}

    def has_counted_all(self) -> bool:
        ends = topics.offsets(self.settings.kafka_bootstrap, (self.settings.orders_topic, self.settings.clickstream_topic), "latest")
        counted = self.counted()
        return all(set(counted.get(f"{topic}/{partition}", [None])) == {end} for (topic, partition), end in ends.items())

    def count_all(self, **environment: str) -> None:
        with self.worker(**environment) as worker:
            assert worker.stderr is not None
            worker.stderr.readline()  # it has come so far as to handle signals
            eventually(self.has_counted_all, "everything counted")
            assert stop(worker) == 0

    def sums(self, measure: int) -> Counter[str]:
        keys, found = Keys(self.settings.namespace), Counter[str]()
        with redis.Redis.from_url(self.settings.redis) as client:
            for i in range(PRODUCTS):
                product = f"p{i:03d}"
                tiles = client.hvals(keys.tiles(shard_of(product, SHARDS), product))
                found[product] = int(sum(msgspec.msgpack.decode(packed)[measure] for packed in tiles))
        return +found


def stop(worker: subprocess.Popen[str]) -> int:
    """SIGTERM, and the exit status; the hard end comes after 9 s, so that 10 are an assertion about the program."""
    worker.send_signal(signal.SIGTERM)
    return worker.wait(timeout=10)


def said(worker: subprocess.Popen[str]) -> str:
    return worker.communicate(timeout=WAIT_S)[1]


@pytest.fixture
def world(kafka: str, redis_url: str, tmp_path: Path) -> World:
    name = f"w{uuid.uuid4().hex[:8]}"
    inputs = {"orders_topic": f"{name}-orders", "clickstream_topic": f"{name}-clicks"}
    outputs = {"forecasts_topic": f"{name}-forecasts", "alerts_topic": f"{name}-alerts", "dead_letters_topic": f"{name}-dead-letters"}
    of_its_own: dict[str, Any] = inputs | outputs
    settings = Settings(
        kafka_bootstrap=kafka,
        redis_url=SecretStr(redis_url),
        namespace=name,
        shards=SHARDS,
        clock=Clock.LOG,
        session_timeout_ms=6_000,
        heartbeat_interval_ms=1_000,
        **of_its_own,
    )
    topics.create(settings)
    return World(settings, tmp_path)


def test_every_good_event_counts_once_and_every_bad_one_is_dead_lettered(world: World) -> None:
    good = [order(i) for i in range(600)]
    repeated = [order(i) for i in range(0, 600, 9)]
    poison = [b"", b"{", b'{"event_id": 1}', order(1).replace(b'"quantity": 2', b'"quantity": -2')]
    views = [json.dumps({"event_time": START_MS + i, "type": "view", "product_id": f"p{i % 5:03d}"}).encode() for i in range(100)]
    with world.worker() as worker:
        world.produce(good + poison)
        world.produce(repeated, first=601)  # another partition than the first time
        world.produce(views, topic=world.settings.clickstream_topic)
        eventually(world.has_counted_all, "everything counted")
        assert stop(worker) == 0
    assert world.sums(UNITS) == units_of(good)
    assert world.sums(ORDERS).total() == sum(len({item["product_id"] for item in json.loads(value)["items"]}) for value in good)
    assert world.sums(VIEWS) == Counter({f"p{i:03d}": 20 for i in range(5)})
    letters = read_all(world, world.settings.dead_letters_topic)
    assert sorted(value for value, _ in letters) == sorted(poison)
    assert {headers["stage"] for _, headers in letters} == {b"ingest"}
    doorbells = {json.loads(value)["shard"] for value, _ in read_all(world, world.settings.updates_topic)}
    assert doorbells == {shard_of(f"p{i:03d}", SHARDS) for i in range(PRODUCTS)}


def read_all(world: World, topic: str) -> list[tuple[bytes, dict[str, bytes]]]:
    consumer = KafkaConsumer(bootstrap_servers=world.settings.kafka_bootstrap, enable_auto_commit=False)
    ends = topics.offsets(world.settings.kafka_bootstrap, [topic], "latest")
    consumer.assign([TopicPartition(*place) for place in ends])
    consumer.seek_to_beginning()
    found: list[tuple[bytes, dict[str, bytes]]] = []
    while len(found) < sum(ends.values()):
        for records in consumer.poll(timeout_ms=1_000).values():
            found += [(record.value or b"", dict(record.headers)) for record in records]
    consumer.close()
    return found


@pytest.mark.faults
@pytest.mark.parametrize("place", [name for name in NAMES if name.startswith("ingest.")])
def test_a_kill_between_any_two_steps_changes_nothing(world: World, place: str) -> None:
    good = [order(i) for i in range(300)]
    world.produce([*good, b"poison", *good[::5]])
    marker = world.directory / "hit"
    wall = world.with_settings(clock="wall", idle_after_ms=1_000)  # for the place where idle sources are moved
    with wall.worker(TRENDCAST_FAILPOINT=place, TRENDCAST_FAILPOINT_FILE=str(marker)) as worker:
        assert worker.wait(WAIT_S) == -signal.SIGKILL
    assert marker.read_text() == place
    world.count_all()
    assert world.sums(UNITS) == units_of(good)


@pytest.mark.faults
@pytest.mark.parametrize("traffic", [True, False])
def test_a_redis_that_lost_its_last_minutes_heals(world: World, tmp_path: Path, traffic: bool) -> None:
    values = [order(i) for i in range(400)]
    snapshot = tmp_path / "old.rdb"
    with Redis(tmp_path / "redis") as server:
        own = world.with_settings(redis_url=server.url)
        own.produce(values[:200])
        with own.worker() as worker:
            eventually(own.has_counted_all, "the first half counted")
            with redis.Redis.from_url(server.url) as client:
                client.save()
            snapshot.write_bytes((tmp_path / "redis" / "dump.rdb").read_bytes())
            own.produce(values[200:300], first=200)
            eventually(own.has_counted_all, "three quarters counted")
            server.kill()
            server.rdb = snapshot
            server.start()
            if traffic:
                own.produce(values[300:], first=300)
            assert worker.wait(WAIT_S) == 1
            assert "StoreRolledBack" in said(worker)
        if not traffic:
            own.produce(values[300:], first=300)
        own.count_all()
        assert own.sums(UNITS) == units_of(values)


@pytest.mark.faults
def test_a_frozen_owner_that_wakes_up_counts_nothing_twice(world: World) -> None:
    values = [order(i) for i in range(900)]
    with world.worker() as frozen, world.worker():
        world.produce(values[:300])
        eventually(world.has_counted_all, "the first third counted")
        world.produce(values[300:600], first=300)
        frozen.send_signal(signal.SIGSTOP)
        eventually(world.has_counted_all, "the second third counted by the other")
        frozen.send_signal(signal.SIGCONT)
        world.produce(values[600:], first=600)
        eventually(world.has_counted_all, "all counted")
    assert world.sums(UNITS) == units_of(values)


def test_records_deleted_before_the_first_start_are_a_noted_gap(world: World) -> None:
    world.produce([order(i) for i in range(60)])
    delete_before(world, 4)
    world.count_all()
    assert world.sums(UNITS) == units_of([order(i) for i in range(24, 60)])
    with redis.Redis.from_url(world.settings.redis) as client:
        gaps = [msgspec.msgpack.decode(gap) for gap in client.hgetall(Keys(world.settings.namespace).gaps).values()]
    assert [(gap["first"], gap["end"]) for gap in gaps] == [(0, 4)] * topics.PARTITIONS


def test_records_deleted_before_they_were_counted_stop_the_worker(world: World) -> None:
    world.produce([order(i) for i in range(60)])
    world.count_all()
    world.produce([order(i) for i in range(60, 120)], first=60)
    delete_before(world, 15)
    with world.worker() as worker:
        message = said(worker)
    assert worker.returncode == 1
    assert "trendcast accept-gap" in message
    assert "Traceback" not in message


def delete_before(world: World, offset: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=world.settings.kafka_bootstrap)
    admin.delete_records({TopicPartition(world.settings.orders_topic, p): offset for p in range(topics.PARTITIONS)})
    admin.close()


def test_aborted_transactions_are_not_counted_and_not_waited_for(world: World) -> None:
    committed = [order(i) for i in range(30)]
    with world.producer(transactional_id=world.settings.namespace) as producer:
        producer.init_transactions()
        for values, commit in ((committed, True), ([order(i) for i in range(30, 60)], False)):
            producer.begin_transaction()
            for i, value in enumerate(values):
                producer.send(world.settings.orders_topic, value, partition=i % topics.PARTITIONS, timestamp_ms=START_MS)
            producer.flush()
            if commit:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
    world.count_all()  # every shard's offset passes the aborted records at the end
    assert world.sums(UNITS) == units_of(committed)


@pytest.mark.faults
def test_a_recreated_topic_is_another_source(world: World) -> None:
    values = [order(i) for i in range(60)]
    world.produce(values)
    with world.worker() as worker:
        eventually(world.has_counted_all, "the old topic counted")
        admin = KafkaAdminClient(bootstrap_servers=world.settings.kafka_bootstrap)
        admin.delete_topics([world.settings.orders_topic])
        eventually(
            lambda: world.settings.orders_topic not in topics.topic_ids(world.settings.kafka_bootstrap, [world.settings.orders_topic]),
            "gone",
        )
        admin.close()
        topics.create(world.settings)
        assert worker.wait(WAIT_S) == 1
    again = [order(i, event=f"again{i}") for i in range(90)]  # more than before: the old log's offsets must not look like these
    world.produce(again)
    world.count_all()
    assert world.sums(UNITS) == units_of(values + again)


def test_the_clock_moves_sources_that_stand_at_the_end_of_their_log(world: World) -> None:
    world = world.with_settings(clock="wall", idle_after_ms=1_000)
    with world.worker():
        eventually(lambda: bool(idle_of(world)), "idle sources moved")
        assert len(idle_of(world)) == 2 * topics.PARTITIONS
        lateness = [time.time() * 1000 - moved for moved in idle_of(world).values()]
        assert min(lateness) >= world.settings.lateness_ms


def idle_of(world: World) -> dict[bytes, int]:
    with redis.Redis.from_url(world.settings.redis) as client:
        return {source: int(value) for source, value in client.hgetall(Keys(world.settings.namespace).idle(0)).items()}


def test_sources_far_ahead_wait_for_the_slow_one_and_then_go_on(world: World) -> None:
    world = world.with_settings(ahead_ms=60_000)
    values = [order(i) for i in range(600)]  # 50 minutes, partition by partition
    with world.producer() as producer:
        for i, value in enumerate(values):
            producer.send(world.settings.orders_topic, value, partition=i // 100, timestamp_ms=START_MS + i * 5_000)
    world.count_all()
    assert world.sums(UNITS) == units_of(values)


def test_it_says_when_it_is_ready_and_what_it_counted(world: World) -> None:
    with world.worker() as worker:
        assert worker.stderr is not None
        address = json.loads(worker.stderr.readline())["metrics"]
        eventually(lambda: status(address.replace("/metrics", "/readyz")) == 200, "ready")
        assert status(address.replace("/metrics", "/healthz")) == 200
        world.produce([order(i) for i in range(60)])
        eventually(world.has_counted_all, "everything counted")
        with urllib.request.urlopen(address) as answer:
            lines = answer.read().decode().splitlines()
    assert f'trendcast_ingest_records_total{{outcome="accepted",topic="{world.settings.orders_topic}"}} 60.0' in lines


def status(address: str) -> int:
    try:
        with urllib.request.urlopen(address) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_missing_topic_is_told_in_plain_words(world: World) -> None:
    with world.with_settings(orders_topic="nowhere").worker() as worker:
        message = said(worker)
    assert worker.returncode == 1
    assert "trendcast topics create" in message
    assert "Traceback" not in message


def test_a_topic_of_what_is_known_ahead_may_be_missing_and_be_made_later(world: World) -> None:
    """Without it the others are counted; once it is there the worker ends, so that its successor reads it."""
    later = world.with_settings(facts_topic=f"{world.settings.namespace}-facts")
    with later.worker() as worker:
        world.produce([order(i) for i in range(60)])
        eventually(world.has_counted_all, "everything counted")
        topics.create(later.settings)
        message = said(worker)
    assert worker.returncode == 1
    assert "ingest.topic_missing" in message
    assert f"topic {later.settings.facts_topic} was made" in message
    assert "Traceback" not in message
    product = "p000"
    with later.worker() as worker, later.producer() as producer:
        value = json.dumps({"product_id": product, "unit_price": 3}).encode()
        producer.send(later.settings.facts_topic, value, key=product.encode(), timestamp_ms=START_MS)
        producer.send(later.settings.facts_topic, b"{", key=product.encode(), timestamp_ms=START_MS)
        producer.flush()
        keys, shard = Keys(world.settings.namespace), shard_of(product, SHARDS)
        with redis.Redis.from_url(world.settings.redis) as client:
            eventually(lambda: client.hget(keys.facts(shard), product) is not None, "facts are there")
        assert stop(worker) == 0


def test_it_ends_in_order_while_the_group_still_waits_for_a_dead_member(world: World) -> None:
    with world.worker() as dead:
        assert dead.stderr is not None
        while "ingest.assigned" not in dead.stderr.readline():
            pass
        dead.kill()
    with world.worker() as worker:
        assert worker.stderr is not None
        worker.stderr.readline()
        assert stop(worker) == 0
