"""Alerts below the floor: held back as a whole or said to their end, with the same states as without a floor, however the log was cut."""

import msgspec
import numpy as np
import pytest

from feature_store.store import FeatureStore
from models.calibration import Outcomes
from models.forecaster import Forecaster
from models.records import Codec
from models.timeline import OWN_COLUMNS
from streaming import metrics
from streaming.contracts import ForecastScores, TrendAlert
from streaming.engine import ForecastEngine
from streaming.settings import Clock, Settings
from tests.integration.shop import SOURCE, START, Sent, Shop, settle

SHARDS = 2
HOUR = 3_600_000
HOURS = 8 * 24
BAD_DAY = START // 24 + 5  # so that alerts are held back from the seventh day (hours 168 on)
EARLY, LATE = range(164, 170), range(176, 180)  # of the rises of p1, which has fired before midnight, and of p3


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, namespace="floor", shards=SHARDS, clock=Clock.LOG, alerts_floor=5.0)


def orders(product: int, hours: range) -> dict[int, int]:
    """About twelve an hour; ten times that in the rise."""
    rise = {1: EARLY, 3: LATE}[product]
    usual = np.random.default_rng(product).poisson(1.0, (HOURS, 12))
    found = {(START + hour) * 12 + tile: int(usual[hour, tile]) + 9 * (hour in rise) for hour in hours for tile in range(12)}
    return {tile: n for tile, n in found.items() if n}


async def lived(store: FeatureStore, settings: Settings, model: Forecaster, cuts: int, *, crash_every: int = 0) -> Sent:
    """Eight days, of the sixth of which the store is told that everything that was forecast was worthless."""
    await store._redis.flushdb()
    again = await FeatureStore.open(settings)
    await again.register_sources({SOURCE: "orders/0"})
    worthless = Outcomes.none(len(model.levels))
    worthless.count[:], worthless.demand[:], worthless.naive[:], worthless.published[:] = 10**6, 10**9, 10**9, 10**10
    for shard in range(SHARDS):
        field = f"{model.version[:8]}:{BAD_DAY}"
        await again._redis.hset(again.keys.calibration(shard), field, msgspec.msgpack.encode(worthless.to_list()))
    sent, shop = Sent(), Shop(again, SHARDS)
    engine = ForecastEngine(settings, again, model, sent.send)
    await engine.assign(range(SHARDS))
    for part in range(cuts):
        hours = range(part * HOURS // cuts, (part + 1) * HOURS // cuts)
        await shop.orders({f"p{p}": orders(p, hours) for p in (1, 3)}, (START + hours.stop) * HOUR)
        if crash_every and part % crash_every == 0:
            await engine.cycle()
            engine = ForecastEngine(settings, again, model, sent.send)
            await engine.assign(range(SHARDS))
        else:
            await settle(engine, again, SHARDS)
    await settle(engine, again, SHARDS)
    await again.close()
    return sent


def _place(alert: TrendAlert) -> tuple[str, int, str]:
    return alert.product_id, alert.sequence, alert.status


def alerts_of(sent: Sent) -> list[TrendAlert]:
    return sorted({_place(alert): alert for alert in sent.alerts() if alert.kind == "spike"}.values(), key=_place)


async def records(store: FeatureStore, settings: Settings, model: Forecaster) -> list[np.ndarray]:
    codec = Codec.of(model.spec, model.state_size, model.version, settings.step_ms // settings.tile_ms, model.horizon, len(model.levels))
    lines = codec.read(await store.records([(1, "p1"), (1, "p3")]), [None, None]).lines
    return [lines.step, lines.features, lines.state, lines.scores[:, OWN_COLUMNS:], *lines.trials.parts()]


async def test_what_had_fired_is_followed_to_its_end_and_what_begins_below_the_floor_is_not_said(
    store: FeatureStore, settings: Settings, model: Forecaster
) -> None:
    unheld = await lived(store, settings.model_copy(update={"alerts_floor": 0.0}), model, cuts=8)
    states = await records(store, settings, model)
    midnight = (START + 168) * HOUR
    first = {a.alert_id: a for a in reversed(alerts_of(unheld))}
    before = {alert_id for alert_id, a in first.items() if a.updated_at <= midnight}
    assert "p3" in {a.product_id for a in first.values() if a.alert_id not in before}
    held_before = metrics.FORECAST_ALERTS_HELD.labels("spike")._value.get()
    held = await lived(store, settings, model, cuts=8)
    assert alerts_of(held) == [a for a in alerts_of(unheld) if a.alert_id in before]
    last = [a for a in alerts_of(held) if a.product_id == "p1"][-1]
    assert first[last.alert_id].updated_at <= midnight < last.updated_at
    assert last.status == "resolved"
    assert metrics.FORECAST_ALERTS_HELD.labels("spike")._value.get() == held_before + len(first) - len(before)
    for ours, theirs in zip(await records(store, settings, model), states, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "trendcast_forecast_held_shards" in metrics.render()[0].decode()


async def test_what_is_held_does_not_depend_on_cuts_and_crashes(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    whole = await lived(store, settings, model, cuts=1)
    cut = await lived(store, settings, model, cuts=30, crash_every=4)
    assert [replace_model(a) for a in alerts_of(cut)] == [replace_model(a) for a in alerts_of(whole)]
    assert scores(cut) == scores(whole)


async def test_scores_say_that_alerts_are_held(store: FeatureStore, settings: Settings, model: Forecaster) -> None:
    sent = await lived(store, settings, model, cuts=8)
    first = START // 24
    found = {(s.shard, s.start // (24 * HOUR)): {v.volume: v for v in s.volumes} for s in scores(sent)}
    of_shard = {day - first: volumes["all"].alerts_held for (shard, day), volumes in found.items() if shard == 1}
    assert {day for day, is_held in of_shard.items() if is_held} == {6, 7}
    assert all(v.naive_mwql is not None for volumes in found.values() for v in volumes.values() if v.demand)


def replace_model(alert: TrendAlert) -> TrendAlert:
    """Without what tells real time."""
    return msgspec.structs.replace(alert, replay=True)


def scores(sent: Sent) -> list[ForecastScores]:
    values = {m.value for m in sent.messages if m.topic == "forecast-scores" and m.value is not None}
    return sorted((msgspec.json.decode(value, type=ForecastScores) for value in values), key=lambda s: (s.shard, s.start))
