"""Topics on a real broker: created as planned, differences named, ids and ends told."""

import hashlib
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition

from streaming import topics
from streaming.errors import UserError
from streaming.settings import Clock, Settings


@pytest.fixture
def settings(kafka: str, request: pytest.FixtureRequest) -> Settings:
    """Topics of this test alone."""
    name = "t" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    return Settings(
        kafka_bootstrap=kafka,
        shards=4,
        namespace=name,
        orders_topic=f"{name}-orders",
        clickstream_topic=f"{name}-clickstream",
        forecasts_topic=f"{name}-forecasts",
        alerts_topic=f"{name}-alerts",
        scores_topic=f"{name}-scores",
        dead_letters_topic=f"{name}-dead-letters",
    )


def test_created_topics_are_as_planned_and_creating_again_does_nothing(settings: Settings) -> None:
    ours = {spec.name for spec in topics.plan(settings) if spec.name.startswith(settings.namespace)}
    assert {difference.topic for difference in topics.differences(settings) if difference.setting == "topic"} >= ours
    assert set(topics.create(settings)) >= ours
    assert topics.differences(settings) == []
    assert topics.create(settings) == []


def test_missing_topics_are_added_beside_existing_ones(settings: Settings) -> None:
    existing = {settings.orders_topic: {"num_partitions": 3}, settings.updates_topic: {"num_partitions": 2}}
    with topics.connected(settings.kafka_bootstrap) as admin:
        admin.create_topics(existing, wait_for_metadata=True)
    assert not set(existing) & set(topics.create(settings))
    found = [(difference.topic, difference.setting, difference.found) for difference in topics.differences(settings)]
    assert (settings.updates_topic, "partitions", "2") in found
    assert (settings.orders_topic, "partitions", "3") not in found  # a shop has as many as it likes


def test_a_replayed_past_needs_topics_that_keep_it(settings: Settings) -> None:
    topics.create(settings)
    replaying = settings.model_copy(update={"clock": Clock.LOG})
    found = {(difference.topic, difference.setting) for difference in topics.differences(replaying)}
    assert found == {
        (topic, setting)
        for topic in (settings.orders_topic, settings.clickstream_topic)
        for setting in ("retention.ms", "message.timestamp.after.max.ms")
    }


def test_a_recreated_topic_has_another_id(settings: Settings) -> None:
    bootstrap, name = settings.kafka_bootstrap, settings.orders_topic
    topics.create(settings)
    before = topics.topic_ids(bootstrap, [name, "no-such-topic"])
    assert list(before) == [name]
    assert before[name][1] == topics.PARTITIONS
    with topics.connected(bootstrap) as admin:
        admin.delete_topics([name])
    while topics.topic_ids(bootstrap, [name]):
        pass  # the broker hears of it from the controller a little later
    topics.create(settings)
    assert topics.topic_ids(bootstrap, [name])[name][0] != before[name][0]


def test_offsets_tell_both_ends_of_a_log(settings: Settings) -> None:
    bootstrap, name = settings.kafka_bootstrap, settings.orders_topic
    topics.create(settings)
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for _ in range(5):
        producer.send(name, b"x", partition=2)
    producer.close()
    with topics.connected(bootstrap) as admin:
        admin.delete_records({TopicPartition(name, 2): 3})
    ends = topics.offsets(bootstrap, [name, "no-such-topic"], "latest")
    assert ends == {(name, partition): 5 if partition == 2 else 0 for partition in range(6)}
    assert topics.offsets(bootstrap, [name], "earliest")[name, 2] == 3


def test_the_cluster_says_who_it_is(kafka: str) -> None:
    assert len(topics.cluster_id(kafka)) == 22
    assert topics.broker_version(kafka) >= (4, 0)


def test_nothing_is_denied_without_access_control(settings: Settings) -> None:
    topics.create(settings)
    assert topics.missing_permissions(settings) == []


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:1", "no-port", "127.0.0.1:1,no.such.host.invalid:9092", "localhost:99999"])
def test_no_broker_is_a_users_error(bootstrap: str) -> None:
    with pytest.raises(UserError, match="TRENDCAST_KAFKA_BOOTSTRAP"):
        topics.cluster_id(bootstrap)


def test_a_name_that_kafka_refuses_is_named(kafka: str) -> None:
    with pytest.raises(UserError, match=r"refuses to create topic a b"):
        topics.create(Settings(kafka_bootstrap=kafka, orders_topic="a b"))


def test_plans_fit_their_clock() -> None:
    ahead: dict[str, Any] = {"facts_topic": "product-facts", "context_topic": "context"}
    wall = {spec.name: spec for spec in topics.plan(Settings(**ahead))}
    log = {spec.name: spec for spec in topics.plan(Settings(clock=Clock.LOG, **ahead))}
    assert wall["orders"].config["retention.ms"] == str(7 * 24 * 3_600_000)
    assert log["orders"].config["retention.ms"] == "-1"
    compacted = {name for name, spec in wall.items() if spec.config["cleanup.policy"] == "compact"}
    assert compacted == {"forecasts", "forecast-scores", "product-facts", "context", "alert-feedback"}
    assert wall["product-facts"].config["min.compaction.lag.ms"] == wall["orders"].config["retention.ms"]  # a restored Redis reads it again
    assert log["context"].config["retention.ms"] == "-1"
    assert not {"product-facts", "context"} & {
        spec.name for spec in topics.plan(Settings())
    }  # a topic that nobody writes to would hold up time
    assert wall["shop-product-updates"].partitions == 32
