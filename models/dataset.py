"""Panels of demand per product and step, from an export, a bench or tiles; and what the feature code makes of them for training."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_store.measures import MEASURES, natural
from models import features as rows
from models import targets
from models.features import F32, I64, FeatureSpec, layout
from models.known_future import KnownFuture
from models.seasons import HOUR_MS, Season, season

# A profile of the shop never says that a phase is impossible, nor that one phase is all.
_PROFILE_RANGE: Final = (0.02, 50.0)


class UnusableData(ValueError):
    """The data cannot make a panel, or too small a one; the message says why."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Units by parts of steps, of the products and times that sold any: how a step's demand came. Sorted by product and part."""

    per_step: int
    product: I64  # (k,) index into the panel's products
    part: I64  # (k,) counted from 1970
    units: F32  # (k,)

    def of(self, kept: I64, end: int) -> "Parts":
        """Those of the products at these rising indices, which are renumbered, before the step `end`."""
        place = np.searchsorted(kept, self.product)
        wanted = (place < len(kept)) & (self.part < end * self.per_step)
        wanted[wanted] = kept[place[wanted]] == self.product[wanted]
        return Parts(self.per_step, place[wanted].astype(np.int64), self.part[wanted], self.units[wanted])

    def since(self, first: int) -> "Parts":
        """Those of the step `first` and later ones."""
        later = self.part >= first * self.per_step
        return Parts(self.per_step, self.product[later], self.part[later], self.units[later])

    def come(self, rows: I64, step: int) -> npt.NDArray[np.float64]:
        """Units of each of these rising products at the end of each part of a step, (rows, per_step)."""
        inside = np.flatnonzero((self.part >= step * self.per_step) & (self.part < (step + 1) * self.per_step))
        place = np.searchsorted(rows, self.product[inside])
        known = place < len(rows)
        known[known] = rows[place[known]] == self.product[inside][known]
        out = np.zeros((len(rows), self.per_step))
        np.add.at(out, (place[known], self.part[inside][known] - step * self.per_step), self.units[inside][known])
        return np.cumsum(out, axis=1)


def part_ms(step_ms: int, finest_ms: int) -> int:
    """Length of the parts by which a step's demand is known where it is recorded by `finest_ms`: hours of longer steps.

    >>> part_ms(HOUR_MS, 300_000), part_ms(24 * HOUR_MS, 300_000)
    (300000, 3600000)
    """
    return HOUR_MS if step_ms > HOUR_MS and step_ms % HOUR_MS == 0 and HOUR_MS % finest_ms == 0 else finest_ms


@dataclass(frozen=True)
class Panel:
    """Demand of one shop: each product from its first step on, silent steps as zeros, gaps as NaN.

    A gap is a step of which nothing is known: its units are NaN, its streams 0. See `models.cleaning`.
    """

    product_ids: tuple[str, ...]  # (n,)
    first_step: int  # step index of the first column
    born: I64  # (n,) column of each product's first step, rising
    demand: F32  # (n, columns, 1 + streams) natural units; 0 before a product is born
    timezone: str
    covariates: F32 | None = None  # (n, columns, covariates) known-future ones, NaN: as the step before; None: there are none
    known: KnownFuture | None = None  # what was known ahead, and when; None: the columns that follow tell, as if they had always been known
    stock: F32 | None = None  # (n, columns) units on hand when the step ended; NaN: unknown
    parts: Parts | None = None  # None: nothing is known of times within steps

    @property
    def columns(self) -> int:
        return int(self.demand.shape[1])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all values."""
        sha = hashlib.sha256(repr((self.product_ids, self.first_step, self.timezone)).encode())
        if self.known is not None:
            sha.update(self.known.fingerprint.encode())
        for array in (self.born, self.demand, *(known for known in (self.covariates, self.stock) if known is not None)):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()[:16]

    def only(self, chosen: npt.ArrayLike) -> "Panel":
        """The panel of the products at these indices, which stay in order of birth."""
        order = np.sort(np.asarray(chosen, np.int64))
        ids = tuple(self.product_ids[i] for i in order)
        covariates = None if self.covariates is None else self.covariates[order]
        stock = None if self.stock is None else self.stock[order]
        known = None if self.known is None else self.known.only(order)
        parts = self.parts and self.parts.of(order, self.first_step + self.columns)
        return replace(
            self,
            product_ids=ids,
            born=self.born[order],
            demand=self.demand[order],
            covariates=covariates,
            known=known,
            stock=stock,
            parts=parts,
        )

    def until(self, columns: int) -> "Panel":
        """The first `columns` steps, and the products born in them."""
        alive = int(np.searchsorted(self.born, columns))
        ids, born, demand = self.product_ids[:alive], self.born[:alive], self.demand[:alive, :columns]
        covariates = None if self.covariates is None else self.covariates[:alive, :columns]
        stock = None if self.stock is None else self.stock[:alive, :columns]
        known = None if self.known is None else self.known.only(np.arange(alive))
        parts = self.parts and self.parts.of(np.arange(alive), self.first_step + columns)
        return replace(self, product_ids=ids, born=born, demand=demand, covariates=covariates, known=known, stock=stock, parts=parts)

    def ahead(self, product: npt.NDArray[np.intp], column: I64, span: int) -> F32 | None:
        """Covariates of the `span` steps after columns, (m,), as known by then, (m, span, covariates); NaN beyond what is known. None: there are none."""
        if self.known is not None and self.known.names:
            return self.known.ahead(product, self.first_step + column, span)
        if self.covariates is None:
            return None
        steps = column[:, None] + 1 + np.arange(span)
        found: F32 = self.covariates[product[:, None], np.minimum(steps, self.columns - 1)]
        found[steps >= self.columns] = np.nan
        return found


def with_known(source: Panel, known: KnownFuture) -> Panel:
    """The panel with what was known ahead of its products, which are in the order of `known`; without stock and sales, demand is unknown."""
    n = len(source.product_ids)
    covariates = np.empty((n, source.columns, len(known.names)), np.float32)
    demand = source.demand.copy()
    everyone = np.arange(n)
    for column in range(source.columns):
        step = np.full(n, source.first_step + column, np.int64)
        covariates[:, column] = known.of_step(everyone, step)
        gone = known.out_of_stock(everyone, step) & (demand[:, column, 0] <= 0) & (source.born <= column)
        demand[gone, column, 0] = np.nan
    return replace(source, demand=demand, covariates=covariates if known.names else None, known=known)


def panel(
    product_ids: Sequence[str],
    product: I64,
    part: I64,
    values: npt.NDArray[np.float64],
    end: int,
    timezone: str,
    limit: int | None = None,
    per_step: int = 1,
) -> Panel:
    """A panel of the cells (product index, part of a step, values), summed where they meet; `end` is the step after the last column.

    `limit`: keep only so many products, those with the most demand. `per_step`: parts in a step; with more than one the panel knows them.
    Raises UnusableData where nothing is left.

    >>> p = panel(["a", "b"], np.array([1, 0, 1]), np.array([5, 7, 7]), np.array([[2.0], [1.0], [3.0]]), 9, "UTC")
    >>> p.product_ids, p.first_step, p.born.tolist(), p.demand[:, :, 0].tolist()
    (('b', 'a'), 5, [0, 2], [[2.0, 0.0, 3.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    """
    inside = part < end * per_step
    product, part, values = product[inside], part[inside], values[inside]
    if not len(part):
        raise UnusableData("there is no closed step with an event in it")
    if limit is not None and limit < len(product_ids):
        total = np.bincount(product, weights=values[:, 0], minlength=len(product_ids))
        kept = np.sort(np.argsort(-total, kind="stable")[:limit])
        renumbered = np.full(len(product_ids), -1)
        renumbered[kept] = np.arange(limit)
        product_ids = [product_ids[i] for i in kept]
        wanted = renumbered[product] >= 0
        product, part, values = renumbered[product[wanted]], part[wanted], values[wanted]
    step = part // per_step
    first = int(step.min())
    demand = np.zeros((len(product_ids), end - first, values.shape[1]), np.float64)
    np.add.at(demand, (product, step - first), values)
    born = np.full(len(product_ids), end - first, np.int64)
    np.minimum.at(born, product, step - first)
    order = np.argsort(born, kind="stable")
    order = order[born[order] < end - first]
    parts = _parts(np.argsort(order), product, part, values[:, 0], per_step) if per_step > 1 else None
    return Panel(tuple(product_ids[i] for i in order), first, born[order], demand[order].astype(np.float32), timezone, parts=parts)


def _parts(place: I64, product: I64, part: I64, units: npt.NDArray[np.float64], per_step: int) -> Parts:
    """Of cells that may repeat, and products whose new places are `place`."""
    sold = units != 0
    cells, inverse = np.unique(np.stack([place[product[sold]], part[sold]]), axis=1, return_inverse=True)
    total = np.bincount(inverse.reshape(-1), weights=units[sold], minlength=cells.shape[1])
    return Parts(per_step, cells[0], cells[1], total.astype(np.float32))


def from_export(frame: Any, spec: FeatureSpec, timezone: str, limit: int | None = None) -> Panel:
    """The panel of a pandas frame as `trendcast export features` writes it, closed steps only, or several of them concatenated."""
    wanted = ("product_id", "start_ms", "end_ms", "closed", "units", *spec.streams)
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise UnusableData(f"the export lacks the columns {missing}; write it with `trendcast export features`")
    frame = frame[frame["closed"].astype(bool)]
    lengths = (frame["end_ms"] - frame["start_ms"]).to_numpy()
    if len(lengths) and (lengths.max() > spec.step_ms or spec.step_ms % lengths.max()):
        raise UnusableData(f"its steps of {lengths.max()} ms do not fill steps of {spec.step_ms} ms")
    frame = frame.drop_duplicates(["product_id", "start_ms"], keep="last")
    ids, product = np.unique(frame["product_id"].to_numpy(str), return_inverse=True)
    values = frame[["units", *spec.streams]].to_numpy(np.float64)
    of_part = part_ms(spec.step_ms, int(lengths.max(initial=1)))
    part = frame["start_ms"].to_numpy(np.int64) // of_part
    end = int(frame["end_ms"].max()) // spec.step_ms if len(frame) else 0
    return panel(ids.tolist(), product.astype(np.int64), part, values, end, timezone, limit, spec.step_ms // of_part)


@dataclass(frozen=True, slots=True)
class Cells:
    """Sums of measures per product and part of a step (`part_ms`); any number of them for the same cell."""

    product_ids: Sequence[str]
    product: I64  # (k,) index into product_ids
    part: I64  # (k,)
    measures: npt.NDArray[np.float64]  # (k, N_MEASURES) integers


def from_cells(pieces: Iterable[Cells], spec: FeatureSpec, timezone: str, end: int, limit: int | None = None, per_step: int = 1) -> Panel:
    """The panel of all pieces together, of `per_step` parts a step, up to the step before `end`."""
    index: dict[str, int] = {}
    products, parts, values = [], [], []
    columns = [MEASURES.index(name) for name in ("units", *spec.streams)]
    for piece in pieces:
        known = np.array([index.setdefault(name, len(index)) for name in piece.product_ids], np.int64)
        products.append(known[piece.product])
        parts.append(piece.part)
        values.append(natural(piece.measures)[:, columns])
    if not parts:
        raise UnusableData("the log holds no event")
    return panel(list(index), np.concatenate(products), np.concatenate(parts), np.concatenate(values), end, timezone, limit, per_step)


def shop_profiles(source: Panel, spec: FeatureSpec) -> tuple[F32, ...]:
    """Demand by phase over all products relative to its mean, (period,) each; frozen into the model.

    Each step is compared with the week (the longest period) around it, so that growth does not look like a season. Gaps do not count.
    """
    alive = np.arange(1, source.columns + 1)
    alive = np.searchsorted(source.born, alive - 1, side="right")
    units = source.demand[..., 0]
    gaps = np.isnan(units)
    unknown = gaps.sum(axis=0)
    total = np.where(gaps, 0, units).sum(axis=0, dtype=np.float64) / np.maximum(alive - unknown, 1)
    counts = (unknown == 0) | (unknown < alive)  # not where every product has a gap
    week = max(spec.periods, default=1)
    before = np.concatenate([[0.0], np.cumsum(total)])
    known_before = np.concatenate([[0], np.cumsum(counts)])
    low = np.clip(np.arange(source.columns) - week // 2, 0, max(source.columns - week, 0))
    high = np.minimum(low + week, source.columns)
    known = known_before[high] - known_before[low]
    around = (before[high] - before[low]) / np.maximum(known, 1)
    # A week with a hole would be compared with the rest of its days only.
    whole = counts & (known == high - low)
    counts = whole if whole.any() else counts
    share = np.where(around > 0, total / np.maximum(around, 1e-9), 1.0)
    phases = season(source.first_step, source.columns, step_ms=spec.step_ms, periods=spec.periods, timezone=source.timezone).phases
    profiles = []
    for period, phase in zip(spec.periods, phases, strict=True):
        phase = phase[counts]
        seen = np.bincount(phase, minlength=period)
        mean = np.where(seen > 0, np.bincount(phase, weights=share[counts], minlength=period) / np.maximum(seen, 1), 1.0)
        profiles.append(np.clip(mean / mean.mean(), *_PROFILE_RANGE).astype(np.float32))
    return tuple(profiles)


@dataclass(frozen=True)
class Encoded:
    """A panel as the feature code sees it while it steps through: what training needs, for every product and column from `start` on."""

    panel: Panel
    spec: FeatureSpec
    profiles: tuple[F32, ...]
    start: int  # the first column kept; the features have lived through all columns before it
    inputs: F32  # (n, columns - start, encoder inputs); NaN before a product is born
    scale: F32  # (n, columns - start)
    age: F32  # (n, columns - start)
    slots: tuple[F32, ...]  # (n, columns + 1) for each period: the profile's slot that the column changed, after it; the last is 0
    coming: tuple[npt.NDArray[np.int32], ...]  # (columns, period): column that last changed the slot of each coming step, or the last
    demand_before: npt.NDArray[np.float64]  # (n, columns + 1) sums of demand, gaps as 0
    gaps_before: npt.NDArray[np.int32]  # (n, columns + 1) numbers of gaps: a target with one in it is unknown
    covariates: F32  # (n, columns, covariates) each holds until the next is known; 0 before a product is born
    usual: F32  # (n, columns - start, covariates)
    season: Season  # of the columns and of what targets after the last one may need

    def decoder_inputs(self, product: I64, column: I64, horizon: int, lengths: I64) -> F32:
        """What `targets.decoder_inputs` gives for these products after these columns, (n,); equal to the bit."""
        orders = [coming[column] for coming in self.coming]
        at, here = column[:, None], column - self.start
        steps = np.arange(1, horizon + 1)
        waves, before = self.season.waves, self.season.waves_before
        upcoming = targets.Upcoming(
            own=tuple(slot[product[:, None], order] for slot, order in zip(self.slots, orders, strict=True)),
            shop=tuple(
                profile[phases[at + 1 + np.arange(period)]]
                for profile, phases, period in zip(self.profiles, self.season.phases, self.spec.periods, strict=True)
            ),
            waves=waves[at + steps],
            sum_waves=((before[at + 1 + lengths] - before[at + 1]) / lengths[..., None]).astype(np.float32),
            covariates=self._ahead(product, column, max(horizon, int(lengths.max(initial=1)))),
            usual=self.usual[product, here],
            now=self.covariates[product, column],
        )
        return targets.rows(horizon, horizon, lengths, upcoming, self.scale[product, here], self.age[product, here])

    def _ahead(self, product: I64, column: I64, span: int) -> F32:
        ahead = self.panel.ahead(product, column, span)
        if ahead is None:
            return np.zeros((len(product), span, 0), np.float32)
        return rows.held(ahead, self.covariates[product, column])


def encode(source: Panel, spec: FeatureSpec, profiles: tuple[F32, ...], longest: int, start: int = 0) -> Encoded:
    """Step through the panel with the stream's own feature code, keeping what training needs from column `start` on.

    Hours and weekdays are those of the panel's time zone; targets reach at most `longest` steps beyond a column.
    """
    spec = replace(spec, timezone=source.timezone)
    n, columns = len(source.product_ids), source.columns
    state = rows.fresh(spec, n)
    inputs = np.full((n, columns - start, spec.n_encoder_inputs), np.nan, np.float32)
    scale, age = np.ones((n, columns - start), np.float32), np.zeros((n, columns - start), np.float32)
    slots = tuple(np.zeros((n, columns + 1), np.float32) for _ in spec.periods)
    covariates = _filled(source)
    usual = np.zeros((n, columns - start, covariates.shape[-1]), np.float32)
    reach = columns + max(longest, *spec.periods, 1) + 1
    whole = season(source.first_step, reach, step_ms=spec.step_ms, periods=spec.periods, timezone=spec.timezone)
    spans = layout(spec).profiles
    for column in range(columns):
        alive = int(np.searchsorted(source.born, column, side="right"))
        if not alive:
            continue
        view = state[:alive]
        step = np.full(alive, source.first_step + column, np.int64)
        rows.advance(spec, view, np.ascontiguousarray(source.demand[:alive, column]), step, out=view, covariates=covariates[:alive, column])
        for slot, span, phase in zip(slots, spans, whole.phases, strict=True):
            slot[:alive, column] = view[:, span.start + phase[column]]
        if column >= start:
            here = column - start
            inputs[:alive, here] = rows.encoder_inputs(spec, view, step, profiles)
            scale[:alive, here] = rows.scales(spec, view)
            age[:alive, here] = rows.ages(spec, view)
            usual[:alive, here] = rows.covariates(spec, view)[0]
    coming = tuple(_coming(phase, period, columns) for phase, period in zip(whole.phases, spec.periods, strict=True))
    before, gaps_before = np.zeros((n, columns + 1)), np.zeros((n, columns + 1), np.int32)
    gaps = np.isnan(source.demand[..., 0])
    np.cumsum(np.where(gaps, 0, source.demand[..., 0]), axis=1, dtype=np.float64, out=before[:, 1:])
    np.cumsum(gaps, axis=1, out=gaps_before[:, 1:])
    return Encoded(source, spec, profiles, start, inputs, scale, age, slots, coming, before, gaps_before, covariates, usual, whole)


def _filled(source: Panel) -> F32:
    """The panel's covariates, (n, columns, covariates): from a product's birth on each holds until the next is known; 0 before."""
    n, columns = source.demand.shape[:2]
    if source.covariates is None:
        return np.zeros((n, columns, 0), np.float32)
    k = source.covariates.shape[2]
    lived = np.arange(columns) >= source.born[:, None]
    return rows.held(np.where(lived[..., None], source.covariates, np.float32(0)), np.zeros((n, k), np.float32))


def _coming(phase: I64, period: int, columns: int) -> npt.NDArray[np.int32]:
    newest = np.full(period, columns, np.int32)
    out = np.empty((columns, period), np.int32)
    for column in range(columns):
        newest[phase[column]] = column
        out[column] = newest[phase[column + 1 : column + 1 + period]]
    return out
