"""Liveness by progress, readiness by conditions, over real HTTP."""

import json

import aiohttp
import pytest

from streaming import metrics
from streaming.errors import UserError
from streaming.health import ASSIGNMENT, MODEL, STORE, Health, HealthServer

HOST = "127.0.0.1"


class HandClock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


async def get(server: HealthServer, path: str, **headers: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{server.port}{path}", headers=headers) as answer:
        return answer.status, await answer.text(), answer.headers["Content-Type"]


def test_conditions_hold_when_all_are_met() -> None:
    health = Health([ASSIGNMENT, STORE])
    assert not health.ready()
    health.met(STORE)
    assert health.conditions() == {ASSIGNMENT: "not yet", STORE: "ok"}
    health.met(ASSIGNMENT)
    assert health.ready()
    health.lost(STORE, "cannot reach 127.0.0.1:6379")
    assert health.conditions() == {ASSIGNMENT: "ok", STORE: "cannot reach 127.0.0.1:6379"}
    assert not health.ready()
    told = metrics.render()[0].decode()
    assert 'trendcast_worker_met_conditions{condition="assignment"} 1.0' in told
    assert 'trendcast_worker_met_conditions{condition="store"} 0.0' in told


def test_undeclared_names_are_refused() -> None:
    health = Health([STORE])
    with pytest.raises(KeyError):
        health.met(MODEL)
    with pytest.raises(KeyError):
        health.progressed("loop", 1.0)


def test_each_activity_has_its_own_limit_and_may_end() -> None:
    health = Health([])
    health.watch("fast", 1.0, now_s=0.0)
    health.watch("slow", 100.0, now_s=0.0)
    assert list(health.stuck(now_s=2.0)) == ["fast"]
    health.progressed("fast", now_s=2.0)
    assert health.stuck(now_s=3.0) == {}
    assert list(health.stuck(now_s=200.0)) == ["fast", "slow"]
    health.unwatch("fast")
    health.unwatch("never watched")
    assert list(health.stuck(now_s=200.0)) == ["slow"]


async def test_a_worker_is_seen_to_live_before_it_is_ready() -> None:
    health, clock = Health([ASSIGNMENT]), HandClock()
    health.watch("event loop", 10.0, clock())
    async with HealthServer(health, HOST, 0, clock=clock) as server:
        assert (await get(server, "/healthz"))[0] == 200
        status, body, content_type = await get(server, "/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "conditions": {ASSIGNMENT: "not yet"}})
        assert content_type.startswith("application/json")
        health.met(ASSIGNMENT)
        assert (await get(server, "/readyz"))[0] == 200


async def test_a_worker_without_progress_is_not_alive() -> None:
    health, clock = Health([]), HandClock()
    health.watch("event loop", 10.0, clock())
    async with HealthServer(health, HOST, 0, clock=clock) as server:
        clock.now_s += 12.0
        status, body, _ = await get(server, "/healthz")
        assert (status, json.loads(body)) == (503, {"live": False, "stuck": {"event loop": "no progress for 12.0 s, allowed are 10 s"}})
        health.progressed("event loop", clock())
        assert (await get(server, "/healthz"))[0] == 200


async def test_metrics_are_served_in_the_format_asked_for() -> None:
    metrics.INGEST_DOORBELLS.inc()
    async with HealthServer(Health([]), HOST, 0) as server:
        status, body, content_type = await get(server, "/metrics")
        assert (status, content_type.split(";")[0]) == (200, "text/plain")
        assert "trendcast_ingest_doorbells_total" in body
        _, body, content_type = await get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")
        assert (await get(server, "/"))[0] == 404


async def test_a_taken_port_is_the_users_to_solve() -> None:
    async with HealthServer(Health([]), HOST, 0) as server:
        second = HealthServer(Health([]), HOST, server.port)
        with pytest.raises(UserError, match="TRENDCAST_METRICS_PORT"):
            await second.start()
        await second.stop()


async def test_a_stopped_server_answers_nobody_and_stops_again_harmlessly() -> None:
    server = HealthServer(Health([]), HOST, 0)
    await server.start()
    await server.stop()
    await server.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(server, "/healthz")
