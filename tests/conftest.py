"""Real servers for every test that wants them: one Kafka and one Redis a test session (and a worker of pytest-xdist)."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from simulator.embedded import Stack

# Threads that wait for each other by spinning take a small model minutes on a busy machine. Read when their libraries are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No timed assertions: a busy machine must not fail a test.
hypothesis.settings.register_profile("trendcast", deadline=None)
hypothesis.settings.load_profile("trendcast")


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_recorded() -> Iterator[None]:
    """Trainings and backtests under test are not recorded, unless a test names a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRENDCAST_MLFLOW_URI", "off")
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The session's servers. Tests that stop or kill servers start their own (`simulator.embedded.Kafka`, `.Redis`)."""
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="session")
def kafka(stack: Stack) -> str:
    """Bootstrap address of the session's broker. Its topics are shared: give yours names of their own."""
    return stack.kafka.address


@pytest.fixture
def redis_url(stack: Stack) -> str:
    """URL of the session's Redis, emptied for each test."""
    with redis.Redis.from_url(stack.redis.url) as client:
        client.flushall()
        client.script_flush()
    return stack.redis.url


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root folder."""
    return Path(__file__).resolve().parents[1]
