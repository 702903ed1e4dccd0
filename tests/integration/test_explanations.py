"""Explanations of published forecasts, on a real Redis and the shipped model; the command as a process."""

import json
import os
import subprocess
import sys

import pytest

from feature_store.store import FeatureStore
from models.forecaster import Forecaster
from streaming.contracts import Forecast
from streaming.engine import ForecastEngine
from streaming.errors import UserError
from streaming.explanations import explained_forecast
from streaming.settings import Clock, Settings
from tests.integration.shop import START, Sent, Shop, settle

HOUR = 3_600_000
HOURS = 60


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, namespace="explained", shards=1, clock=Clock.LOG)


def hours(first: int, n: int, rate: int) -> dict[int, int]:
    """`rate` orders in every hour."""
    return {(START + first + hour) * 12 + 5: rate for hour in range(n)}


async def published(store: FeatureStore, settings: Settings, model: Forecaster, watermark_ms: int) -> dict[str, Forecast]:
    """The last forecasts after two days and a half, in which p1's orders have risen at the end, and of some orders after the last whole hour."""
    sent, shop = Sent(), Shop(store, 1)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign([0])
    await shop.orders({"p0": hours(0, HOURS, 3), "p1": hours(0, HOURS - 12, 3) | hours(HOURS - 12, 12, 15)}, (START + HOURS) * HOUR)
    await settle(engine, store, 1)
    await shop.orders({name: hours(HOURS, 1, 40) for name in ("p0", "p1")}, watermark_ms)
    await settle(engine, store, 1)
    engine.close()
    return sent.last()


@pytest.mark.parametrize("minutes", [20, 50])  # of the running hour, and ten of allowed lateness: within it, and at its end
async def test_drivers_add_up_to_the_published_forecast(store: FeatureStore, settings: Settings, model: Forecaster, minutes: int) -> None:
    last = await published(store, settings, model, (START + HOURS) * HOUR + minutes * 60_000)
    for name in ("p0", "p1"):
        found = await explained_forecast(store, settings, model, (0, name))
        assert found.as_of_ms == last[name].as_of
        assert found.first_step_ms == last[name].first_step
        assert found.total == pytest.approx(sum(last[name].mean), rel=1e-4)
        assert found.base + sum(effect for _, effect in found.drivers) == pytest.approx(found.total)
        assert found.version == last[name].model.version
        assert (abs(dict(found.drivers)["running_step"]) > 0.1) == (minutes == 20)
        sizes = [abs(effect) for _, effect in found.drivers]
        assert sizes == sorted(sizes, reverse=True)


async def test_users_are_told_why_nothing_is_told(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    await Shop(store, 1).orders({"p0": hours(0, 2, 3)}, (START + 2) * HOUR)
    with pytest.raises(UserError, match="none of its steps has been closed"):
        await explained_forecast(store, settings, model, (0, "p0"))
    with pytest.raises(UserError, match="did you mean 'p0'"):
        await explained_forecast(store, settings, model, (0, "p01"))


async def test_the_command_prints_a_table_and_json(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    last = await published(store, settings, model, (START + HOURS) * HOUR + 20 * 60_000)
    shown, told, unknown = (trendcast(settings, "explain", *words) for words in (["p1"], ["p1", "--json"], ["p2"]))
    assert "recent_demand" in shown.stdout
    assert "█" in shown.stdout
    document = json.loads(told.stdout)
    assert document["forecast"] == pytest.approx(sum(last["p1"].mean), rel=1e-4)
    assert document["base"] + sum(driver["effect"] for driver in document["drivers"]) == pytest.approx(document["forecast"])
    assert document["model"]["version"] == model.version
    assert unknown.returncode == 1
    assert "nothing is known of product 'p2'" in unknown.stderr


def trendcast(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRENDCAST_")}
    environment |= {f"TRENDCAST_{name.upper()}": str(getattr(settings, name)) for name in ("namespace", "shards", "clock")}
    environment |= {"TRENDCAST_REDIS_URL": settings.redis, "COLUMNS": "160"}
    program = [sys.executable, "-m", "streaming.cli", *arguments]
    told = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" not in told.stderr
    return told
