"""What moved a product's present forecast: gathered from the store, decided by `models.explain`."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from feature_store.calls import HEADER_BYTES
from feature_store.measures import N_MEASURES
from feature_store.store import FeatureStore
from models import timeline
from models.explain import explain
from models.features import F32
from models.forecaster import Forecaster
from models.known_future import KnownFuture
from models.records import Codec, header
from streaming.calibrations import Calibrations
from streaming.errors import UserError
from streaming.inspection import reached_ms, unknown_product
from streaming.known_ahead import KnownAhead
from streaming.ownership import OwnedShard, Product
from streaming.readout import step_sums
from streaming.settings import Settings

# What each driver of a forecast is, for people; others are streams and covariates by their own names.
MEANING: Final = {
    "recent_demand": "the last days' orders",
    "clicks": "the last days' views and carts",
    "season": "which weekdays are coming, by the product's own profile",
    "shop_season": "the same by the shop's profile",
    "calendar": "day of the month, weekend, and the rest of the calendar",
    "running_step": "what the running step has brought so far",
    "launches": "what the category's products sold after their birth",
}


@dataclass(frozen=True, slots=True)
class ExplainedForecast:
    """The mean forecast of a product over its horizon, in units: `base` and the drivers' effects add up to `total`."""

    product_id: str
    as_of_ms: int
    first_step_ms: int  # the horizon begins with it
    step_ms: int
    horizon: int
    model: str
    version: str
    base: float
    drivers: list[tuple[str, float]]  # greatest effect first
    total: float


@dataclass(frozen=True, slots=True)
class _Present:
    """What a forecast of one product rests on now."""

    step: int  # last consumed
    features: F32  # (1, features)
    state: F32  # (1, state)
    history: F32  # (1, steps, 1 + streams) of the steps that end with `step`
    running: F32  # (1, 1 + streams) of the step after it
    elapsed: F32  # (1,)
    as_of_ms: int
    shop: KnownFuture | None  # what is known ahead


async def explained_forecast(store: FeatureStore, settings: Settings, model: Forecaster, product: Product) -> ExplainedForecast:
    """Of the forecast that the product has now, its running step included. Raises UserError where it has none by this model."""
    shard, name = product
    present = await _gather(store, settings, model, product)
    step = np.array([present.step])
    calibrations = Calibrations(settings, store, model)
    owned = OwnedShard(settings.step_ms // settings.tile_ms, calibrations.memory())
    await calibrations.load(shard, owned, present.step)
    pools = calibrations.pools({shard: owned}, [product], present.step, present.step)
    _, factors = timeline.calibrated(model, pools, np.array([0]), present.features, step)
    ahead = timeline.coming(model, present.shop, np.array([0]), step, model.horizon, newest=True)
    prior = timeline.prior(model, pools, present.shop, np.array([0]), present.features, step)
    rows = (present.features, present.state, step, present.history, present.running, present.elapsed)
    found = explain(model, *rows, ahead=ahead, factors=factors, prior=prior)
    drivers = zip(found.names, found.effects[0].tolist(), strict=True)
    return ExplainedForecast(
        product_id=name,
        as_of_ms=present.as_of_ms,
        first_step_ms=(present.step + 1) * settings.step_ms,
        step_ms=settings.step_ms,
        horizon=model.horizon,
        model=model.name,
        version=model.version,
        base=float(found.base[0]),
        drivers=sorted(drivers, key=lambda driver: -abs(driver[1])),
        total=float(found.total[0]),
    )


async def _gather(store: FeatureStore, settings: Settings, model: Forecaster, product: Product) -> _Present:
    shard, name = product
    step_ms = settings.step_ms
    last_event_ms = await store.last_event_ms(shard, name)
    if last_event_ms is None:
        raise UserError(await unknown_product(store, settings, name))
    codec = Codec.of(model.spec, model.state_size, model.version, settings.step_ms // settings.tile_ms, model.horizon, len(model.levels))
    records = await store.records([product])
    gathered = codec.read(records, [None])
    step, features, state = int(gathered.lines.step[0]), gathered.lines.features, gathered.lines.state
    if codec.unborn(records) or records[0].state[:HEADER_BYTES] != header(step, codec.model_owner):
        raise UserError(
            f"model {model.version} ({settings.model_dir}) has no forecast of {name!r} yet: none of its steps has been closed by it; is "
            "`trendcast forecast` running, with the same TRENDCAST_MODEL_DIR?"
        )
    [(_, steps, _)] = await store.history([product])
    silent = np.zeros(N_MEASURES)
    past = np.array([steps.get(at, silent) for at in range(step + 1 - store.keep_steps, step + 1)])
    history = timeline.demand(model.spec, past)
    shop = await KnownAhead(settings, store, model.spec.covariates).of([product])
    as_of_ms = await reached_ms(store, settings, shard, last_event_ms, (step + 1) * step_ms)
    per_step = settings.step_ms // settings.tile_ms
    if as_of_ms >= (step + 2) * step_ms:  # the step is over, but not closed: the forecast has advanced through it on a copy
        step += 1
        ended = timeline.demand(model.spec, await step_sums(store, per_step, [product], gathered.running, np.array([step])))
        features, state = timeline.consume(model, features, state, ended, np.array([step]), shop, np.array([0]))
        history = np.concatenate([history[1:], ended])
    of_running = timeline.demand(model.spec, await step_sums(store, per_step, [product], gathered.running, np.array([step + 1])))
    elapsed = np.clip(np.array([as_of_ms - (step + 1) * step_ms]) / step_ms, 0, 1).astype(np.float32)
    return _Present(step, features, state, history[None], of_running, elapsed, as_of_ms, shop)
