"""From records in Kafka to calibrated forecasts in Kafka: each shard's outcomes and forecasts are those of the backtest of its products."""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
import pytest

from feature_store.sharding import shards_of
from models.backtest import Streamed
from models.bench import Bench
from models.calibration import Outcomes
from models.dataset import Panel
from models.features import F32
from models.forecaster import Forecaster
from tests.faults.conftest import MakeScenario
from tests.faults.harness import SHARDS
from tests.faults.shop_log import HOUR_MS, PARTITIONS, START_MS, Sent, Topic, order

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

HOURS: Final = 4 * 24
NAMES: Final = tuple(f"p{i:02d}" for i in range(12))


def units() -> F32:
    """Orders of one piece by product and hour, (products, hours), all from the first hour on."""
    rng = np.random.default_rng(3)
    sold: F32 = rng.poisson(np.geomspace(0.1, 8, len(NAMES))[:, None], (len(NAMES), HOURS)).astype(np.float32)
    sold[:, 0] += 1
    return sold


UNITS: Final = units()


def log() -> list[Sent]:
    """In order of time; every source's heartbeats after each hour, so that no record is late."""
    records, number = [], 0
    for hour in range(HOURS):
        start_ms, events = START_MS + hour * HOUR_MS, []
        for product, sold in zip(NAMES, UNITS[:, hour].tolist(), strict=True):
            for _ in range(int(sold)):
                number += 1
                events.append((start_ms + number * 7919 % HOUR_MS, number, product))
        for at_ms, event, product in sorted(events):
            records.append(Sent(Topic.ORDERS, event % PARTITIONS, at_ms, order(f"e{event}", at_ms, [product])))
            records.append(Sent(Topic.CLICKS, event % PARTITIONS, at_ms, view(at_ms, product)))
        end_ms = start_ms + HOUR_MS
        records += [Sent(topic, partition, end_ms, b"", end_ms) for topic in Topic for partition in range(PARTITIONS)]
    return records


def view(at_ms: int, product: str) -> bytes:
    return msgspec.json.encode({"event_time": at_ms, "type": "view", "product_id": product})


def offline(model: Forecaster, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Streamed:
    """The backtest's shop of some products after the last hour."""
    streams = model.spec.streams
    demand = np.zeros((len(rows), HOURS, 1 + len(streams)), np.float32)
    for column in (0, 1 + streams.index("orders"), 1 + streams.index("views")):
        demand[..., column] = UNITS[rows]
    panel = Panel(tuple(NAMES[i] for i in rows), START_MS // HOUR_MS, np.zeros(len(rows), np.int64), demand, "UTC")
    shop = Streamed(Bench(panel, model.spec, pd.RangeIndex(HOURS), (HOURS - 1,), model.horizon, 24), model)
    for column in range(HOURS):
        shop.live(column)
    return shop


def test_each_shard_s_outcomes_and_forecasts_are_those_of_the_backtest(scenario: MakeScenario, repository: Path) -> None:
    run = scenario(lateness_ms=0)
    run.feed(log())
    run.worker("ingest")
    run.worker("forecast")
    outcome = run.finish(through_ms=START_MS + HOURS * HOUR_MS)
    model = Forecaster.load(repository / "models" / "default")
    shard = shards_of(NAMES, SHARDS)
    expected_sums: dict[tuple[int, str], list[int]] = {}
    for number in np.unique(shard).tolist():
        rows = np.flatnonzero(shard == number)
        shop = offline(model, rows)
        expected_sums |= {(number, f"{model.version[:8]}:{day}"): found.to_list() for day, found in shop._outcomes.items()}
        out, _, factors = shop.forecast(HOURS - 1, np.arange(len(rows)))
        out = model.published(out)
        assert (np.abs(factors - 1) > 0.01).any()
        for i, row in enumerate(rows):
            found = outcome.forecasts[NAMES[row]]
            np.testing.assert_allclose(found["mean"], out.mean[i], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found["quantiles"], out.quantiles[i], rtol=1e-4, atol=1e-4)
    assert outcome.outcomes == {key: numbers for key, numbers in expected_sums.items() if Outcomes.from_list(numbers).count.any()}
