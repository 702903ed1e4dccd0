"""What operators and brokers do to topics: deleted and made again, records deleted, partitions added."""

from dataclasses import replace

import pytest
from kafka import KafkaAdminClient, TopicPartition

from streaming import topics
from tests.faults.conftest import MakeScenario
from tests.faults.harness import Outcome, Scenario
from tests.faults.shop_log import HOUR_MS, HOURS, PARTITIONS, START_MS, Sent, Topic, between, order

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_a_topic_deleted_and_made_again(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """What was counted from the old topic stays; the new one is another source, although it grows longer than the old."""
    run = scenario(session_timeout_ms=6_000)
    # A static member that comes back gets its old partitions, whatever became of the topics meanwhile.
    run.worker("ingest", static=False)
    run.worker("forecast")
    run.feed(between(log, 0, 20))
    run.wait_settled(START_MS + 19 * HOUR_MS)
    with topics.connected(run.settings.kafka_bootstrap) as admin:
        admin.delete_topics([run.topic("orders")])
        run.wait(lambda: run.topic("orders") not in topics.topic_ids(run.settings.kafka_bootstrap, [run.topic("orders")]), "the topic goes")
    topics.create(run.settings)
    run.wait(lambda: _expected_topics(run) == _topic_ids(run), "the new topic's partitions are expected, and no longer the old one's")
    run.feed(between(log, 20, HOURS))
    outcome = run.finish()
    assert outcome.differences(undisturbed, without=["revision"]) == []


def _expected_topics(run: Scenario) -> set[str]:
    return {source.decode().rpartition("/")[0] for source in run.redis.hkeys(run.keys.sources)}


def _topic_ids(run: Scenario) -> set[str]:
    found = topics.topic_ids(run.settings.kafka_bootstrap, [run.topic("orders"), run.topic("clickstream")])
    return {topic_id for topic_id, _ in found.values()}


def test_records_deleted_before_they_were_counted(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """The worker stops and says what to do; `accept-gap` heals it; forecasts say so until no stored step can lack the lost records."""
    run = scenario()
    ingest = run.worker("ingest")
    run.worker("forecast")
    run.feed(between(log, 0, 20))
    run.wait_settled(START_MS + 19 * HOUR_MS)
    assert ingest.stop() == 0
    doomed = [
        Sent(Topic.ORDERS, i % PARTITIONS, START_MS + 20 * HOUR_MS, order(f"lost{i}", START_MS + 20 * HOUR_MS, ["p05"])) for i in range(60)
    ]
    run.feed(doomed)
    _delete_all(run, "orders")
    ingest.start()
    assert ingest.process.wait() == 1
    assert "trendcast accept-gap" in ingest.said()
    assert "Traceback" not in ingest.said()
    said = run.run("accept-gap", "--yes").stdout
    assert said.count("10 records") == PARTITIONS
    ingest.start()
    run.feed(between(log, 20, HOURS))
    outcome = run.finish()
    assert {forecast["quality"] for forecast in outcome.forecasts.values()} == {"gap"}
    assert outcome.differences(undisturbed, without=["revision", "quality"]) == []


def _delete_all(run: Scenario, topic: str) -> None:
    """Delete every record that the topic holds."""
    name = run.topic(topic)
    ends = {TopicPartition(*place): end for place, end in topics.offsets(run.settings.kafka_bootstrap, [name], "latest").items()}
    admin = KafkaAdminClient(bootstrap_servers=run.settings.kafka_bootstrap)
    admin.delete_records(ends)
    admin.close()


def test_a_partition_added(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """Half of what went to one partition goes to a new one from some hour on; it is expected before anything closes without it."""
    run = scenario()
    run.worker("ingest")
    run.worker("forecast")
    run.feed(between(log, 0, 20))
    run.wait_settled(START_MS + 19 * HOUR_MS)
    with topics.connected(run.settings.kafka_bootstrap) as admin:
        admin.create_partitions({run.topic("orders"): PARTITIONS + 1})
    run.wait(lambda: len(run.redis.hgetall(run.keys.sources)) == 2 * PARTITIONS + 1, "the new partition is expected")
    rest = between(log, 20, HOURS)
    moved = [
        replace(record, partition=PARTITIONS)
        if record.value and record.topic is Topic.ORDERS and record.partition == 0 and i % 2
        else record
        for i, record in enumerate(rest)
    ]
    beats = [
        replace(record, partition=PARTITIONS)
        for record in rest
        if not record.value and (record.topic, record.partition) == (Topic.ORDERS, 0)
    ]
    run.feed(sorted(moved + beats, key=lambda record: record.time_ms))
    outcome = run.finish()
    assert outcome.differences(undisturbed, without=["revision"]) == []
