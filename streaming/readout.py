"""Forecasts of products from what is stored of them, as workers publish and exports write them. Reads only."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_store.calls import NO_WATERMARK, RunningSums
from feature_store.measures import N_MEASURES, UNITS, natural
from feature_store.store import FeatureStore
from models import cold_start, timeline
from models.features import F32
from models.forecaster import Forecaster
from models.known_future import KnownFuture
from models.nowcast import Forecasts
from models.records import Codec, Gathered
from models.timeline import Timelines
from streaming.calibrations import Calibrations
from streaming.contracts import Forecast, ModelName
from streaming.known_ahead import KnownAhead
from streaming.messages import Request, ShardContext, forecasts
from streaming.ownership import Owned, OwnedShard, Product
from streaming.settings import DAY_MS, Settings

Sums = npt.NDArray[np.float64]
Compute = Callable[[Callable[[], Any]], Awaitable[Any]]  # runs a decision in the model's thread

CUMULATIVE_DAYS: Final = (7, 14)


def cumulative_steps(step_ms: int) -> list[int]:
    """Lengths of the sums that every forecast has, in steps."""
    return [max(days * DAY_MS // step_ms, 1) for days in CUMULATIVE_DAYS]


async def gather(store: FeatureStore, codec: Codec, owned: Owned, products: Sequence[Product]) -> Gathered:
    """What is stored of these products. Raises ShardRolledBack where that is less than what was counted when the shards were looked at."""
    stored = await store.records(products, known={shard: owned[shard].sequence for shard, _ in products})
    first_tiles: list[int | None] = [None] * len(products)
    unborn = codec.unborn(stored)
    for i, tile in zip(unborn, await store.first_tiles([products[i] for i in unborn]), strict=True):
        # An ancient event must not make its product live through decades of silent steps.
        oldest = (owned[products[i][0]].last_step - store.keep_steps) * codec.tiles_per_step
        first_tiles[i] = oldest if tile is None else max(tile, oldest)
    return codec.read(stored, first_tiles)


async def step_sums(
    store: FeatureStore,
    tiles_per_step: int,
    products: Sequence[Product],
    running: Sequence[RunningSums | None],
    step: npt.NDArray[np.int64],
) -> Sums:
    """What was counted in step `step[i]` of each product, (n, N_MEASURES); `running`: what was read with its records."""
    known = [sums and sums.of(at) for sums, at in zip(running, step.tolist(), strict=True)]
    of_step = np.array([[0.0] * N_MEASURES if sums is None else sums for sums in known])
    old: defaultdict[int, list[int]] = defaultdict(list)  # after catching up, or heard of two steps later already
    for i, sums in enumerate(known):
        if sums is None:
            old[int(step[i])].append(i)
    for at, rows in old.items():
        tiles = await store.tiles([products[i] for i in rows], at * tiles_per_step, tiles_per_step)
        of_step[rows] = tiles.sum(axis=1)
    return of_step


def gap_until_ms(gaps: Iterable[Mapping[str, Any]], step_retention_ms: int) -> int:
    """Forecasts of shards before it, epoch ms, rest on a log with a gap; `gaps`: as the store noted them."""
    return max((gap["watermark_ms"] + step_retention_ms for gap in gaps), default=NO_WATERMARK)


def context_of(shard: OwnedShard, settings: Settings, gap_until: int) -> ShardContext:
    """What all forecasts of the shard share at this moment."""
    watermark, step_ms = shard.time.watermark_ms, settings.step_ms
    return ShardContext(
        sequence=shard.sequence,
        as_of_ms=watermark + settings.lateness_ms,
        complete_through_ms=watermark // step_ms * step_ms,
        late_source=shard.time.late_source,
        gap=watermark < gap_until,
    )


@dataclass(frozen=True, slots=True)
class ReadOut:
    """Forecasts of some products; row i of everything belongs to product i."""

    products: Sequence[Product]
    contexts: Mapping[int, ShardContext]  # by shard
    lines: Timelines  # where each stands when it is forecast
    out: Forecasts
    sums: npt.NDArray[np.int64]  # (n, sums) lengths of the forecasts' sums, in steps; 0: not asked for
    observed: npt.NDArray[np.float64]  # (n,) units of the running step
    active: npt.NDArray[np.bool_]  # (n,) anything was counted in it
    cold: npt.NDArray[np.bool_]  # (n,) the forecast is rather other products' than its own


class Reader:
    """Reads forecasts out of what is stored, with the factors of the products' shards."""

    def __init__(
        self,
        settings: Settings,
        store: FeatureStore,
        model: Forecaster,
        calibrations: Calibrations,
        ahead: KnownAhead,
        compute: Compute,
    ) -> None:
        self._settings, self._store, self._model = settings, store, model
        self._calibrations, self._ahead, self._compute = calibrations, ahead, compute
        self._per_step = settings.step_ms // settings.tile_ms
        self._sums = cumulative_steps(settings.step_ms)
        self._model_name = ModelName(name=model.name, version=model.version)

    async def read_out(
        self, owned: Owned, contexts: Mapping[int, ShardContext], products: Sequence[Product], gathered: Gathered
    ) -> ReadOut:
        """Forecasts of products that stand at their shard's last step, as of their shard's moment."""
        step_ms, lines = self._settings.step_ms, gathered.lines
        as_of = np.array([contexts[shard].as_of_ms for shard, _ in products], np.int64)
        ended = as_of >= (lines.step + 2) * step_ms  # the step is over, but events of it may still come: advanced through on a copy
        ended_sums = await step_sums(self._store, self._per_step, products, gathered.running, lines.step + 1)
        running_sums = (
            await step_sums(self._store, self._per_step, products, gathered.running, lines.step + 1 + ended) if ended.any() else ended_sums
        )
        step = lines.step + ended
        shop = await self._ahead.of(products, owned)
        sums = self._sums_of(shop, len(products))
        pools = self._calibrations.pools(owned, products, int(step.min()), int(step.max()))
        elapsed = np.clip((as_of - (step + 1) * step_ms) / step_ms, 0, 1).astype(np.float32)

        def decide() -> tuple[Timelines, Forecasts, F32]:
            features, state = lines.features.copy(), lines.state.copy()
            everyone, over = np.arange(len(products)), np.flatnonzero(ended)
            if len(over):
                demand = timeline.demand(self._model.spec, ended_sums[over])
                features[over], state[over] = timeline.consume(self._model, features[over], state[over], demand, step[over], shop, over)
            running = timeline.demand(self._model.spec, running_sums)
            _, factors = timeline.calibrated(self._model, pools, everyone, features, step)
            span = max(self._model.horizon, int(sums.max()))
            coming = timeline.coming(self._model, shop, everyone, step, span, newest=True)
            prior = timeline.prior(self._model, pools, shop, everyone, features, step)
            out = self._model.read_out(
                features, state, step, running, elapsed, np.maximum(sums, 1), ahead=coming, factors=factors, prior=prior
            )
            return replace(lines, step=step, features=features, state=state), self._model.published(out), prior.weights(len(products))

        ahead, out, weight = await self._compute(decide)
        cold = cold_start.is_cold(self._model.spec, ahead.features, weight)
        observed, active = natural(running_sums)[:, UNITS], np.asarray(running_sums.any(axis=1))
        return ReadOut(products, contexts, ahead, out, sums, observed, active, cold)

    def _sums_of(self, shop: KnownFuture | None, n: int) -> npt.NDArray[np.int64]:
        """Lengths of the sums that are asked for, (n, sums) in steps; a product's own lead time comes last, 0 where it has none, or one of the others."""
        sums = np.tile(np.asarray(self._sums, np.int64), (n, 1))
        lead = np.zeros(n, np.int64) if shop is None else shop.lead_steps(np.arange(n))
        lead[(lead > self._model.longest_sum) | (lead[:, None] == sums).any(axis=1)] = 0
        return np.column_stack([sums, lead]) if lead.any() else sums

    def messages(self, read: ReadOut, oldest_input_at_ms: Sequence[int | None], issued_at_ms: int) -> list[Forecast]:
        """Of the products whose numbers are all finite."""
        usable = np.flatnonzero(read.out.finite())
        requests = [
            Request(
                read.products[i][1],
                read.contexts[read.products[i][0]],
                float(read.observed[i]),
                bool(read.active[i]),
                bool(read.cold[i]),
                oldest_input_at_ms[i],
            )
            for i in usable.tolist()
        ]
        return list(
            forecasts(
                requests,
                read.lines.at(usable),
                read.out.at(usable),
                spec=self._model.spec,
                levels=self._model.levels,
                sums=read.sums[usable].tolist(),
                model=self._model_name,
                issued_at_ms=issued_at_ms,
            )
        )
