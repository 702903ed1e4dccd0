"""An assignment knows what it was made for."""

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from streaming.assignor import CountingRoundRobin


class Cluster:
    """Topics and their numbers of partitions, as aiokafka would know them."""

    def __init__(self, **partitions: int) -> None:
        self.partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self.partitions[topic])) if topic in self.partitions else None


def assigned(cluster: Cluster, *members: str) -> dict[str, CountingRoundRobin]:
    """Members of a group after the first of them has dealt out the partitions; what it says goes over the wire."""
    each = {name: CountingRoundRobin() for name in members}
    dealt = each[members[0]].assign(cluster, {name: own.metadata(["orders", "clicks"]) for name, own in each.items()})
    for name, own in each.items():
        own.on_assignment(ConsumerProtocolMemberAssignment.decode(dealt[name].encode()))
    assert sorted(tp for own in dealt.values() for tp in own.partitions()) == [
        (topic, p) for topic in sorted(cluster.partitions) for p in range(cluster.partitions[topic])
    ]
    return each


def test_every_member_notices_what_the_assignment_does_not_know_of() -> None:
    for member in assigned(Cluster(orders=6, clicks=2), "a", "b").values():
        assert not member.is_outdated(Cluster(orders=6, clicks=2))
        assert member.is_outdated(Cluster(orders=7, clicks=2))
        assert member.is_outdated(Cluster(orders=6, clicks=1))


def test_a_topic_that_is_gone_is_somebody_elses_to_notice() -> None:
    for member in assigned(Cluster(orders=6), "a").values():
        assert not member.is_outdated(Cluster())
        assert not member.is_outdated(Cluster(orders=6, clicks=2))  # not made for it: there was none


def test_an_assignment_by_an_older_leader_says_nothing() -> None:
    member = CountingRoundRobin()
    member.on_assignment(ConsumerProtocolMemberAssignment(0, [("orders", [0])], b""))
    assert not member.is_outdated(Cluster(orders=6))


def test_who_asks_says_something_new() -> None:
    member = CountingRoundRobin()
    said = [member.metadata(["orders"]).encode()]
    for _ in range(2):
        member.ask_anew()
        said.append(member.metadata(["orders"]).encode())
    assert len(set(said)) == 3
