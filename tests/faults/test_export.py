"""`trendcast export forecasts` beside real workers: the file says what stands last in the topic."""

from pathlib import Path

import pandas as pd
import pytest

from tests.faults.conftest import MakeScenario
from tests.faults.harness import SHARDS
from tests.faults.shop_log import HOUR_MS, START_MS, Sent, between

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_the_file_says_what_stands_last_in_the_topic(scenario: MakeScenario, log: list[Sent], tmp_path: Path) -> None:
    run = scenario()
    run.feed(between(log, 0, 26.6))
    run.worker("ingest")
    run.worker("forecast")
    run.wait_settled(START_MS + 26 * HOUR_MS)
    for shard in range(SHARDS):  # everything is published once more, as of now
        names = run.redis.zrange(f"{run.keys.shard(shard)}live", 0, -1)
        run.redis.zadd(run.keys.dirty(shard), dict.fromkeys(names, 0))
    run.wait_settled(START_MS + 26 * HOUR_MS)
    path = tmp_path / "forecasts.parquet"
    done = run.run("export", "forecasts", str(path))
    last = {product: said for product, said in run._forecasts().items() if said["level"] == "product"}
    assert done.stdout.startswith(f"{len(last)} products' forecasts as of ")
    frame = pd.read_parquet(path)
    assert set(frame["product_id"]) == set(last)
    for product, rows in frame.groupby("product_id", sort=False):
        message = last[str(product)]
        steps, sums = (rows[rows["interval"] == kind] for kind in ("step", "sum"))
        assert steps["mean"].tolist() == message["mean"]
        assert steps[["q05", "q10", "q25", "q50", "q75", "q90", "q95"]].T.to_numpy().tolist() == message["quantiles"]
        assert sums["mean"].tolist() == [each["mean"] for each in message["cumulative"]]
        assert steps["observed"].iloc[0] == message["running"]["observed"]
        assert [*rows[["revision_step", "revision_sequence"]].iloc[0]] == message["revision"]
