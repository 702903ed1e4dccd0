"""Facts, context and calendar from records in Kafka to features and forecasts: those of the offline path, whatever died on the way."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

from feature_store.calls import HEADER_BYTES, parted
from feature_store.sharding import shard_of
from feature_store.store import FeatureStore
from feature_store.tiles import Grid
from models import artefact
from models.backtest import Streamed
from models.bench import Bench
from models.dataset import Panel, from_cells, with_known
from models.features import F32, FeatureSpec
from models.forecaster import Forecaster
from models.nowcast import Forecasts
from simulator.embedded import Redis, Stack
from simulator.truth import Rules
from streaming.explanations import explained_forecast
from streaming.export_forecasts import export_forecasts
from streaming.known_ahead import place_of
from streaming.settings import Settings
from streaming.training_log import Ahead, cells
from tests.faults.conftest import MakeScenario
from tests.faults.harness import SHARDS, Outcome, Scenario
from tests.faults.shop_log import (
    CONTEXT,
    DROPPING,
    END_MS,
    FACTS,
    GHOST,
    HEARTBEAT_MS,
    HOUR_MS,
    HOURS,
    LATENESS_MS,
    PARTITIONS,
    START_MS,
    Sent,
    between,
)
from tests.models.test_forecaster import untrained

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

COVARIATES: Final = ("price", "discount", "holiday", "event", "days_to_event", "weekend", "context:weather", "context:advertising")
LEADING: Final = "p05"
LEAD_STEPS: Final = 30


def said(topic: int, key: str, time_ms: int, fields: dict[str, Any] | None) -> Sent:
    """A record of facts or context; None: a tombstone."""
    value = b"" if fields is None else json.dumps(fields).encode()
    partition = shard_of(key, PARTITIONS) if topic == FACTS else 0
    return Sent(topic, partition, time_ms, value, key=key.encode())


def facts(product: str, time_ms: int, **fields: Any) -> Sent:
    return said(FACTS, product, time_ms, {"product_id": product, **fields})


def known_log() -> list[Sent]:
    """Prices that change, promotions announced some hours ahead (and some called off), a stock-out, weather known ahead, advertising known after."""
    rng = np.random.default_rng(11)
    records = [facts(LEADING, START_MS + 5, unit_price=3, category="tools", lead_time_steps=LEAD_STEPS)]
    for i in range(6, 30):
        product, category = f"p{i:02d}", ("tools", "toys", "")[i % 3]
        price, promotions = float(rng.integers(100, 9000)) / 100, []
        for hour in np.sort(rng.uniform(0, HOURS, 4)):
            at_ms = START_MS + int(hour * HOUR_MS)
            if rng.random() < 0.4:
                price = round(price * float(rng.choice([0.8, 0.9, 1.1, 1.3])), 2)
            if rng.random() < 0.7:
                start_ms = at_ms + int(rng.integers(-2, 30) * HOUR_MS) + 600_000
                promotions = [{"start": start_ms, "end": start_ms + int(rng.integers(1, 20)) * HOUR_MS, "discount": 0.25}]
            elif promotions:
                promotions = []
            records.append(facts(product, at_ms, unit_price=price, promotions=promotions, **({"category": category} if category else {})))
    records.append(said(FACTS, "p07", START_MS + 30 * HOUR_MS + 77, None))
    records.append(facts(DROPPING, START_MS + 31 * HOUR_MS + 3_000_000, unit_price=1.5, stock=0))
    records.append(facts(DROPPING, START_MS + 43 * HOUR_MS + 1_800_000, unit_price=1.5, stock=12))
    for hour in range(HOURS):
        start_ms = START_MS + hour * HOUR_MS
        for ahead in (0, 6):  # a first guess, then a better one
            at = {"start": start_ms + ahead * HOUR_MS, "end": start_ms + (ahead + 1) * HOUR_MS}
            records.append(
                said(CONTEXT, "weather", start_ms - 1_000, {"series": "weather", "value": rng.normal(), "known_future": True, **at})
            )
        spent = {"series": "advertising", "start": start_ms, "end": start_ms + HOUR_MS, "value": rng.normal(), "known_future": False}
        records.append(said(CONTEXT, "advertising", start_ms + HOUR_MS + 40_000, spent))
        records.append(said(CONTEXT, "advertising", start_ms + HOUR_MS + 50_000, {**spent, "scope": "toys", "value": rng.normal()}))
    records = [record for record in records if START_MS <= record.time_ms < END_MS]
    for topic, partition in [(FACTS, p) for p in range(PARTITIONS)] + [(CONTEXT, 0)]:
        records += [Sent(topic, partition, at, b"", at) for at in range(START_MS, END_MS + 1, HEARTBEAT_MS)]
        records.append(Sent(topic, partition, END_MS + 1, b"", END_MS))
    return records


@pytest.fixture(scope="module")
def whole(log: list[Sent]) -> list[Sent]:
    """All records by sending time."""
    return sorted([*log, *known_log()], key=lambda record: record.time_ms)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that nobody has trained, whose answers depend on every covariate."""
    spec = FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts"), covariates=COVARIATES)
    directory = tmp_path_factory.mktemp("model")
    artefact.write(replace(untrained(spec, 24), training={"country": "GB"}), directory)
    (directory / "events.toml").write_text('[[event]]\nname = "stock-taking"\non = "01-06"\n')
    return directory


def options(model_dir: Path) -> dict[str, Any]:
    name = uuid4().hex[:8]
    return {"model_dir": model_dir, "facts_topic": f"{name}-facts", "context_topic": f"{name}-context", "country": "GB"} | {
        "events_file": model_dir / "events.toml"
    }


@dataclass(frozen=True)
class Calm:
    """A run without faults."""

    outcome: Outcome
    features: dict[str, bytes]
    states: dict[str, bytes]
    settings: Settings


@pytest.fixture(scope="module")
def calm(stack: Stack, model_dir: Path, whole: list[Sent], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    with Scenario(tmp_path_factory.mktemp("calm"), stack.kafka.address, stack.redis.url, model_dir, **options(model_dir)) as run:
        run.feed(whole)
        run.worker("ingest")
        run.worker("forecast")
        outcome = run.finish()
        names = sorted(outcome.forecasts)
        features, states = (
            {name: parted(run.redis.get(run.keys.state(shard_of(name, SHARDS), name)))[part] for name in names} for part in (0, 1)
        )
        yield Calm(outcome, features, states, run.settings)


@dataclass(frozen=True)
class Records:
    """Records of one partition as the training log reads them."""

    topic: int
    partition: int
    some: Sequence[Sent]

    @property
    def keys(self) -> list[bytes | None]:
        return [record.key for record in self.some]

    @property
    def values(self) -> list[bytes]:
        return [record.value for record in self.some]

    @property
    def timestamps_ms(self) -> list[int]:
        return [record.time_ms for record in self.some]

    @property
    def heartbeats(self) -> dict[int, int]:
        return {i: record.watermark_ms for i, record in enumerate(self.some) if record.watermark_ms is not None}


@dataclass(frozen=True)
class Everything:
    batches: list[Records]
    end_ms: int = END_MS


def offline(records: list[Sent], settings: Settings, spec: FeatureSpec) -> Panel:
    """The panel that a training on the same log would see."""
    sources: dict[tuple[int, int], list[Sent]] = {}
    for record in records:
        if record.value or record.watermark_ms is not None or record.key:
            sources.setdefault((record.topic, record.partition), []).append(record)
    ahead = Ahead()
    grid = Grid(settings.tile_ms, settings.step_ms)
    parts = list(
        cells([Everything([Records(*source, some) for source, some in sources.items()])], Rules.of(settings), grid, HOUR_MS, ahead=ahead)
    )
    panel = from_cells(parts, spec, settings.timezone, END_MS // HOUR_MS)
    panel = panel.only([i for i, name in enumerate(panel.product_ids) if name != GHOST])
    return with_known(panel, ahead.known(COVARIATES, HOUR_MS, place_of(settings), panel.product_ids))


def read_out(model: Forecaster, panel: Panel, rows: Any, features: F32, state: F32, sums: Any, factors: F32 | None = None) -> Forecasts:
    """What is published after the last step: ten minutes of the next have passed, in which nothing was sold."""
    n = len(rows)
    nothing, elapsed = np.zeros((n, 1 + len(model.spec.streams)), np.float32), np.full(n, LATENESS_MS / HOUR_MS, np.float32)
    ahead = panel.ahead(rows, np.full(n, HOURS - 1), max(model.horizon, int(sums.max())))
    step = np.full(n, END_MS // HOUR_MS - 1)
    return model.published(model.read_out(features, state, step, nothing, elapsed, sums, ahead=ahead, factors=factors))


def test_features_states_and_forecasts_are_those_of_the_offline_path(calm: Calm, model_dir: Path, whole: list[Sent]) -> None:
    model = Forecaster.load(model_dir)
    panel = offline(whole, calm.settings, model.spec)
    assert set(panel.product_ids) == set(calm.features)
    assert panel.covariates is not None
    assert (np.nanstd(panel.covariates, axis=(0, 1)) > 0).sum() >= 6  # the two days are no holidays, and both in one week
    gone = np.isnan(panel.demand[panel.product_ids.index(DROPPING), :, 0])
    assert np.flatnonzero(gone).tolist() == list(range(32, 43))
    for shard in range(SHARDS):
        here = panel.only([i for i, name in enumerate(panel.product_ids) if shard_of(name, SHARDS) == shard])
        shop = Streamed(Bench(here, model.spec, pd.RangeIndex(HOURS), (HOURS - 1,), model.horizon, 24), model, (168, 336))
        for column in range(HOURS):
            shop.live(column)
        everyone = np.arange(len(here.product_ids))
        out = read_out(model, here, everyone, shop._features, shop._state, shop.sums, shop.forecast(HOURS - 1, everyone)[2])
        for i, name in enumerate(here.product_ids):
            assert calm.features[name][HEADER_BYTES:] == shop._features[i].tobytes(), name
            state = np.frombuffer(calm.states[name][HEADER_BYTES:], np.float32)
            np.testing.assert_allclose(state[: len(state) // 2], shop._state[i, : len(state) // 2], atol=1e-5)
            found = calm.outcome.forecasts[name]
            np.testing.assert_allclose(found["mean"], out.mean[i], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found["quantiles"], out.quantiles[i], rtol=1e-4, atol=1e-4)


def test_a_products_own_lead_time_has_a_sum(calm: Calm, model_dir: Path, whole: list[Sent]) -> None:
    lengths = {name: [c["steps"] for c in forecast["cumulative"]] for name, forecast in calm.outcome.forecasts.items()}
    assert lengths.pop(LEADING) == [168, 336, LEAD_STEPS]
    assert set(map(tuple, lengths.values())) == {(168, 336)}
    model = Forecaster.load(model_dir)
    panel = offline(whole, calm.settings, model.spec)
    row = np.array([panel.product_ids.index(LEADING)])
    features = np.frombuffer(calm.features[LEADING][HEADER_BYTES:], np.float32)[None]
    state = np.frombuffer(calm.states[LEADING][HEADER_BYTES:], np.float32)[None]
    out = read_out(model, panel, row, features, state, np.array([LEAD_STEPS]))
    np.testing.assert_allclose(calm.outcome.forecasts[LEADING]["cumulative"][2]["mean"], out.cumulative_mean[0, 0], rtol=1e-4, atol=1e-4)


def test_what_the_shop_says_matters(calm: Calm, model_dir: Path, log: list[Sent]) -> None:
    """Without it the forecasts would be others: the other tests would see it ignored."""
    model = Forecaster.load(model_dir)
    known, unknown = (offline([*log, *more], calm.settings, model.spec) for more in (known_log(), []))
    assert not np.array_equal(known.covariates, unknown.covariates)  # type: ignore[arg-type]


async def test_exports_and_explanations_rest_on_the_same(calm: Calm, model_dir: Path, tmp_path: Path) -> None:
    """What is written and explained later is what was published: of the same facts, context and calendar."""
    model, path = Forecaster.load(model_dir), tmp_path / "forecasts.parquet"
    store = await FeatureStore.open(calm.settings)
    await export_forecasts(store, calm.settings, model, path)
    explained = await explained_forecast(store, calm.settings, model, (shard_of("p08", SHARDS), "p08"))
    await store.close()
    frame = pd.read_parquet(path)
    for name, forecast in calm.outcome.forecasts.items():
        mine = frame[frame["product_id"] == name]
        np.testing.assert_allclose(mine[mine["interval"] == "step"]["mean"], forecast["mean"], atol=2e-4)
        np.testing.assert_allclose(mine[mine["interval"] == "sum"]["mean"], [c["mean"] for c in forecast["cumulative"]], rtol=1e-4)
    assert {"price", "context:weather"} <= {name for name, _ in explained.drivers}
    assert explained.total == pytest.approx(sum(calm.outcome.forecasts["p08"]["mean"]), rel=0.05)  # in whole units, and of quantiles


def test_workers_killed_while_the_shop_speaks(scenario: MakeScenario, calm: Calm, model_dir: Path, whole: list[Sent]) -> None:
    run = scenario(**options(model_dir))
    ingest, forecast = run.worker("ingest", failpoint="ingest.round_applied"), run.worker("forecast", failpoint="forecast.committed")
    run.feed(between(whole, 0, 20))
    for worker in (ingest, forecast):
        run.wait_hit(worker)
        worker.process.wait()
        worker.start()
    run.feed(between(whole, 20, 33))
    run.wait_counted()
    ingest.process.kill()
    run.feed(between(whole, 33, HOURS))
    assert run.finish().differences(calm.outcome, without=["revision"]) == []


def test_redis_forgets_what_the_shop_said(scenario: MakeScenario, calm: Calm, model_dir: Path, whole: list[Sent], tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as server:
        run = scenario(redis_url=server.url, **options(model_dir))
        ingest = run.worker("ingest")
        run.worker("forecast")
        run.feed(between(whole, 0, 18))
        run.wait_settled(START_MS + 17 * HOUR_MS)
        run.redis.save()
        snapshot = tmp_path / "old.rdb"
        snapshot.write_bytes((tmp_path / "redis" / "dump.rdb").read_bytes())
        run.feed(between(whole, 18, 36))
        run.wait_settled(START_MS + 35 * HOUR_MS)
        server.kill()
        server.rdb = snapshot
        server.start()
        run.wait(lambda: ingest.restarts > 0, "the ingest worker notices")
        run.feed(between(whole, 36, HOURS))
        assert run.finish().differences(calm.outcome, without=["revision"]) == []
