"""Redis forgets what it had acknowledged: restarted from an older snapshot, or failed over to a replica that had fallen behind."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from simulator.embedded import Redis
from tests.faults.conftest import MakeScenario
from tests.faults.harness import Outcome, Scenario
from tests.faults.relay import Relay
from tests.faults.shop_log import HOUR_MS, HOURS, START_MS, Sent, between

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.parametrize("traffic", [True, False])
def test_redis_restarted_from_an_older_snapshot(
    scenario: MakeScenario, log: list[Sent], undisturbed: Outcome, tmp_path: Path, traffic: bool
) -> None:
    """Hours 20 to 31 are counted, closed and published, and then forgotten; with traffic, more is counted while Redis comes back."""
    with Redis(tmp_path / "redis") as server:
        run = scenario(redis_url=server.url)
        ingest, forecast = run.worker("ingest"), run.worker("forecast")
        run.feed(between(log, 0, 20))
        run.wait_settled(START_MS + 19 * HOUR_MS)
        run.redis.save()
        snapshot = tmp_path / "old.rdb"
        snapshot.write_bytes((tmp_path / "redis" / "dump.rdb").read_bytes())
        run.feed(between(log, 20, 31))
        run.wait_settled(START_MS + 30 * HOUR_MS)
        if traffic:
            run.feed(between(log, 31, 36))
        server.kill()
        server.rdb = snapshot
        server.start()
        run.wait(lambda: ingest.restarts > 0, "the ingest worker notices")
        assert "StoreRolledBack" in ingest.logs[0].read_text()
        run.feed(between(log, 36 if traffic else 31, HOURS))
        outcome = run.finish()
        assert outcome.differences(undisturbed) == []
        assert ingest.statuses == [1]
        assert forecast.restarts == 0


def test_a_failover_to_a_replica_that_had_fallen_behind(
    scenario: MakeScenario, log: list[Sent], undisturbed: Outcome, tmp_path: Path
) -> None:
    with ExitStack() as ends:
        primary = ends.enter_context(Redis(tmp_path / "primary"))
        to_replica = ends.enter_context(Relay(primary.port))
        replica = ends.enter_context(Redis(tmp_path / "replica", replica_of=to_replica.port))
        to_redis = ends.enter_context(Relay(primary.port))
        run = scenario(redis_url=f"redis://127.0.0.1:{to_redis.port}/0")
        ingest = run.worker("ingest")
        run.worker("forecast")
        run.feed(between(log, 0, 20))
        run.wait_settled(START_MS + 19 * HOUR_MS)
        follower = ends.enter_context(redis.Redis.from_url(replica.url))
        run.wait(lambda: _has_all(run, follower), "the replica has what the primary has")
        to_replica.cut()
        run.feed(between(log, 20, 31))
        run.wait_settled(START_MS + 30 * HOUR_MS)
        run.feed(between(log, 31, 36))
        follower.replicaof("no", "one")  # what a fail-over does
        primary.kill()
        to_redis.point_to(replica.port)
        run.wait(lambda: ingest.restarts > 0, "the ingest worker notices")
        run.feed(between(log, 36, HOURS))
        outcome = run.finish()
        assert outcome.differences(undisturbed) == []


def _has_all(run: Scenario, follower: redis.Redis) -> bool:
    return all(
        follower.hgetall(run.keys.offsets(shard)) == run.redis.hgetall(run.keys.offsets(shard)) for shard in range(run.settings.shards)
    )
