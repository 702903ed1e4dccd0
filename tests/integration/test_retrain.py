"""`trendcast retrain` on real servers and a real registry: what it reads of the topics, that a killed run goes on, in shadow too, and how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaProducer
from rich.console import Console
from typer.testing import CliRunner

from feature_store.store import FeatureStore
from feature_store.tiles import Grid
from models import artefact as artefacts
from models import panels
from models.artefact import Artefact
from models.contenders import BASELINES
from models.dataset import from_cells
from models.features import FeatureSpec
from models.forecaster import Forecaster
from models.known_future import Place
from models.registry import Measured, Registry, local_uri, open_registry
from models.seasons import DAY_MS, HOUR_MS
from simulator.demand import ShopConfig, speaking
from simulator.dirt import Dirt
from simulator.feed import Chunk, Partitions
from simulator.shop import Shop
from streaming import retrain_run, said_files, topics
from streaming.cli import build
from streaming.commands.recording import recipe_of
from streaming.commands.retrain import _options, _promote, _shadow
from streaming.commands.sources import Sources
from streaming.engine import ForecastEngine
from streaming.errors import UserError
from streaming.live_comparison import Comparison
from streaming.settings import Clock, Settings
from streaming.topic_log import newest_days, said_ahead
from streaming.training_log import CONTEXT, FACTS, Ahead, cells
from tests.integration.shop import SOURCE, START, Sent, settle
from tests.integration.shop import Shop as CountedShop
from tests.models.another import SHIPPED, another
from tests.models.benches import untrained

OPENED_MS = 1_736_121_600_000  # a Monday
DAYS = 12
CONFIG = speaking(ShopConfig(products=15, lines_per_hour=20.0, opened_ms=OPENED_MS))
SPEC = FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts"))
COVARIATES = ("price", "discount", "holiday", "context:weather")
TINY = {"iterations": 60, "batch": 8, "hidden": 8, "width": 8, "check_every": 10, "patience": 100, "held_out": 0.2}


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    return list(shop().chunks(OPENED_MS, OPENED_MS + DAYS * DAY_MS, partitions=Partitions(2, 2, 2, 1)))


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
        facts_topic="retrain-facts",
        context_topic="retrain-context",
        forecasts_topic="retrain-forecasts",
        alerts_topic="retrain-alerts",
        scores_topic="retrain-scores",
        dead_letters_topic="retrain-dead",
    )
    topics.create(own)
    producer = KafkaProducer(bootstrap_servers=kafka, linger_ms=50)
    for chunk in chunks:
        for batch in chunk.batches:
            name = (own.orders_topic, own.clickstream_topic, own.facts_topic, own.context_topic)[batch.topic]
            for i, (key, value, at_ms) in enumerate(zip(batch.keys, batch.values, batch.timestamps_ms, strict=True)):
                declared = batch.heartbeats.get(i)
                headers = [] if declared is None else [("watermark", b"%d" % declared)]
                twice = 2 if batch.topic == 0 and declared is None and i % 50 == 0 else 1
                for _ in range(twice):
                    producer.send(name, bytes(value), key, partition=batch.partition, timestamp_ms=int(at_ms), headers=headers)
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


def test_what_the_topics_said_ahead_is_what_the_log_said_and_a_file_keeps_it(
    settings: Settings, chunks: list[Chunk], tmp_path: Path
) -> None:
    expected = Ahead()
    for _ in cells(chunks, shop().rules, Grid(settings.tile_ms, HOUR_MS), settings.tile_ms, ahead=expected):
        pass
    names = sorted(expected.known_from())
    assert len(names) >= 10

    def fingerprint(ahead: Ahead) -> str:
        return ahead.known(COVARIATES, HOUR_MS, Place("UTC", "GB"), names).fingerprint

    of_topics = said_ahead(settings, HOUR_MS)
    assert fingerprint(Ahead.of(of_topics)) == fingerprint(expected)
    facts, context = tmp_path / "facts.jsonl", tmp_path / "context.jsonl"
    assert settings.facts_topic is not None
    assert settings.context_topic is not None
    written = said_files.write(settings, settings.facts_topic, FACTS, facts)
    assert (written.named, written.rejected) == (len(names), 0)
    assert said_files.write(settings, settings.context_topic, CONTEXT, context).named == 2
    of_files = [*said_files.read([facts], FACTS, HOUR_MS), *said_files.read([context], CONTEXT, HOUR_MS)]
    assert fingerprint(Ahead.of(of_files)) == fingerprint(expected)
    assert fingerprint(Ahead.of([*of_files, *of_topics])) == fingerprint(expected)


def command(settings: Settings, redis_url: str, home: Path, store: str, recipe: Path) -> tuple[list[str], dict[str, str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRENDCAST_")}
    for name in ("kafka_bootstrap", "orders_topic", "clickstream_topic", "facts_topic", "context_topic", "namespace"):
        environment[f"TRENDCAST_{name.upper()}"] = str(getattr(settings, name))
    environment["TRENDCAST_REDIS_URL"] = redis_url
    environment |= {"TRENDCAST_MLFLOW_URI": store, "COLUMNS": "200"}
    own = ["--days", "10", "--held-back", "2", "--name", "tiny", "--recipe", str(recipe), "--home", str(home)]
    own += ["--covariates", ",".join(COVARIATES), "--country", "GB"]
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
    assert set(told["stages"]) == {"read", "train", "backtest", "shadow", "promote"}
    assert f"not compared in shadow: {told['stages']['shadow']['left_out']}" in done.stderr
    assert [path.name for path in state.parent.iterdir()] == ["state.json"]
    verdict, version = told["stages"]["promote"], told["stages"]["train"]["version"]
    assert told["finished"] == ("promoted" if verdict["promoted"] else "not better")
    assert version in done.stdout
    record = open_registry(store)
    [registered] = record.versions("tiny")
    assert (registered.artefact, registered.serving) == (version, verdict["promoted"])
    trained = artefacts.read(record.files(registered))
    assert (trained.spec.covariates, trained.training["country"]) == (COVARIATES, "GB")
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


HOURS, KILLED_AT, SHADOWED = 30, 38, 24  # of history, then in shadow
MANY = 110  # products: enough outcomes in a day to judge by


class Living:
    """A shop on a real Redis whose hours pass when the test says so, and the workers' engine, in which the shipped model serves."""

    def __init__(self, settings: Settings, store: FeatureStore) -> None:
        self.store, self.shop = store, CountedShop(store, shards=1)
        self.serving = Forecaster.load(SHIPPED)
        self.engine = ForecastEngine(settings, store, self.serving, Sent().send)
        self.sold = np.random.default_rng(4).poisson(np.geomspace(0.3, 6, MANY)[:, None], (MANY, 100))
        self.sold[:, 0] += 1

    async def live(self, first: int, end: int, every: int = 1) -> None:
        for hour in range(first, end, every):
            until = min(hour + every, end)
            tiles = {f"p{p}": {(START + at) * 12 + (at + p) % 12: int(self.sold[p, at]) for at in range(hour, until)} for p in range(MANY)}
            sold = {name: {tile: n for tile, n in of.items() if n} for name, of in tiles.items()}
            await self.shop.orders(sold, (START + until) * HOUR_MS)
            await settle(self.engine, self.store, shards=1)


def backtested(home: Path, artefact: Artefact) -> None:
    """A run of `trendcast retrain --days 10 --held-back 2` that was killed after its backtest."""
    options = _options(10, Sources(), artefact.name, 800, 2, SPEC, recipe_of(None, SPEC, None, None))
    with retrain_run.begun(home, options, print) as run:
        artefacts.write(artefact, run.directory / "model")
        done = {"version": artefact.version, "label": "", "rows": {}}
        run.stages.update({"read": {}, "train": done, "backtest": done})
        run.moved()


@pytest.mark.timeout(900)
async def test_a_challenger_that_is_worse_live_is_refused_whoever_is_killed_meanwhile(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are those of a comparison that nobody disturbed."""
    settings = Settings(redis_url=redis_url, namespace="retrain", shards=1, clock=Clock.LOG, lateness_ms=0)
    uri = local_uri(tmp_path / "mlruns")
    for name, value in (("redis_url", redis_url), ("namespace", "retrain"), ("shards", "1"), ("clock", "log"), ("mlflow_uri", uri)):
        monkeypatch.setenv(f"TRENDCAST_{name.upper()}", value)
    store = await FeatureStore.open(settings)
    await store.register_sources({SOURCE: "orders/0"})
    shop = Living(settings, store)
    await store.use_features(shop.serving.spec.hash)
    await shop.engine.assign([0])
    await shop.live(0, HOURS, every=10)
    challenger = replace(another(1.3), name="judged")
    record = open_registry(uri)
    registered(record, challenger, 0.5)  # in the backtest, much better
    home = tmp_path / "retrain"
    backtested(home, challenger)
    undisturbed = Comparison(settings, store, Forecaster(challenger), shop.serving, SHADOWED, tmp_path / "undisturbed")
    await undisturbed.look()
    options = ["retrain", "--days", "10", "--held-back", "2", "--name", "judged", "--home", str(home)]
    first = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streaming.cli", *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def followed() -> int | None:
        """The last step that is on disk."""
        found = [int(np.load(path)["challenger.steps"][1]) for path in home.glob("*/shadow/*/0.npz")]
        return found[0] if found else None

    async def until(step: int) -> None:
        while followed() != step:
            assert first.returncode is None
            await asyncio.sleep(0.05)

    await until(START + HOURS - 1)
    await shop.live(HOURS, KILLED_AT, every=4)
    await until(START + KILLED_AT - 1)
    first.kill()
    await first.wait()
    late = await asyncio.to_thread(CliRunner().invoke, build(), [*options, "--shadow-deadline", "0"])
    assert late.exit_code == 1
    assert "followed in shadow for 8 of 24 steps when time was up (--shadow-deadline); shards 0 come no further" in str(late.exception)
    await shop.live(KILLED_AT, KILLED_AT + 7, every=7)
    again = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, build(), options, env={"COLUMNS": "300"}))
    await shop.live(KILLED_AT + 7, HOURS + SHADOWED + 3, every=6)
    done = await again
    assert done.exit_code == 0, done.output
    assert "done: read, train, backtest" in done.output
    assert "in shadow: 24 of 24 steps" in done.output

    standing = await undisturbed.look()
    assert standing.challenger is not None
    assert standing.serving is not None
    [state] = home.glob("*/state.json")
    told = json.loads(state.read_text())
    assert told["finished"] == "not better"
    shadow = told["stages"]["shadow"]
    assert shadow["rows"] == dict(zip(standing.names, (standing.challenger.row, standing.serving.row), strict=True))
    assert shadow["outcomes"] == standing.serving.outcomes > 1_000
    assert "more than 2 % worse" in shadow["objections"][0]
    assert told["stages"]["promote"]["objections"] == shadow["objections"]
    assert all(line in done.output for line in shadow["objections"])
    assert record.serving("judged") is None
    assert await store.model() is None
    await store.close()


def test_where_nothing_is_live_a_log_does_without_and_the_topics_do_not(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRENDCAST_REDIS_URL", redis_url)
    monkeypatch.setenv("TRENDCAST_NAMESPACE", "nobody")
    record, console = open_registry(local_uri(tmp_path / "mlruns")), Console(file=StringIO(), width=300)
    better = registered(record, model(1.0), 0.5)
    worse = registered(record, model(2.0), 0.95)
    with retrain_run.begun(tmp_path / "retrain", {}, print) as run:

        def left_out(version: str, sources: Sources, hours: int = 24) -> str:
            return str(_shadow(run, record, "judged", version, sources, hours, 1.0, console)["left_out"])

        log, of_topics = Sources([Path("orders.parquet")]), Sources()
        assert left_out(better, of_topics, hours=0) == "--shadow-hours 0"
        assert left_out(worse, of_topics) == "the backtest speaks against it"
        assert left_out(better, log).startswith("nothing is live: ")
        with pytest.raises(UserError, match="with --shadow-hours 0 it does without"):
            left_out(better, of_topics)
        monkeypatch.setenv("TRENDCAST_NAMESPACE", "retrain")
        asyncio.run(pointer(redis_url))
        assert left_out(better, of_topics) == "no forecast worker has served namespace 'retrain' yet"
    assert "not compared in shadow: --shadow-hours 0" in console.file.getvalue()  # type: ignore[attr-defined]


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
