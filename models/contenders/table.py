"""The table that all models of rows share: what is known of a product at an origin, and of one step ahead of it.

Features are made of histories that end at their origin, so that none can see beyond it. Counts are divided by the product's scale,
and so are targets: large and small sellers then teach the same lesson. NaN where the history does not reach back far enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from models.bench import Bench
from models.features import F32, held
from models.seasons import DAY_MS

F64 = npt.NDArray[np.float64]

_WEEK_MS: Final = 7 * DAY_MS
_YEAR_MS: Final = 365.2425 * DAY_MS
# A wave of the year is learnt by heart where it has been seen fewer than two times.
_YEARS_OF_A_WAVE: Final = 2
# Rolling windows of steps longer than a few days.
_LONG_STEP_WINDOWS: Final = (4, 12, 26)
_NEWEST_LAGS: Final = 8
_SEASONS_BACK: Final = 4
# Same phases averaged: of the shortest season more, for it comes round more often.
_PHASES_OF_SHORTEST: Final = 8
_PHASES_OF_OTHERS: Final = 4
_SILENCE: Final = 400
# Added to a scale, so that products without recent sales have one.
_LEAST_SCALE: Final = 0.05
# Origins and steps ahead that a sample is drawn from; neighbouring origins teach nearly the same.
_ORIGINS: Final = 120
_STEPS: Final = 6


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back features look, in steps."""

    lags: tuple[int, ...]  # 0 is the origin's own step
    windows: tuple[int, int, int]  # rising; the scale is of the two longer ones
    seasons: tuple[int, ...]  # rising; empty: none

    @classmethod
    def of(cls, bench: Bench) -> Self:
        """The reach that suits the bench's step and season."""
        step_ms = bench.spec.step_ms
        seasons = tuple(sorted({bench.season, *bench.spec.periods} - {0, 1}))
        lags = {*range(_NEWEST_LAGS), *(season - 1 for season in seasons)}
        if seasons:
            lags |= {seasons[0] * back - 1 for back in range(1, _SEASONS_BACK + 1)}
        windows = _LONG_STEP_WINDOWS
        if step_ms < DAY_MS:
            windows = (DAY_MS // step_ms, _WEEK_MS // step_ms, 2 * _WEEK_MS // step_ms)
        elif step_ms < _WEEK_MS:
            week = max(_WEEK_MS // step_ms, 2)
            windows = (week, 4 * week, 13 * week)
        return cls(tuple(sorted(lags)), windows, seasons)


@dataclass(frozen=True, slots=True)
class Known:
    """All that may be known of some products at an origin, the last column."""

    demand: F64  # (n, columns) NaN before a product is born
    streams: F64  # (n, columns, streams) 0 before a product is born
    shop: F64  # (columns,) mean demand of all products born by the column, not only of these
    covariates: F64  # (n, 1 + horizon, covariates) known ahead: of the origin, and of the steps after it

    @classmethod
    def at(cls, bench: Bench, origin: int, products: npt.NDArray[np.int64] | None = None) -> Self:
        """What is known of products born by `origin`, all of them unless chosen."""
        panel = bench.panel
        chosen = np.arange(bench.alive(origin)) if products is None else products
        values = panel.demand[chosen, : origin + 1].astype(np.float64)
        unborn = np.arange(origin + 1) < panel.born[chosen, None]
        born = np.searchsorted(panel.born, np.arange(origin + 1), side="right")
        shop = np.nansum(panel.demand[:, : origin + 1, 0], axis=0, dtype=np.float64) / np.maximum(born, 1)
        return cls(np.where(unborn, np.nan, values[..., 0]), values[..., 1:], shop, _covariates(bench, origin, chosen))


def _covariates(bench: Bench, origin: int, products: npt.NDArray[np.int64]) -> F64:
    """Of the origin and the steps ahead of it, as known then, (n, 1 + horizon, covariates)."""
    panel = bench.panel
    ahead = panel.ahead(products, np.full(len(products), origin), bench.horizon)
    if panel.covariates is None or ahead is None:
        return np.zeros((len(products), 1 + bench.horizon, 0))
    lived = panel.covariates[products, : origin + 1]
    values = held(np.concatenate([lived, ahead], axis=1), np.zeros((len(products), lived.shape[2]), np.float32))
    return values[:, origin:].astype(np.float64)


def scales(known: Known, reach: Reach) -> F64:
    """Each product's typical demand of a step, (n,), always positive.

    Of two windows: after a month of silence a first sale must not seem hundreds of times the usual.
    """
    middle, longest = (_mean(known.demand[:, -window:]) for window in reach.windows[1:])
    return (middle + longest) / 2 + _LEAST_SCALE


def at_origin(known: Known, reach: Reach) -> F64:
    """Features that are the same for all steps ahead, (n, features)."""
    demand = known.demand
    scale = scales(known, reach)
    columns = [*(lagged(demand, reach.lags) / scale[:, None]).T]
    for window in reach.windows:
        newest = demand[:, -window:]
        mean = _mean(newest)
        columns += [
            mean / scale,
            np.sqrt(_mean((newest - mean[:, None]) ** 2)) / scale,
            _mean(np.where(np.isnan(newest), np.nan, newest > 0)),
        ]
        columns += [_mean(stream[:, -window:]) / scale for stream in np.moveaxis(known.streams, -1, 0)]
    columns += [stream[:, -1] / scale for stream in np.moveaxis(known.streams, -1, 0)]
    sold = demand[:, : -_SILENCE - 1 : -1] > 0
    silence = np.where(sold.any(axis=1), sold.argmax(axis=1), _SILENCE)
    short, long = (known.shop[-window:].mean() for window in reach.windows[:2])
    shop = np.full(len(demand), (short + _LEAST_SCALE) / (long + _LEAST_SCALE))
    columns += [np.log1p(silence), np.log(np.isfinite(demand).sum(axis=1)), np.log(scale), shop]
    return np.stack(columns, axis=-1)


def ahead_of_origin(known: Known, reach: Reach, ahead: int) -> F64:
    """Features of the step `ahead` (1: the next one) of the origin, (n, features): demand at the same phase of earlier seasons, and covariates."""
    scale = scales(known, reach)[:, None]
    then = known.covariates[:, ahead]
    columns = [np.full((len(known.demand), 1), float(ahead)), then, then - known.covariates[:, 0]]
    for season in reach.seasons:
        shortest = season == reach.seasons[0]
        newest = -(-ahead // season)
        back = np.arange(newest, newest + (_PHASES_OF_SHORTEST if shortest else _PHASES_OF_OTHERS))
        same_phase = lagged(known.demand, season * back - ahead) / scale
        columns.append(_mean(same_phase)[:, None])
        if shortest:
            columns.append(same_phase[:, :_SEASONS_BACK])
    return np.concatenate(columns, axis=1)


def calendar(bench: Bench, columns: npt.NDArray[np.int64]) -> F64:
    """Waves of hour, weekday and day of month where steps are so short, and of the year where enough years are known."""
    step = bench.panel.first_step + columns
    waves = np.empty((len(columns), 0))
    if bench.spec.step_ms <= DAY_MS:
        waves = np.array([bench.spec.season(int(one), 1).waves[0] for one in step], np.float64).reshape(len(columns), -1)
    if (bench.cutoffs[0] + 1) * bench.spec.step_ms >= _YEARS_OF_A_WAVE * _YEAR_MS:
        angle = 2 * np.pi * step * bench.spec.step_ms / _YEAR_MS
        waves = np.concatenate([waves, np.sin(angle)[:, None], np.cos(angle)[:, None]], axis=1)
    return waves


def rows(bench: Bench, reach: Reach, known: Known, steps: Sequence[int]) -> F32:
    """Features of `steps` ahead of an origin, (len(steps) * n, features), all products of a step together."""
    n, columns = known.demand.shape
    waves = calendar(bench, np.asarray(steps, np.int64) + columns - 1)
    same = at_origin(known, reach)
    blocks = [
        np.concatenate([same, ahead_of_origin(known, reach, ahead), np.broadcast_to(wave, (n, len(wave)))], axis=1)
        for ahead, wave in zip(steps, waves, strict=True)
    ]
    return np.concatenate(blocks).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to learn from; all their targets lie at or before the first cut-off."""

    features: F32  # (rows, features)
    demand: F64  # (rows,) natural units
    scale: F64  # (rows,)
    product: npt.NDArray[np.int64]  # (rows,)

    def __len__(self) -> int:
        return len(self.demand)

    def only(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Sample":
        return Sample(self.features[chosen], self.demand[chosen], self.scale[chosen], self.product[chosen])


def sample(bench: Bench, reach: Reach, limit: int, rng: np.random.Generator) -> Sample:
    """At most about `limit` rows of random origins, products and steps ahead; may be empty where there is hardly any history."""
    first = bench.cutoffs[0]
    youngest = reach.windows[0]
    span = 6 * _WEEK_MS // bench.spec.step_ms if bench.spec.step_ms < DAY_MS else 365
    possible = np.arange(max(youngest - 1, first - span), first)
    origins = np.sort(rng.permutation(possible)[:_ORIGINS])
    parts = []
    for origin in origins.tolist():
        grown = np.flatnonzero(bench.panel.born <= origin - youngest + 1)
        steps = np.sort(rng.permutation(np.arange(1, min(bench.horizon, first - origin) + 1))[:_STEPS])
        wanted = max(limit // (len(origins) * len(steps)), 1)
        chosen = np.sort(rng.permutation(grown)[:wanted])
        if not len(chosen):
            continue
        known = Known.at(bench, origin, chosen)
        demand = bench.panel.demand[chosen[:, None], origin + steps, 0].T.ravel().astype(np.float64)
        scale = np.tile(scales(known, reach), len(steps))
        parts.append(Sample(rows(bench, reach, known, steps.tolist()), demand, scale, np.tile(chosen, len(steps))))
    if not parts:
        return Sample(np.empty((0, 0), np.float32), np.empty(0), np.empty(0), np.empty(0, np.int64))
    columns = ((part.features, part.demand, part.scale, part.product) for part in parts)
    return Sample(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def held_out(product: npt.NDArray[np.int64], rng: np.random.Generator, share: float = 0.2) -> npt.NDArray[np.bool_]:
    """Rows to look at instead of learning from, (rows,): those of whole products, or any where there is one product only.

    >>> held_out(np.array([3, 3, 5, 5, 3]), np.random.default_rng(1)).tolist()
    [True, True, False, False, True]
    """
    products = np.unique(product)
    if len(products) < 2:
        return rng.random(len(product)) < share
    return np.isin(product, rng.permutation(products)[: max(round(len(products) * share), 1)])


def lagged(values: F64, lags: Sequence[int] | npt.NDArray[np.int64]) -> F64:
    """Values so many columns before the last one, (n, lags); NaN where there are not so many.

    >>> lagged(np.array([[1.0, 2.0, 3.0]]), (0, 2, 3)).tolist()
    [[3.0, 1.0, nan]]
    """
    at = values.shape[1] - 1 - np.asarray(lags, np.int64)
    return np.where(at >= 0, values[:, np.maximum(at, 0)], np.nan)


def _mean(values: F64) -> F64:
    """Mean of what is known in each row; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
