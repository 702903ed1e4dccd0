"""The topics: which there are, how they must be set, and what Kafka says of them (ids, ends)."""

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from streaming.errors import UserError
from streaming.settings import DAY_MS, HOUR_MS, Clock, Settings

# Enough for six processes of a kind; more partitions than processes cost little, adding some later is allowed.
PARTITIONS: Final = 6
# A worker group that was down over a long weekend still finds everything it has not counted.
INPUT_RETENTION_MS: Final = 7 * DAY_MS
ALERT_RETENTION_MS: Final = 30 * DAY_MS
# Long enough to be found after a holiday, short because the bytes may hold personal data.
DEAD_LETTER_RETENTION_MS: Final = 7 * DAY_MS
# The doorbell is read from its end: what is older serves nobody.
UPDATES_RETENTION_MS: Final = HOUR_MS
# Only full segments are compacted: at the usual 1 GiB, old forecasts would stay for long.
COMPACTED_SEGMENT_BYTES: Final = 128 * 1024 * 1024

CONNECT_TIMEOUT_MS: Final = 10_000

_COMPACTED: Final = {"cleanup.policy": "compact", "segment.bytes": str(COMPACTED_SEGMENT_BYTES)}
_ADVICE: Final = "is it running, and is TRENDCAST_KAFKA_BOOTSTRAP right? (`trendcast up` starts one on this machine)"
_ALREADY_EXISTS: Final = 36  # Kafka's error code


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as the program needs it."""

    name: str
    partitions: int
    config: Mapping[str, str]
    exact: bool = False  # whether another number of partitions is wrong; else it is only what `create` makes


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a topic is not as planned."""

    topic: str
    setting: str  # "topic" where it does not exist, "partitions", or a name of Kafka's
    wanted: str
    found: str

    def __str__(self) -> str:
        if self.setting == "topic":
            return f"{self.topic}: does not exist"
        return f"{self.topic}: {self.setting} is {self.found}, should be {self.wanted}"


def plan(settings: Settings) -> list[TopicSpec]:
    """All topics of a namespace.

    Where time is not the wall's (`clock` scaled or log), the input topics keep records of any time: the broker's retention, which compares
    timestamps with its own clock, would delete a replayed past within minutes, and it would refuse a simulated future.
    """
    if settings.clock is Clock.WALL:
        inputs = {"cleanup.policy": "delete", "retention.ms": str(INPUT_RETENTION_MS)}
        # A Redis that was restored from a backup reads again what it lost: all of it must still be there, not the newest record of each key alone.
        ahead = {**_COMPACTED, "min.compaction.lag.ms": str(INPUT_RETENTION_MS)}
    else:
        inputs = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)}
        ahead = inputs
    return [
        TopicSpec(settings.orders_topic, PARTITIONS, inputs),
        TopicSpec(settings.clickstream_topic, PARTITIONS, inputs),
        *([] if settings.facts_topic is None else [TopicSpec(settings.facts_topic, PARTITIONS, ahead)]),
        *([] if settings.context_topic is None else [TopicSpec(settings.context_topic, 1, ahead)]),
        TopicSpec(
            settings.updates_topic,
            settings.shards,
            {"cleanup.policy": "delete", "retention.ms": str(UPDATES_RETENTION_MS), "segment.ms": str(UPDATES_RETENTION_MS)},
            exact=True,
        ),
        TopicSpec(settings.forecasts_topic, PARTITIONS, _COMPACTED),
        TopicSpec(settings.scores_topic, 1, _COMPACTED),
        TopicSpec(settings.alerts_topic, PARTITIONS, {"cleanup.policy": "delete", "retention.ms": str(ALERT_RETENTION_MS)}),
        TopicSpec(settings.feedback_topic, PARTITIONS, _COMPACTED),
        TopicSpec(settings.dead_letters_topic, PARTITIONS, {"cleanup.policy": "delete", "retention.ms": str(DEAD_LETTER_RETENTION_MS)}),
    ]


@contextmanager
def connected(bootstrap: str) -> Iterator[Any]:
    """A kafka-python admin client. Raises UserError where no broker answers."""
    import logging

    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    _reach(bootstrap)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it logs each attempt to connect; the error below says it once
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","), client_id="trendcast", bootstrap_timeout_ms=CONNECT_TIMEOUT_MS)
    except KafkaError as error:
        raise UserError(f"what answers at {bootstrap} does not answer as a Kafka broker ({error}); {_ADVICE}") from error
    try:
        yield admin
    except KafkaError as error:
        raise UserError(f"Kafka at {bootstrap}: {error}") from error
    finally:
        admin.close()


def _reach(bootstrap: str) -> None:
    """Whether any of the brokers accepts a connection; the client would try for long before it says no."""
    for address in bootstrap.split(","):
        host, colon, port = address.strip().rpartition(":")
        if not (host and colon and port.isdecimal()):
            raise UserError(f"{address!r} is not host:port; {_ADVICE}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_MS / 1000).close()
        except (OSError, OverflowError) as error:
            reason = error
        else:
            return
    raise no_broker(bootstrap, reason)


def no_broker(bootstrap: str, reason: Exception) -> UserError:
    """What to tell the user of a client that found no broker."""
    return UserError(f"no Kafka broker answers at {bootstrap} ({reason}); {_ADVICE}")


def create(settings: Settings) -> list[str]:
    """Create the topics that are missing; returns their names. Existing ones stay as they are (`differences` says how they differ).

    Raises UserError, naming the topic, where Kafka refuses one.
    """
    with connected(settings.kafka_bootstrap) as admin:
        there = _topics(admin)
        missing = {
            spec.name: {"num_partitions": spec.partitions, "configs": dict(spec.config)}
            for spec in plan(settings)
            if spec.name not in there
        }
        if not missing:
            return []
        answers = admin.create_topics(missing, raise_errors=False, wait_for_metadata=False)["topics"]
        for answer in answers:
            if answer["error_code"] not in (0, _ALREADY_EXISTS):  # somebody else may have been quicker
                raise UserError(f"Kafka refuses to create topic {answer['name']}: {answer['error_message']}")
        admin.wait_for_topics(list(missing))
        return [answer["name"] for answer in answers if answer["error_code"] == 0]


def differences(settings: Settings) -> list[Difference]:
    """How the topics differ from the plan, missing ones included."""
    specs = plan(settings)
    with connected(settings.kafka_bootstrap) as admin:
        found = {name: len(topic["partitions"]) for name, topic in _topics(admin).items()}
        configs = _configs(admin, [spec.name for spec in specs if spec.name in found])
    return [difference for spec in specs for difference in compare(spec, found.get(spec.name), configs.get(spec.name, {}))]


def compare(spec: TopicSpec, partitions: int | None, config: Mapping[str, str]) -> list[Difference]:
    """How one topic differs from its plan; `partitions` is None where there is no such topic.

    >>> spec = TopicSpec("doorbell", 8, {"retention.ms": "3600000"}, exact=True)
    >>> [str(difference) for difference in compare(spec, 6, {"retention.ms": "1"})]
    ['doorbell: partitions is 6, should be 8', 'doorbell: retention.ms is 1, should be 3600000']
    >>> [str(difference) for difference in compare(spec, None, {})]
    ['doorbell: does not exist']
    """
    if partitions is None:
        return [Difference(spec.name, "topic", "there", "missing")]
    wrong_count = spec.exact and partitions != spec.partitions
    counted = [Difference(spec.name, "partitions", str(spec.partitions), str(partitions))] if wrong_count else []
    return counted + [
        Difference(spec.name, name, wanted, config.get(name, "unknown to this broker"))
        for name, wanted in spec.config.items()
        if config.get(name) != wanted
    ]


def topic_ids(bootstrap: str, names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Topic id (a UUID, another one after the topic was deleted and made again) and number of partitions, by name; unknown names are absent."""
    with connected(bootstrap) as admin:
        topics = _topics(admin)
    return {name: (topics[name]["topic_id"], len(topics[name]["partitions"])) for name in names if name in topics}


def cluster_id(bootstrap: str) -> str:
    """The Kafka cluster's own id."""
    with connected(bootstrap) as admin:
        return str(admin.describe_cluster()["cluster_id"])


def offsets(bootstrap: str, names: Iterable[str], end: Literal["earliest", "latest"]) -> dict[tuple[str, int], int]:
    """First offset that is still there, or next offset to be written, by (topic, partition); topics that do not exist are absent."""
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec

    wanted = OffsetSpec.EARLIEST if end == "earliest" else OffsetSpec.LATEST
    with connected(bootstrap) as admin:
        topics = _topics(admin)
        asked = {
            TopicPartition(name, partition["partition_index"]): wanted
            for name in names
            if name in topics
            for partition in topics[name]["partitions"]
        }
        found = admin.list_partition_offsets(asked) if asked else {}
    return {(place.topic, place.partition): answer.offset for place, answer in found.items()}


def missing_permissions(settings: Settings) -> list[str]:
    """What the access control lists of the broker deny, as `topic: OPERATION`; nothing where there are none."""
    reads, writes = {"READ", "DESCRIBE"}, {"WRITE", "DESCRIBE"}
    needed = {
        settings.orders_topic: reads,
        settings.clickstream_topic: reads,
        **dict.fromkeys(settings.ahead_topics, reads),
        settings.updates_topic: reads | writes,
        settings.forecasts_topic: writes,
        settings.alerts_topic: writes,
        settings.scores_topic: writes,
        settings.dead_letters_topic: writes,
    }
    with connected(settings.kafka_bootstrap) as admin:
        topics = _topics(admin)
    return [
        f"{name}: {operation}"
        for name, operations in needed.items()
        if name in topics
        for operation in sorted(operations - set(topics[name]["authorized_operations"] or operations))
    ]


def broker_version(bootstrap: str) -> tuple[int, ...]:
    """Kafka's version as far as its protocol shows it, for instance (4, 3)."""
    with connected(bootstrap) as admin:
        return tuple(admin.get_broker_version_data(admin.describe_cluster()["brokers"][0]["broker_id"]).broker_version)


def _topics(admin: Any) -> dict[str, dict[str, Any]]:
    return {topic["name"]: topic for topic in admin.describe_topics() if topic["error_code"] == 0}


def _configs(admin: Any, names: list[str]) -> dict[str, dict[str, str]]:
    from kafka.admin import ConfigResource, ConfigResourceType

    if not names:
        return {}
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names], config_filter="all")
    return {name: {key: entry["value"] for key, entry in entries.items()} for name, entries in described["topic"].items()}
