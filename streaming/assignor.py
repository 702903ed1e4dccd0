"""Who of a consumer group reads which partitions: round robin. With each assignment go the numbers of partitions that it was made for.

A member with a name of its own (static membership) that restarts within its session is given its old assignment, whatever has become of the topics
meanwhile; and if it was the leader, nobody in the group looks at the topics until the next rebalance. So every member compares. To ask for a
rebalance it joins again with other metadata than the coordinator remembers of it: a member that says nothing new is given what it has.
"""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class CountingRoundRobin(RoundRobinPartitionAssignor):  # type: ignore[misc]
    """aiokafka's own, of one consumer. `cluster` is aiokafka's view of the topics, which it renews by itself."""

    def __init__(self) -> None:
        self._made_for: dict[str, int] = {}
        self._mark = b""

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """As the leader: everybody's partitions."""
        topics = {topic for metadata in members.values() for topic in metadata.subscription}
        counts = msgspec.json.encode(_partitions(cluster, topics), order="deterministic")
        dealt = super().assign(cluster, members)
        return {name: ConsumerProtocolMemberAssignment(own.version, own.assignment, counts) for name, own in dealt.items()}

    def metadata(self, topics: Iterable[str]) -> Any:
        """What is said on joining."""
        return ConsumerProtocolMemberMetadata(self.version, list(topics), self._mark)

    def on_assignment(self, assignment: Any) -> None:
        """The assignment that was received. A leader of an older version says nothing of numbers."""
        self._made_for = msgspec.json.decode(assignment.user_data, type=dict[str, int]) if assignment.user_data else {}

    def is_outdated(self, cluster: Any) -> bool:
        """Whether topics have other numbers of partitions than those that the assignment was made for; those that are gone are not looked at."""
        return any(n != self._made_for[topic] for topic, n in _partitions(cluster, self._made_for).items())

    def ask_anew(self) -> None:
        """From now on metadata differ from what was said before."""
        self._mark = secrets.token_bytes(8)


def _partitions(cluster: Any, topics: Iterable[str]) -> dict[str, int]:
    """Numbers of partitions; unknown topics are absent."""
    return {topic: len(found) for topic in topics if (found := cluster.partitions_for_topic(topic))}
