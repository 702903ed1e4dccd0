"""An export of forecasts holds what the workers would publish at that moment, and says why where they would publish nothing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from feature_store.calls import HEADER_BYTES
from feature_store.store import FeatureStore
from models.forecaster import Forecaster
from streaming.contracts import Forecast
from streaming.engine import ForecastEngine
from streaming.errors import UserError
from streaming.export_forecasts import BATCH_PRODUCTS, export_forecasts
from streaming.forecast_table import STEP, SUM
from streaming.settings import HOUR_MS, Clock, Settings
from tests.integration.shop import START, TILE, Sent, Shop, settle

SHARDS = 2
HOURS = 74  # past two days, so that some factors are not 1


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, namespace="exported", shards=SHARDS, clock=Clock.LOG)


def sold(hours: range, products: int = 20) -> dict[str, dict[int, int]]:
    """Product → tile → orders; from rare to frequent, the last silent after a day."""
    found: dict[str, dict[int, int]] = {}
    for p in range(products):
        rng = np.random.default_rng([p, hours.start])
        rate = 0.2 * 1.3**p * (p < products - 1 or hours.start < 24)
        counts = dict(zip(hours, rng.poisson(rate, len(hours)).tolist(), strict=True))
        found[f"p{p}"] = {(START + hour) * 12 + (hour + p) % 12: n for hour, n in counts.items() if n}
    return found


async def settled(store: FeatureStore, settings: Settings, model: Forecaster, minutes: int) -> dict[str, Forecast]:
    """Some days, then some minutes of an hour under way; the last message of every product, all of them published at the end."""
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    for first in range(0, HOURS, 25):
        end = min(first + 25, HOURS)
        await shop.orders(sold(range(first, end)), (START + end) * HOUR_MS)
        await settle(engine, store, SHARDS)
    late = {f"p{p}": {(START + HOURS) * 12: 1 + p} for p in range(0, 20, 3)}
    await shop.orders(late, (START + HOURS) * HOUR_MS + minutes * 60_000)
    await settle(engine, store, SHARDS)
    await publish_all(store)
    sent.messages.clear()
    await settle(engine, store, SHARDS)
    engine.close()
    return sent.last()


async def publish_all(store: FeatureStore) -> None:
    for shard in range(SHARDS):
        names = [name for name, _ in await store.live(shard)]
        await store._redis.zadd(store.keys.dirty(shard), dict.fromkeys(names, 0))


def rows_of(message: Forecast) -> list[dict[str, object]]:
    """The slow way."""
    columns = [f"q{round(100 * level):02d}" for level in message.levels]
    assert message.running is not None
    rest = {
        "kind": message.kind,
        "quality": message.quality,
        "trend": message.trend.direction,
        "trend_strength": message.trend.strength,
        "revision_step": message.revision[0],
        "revision_sequence": message.revision[1],
        "as_of_ms": message.as_of,
        "complete_through_ms": message.complete_through,
    }
    rows = []
    for h in range(message.horizon):
        start = message.first_step + h * message.step_ms
        of_step = dict(zip(columns, (row[h] for row in message.quantiles), strict=True))
        observed = message.running.observed if h == 0 else None
        own = {"interval": STEP, "start_ms": start, "end_ms": start + message.step_ms, "mean": message.mean[h], "observed": observed}
        rows.append({"product_id": message.product_id, **own, **of_step, **rest})
    for each in message.cumulative:
        end = message.first_step + each.steps * message.step_ms
        of_sum = dict(zip(columns, each.quantiles, strict=True))
        own = {"interval": SUM, "start_ms": message.first_step, "end_ms": end, "mean": each.mean, "observed": message.running.observed}
        rows.append({"product_id": message.product_id, **own, **of_sum, **rest})
    return rows


@pytest.mark.parametrize("minutes", [25, 55])  # within the hour; so late in it that it has ended, but for what may still come
async def test_rows_are_those_of_the_last_messages(
    store: FeatureStore, settings: Settings, model: Forecaster, tmp_path: Path, minutes: int
) -> None:
    last = await settled(store, settings, model, minutes)
    assert len(last) == 20
    assert {f.kind for f in last.values()} == ({"nowcast", "close"} if minutes == 25 else {"close"})
    before = await contents(store)
    path = tmp_path / "forecasts.parquet"
    exported = await export_forecasts(store, settings, model, path)
    assert await contents(store) == before
    rows = pq.read_table(path).to_pylist()
    assert rows == [row for product in dict.fromkeys(row["product_id"] for row in rows) for row in rows_of(last[product])]
    assert (exported.products, exported.rows, exported.unusable) == (20, 20 * 26, 0)
    assert exported.as_of_ms == next(iter(last.values())).as_of
    frame = pd.read_parquet(path)
    assert set(frame["interval"].cat.categories) == {STEP, SUM}
    assert frame[frame["interval"] == SUM].groupby("product_id").size().eq(2).all()
    said = pq.read_schema(path).metadata
    assert (said[b"trendcast.model_version"].decode(), said[b"trendcast.namespace"]) == (model.version, b"exported")


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def contents(store: FeatureStore) -> dict[bytes, bytes]:
    return {key: await store._redis.dump(key) for key in await store._redis.keys("*")}


async def test_products_that_have_yet_to_close_a_step_do_so_on_a_copy(
    store: FeatureStore, settings: Settings, model: Forecaster, tmp_path: Path
) -> None:
    await settled(store, settings, model, 25)
    await Shop(store, SHARDS, offset=40).orders(sold(range(HOURS, HOURS + 1)), (START + HOURS + 1) * HOUR_MS)
    before = await contents(store)
    path = tmp_path / "forecasts.parquet"
    await export_forecasts(store, settings, model, path)
    assert await contents(store) == before
    sent = Sent()
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await settle(engine, store, SHARDS)
    await publish_all(store)
    await settle(engine, store, SHARDS)
    last = sent.last()
    rows = pq.read_table(path).to_pylist()
    assert {row["revision_step"] for row in rows} == {START + HOURS}
    assert rows == [row for product in dict.fromkeys(row["product_id"] for row in rows) for row in rows_of(last[product])]


async def test_many_products_are_written_in_parts_and_broken_ones_left_out(
    store: FeatureStore, settings: Settings, model: Forecaster, tmp_path: Path
) -> None:
    n = BATCH_PRODUCTS + 50
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await shop.orders({f"p{p}": {START * 12: 1} for p in range(n)}, (START + 2) * HOUR_MS)
    await settle(engine, store, SHARDS)
    [record] = await store.records([(1, "p1")])
    broken = record.features[:HEADER_BYTES] + np.full(model.feature_size, np.nan, np.float32).tobytes()
    await store._redis.setrange(store.keys.state(1, "p1"), 0, broken)
    shares: list[float] = []
    exported = await export_forecasts(store, settings, model, tmp_path / "x.parquet", shares.append)
    assert (exported.products, exported.unusable) == (n - 1, 1)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    products = pq.read_table(tmp_path / "x.parquet")["product_id"].to_pylist()
    assert set(products) == {f"p{p}" for p in range(n)} - {"p1"}
    assert len(products) == 26 * (n - 1)


async def test_what_workers_would_not_publish_is_not_exported(
    store: FeatureStore, settings: Settings, model: Forecaster, tmp_path: Path
) -> None:
    path = tmp_path / "x.parquet"

    async def refused() -> str:
        with pytest.raises(UserError) as error:
            await export_forecasts(store, settings, model, path)
        assert files_in(tmp_path) == []
        return str(error.value)

    assert await refused() == "namespace 'exported' holds no products yet"
    shop = Shop(store, SHARDS)
    await shop.orders({"p0": {START * 12: 1}, "p1": {START * 12: 1}}, START * HOUR_MS + TILE)
    await store.register_sources({"topic-id/1": "orders/1"})
    assert "cannot tell the time yet" in await refused()
    await store.register_sources({}, retire=["topic-id/1"])
    await shop.orders({"p0": {(START + 5) * 12: 1}}, (START + 6) * HOUR_MS)
    assert "2 of 2 shards have steps to close" in await refused()


async def test_another_model_s_products_are_refused(store: FeatureStore, settings: Settings, model: Forecaster, tmp_path: Path) -> None:
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await shop.orders({"p0": {START * 12: 1}}, (START + 2) * HOUR_MS)
    await settle(engine, store, SHARDS)
    record = await store._redis.get(store.keys.scores(0, "p0"))
    await store._redis.set(store.keys.scores(0, "p0"), record[:8] + b"another1" + record[16:])
    with pytest.raises(UserError, match="another model serves: products are at versions another1"):
        await export_forecasts(store, settings, model, tmp_path / "x.parquet")
