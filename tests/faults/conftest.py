"""Scenarios, and the run without faults that all are compared with."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from simulator.embedded import Stack
from tests.faults.harness import Outcome, Scenario
from tests.faults.shop_log import Sent, shop_log

MakeScenario = Callable[..., Scenario]


@pytest.fixture(scope="session")
def log() -> list[Sent]:
    """The shop's log."""
    return shop_log()


@pytest.fixture
def scenario(stack: Stack, repository: Path, tmp_path: Path) -> Iterator[MakeScenario]:
    """Makes scenarios on the session's servers (or on another Redis, by `redis_url`), which end with the test."""
    with ExitStack() as ends:

        def make(redis_url: str = stack.redis.url, **settings: Any) -> Scenario:
            return ends.enter_context(Scenario(tmp_path, stack.kafka.address, redis_url, repository / "models" / "default", **settings))

        yield make


@pytest.fixture(scope="session")
def undisturbed(stack: Stack, repository: Path, log: list[Sent], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The outcome of a run without faults."""
    directory = tmp_path_factory.mktemp("undisturbed")
    with Scenario(directory, stack.kafka.address, stack.redis.url, repository / "models" / "default") as run:
        run.feed(log)
        run.worker("ingest")
        run.worker("forecast")
        return run.finish()
