"""The forecasts of all products at this moment as one Parquet file: what the workers would publish now. Reads only."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from feature_store.calls import HEADER_BYTES, NO_WATERMARK, ShardRolledBack
from feature_store.store import FeatureStore
from models import timeline
from models.forecaster import Forecaster
from models.records import Codec, Gathered
from streaming.calibrations import Calibrations
from streaming.clock import ShopClock
from streaming.contracts import Forecast
from streaming.errors import UserError
from streaming.export import Progress
from streaming.forecast_table import schema, table
from streaming.known_ahead import KnownAhead
from streaming.operators import moment_text
from streaming.ownership import OwnedShard, Product
from streaming.parquet import Groups, metadata, replacing
from streaming.readout import Reader, context_of, gap_until_ms, gather, step_sums
from streaming.schedule import reachable, shard_time
from streaming.settings import Clock, Settings

# Read out at once: the network is near its full speed, and their messages take 10 MB.
BATCH_PRODUCTS: Final = 1024


@dataclass(slots=True)
class ExportedForecasts:
    """What was written."""

    path: Path
    model: str
    products: int = 0
    rows: int = 0
    unusable: int = 0  # products left out, because the model gave numbers that are not finite
    as_of_ms: int = 0  # of the shard that is furthest behind

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "path": str(self.path),
            "model": self.model,
            "products": self.products,
            "rows": self.rows,
            "unusable": self.unusable,
            "as_of": self.as_of_ms,
        }


async def export_forecasts(
    store: FeatureStore, settings: Settings, model: Forecaster, path: Path, progress: Progress = lambda _: None
) -> ExportedForecasts:
    """Write every product's forecast, a row a step and a row a sum (see `forecast_table.table`); `path` is replaced.

    Rows come by shard, in it by product. A shard's forecasts are as of the moment at which it was looked at. A file that could not be finished never
    appears. Raises UserError where there is nothing to write, where the workers would not publish, and where another model serves.
    """
    with replacing(path) as partial:
        return await _write(_Snapshot(store, settings, model), ExportedForecasts(path, model.version), partial, progress)


async def _write(snapshot: "_Snapshot", exported: ExportedForecasts, partial: Path, progress: Progress) -> ExportedForecasts:
    import pyarrow.parquet as pq

    shards = await snapshot.shards()
    columns = schema(snapshot.model.levels, snapshot.said)
    with pq.ParquetWriter(partial, columns, compression="zstd") as writer:
        groups = Groups(writer)
        async for products, share in _batches(snapshot, sorted(shards)):
            made = await snapshot.forecasts(shards, products)
            exported.unusable += len(products) - len(made)
            exported.products += len(made)
            if made:
                rows = table(made, columns)
                exported.rows += rows.num_rows
                await asyncio.to_thread(groups.add, rows)
            progress(share)
        groups.flush()
    exported.as_of_ms = min(shard.time.watermark_ms for shard in shards.values()) + snapshot.settings.lateness_ms
    return exported


async def _batches(snapshot: "_Snapshot", shards: Sequence[int]) -> AsyncIterator[tuple[list[Product], float]]:
    """Products in batches, of several shards where these are small, and the share of the shards that is done with each."""
    waiting: list[Product] = []
    for i, shard in enumerate(shards):
        names = [name for name, _ in await snapshot.store.live(shard)]
        for place, name in enumerate(names):
            waiting.append((shard, name))
            if len(waiting) == BATCH_PRODUCTS:
                yield waiting, (i + (place + 1) / len(names)) / len(shards)
                waiting = []
    if waiting:
        yield waiting, 1.0


class _Snapshot:
    """The namespace as a forecast worker would find it that owned all shards, without owning any."""

    def __init__(self, store: FeatureStore, settings: Settings, model: Forecaster) -> None:
        self.store, self.settings, self.model = store, settings, model
        self._per_step = settings.step_ms // settings.tile_ms
        self._calibrations = Calibrations(settings, store, model)
        self._ahead = KnownAhead(settings, store, model.spec.covariates)
        self._reader = Reader(settings, store, model, self._calibrations, self._ahead, _at_once)
        self._codec = Codec.of(model.spec, model.state_size, model.version, self._per_step, model.horizon, len(model.levels))
        self._clock = ShopClock.of(settings)
        self._gap_until = NO_WATERMARK

    @property
    def said(self) -> dict[str, str]:
        """What travels with the file."""
        return metadata(self.settings) | {"trendcast.model": self.model.name, "trendcast.model_version": self.model.version}

    async def shards(self) -> dict[int, OwnedShard]:
        """All shards that hold products, where their time stands. Raises UserError where workers would not publish their forecasts."""
        sources = sorted(await self.store.sources())
        self._gap_until = gap_until_ms(await self.store.gaps(), self.settings.step_retention_ms)
        found: dict[int, OwnedShard] = {}
        behind: list[int] = []
        for number in range(self.settings.shards):
            view = await self.store.look(number)
            if not view.live:
                continue
            lagging = self.settings.lagging_source_ms if self.settings.clock is Clock.WALL else None
            at = shard_time(sources, view.watermarks, view.idle, lagging_ms=lagging)
            if at.watermark_ms == NO_WATERMARK or view.closed_step is None:
                raise UserError(
                    f"shard {number} cannot tell the time yet: not every input partition has been heard of; "
                    "see whether `trendcast ingest` runs, and whether idle partitions get heartbeats"
                )
            reached = at.watermark_ms // self.settings.tile_ms
            closed, target = reachable(reached, view.closed_step, self._per_step, self.settings.step_ms, self.store.keep_steps)
            shard = OwnedShard(self._per_step, self._calibrations.memory(), time=at, target=target)
            shard.sequence, shard.closed_step = view.sequence, view.closed_step
            if reached // self._per_step - 1 - view.closed_step > 1:
                behind.append(number)
            await self._calibrations.load(number, shard, closed)
            found[number] = shard
        if not found:
            raise UserError(f"namespace {self.settings.namespace!r} holds no products yet")
        if behind:
            oldest = min(found[number].closed_step or 0 for number in behind)
            raise UserError(
                f"{len(behind)} of {len(found)} shards have steps to close, the oldest since {moment_text((oldest + 1) * self.settings.step_ms)}: "
                "`trendcast forecast` does not run, or is catching up; export when it has"
            )
        return found

    async def forecasts(self, shards: Mapping[int, OwnedShard], products: Sequence[Product]) -> list[Forecast]:
        """What the workers would publish of these products; those whose numbers are not finite are left out."""
        try:
            gathered = await gather(self.store, self._codec, shards, products)
        except ShardRolledBack as error:
            raise UserError(f"{error}: Redis was restored meanwhile; export again when the workers have caught up") from error
        self._check_model(gathered)
        contexts = {number: context_of(shards[number], self.settings, self._gap_until) for number, _ in products}
        gathered = await self._in_step(shards, products, gathered)
        read = await self._reader.read_out(shards, contexts, products, gathered)
        real_ms = int(time.time() * 1000)
        now_ms = self._clock.now_ms(real_ms)
        return self._reader.messages(read, [None] * len(products), real_ms if now_ms is None else now_ms)

    def _check_model(self, gathered: Gathered) -> None:
        """Raises UserError where products were judged by another model, whose state says nothing to this one."""
        owners = {header[8:HEADER_BYTES] for header in gathered.score_headers if header}
        others = sorted(owner.decode() for owner in owners - {self._codec.model_owner})
        if others:
            raise UserError(
                f"another model serves: products are at versions {', '.join(others)}…, and what this command has loaded is {self.model.version}. "
                "After a promotion, wait until the workers have taken it over; where none was promoted, set TRENDCAST_MODEL_DIR as they have it"
            )

    async def _in_step(self, shards: Mapping[int, OwnedShard], products: Sequence[Product], gathered: Gathered) -> Gathered:
        """Products that have yet to close their shard's last steps do so on copies, as the worker does before it forecasts them."""
        last = np.array([shards[number].last_step for number, _ in products], np.int64)
        lines = gathered.lines
        shop = await self._ahead.of(products, shards)
        while len(behind := np.flatnonzero(lines.step < last)):
            step, features, state = lines.step.copy(), lines.features.copy(), lines.state.copy()
            step[behind] += 1
            sums = await step_sums(
                self.store,
                self._per_step,
                [products[i] for i in behind.tolist()],
                [gathered.running[i] for i in behind.tolist()],
                step[behind],
            )
            demand = timeline.demand(self.model.spec, sums)
            rows = features[behind], state[behind]
            features[behind], state[behind] = timeline.consume(self.model, *rows, demand, step[behind], shop, behind)
            lines = replace(lines, step=step, features=features, state=state)
        return replace(gathered, lines=lines)


async def _at_once(decide: Callable[[], Any]) -> Any:
    """Nothing else waits for the loop."""
    return decide()
