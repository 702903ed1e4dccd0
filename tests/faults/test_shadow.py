"""`trendcast shadow` beside the workers: for the model that serves, its scores are those of the serving model; a kill costs days that it did not see whole."""

import json
from pathlib import Path
from typing import Final

import pytest

from models import artefact as artefacts
from tests.faults.conftest import MakeScenario
from tests.faults.harness import SHARDS, Message
from tests.faults.shop_log import HOUR_MS, START_MS
from tests.faults.test_calibration import HOURS, log
from tests.faults.test_takeover import scraped

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

DAY_MS: Final = 24 * HOUR_MS
FIRST: Final = 20  # hours; a day later every product has had its turn


def test_the_serving_model_in_shadow_agrees_with_itself(scenario: MakeScenario, repository: Path) -> None:
    run, records = scenario(lateness_ms=0), log()
    run.feed(record for record in records if record.time_ms <= START_MS + FIRST * HOUR_MS)
    run.worker("ingest")
    run.worker("forecast")
    run.wait_settled(START_MS + FIRST * HOUR_MS)
    shadow = run.worker("shadow", str(repository / "models" / "default"), static=False)
    run.wait(lambda: "model.loaded" in shadow.said(), "the shadow runs")
    run.wait(lambda: scraped(shadow, "trendcast_forecast_owned_shards ") == SHARDS, "it has seen every shard")
    run.feed(record for record in records if record.time_ms > START_MS + FIRST * HOUR_MS)
    run.wait_settled(START_MS + HOURS * HOUR_MS)

    def told() -> dict[str, list[Message]]:
        by_key: dict[str, list[Message]] = {}
        for key, value in run.read("scores"):
            by_key.setdefault(key, []).append(json.loads(value or b""))
        return by_key

    version = artefacts.read(repository / "models" / "default").version
    keys = [f"{shard}/{version}" for shard in range(SHARDS)]
    days = {START_MS + day * DAY_MS for day in (2, 3)}
    run.wait(lambda: all({m["start"] for m in told().get(key, [])} == days for key in keys), "scores of both whole days")
    found = told()
    for shard, key in enumerate(keys):
        own = {m["start"]: m for m in found[str(shard)]}
        assert not any(m["shadow"] for m in own.values())
        assert [m | {"shadow": False} for m in found[key]] == [own[m["start"]] for m in found[key]]
    outcome = run.finish()
    assert len(outcome.forecasts) == 12
