"""SIGKILL between every two steps of both workers: one run of each, in which a worker is killed at one place after another."""

import signal
import time

import pytest

from streaming.failpoints import NAMES
from tests.faults.conftest import MakeScenario
from tests.faults.harness import Outcome
from tests.faults.shop_log import END_MS, HOURS, LATENESS_MS, PARTITIONS, Sent, Topic, between, with_noise

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

# In an order in which the log gives each something to do. The sixth part of eleven is the one in which the silent product is evicted, after 24:30; a worker
# without that failpoint would evict it as soon as it is told so.
FORECAST = (
    "forecast.claimed",
    "forecast.decided",
    "forecast.committed",
    "forecast.step_closed",
    "forecast.added_up",
    "forecast.evicted",
    "forecast.gathered",
    "forecast.published",
    "forecast.settled",
    "forecast.levels_published",
    "forecast.outbox_sent",
)
INGEST = tuple(name for name in NAMES if name.startswith("ingest.") and name != "ingest.idle_advanced")


def test_every_place_has_its_kill() -> None:
    assert {*FORECAST, *INGEST, "ingest.idle_advanced", "forecast.rebuilt"} == set(NAMES)  # the last in test_takeover.py


def test_forecast_workers_killed_between_any_two_steps(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    run = scenario()
    run.worker("ingest")
    worker = run.worker("forecast", failpoint=FORECAST[0])
    parts = len(FORECAST)
    for i, place in enumerate(FORECAST):
        run.feed(between(log, i * HOURS / parts, (i + 1) * HOURS / parts))
        run.wait_hit(worker)
        assert worker.marker.read_text() == place
        assert worker.process.wait() == -signal.SIGKILL
        worker.start(FORECAST[i + 1] if i + 1 < parts else None)
    outcome = run.finish()
    assert outcome.differences(undisturbed) == []
    assert worker.restarts == 0


def test_ingest_workers_killed_between_any_two_steps(scenario: MakeScenario, log: list[Sent], undisturbed: Outcome) -> None:
    run = scenario()
    run.worker("forecast")
    worker = run.worker("ingest", failpoint=INGEST[0])
    parts = len(INGEST) + 1
    for i, place in enumerate(INGEST):
        # Copies of orders need a second round of calls, poison needs dead letters.
        run.feed(with_noise(between(log, i * HOURS / parts, (i + 1) * HOURS / parts)))
        run.wait_hit(worker)
        assert worker.marker.read_text() == place
        assert worker.process.wait() == -signal.SIGKILL
        worker.start(INGEST[i + 1] if i + 1 < len(INGEST) else None)
    run.feed(between(log, HOURS - HOURS / parts, HOURS))
    outcome = run.finish()
    assert outcome.differences(undisturbed, without=["revision"]) == []
    assert worker.restarts == 0


def test_an_ingest_worker_killed_when_the_clock_has_moved_idle_sources(
    scenario: MakeScenario, log: list[Sent], undisturbed: Outcome
) -> None:
    """One partition is silent for ever: no heartbeat moves it, the clock has to, and stands still at the log's end."""
    run = scenario(
        clock="scaled",
        clock_speed=1e-9,
        clock_origin_ms=int(time.time() * 1000) - 60_000,
        clock_start_ms=END_MS + LATENESS_MS,
        idle_after_ms=1_000,
    )
    silent = Topic.CLICKS, PARTITIONS - 1
    run.feed(record for record in log if record.value or (record.topic, record.partition) != silent)
    worker = run.worker("ingest", failpoint="ingest.idle_advanced")
    run.wait_hit(worker)
    assert worker.process.wait() == -signal.SIGKILL
    worker.start()
    run.worker("forecast")
    outcome = run.finish()
    # Forecasts say how many records were counted; alerts, whether they were decided long after their window.
    assert outcome.differences(undisturbed, without=["revision", "replay"]) == []
