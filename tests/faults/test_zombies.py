"""Workers that freeze, lose their partitions, and wake up as if nothing had happened; and two that own the same partitions."""

import pytest

from tests.faults.conftest import MakeScenario
from tests.faults.harness import Outcome
from tests.faults.shop_log import HOUR_MS, HOURS, START_MS, Sent, between

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

# After so long the others get what a frozen worker owned; long enough that a busy machine is not taken for a frozen one.
SESSION_MS = 6_000


def test_an_ingest_worker_frozen_past_its_session(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """The zombie holds records that the other has counted by then, and goes on with them when it wakes up."""
    run = scenario(session_timeout_ms=SESSION_MS)
    run.worker("forecast")
    frozen = run.worker("ingest", failpoint="ingest.decoded:1:stop")
    run.feed(between(log, 0, 20))
    run.wait_hit(frozen)
    run.worker("ingest")
    run.wait_counted()
    frozen.thaw()
    run.feed(between(log, 20, HOURS))
    outcome = run.finish()
    assert outcome.differences(undisturbed) == []


def test_two_ingest_workers_own_the_same_partitions(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    run = scenario()
    run.worker("forecast")
    one, other = run.worker("ingest"), run.worker("ingest", program="tests.faults.twin")
    for hour in range(0, HOURS, 6):
        run.feed(between(log, hour, hour + 6))
        run.wait_counted()
    outcome = run.finish()
    assert outcome.differences(undisturbed) == []
    assert "store.ahead" in one.said() + other.said()  # each found that the other had counted


def test_a_forecast_worker_frozen_before_sending(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    """First with a forecast that it has yet to make, then with alerts that it has committed and not sent: the other has sent newer ones by then."""
    run = scenario(session_timeout_ms=SESSION_MS)
    run.worker("ingest")
    run.worker("forecast")
    frozen = run.worker("forecast", failpoint="forecast.gathered:1:stop")
    for place, hours in (("forecast.gathered", (0, 20, 26)), ("forecast.committed", (26, 32, 36))):
        run.wait(lambda: run.owners() == 2, "both own some shards")
        run.feed(between(log, hours[0], hours[1]))
        run.wait_hit(frozen)
        run.feed(between(log, hours[1], hours[2]))
        run.wait_settled(START_MS + (hours[2] - 1) * HOUR_MS)  # by the other, which got the shards
        frozen.supervised = False
        frozen.thaw()
        run.wait(lambda: any(word in frozen.said() for word in ("FrozenWorker", "shard.lost")), f"the zombie of {place} notices")
        frozen.kill()
        run.wait(lambda: run.owners() == 1, "the other owns every shard")
        frozen.start("forecast.committed:1:stop" if place == "forecast.gathered" else None)
        frozen.supervised = True
    run.wait(lambda: run.owners() == 2, "both own some shards")
    run.feed(between(log, 36, HOURS))
    outcome = run.finish()
    assert outcome.differences(undisturbed) == []
