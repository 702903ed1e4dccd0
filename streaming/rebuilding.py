"""States of products that another model has left, rebuilt from their stored steps: before they are used, and of all others in the background."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_store.calls import RebuiltState
from feature_store.store import FeatureStore
from models import timeline
from models.forecaster import Forecaster
from models.rebuild import STEPS, rebuilt_state
from models.records import Codec, Gathered
from streaming import metrics
from streaming.failpoints import failpoint
from streaming.known_ahead import KnownAhead
from streaming.ownership import Owned, Ownership, Product
from streaming.readout import Compute

# Products rebuilt between two looks at the changed ones: a fifth of a second or so.
SLICE: Final = 64
# Products whose headers are looked at, at once.
LOOK: Final = 1024

Gather = Callable[[Owned, Sequence[Product]], Awaitable[Gathered]]


class Rebuilding:
    """Of the products of owned shards, for one model."""

    def __init__(
        self, store: FeatureStore, model: Forecaster, codec: Codec, ownership: Ownership, compute: Compute, ahead: KnownAhead
    ) -> None:
        self._store, self._model, self._codec, self._ownership, self._compute = store, model, codec, ownership, compute
        self._ahead = ahead
        self._steps = min(store.keep_steps, STEPS)
        self._unlisted: list[int] = []
        self._unseen: list[Product] = []
        self._cold: dict[Product, None] = {}  # in the order in which they were found
        self._listed = 0

    def look_through(self, shards: Iterable[int]) -> None:
        """Other products may be ours, or another model serves: look at them all, in the background."""
        self._unlisted, self._unseen, self._cold, self._listed = list(shards), [], {}, 0

    @property
    def under_way(self) -> bool:
        """Any product may be cold: work goes in small parts, so that changed products need not wait."""
        return bool(self._unlisted or self._unseen or self._cold)

    @property
    def progress(self) -> float:
        """Share of the products that are known to have a state of this model."""
        left = len(self._unseen) + len(self._cold)
        return 0.0 if self._unlisted else 1 - left / self._listed if left else 1.0

    def at_once(self, products: Sequence[Product], limit: int) -> int:
        """How many of these products, from the first on, may be gathered together."""
        if self._unlisted or self._unseen:
            return min(limit, SLICE)
        cold = 0
        for i, product in enumerate(products[:limit] if self._cold else ()):
            cold += product in self._cold
            if cold > SLICE:
                return i
        return min(limit, len(products))

    async def run(self, owned: Owned, gather: Gather, *, idle: bool) -> bool:
        """One part of the background work: first find out who is cold, then rebuild their states, if there is nothing else to do.

        Returns whether more is left.
        """
        if self._unlisted:
            number = self._unlisted.pop()
            if number in owned:
                self._unseen += [(number, name) for name, _ in await self._store.live(number)]
                self._listed = len(self._unseen)
        elif self._unseen:
            some, self._unseen = self._unseen[:LOOK], self._unseen[LOOK:]
            cold = self._codec.cold(await self._store.headers(some, self._codec.features_bytes))
            self._cold |= dict.fromkeys(product for product, is_cold in zip(some, cold, strict=True) if is_cold)
        elif self._cold and idle:
            some = list(islice(self._cold, SLICE))
            await gather(owned, [product for product in some if product[0] in owned])
            for product in some:  # or forgotten, or another worker's
                self._cold.pop(product, None)
        return self.under_way

    async def warm(self, owned: Owned, products: Sequence[Product], gathered: Gathered) -> None:
        """Rebuild the states of products that are cold, in place, and store them."""
        cold = np.flatnonzero(gathered.cold)
        for start in range(0, len(cold), SLICE):
            rows = cold[start : start + SLICE]
            await self._warm(owned, [products[i] for i in rows], gathered, rows)

    async def _warm(self, owned: Owned, products: Sequence[Product], gathered: Gathered, rows: npt.NDArray[np.intp]) -> None:
        started = time.perf_counter()
        spec, lines = self._model.spec, gathered.lines.at(rows)
        sums = await self._store.steps(products, lines.step.tolist(), self._steps)
        demand = timeline.demand(spec, sums.reshape(-1, sums.shape[2])).reshape(len(rows), self._steps, -1)
        shop = await self._ahead.of(products, owned)
        gathered.lines.state[rows] = await self._compute(lambda: rebuilt_state(self._model, lines.features, lines.step, demand, shop))
        states: defaultdict[int, list[RebuiltState]] = defaultdict(list)
        for (number, _), state in zip(products, self._codec.rebuilt([name for _, name in products], gathered.at(rows)), strict=True):
            states[number].append(state)
        for number, some in states.items():
            await self._store.rebuild(number, self._ownership.token, some, known=owned[number].sequence)
            self._ownership.prove()
            failpoint("forecast.rebuilt")
        for product in products:
            self._cold.pop(product, None)
        metrics.FORECAST_REBUILT.inc(len(products))
        metrics.FORECAST_BATCH_PRODUCTS.labels(metrics.REBUILD).observe(len(products))
        metrics.FORECAST_BATCH_SECONDS.labels(metrics.REBUILD).observe(time.perf_counter() - started)
