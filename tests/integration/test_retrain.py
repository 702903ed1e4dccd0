"""`trendcast retrain` on a real Kafka and a real registry: what it reads of the topics, that a killed run goes on, and how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaProducer

from feature_store.store import FeatureStore
from feature_store.tiles import Grid
from models import panels
from models.artefact import Artefact
from models.contenders import BASELINES
from models.dataset import from_cells
from models.features import FeatureSpec
from models.registry import Measured, Registry, local_uri, open_registry
from models.seasons import DAY_MS, HOUR_MS
from simulator.demand import ShopConfig
from simulator.dirt import Dirt
from simulator.feed import Chunk, Partitions
from simulator.shop import Shop
from streaming import topics
from streaming.commands.retrain import _promote
from streaming.errors import UserError
from streaming.settings import Clock, Settings
from streaming.topic_log import newest_days
from streaming.training_log import cells
from tests.models.benches import untrained

OPENED_MS = 1_736_121_600_000  # a Monday
DAYS = 12
CONFIG = ShopConfig(products=15, lines_per_hour=20.0, opened_ms=OPENED_MS)
SPEC = FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts"))
TINY = {"iterations": 60, "batch": 8, "hidden": 8, "width": 8, "check_every": 10, "patience": 100, "held_out": 0.2}


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    return list(shop().chunks(OPENED_MS, OPENED_MS + DAYS * DAY_MS, partitions=Partitions(2, 2)))


def shop() -> Shop:
    return Shop(CONFIG, 5, dirt=Dirt.none())


@pytest.fixture(scope="module")
def settings(kafka: str, chunks: list[Chunk]) -> Settings:
    """Topics that hold the shop's log, every fiftieth order twice, and a transaction that was aborted."""
    own = Settings(
        kafka_bootstrap=kafka,
        namespace="retrain",
        clock=Clock.LOG,
        orders_topic="retrain-orders",
        clickstream_topic="retrain-clicks",
        forecasts_topic="retrain-forecasts",
        alerts_topic="retrain-alerts",
        scores_topic="retrain-scores",
        dead_letters_topic="retrain-dead",
    )
    topics.create(own)
    producer = KafkaProducer(bootstrap_servers=kafka, linger_ms=50)
    for chunk in chunks:
        for batch in chunk.batches:
            name = (own.orders_topic, own.clickstream_topic)[batch.topic]
            for i, (value, at_ms) in enumerate(zip(batch.values, batch.timestamps_ms, strict=True)):
                declared = batch.heartbeats.get(i)
                headers = [] if declared is None else [("watermark", b"%d" % declared)]
                twice = 2 if batch.topic == 0 and declared is None and i % 50 == 0 else 1
                for _ in range(twice):
                    producer.send(name, bytes(value), partition=batch.partition, timestamp_ms=int(at_ms), headers=headers)
    producer.flush()
    producer.close()
    lost = KafkaProducer(bootstrap_servers=kafka, transactional_id="retrain")
    lost.init_transactions()
    lost.begin_transaction()
    end_ms = OPENED_MS + DAYS * DAY_MS
    items = [{"product_id": "never", "quantity": 1, "unit_price": 1}]
    order = {"event_id": "lost", "order_id": "lost", "event_time": end_ms, "status": "placed", "items": items}
    lost.send(own.orders_topic, json.dumps(order).encode(), partition=0, timestamp_ms=end_ms).get(30)
    lost.abort_transaction()
    lost.close()
    return own


def test_the_topics_hold_what_the_log_holds(settings: Settings, chunks: list[Chunk]) -> None:
    shares: list[float] = []
    found = newest_days(settings, DAYS + 1, SPEC, 100, shares.append)
    pieces = cells(chunks, shop().rules, Grid(settings.tile_ms, HOUR_MS), settings.tile_ms)
    expected = from_cells(pieces, SPEC, "UTC", end=found.first_step + found.columns, per_step=12)
    assert (found.first_step, found.columns) == (expected.first_step, expected.columns)
    assert found.columns >= 24 * DAYS - 1
    assert set(found.product_ids) == set(expected.product_ids)
    order = [found.product_ids.index(name) for name in expected.product_ids]
    np.testing.assert_array_equal(found.demand[order], expected.demand)
    assert found.parts is not None
    assert expected.parts is not None
    assert found.parts.units.sum() == expected.parts.units.sum()
    assert shares == sorted(shares)


def test_only_the_newest_days_are_read(settings: Settings) -> None:
    whole, part = (newest_days(settings, days, SPEC, 100) for days in (DAYS + 1, 3))
    assert 71 <= part.columns <= 72
    assert part.first_step + part.columns == whole.first_step + whole.columns
    order = [whole.product_ids.index(name) for name in part.product_ids]
    # The first hour lacks what was sent before it, and what came late in it.
    np.testing.assert_array_equal(part.demand[:, 1:], whole.demand[order, -part.columns + 1 :])


def command(settings: Settings, redis_url: str, home: Path, store: str, recipe: Path) -> tuple[list[str], dict[str, str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRENDCAST_")}
    for name in ("kafka_bootstrap", "orders_topic", "clickstream_topic", "namespace"):
        environment[f"TRENDCAST_{name.upper()}"] = str(getattr(settings, name))
    environment["TRENDCAST_REDIS_URL"] = redis_url
    environment |= {"TRENDCAST_MLFLOW_URI": store, "COLUMNS": "200"}
    own = ["--days", "10", "--held-back", "2", "--name", "tiny", "--recipe", str(recipe), "--home", str(home)]
    return [sys.executable, "-m", "streaming.cli", "retrain", *own], environment


@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_and_ends_with_a_verdict(settings: Settings, redis_url: str, tmp_path: Path) -> None:
    asyncio.run(pointer(redis_url))  # makes the namespace
    store, home, recipe = local_uri(tmp_path / "mlruns"), tmp_path / "retrain", tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"recipe": TINY}))
    program, environment = command(settings, redis_url, home, store, recipe)
    first = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(home.glob("*/checkpoint/checkpoint.npz")):
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # so that it comes no further meanwhile
    beside = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert (beside.returncode, "another process retrains in" in beside.stderr) == (1, True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    [state] = home.glob("*/state.json")
    assert set(json.loads(state.read_text())["stages"]) == {"read"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "done: read" in done.stderr
    assert "going on from" in done.stderr
    told = json.loads(state.read_text())
    assert set(told["stages"]) == {"read", "train", "backtest", "promote"}
    assert [path.name for path in state.parent.iterdir()] == ["state.json"]
    verdict, version = told["stages"]["promote"], told["stages"]["train"]["version"]
    assert told["finished"] == ("promoted" if verdict["promoted"] else "not better")
    assert version in done.stdout
    record = open_registry(store)
    [registered] = record.versions("tiny")
    assert (registered.artefact, registered.serving) == (version, verdict["promoted"])
    assert {path.name for path in record.files(registered).parent.iterdir()} == {"model", "curve.svg", "newest days.html"}
    assert [measured.source for measured in registered.backtests.values()] == ["newest days"]
    assert (asyncio.run(pointer(redis_url)) == version) == verdict["promoted"]
    if verdict["promoted"]:
        assert (Path(verdict["files"]) / "weights.npz").is_file()
    else:
        assert all(line in done.stdout for line in verdict["objections"])


async def pointer(redis_url: str) -> str | None:
    """The version that the namespace's workers are to serve."""
    store = await FeatureStore.open(Settings(redis_url=redis_url, namespace="retrain"))
    found = await store.model()
    await store.close()
    return found.version if found else None


def model(seed: float) -> Artefact:
    made = replace(untrained(SPEC), name="judged")
    return replace(made, weights={**made.weights, "norm.gain": np.full(64, seed, np.float32)})


def registered(record: Registry, artefact: Artefact, mwql: float) -> str:
    rows = {"judged": {"MWQL": mwql}, **{rival: {"MWQL": 0.9} for rival in BASELINES}}
    version = record.register(artefact, record.record("retrain", artefact, {}))
    record.add_backtests(version, {"f": Measured("newest days", rows)})
    return artefact.version


def test_what_is_better_is_promoted_once_and_what_is_not_says_why(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRENDCAST_REDIS_URL", redis_url)
    monkeypatch.setenv("TRENDCAST_NAMESPACE", "retrain")
    record = open_registry(local_uri(tmp_path / "mlruns"))
    better = registered(record, model(1.0), 0.8)
    with pytest.raises(UserError, match="the registry's alias has moved to judged/1, the workers' pointer has not"):
        _promote(record, "judged", better)  # there is no namespace yet
    assert asyncio.run(pointer(redis_url)) is None
    promoted = _promote(record, "judged", better)
    assert promoted["promoted"]
    assert _promote(record, "judged", better) == promoted  # an earlier start was killed before it could note that
    assert len(record.history("judged")) == 1
    assert asyncio.run(pointer(redis_url)) == better
    worse = _promote(record, "judged", registered(record, model(2.0), 0.85))
    assert not worse["promoted"]
    assert "judged/1 has MWQL 0.8000" in worse["objections"][0]
    serving = record.serving("judged")
    assert serving is not None
    assert serving.number == 1


def test_a_log_can_be_given_and_its_panel_is_kept_as_it_is(settings: Settings, tmp_path: Path) -> None:
    panel = newest_days(settings, 3, SPEC, 5)
    panels.save(panel, tmp_path / "panel.npz")
    loaded = panels.load(tmp_path / "panel.npz")
    assert loaded.fingerprint == panel.fingerprint
    assert len(panel.product_ids) == 5
    assert loaded.parts is not None
    assert panel.parts is not None
    for name in ("per_step", "product", "part", "units"):
        np.testing.assert_array_equal(getattr(loaded.parts, name), getattr(panel.parts, name))
    day = panels.newest(panel, 24)
    assert day.parts is not None
    assert day.columns == 24
    assert day.parts.part.min() >= day.first_step * 12
    np.testing.assert_allclose(day.parts.units.sum(), day.demand[..., 0].sum(), rtol=1e-5)
