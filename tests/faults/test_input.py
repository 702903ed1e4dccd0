"""What producers do: transactions that are aborted, events sent twice, poison, partitions that stay empty or lag hours behind."""

from dataclasses import replace

import pytest
from kafka import KafkaProducer

from tests.faults.conftest import MakeScenario
from tests.faults.harness import Outcome
from tests.faults.shop_log import HOURS, PARTITIONS, POISON, START_MS, Sent, Topic, between, order, with_noise

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_aborted_transactions_copies_and_poison_do_not_count(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """Committed and aborted transactions alternate; the committed ones hold copies and poison among the log's records."""
    run = scenario()
    run.worker("ingest")
    run.worker("forecast")
    producer = KafkaProducer(bootstrap_servers=run.settings.kafka_bootstrap, linger_ms=20, transactional_id=run.settings.namespace)
    producer.init_transactions()
    poison = 0
    for hour in range(0, HOURS, 4):
        good = with_noise(between(log, hour, hour + 4))
        poison += len(good) - sum(1 for record in good if record.value not in POISON or record.watermark_ms is not None)
        at_ms = START_MS + hour * 3_600_000
        never = [Sent(Topic.ORDERS, i % PARTITIONS, at_ms, order(f"aborted{hour}-{i}", at_ms, ["p07"])) for i in range(40)]
        for records, end in ((good, producer.commit_transaction), (never, producer.abort_transaction)):
            producer.begin_transaction()
            for record in records:
                run.send(producer, record)
            producer.flush()
            end()
    producer.close()
    outcome = run.finish()
    assert outcome.differences(undisturbed, without=["revision"]) == []
    assert len(run.read("dead_letters")) == poison


def test_poison_in_every_position_of_a_batch(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """Before the first record, after the last one, between any two of some hours, and hours of nothing else."""
    run = scenario()
    run.worker("forecast")
    at_ms = START_MS

    def poison(n: int, partition: int) -> list[Sent]:
        return [Sent(topic, partition, at_ms, POISON[i % len(POISON)]) for i in range(n) for topic in Topic]

    run.feed(p for partition in range(PARTITIONS) for p in poison(len(POISON), partition))
    beginning = between(log, 0, 3)
    run.feed(record for i, good in enumerate(beginning) for record in (good, *poison(1 + i % 2, good.partition)))
    run.worker("ingest")
    run.wait_counted()
    run.feed(p for partition in range(PARTITIONS) for p in poison(500, partition))
    run.wait_counted()
    run.feed(between(log, 3, HOURS))
    run.feed(p for partition in range(PARTITIONS) for p in poison(len(POISON), partition))
    outcome = run.finish()
    assert outcome.differences(undisturbed, without=["revision"]) == []


def test_a_partition_that_stays_empty_and_one_that_lags_hours_behind(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """The last partition of each topic has heartbeats only; one of orders comes when everything else was sent long ago."""
    run = scenario()
    run.worker("ingest")
    run.worker("forecast")
    empty, slow = PARTITIONS - 1, (Topic.ORDERS, 1)
    full = [replace(record, partition=0) if record.value and record.partition == empty else record for record in log]
    run.feed(record for record in full if (record.topic, record.partition) != slow)
    late = [record for record in full if (record.topic, record.partition) == slow]
    for hour in range(0, HOURS, 16):
        run.feed(between(late, hour, hour + 16))
    outcome = run.finish()
    assert outcome.differences(undisturbed, without=["revision"]) == []
