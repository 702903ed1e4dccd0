"""A promoted model taken over by running workers, under traffic, with kills, and by one worker earlier than by another.

All are compared with a run whose worker was ended and started again with the new model: the same records, so the same states. Time stands while
models change (what the shop sells meanwhile is sent late): a state that is rebuilt an hour later rests on an hour's more steps.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest

from models import artefact as artefacts
from models.contenders import BASELINES
from models.registry import local_uri
from simulator.embedded import Stack
from tests.faults.conftest import MakeScenario
from tests.faults.harness import Outcome, Scenario, Worker
from tests.faults.shop_log import HOUR_MS, HOURS, MINUTE_MS, START_MS, Sent, Topic, between, order
from tests.models.another import SHIPPED, another

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

CHANGE_HOUR: Final = 40
PRODUCTS: Final = tuple(f"p{i:02d}" for i in range(40))
# A worker that is to lose its shards to another does so after this.
SESSION_MS: Final = 6_000


def traffic(first: int, n: int) -> list[Sent]:
    """Orders of all products, late, in tiles that are judged and a step that is not closed: they ask for forecasts, and time goes no further."""
    at_ms = START_MS + CHANGE_HOUR * HOUR_MS - 30 * MINUTE_MS
    return [Sent(Topic.ORDERS, 0, at_ms, order(f"now-{i}", at_ms, PRODUCTS)) for i in range(first, first + n)]


ROUNDS: Final = 30  # of traffic while models change


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The shipped model and another, each with a backtest by which it may be promoted, one after the other."""
    found = []
    for number, artefact in enumerate((artefacts.read(SHIPPED), another())):
        rows = {artefact.name: {"MWQL": 0.7 - number / 10}, **{name: {"MWQL": 0.9} for name in BASELINES}}
        directory = tmp_path_factory.mktemp("models") / str(number)
        artefacts.write(replace(artefact, backtest={"shop": rows}, training={"benches": {"shop": "b"}}), directory)
        found.append(directory)
    return found


class Shop:
    """A scenario at the hour at which models change, and what is done there."""

    def __init__(self, run: Scenario, log: list[Sent], mlflow: str) -> None:
        self.run, self.log, self.mlflow = run, log, mlflow
        self._sent = 0
        run.feed(between(log, 0, CHANGE_HOUR))
        run.worker("ingest")

    def trade(self) -> None:
        """One order of everything, as long as there are any."""
        if self._sent < ROUNDS:
            self.run.feed(traffic(self._sent, 1))
            self._sent += 1

    def command(self, *arguments: str) -> str:
        environment = self.run.environment() | {"TRENDCAST_MLFLOW_URI": self.mlflow, "COLUMNS": "250"}
        done = subprocess.run(
            [sys.executable, "-m", "streaming.cli", "models", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for(self, version: str) -> None:
        """Until every product's last forecast is this model's; the shop trades meanwhile."""

        def done() -> bool:
            self.trade()
            last = {key: json.loads(value)["model"]["version"] for key, value in self.run.read("forecasts") if value}
            return {last.get(product) for product in PRODUCTS} == {version}

        self.run.wait(done, f"forecasts of {version} for all products")

    def finish(self) -> Outcome:
        self.run.feed(traffic(self._sent, ROUNDS - self._sent))
        self.run.wait_counted()
        self.run.feed(between(self.log, CHANGE_HOUR, HOURS))
        return self.run.finish()


MakeShop = Callable[..., Shop]


@pytest.fixture
def shop(scenario: MakeScenario, log: list[Sent], tmp_path: Path) -> MakeShop:
    return lambda **settings: Shop(scenario(model_cache=tmp_path / "cache", **settings), log, local_uri(tmp_path / "mlruns"))


@pytest.fixture(scope="module")
def restarted(stack: Stack, models: list[Path], log: list[Sent], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The outcome of a worker that was ended and started with the other model in TRENDCAST_MODEL_DIR."""
    with Scenario(tmp_path_factory.mktemp("restarted"), stack.kafka.address, stack.redis.url, models[0]) as run:
        shop = Shop(run, log, "off")
        worker = run.worker("forecast")
        run.wait_settled(START_MS + (CHANGE_HOUR - 1) * HOUR_MS)
        worker.kill()
        worker.start(model_dir=models[1])
        shop.wait_for(artefacts.read(models[1]).version)
        return shop.finish()


def versions(models: list[Path]) -> list[str]:
    return [artefacts.read(directory).version for directory in models]


def port(worker: Worker) -> int:
    """Where its pages are."""
    [said] = [line for line in worker.said().splitlines() if "worker.starting" in line]
    return int(json.loads(said)["metrics"].split(":")[2].split("/")[0])


def scraped(worker: Worker, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{port(worker)}/metrics") as page:
        [line] = [line for line in page.read().decode().splitlines() if line.startswith(name)]
    return float(line.split()[-1])


def ready(worker: Worker) -> bool:
    with urlopen(f"http://127.0.0.1:{port(worker)}/readyz") as page:
        return bool(page.status == 200)


def test_running_workers_take_a_promoted_model_over_and_another_back(shop: MakeShop, models: list[Path], restarted: Outcome) -> None:
    old, new = versions(models)
    one = shop()
    workers = [one.run.worker("forecast") for _ in range(2)]
    one.run.wait(lambda: one.run.owners() == 2, "both own some shards")
    one.run.wait_settled(START_MS + (CHANGE_HOUR - 1) * HOUR_MS)
    one.command("promote", str(models[0]))
    assert "take it over" in one.command("promote", str(models[1]))
    one.wait_for(new)
    for worker in workers:
        one.run.wait(lambda w=worker: scraped(w, "trendcast_forecast_takeover_progress_ratio") == 1, "the takeover is done")  # type: ignore[misc]
        assert ready(worker)
    assert "serves again" in one.command("rollback", artefacts.read(models[0]).name)
    one.wait_for(old)
    one.command("promote", str(models[1]))
    one.wait_for(new)
    outcome = one.finish()
    assert outcome.differences(restarted) == []
    assert [worker.restarts for worker in workers] == [0, 0]


def test_a_worker_killed_while_states_are_rebuilt(shop: MakeShop, models: list[Path], restarted: Outcome) -> None:
    new = versions(models)[1]
    one = shop(session_timeout_ms=SESSION_MS)
    killed, other = one.run.worker("forecast", failpoint="forecast.rebuilt:2"), one.run.worker("forecast", static=False)
    one.run.wait(lambda: one.run.owners() == 2, "both own some shards")
    one.run.wait_settled(START_MS + (CHANGE_HOUR - 1) * HOUR_MS)
    one.command("promote", str(models[1]))
    one.run.wait_hit(killed)
    assert killed.process.wait() == -signal.SIGKILL
    killed.start()
    one.run.wait(lambda: "model.loaded" in killed.said(), "its successor serves")
    one.wait_for(new)
    outcome = one.finish()
    assert outcome.differences(restarted) == []
    assert (killed.restarts, other.restarts) == (0, 0)


def test_a_worker_that_cannot_load_the_model_serves_on_until_another_has_its_shards(
    shop: MakeShop, models: list[Path], restarted: Outcome, tmp_path: Path
) -> None:
    """Two versions serve side by side, and a shard of one becomes the other's."""
    old, new = versions(models)
    one = shop(session_timeout_ms=SESSION_MS)
    (tmp_path / "no directory").write_text("")
    stuck = one.run.worker("forecast", model_cache=tmp_path / "no directory")
    other = one.run.worker("forecast")
    one.run.wait(lambda: one.run.owners() == 2, "both own some shards")
    one.run.wait_settled(START_MS + (CHANGE_HOUR - 1) * HOUR_MS)
    one.command("promote", str(models[1]))
    one.run.wait(lambda: "model.not_loaded" in stuck.said(), "it says that it cannot load the model")
    one.run.wait(lambda: "model.taken_over" in other.said(), "the other can")
    assert scraped(stuck, "trendcast_forecast_model_load_failures_total") >= 1
    assert ready(stuck)

    def both() -> bool:
        one.trade()
        last = {key: json.loads(value)["model"]["version"] for key, value in one.run.read("forecasts") if value}
        return {last[product] for product in PRODUCTS} == {old, new}

    one.run.wait(both, "forecasts of both")
    stuck.kill()
    one.wait_for(new)
    outcome = one.finish()
    assert outcome.differences(restarted) == []
