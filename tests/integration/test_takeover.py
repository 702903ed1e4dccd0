"""A promoted model takes over in a running engine, on a real Redis: states rebuilt from what is stored, forecasts flowing, nothing mixed, and back again."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from feature_store.calls import HEADER_BYTES, ModelPointer, StoreUnusable
from feature_store.store import FeatureStore
from models import artefact as artefacts
from models import timeline
from models.features import F32
from models.forecaster import Forecaster
from models.rebuild import STEPS, rebuilt_state
from models.records import unpack
from streaming import metrics, takeover
from streaming.contracts import ForecastScores
from streaming.engine import ForecastEngine
from streaming.errors import UserError
from streaming.settings import HOUR_MS, Clock, Settings
from streaming.takeover import Load
from tests.integration.shop import START, TILE, Sent, Shop, settle
from tests.models.another import written

SHARDS = 2
PRODUCTS = 8
NAMES = [f"p{p}" for p in range(PRODUCTS)]


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Forecaster, ModelPointer]:
    directory, version = written(tmp_path_factory.mktemp("models") / "another")
    loaded = Forecaster.load(directory, "UTC")
    loaded.warm_up()
    return loaded, ModelPointer(loaded.name, version, "lstm/2", directory.as_uri())


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(redis_url=redis_url, namespace="takeover", shards=SHARDS, clock=Clock.LOG, model_cache=tmp_path / "cache")


def hours(product: int, first: int, n: int) -> dict[int, int]:
    """Three orders every hour of a product; p7 is born late, p6 falls silent early."""
    found = {(START + hour) * 12 + (product + 5 * k) % 12: 1 + (k + product) % 2 for hour in range(first, first + n) for k in range(3)}
    born, ends = START * 12 + (30 * 12 if product == 7 else 0), (START + (20 if product == 6 else 10**6)) * 12
    return {tile: orders for tile, orders in found.items() if born <= tile < ends}


async def lived(shop: Shop, engine: ForecastEngine, store: FeatureStore, first: int, end: int) -> None:
    """Hours of the shop, all closed."""
    await shop.orders({f"p{p}": hours(p, first, end - first) for p in range(PRODUCTS)}, (START + end) * HOUR_MS)
    await settle(engine, store, SHARDS)


async def until(engine: ForecastEngine, holds: Callable[[], bool]) -> None:
    while not holds():
        await engine.cycle()
        await asyncio.sleep(0.01)


def scraped(name: str) -> float:
    [line] = [line for line in metrics.render()[0].decode().splitlines() if line.startswith(name)]
    return float(line.split()[-1])


def serves(version: str) -> Callable[[], bool]:
    def done() -> bool:
        named = f'version="{version}"' in metrics.render()[0].decode()
        return named and scraped("trendcast_forecast_takeover_progress_ratio") == 1

    return done


def at_hand(*models: Forecaster) -> Load:
    """Models that need not be loaded and compiled once more."""
    return lambda pointer: next(m for m in models if m.version == pointer.version)


async def states(store: FeatureStore) -> dict[str, tuple[bytes, bytes]]:
    """Header and values of each product's state."""
    found = await store.records([(i % SHARDS, name) for i, name in enumerate(NAMES)])
    return {name: (r.state[:HEADER_BYTES], r.state[HEADER_BYTES:]) for name, r in zip(NAMES, found, strict=True)}


async def rebuilt(store: FeatureStore, model: Forecaster) -> dict[str, bytes]:
    """What each product's state is under a model, by the records that are stored."""
    products = [(i % SHARDS, name) for i, name in enumerate(NAMES)]
    found = unpack([r.features for r in await store.records(products)], model.spec.hash[:8].encode(), model.fresh(PRODUCTS)[0])
    sums = await store.steps(products, found.position.tolist(), STEPS)
    demand: F32 = timeline.demand(model.spec, sums.reshape(-1, sums.shape[2])).reshape(PRODUCTS, STEPS, -1)
    assert demand[..., 0].sum() > 0
    return dict(zip(NAMES, [s.tobytes() for s in rebuilt_state(model, found.values, found.position, demand)], strict=True))


async def test_a_promoted_model_takes_over_and_is_rolled_back(
    store: FeatureStore, settings: Settings, model: Forecaster, promoted: tuple[Forecaster, ModelPointer]
) -> None:
    new, pointer = promoted
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await lived(shop, engine, store, 0, 60)
    expected = await rebuilt(store, new)
    sent.messages.clear()

    await store.point_at(pointer)
    await until(engine, serves(new.version))
    await settle(engine, store, SHARDS)
    assert {name: values for name, (_, values) in (await states(store)).items()} == expected
    assert {header[8:] for header, _ in (await states(store)).values()} == {new.version[:8].encode()}
    assert {name: f.model.version for name, f in sent.last().items()} == dict.fromkeys(NAMES, new.version)

    await lived(shop, engine, store, 60, 62)
    assert {f.model.version for f in sent.last().values()} == {new.version}

    old = ModelPointer(model.name, model.version, "lstm/1", Path(settings.model_dir).as_uri())
    expected = await rebuilt(store, model)
    await store.point_at(old)
    await until(engine, serves(model.version))
    await settle(engine, store, SHARDS)
    assert {name: values for name, (_, values) in (await states(store)).items()} == expected
    assert {f.model.version for f in sent.last().values()} == {model.version}


async def test_young_products_lose_nothing_by_it(
    store: FeatureStore, settings: Settings, model: Forecaster, promoted: tuple[Forecaster, ModelPointer]
) -> None:
    """Where all steps of a product are stored, promoting another model and going back ends in the very states of a run without."""
    engine = ForecastEngine(settings, store, model, Sent().send, load=at_hand(model, promoted[0]))
    await engine.assign(range(SHARDS))
    await lived(Shop(store, SHARDS), engine, store, 0, 60)
    before = await states(store)
    for other, pointer in (promoted, (model, ModelPointer(model.name, model.version, "lstm/1", Path(settings.model_dir).as_uri()))):
        await store.point_at(pointer)
        await until(engine, serves(other.version))
    assert await states(store) == before


async def test_a_damaged_model_is_refused_and_tried_again(
    store: FeatureStore,
    settings: Settings,
    model: Forecaster,
    promoted: tuple[Forecaster, ModelPointer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(takeover, "RETRY_S", 0.1)
    directory, version = written(tmp_path / "model")
    whole = (directory / "weights.npz").read_bytes()
    (directory / "weights.npz").write_bytes(whole[:-1000])
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send)
    await engine.assign(range(SHARDS))
    await lived(shop, engine, store, 0, 5)
    before = scraped("trendcast_forecast_model_load_failures_total")
    await store.point_at(ModelPointer("lstm", version, "lstm/3", directory.as_uri()))
    await until(engine, lambda: scraped("trendcast_forecast_model_load_failures_total") > before)
    await lived(shop, engine, store, 5, 6)
    assert {f.model.version for f in sent.last().values()} == {model.version}
    (directory / "weights.npz").write_bytes(whole)
    await until(engine, serves(version))


async def test_a_model_of_other_features_is_refused(store: FeatureStore, settings: Settings, model: Forecaster, tmp_path: Path) -> None:
    artefact = artefacts.read(settings.model_dir)
    other = replace(artefact, spec=replace(artefact.spec, half_lives=(3.0, 12.0, 48.0, 168.0, 500.0)))
    artefacts.write(other, tmp_path / "other")
    watch = takeover.Takeover(lambda pointer: Forecaster.load(tmp_path / "other", "UTC"), model)
    before = scraped("trendcast_forecast_model_load_failures_total")
    watch.promoted(ModelPointer("lstm", other.version, "lstm/4", ""))
    while scraped("trendcast_forecast_model_load_failures_total") == before:
        assert watch.ready() is None
        await asyncio.sleep(0.01)
    await store.use_features(model.spec.hash)
    with pytest.raises(StoreUnusable, match="replay into another"):
        await store.use_features(Forecaster(other, "UTC").spec.hash)


async def test_an_old_and_a_new_worker_hand_shards_over_and_never_mix(
    store: FeatureStore, settings: Settings, model: Forecaster, promoted: tuple[Forecaster, ModelPointer]
) -> None:
    """One cannot load the new model and goes on with the old one; shards move to and fro between them."""

    def cannot(_: ModelPointer) -> Forecaster:
        raise UserError("no")

    new, pointer = promoted
    sent, shop = Sent(), Shop(store, SHARDS)
    engines = [ForecastEngine(settings, store, served, sent.send, load=cannot) for served in (model, new)]
    await store.point_at(pointer)
    for hour in range(0, 40, 5):
        engine, served = engines[hour // 5 % 2], (model, new)[hour // 5 % 2]
        await engine.assign(range(SHARDS))
        if hour:
            expected = await rebuilt(store, served)
            while engine._rebuilding.progress < 1:
                await engine.cycle()
            found = {name: values for name, (_, values) in (await states(store)).items() if values}
            assert found == {name: expected[name] for name in found}
        await lived(shop, engine, store, hour, hour + 5)
        assert {header[8:] for header, _ in (await states(store)).values() if header} == {served.version[:8].encode()}
    assert {f.model.version for f in sent.last().values()} == {new.version}


async def test_each_model_has_its_own_outcomes(
    store: FeatureStore, settings: Settings, model: Forecaster, promoted: tuple[Forecaster, ModelPointer]
) -> None:
    new, pointer = promoted
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send, load=at_hand(new))
    await engine.assign(range(SHARDS))
    await lived(shop, engine, store, 0, 60)
    await store.point_at(pointer)
    await until(engine, serves(new.version))
    assert engine._ownership.shards[0].memory.hold == engine._calibrations._held  # the floor of alerts holds for this one, too
    await lived(shop, engine, store, 60, 120)
    values = [m.value for m in sent.messages if m.topic == "forecast-scores" and m.value is not None]
    scores = [msgspec.json.decode(value, type=ForecastScores) for value in values]
    day = START * HOUR_MS
    by_model = {(s.start - day) // (24 * HOUR_MS): s.model.version for s in scores if s.shard == 0}
    assert by_model == {0: model.version, 1: model.version, 2: new.version, 3: new.version, 4: new.version}
    old_days, new_days = [set(await store.day_sums(0, m.version[:8])) for m in (model, new)]
    assert max(old_days) == min(new_days) == START // 24 + 2
    assert np.isfinite([s.volumes[-1].mwql or 0 for s in scores]).all()


async def test_nowcasts_flow_while_states_are_rebuilt(
    store: FeatureStore, settings: Settings, model: Forecaster, promoted: tuple[Forecaster, ModelPointer]
) -> None:
    """The first products that change after the swap are forecast by the new model at once, rebuilt for it alone."""
    new, pointer = promoted
    sent, shop = Sent(), Shop(store, SHARDS)
    engine = ForecastEngine(settings, store, model, sent.send, load=at_hand(new))
    await engine.assign(range(SHARDS))
    await lived(shop, engine, store, 0, 30)
    await store.point_at(pointer)
    while f'version="{new.version}"' not in metrics.render()[0].decode():
        await engine.cycle()
        await asyncio.sleep(0.01)
        sent.messages.clear()
        await shop.orders({"p1": {(START + 30) * 12: 1}}, (START + 30) * HOUR_MS + TILE)
    await engine.cycle()
    assert sent.last()["p1"].model.version == new.version
