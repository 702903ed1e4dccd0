"""Forecasts of categories and of the whole shop. Pure arithmetic.

The mean of an aggregate is the sum of its products' means. Its quantiles are not the sums of theirs: products' errors partly cancel, and partly have a
cause in common. So an aggregate learns the distribution of its own errors from what came of its own forecasts: those made at `origins`, about once a day,
are compared with the steps, and the sums of steps, that followed; each error is measured in units of a spread that grows with the forecast, and quantiles of
these scaled errors, times the spread of a new forecast, lie around its mean. (Split conformal prediction with normalised scores, see Lei, G'Sell, Rinaldo,
Tibshirani and Wasserman 2018, here over the last weeks.)

Everything that is added up is an integer: sums do not depend on the order of products, shards or batches, and a replay gives them again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from models.features import F32, I64
from models.seasons import DAY_MS

F64 = npt.NDArray[np.float64]

# Means are added up as readers see them, with four decimals; units with three, as they are counted.
MEAN_SCALE: Final = 10_000
UNIT_SCALE: Final = 1_000
# The group of all products; a category's name is never empty.
SHOP: Final = ""
# A shard with more categories than this has another idea of what a category is: it keeps none, and the shop alone is forecast.
MOST_CATEGORIES: Final = 256

# Outcomes older than this many days say nothing any more. A season of a year is too short a memory for it; of 28, 42 and 56 days, the longest did best on the
# daily panel of Online Retail, for sums most of all: a fortnight has only four outcomes in it that do not overlap.
MEMORY_DAYS: Final = 56
# With outcomes of fewer days than this, little is known of an aggregate's errors.
COLD_DAYS: Final = 7
# The spread of a forecast of m units is proportional to m to this power: between independent buyers (.5) and errors that all products share (1).
_POWER: Final = 0.75
# Below one unit the spread grows no further down: there is no smaller sale.
_LEAST: Final = 1.0
# The factor of the spread while nothing is known, worth one day of outcomes.
_UNKNOWN_SPREAD: Final = 2.0
# As many outcomes that do not overlap are worth as much as the assumption that scaled errors are normal, and that the relative spread of a sum
# shrinks with the fourth root of its length (between independent steps, the square root, and common errors, not at all).
_NORMAL_WEIGHT: Final = 8.0
_SHRINKING: Final = 0.25
_NORMAL: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 41) for i in range(41)])
_MEDIAN_OF_NORMAL: Final = NormalDist().inv_cdf(0.75)  # of the absolute value


class Sums(msgspec.Struct, frozen=True, array_like=True):
    """Over the products of one group, after one step. As it is stored, too."""

    forecast: list[int]  # (horizon + sums,) means of the steps and of the sums, in 1/MEAN_SCALE units
    demand: list[
        int
    ]  # (known,) units of the newest steps, oldest first, in 1/UNIT_SCALE; from the first one on that any product was born in


ByGroup = dict[str, Sums]
encode = msgspec.msgpack.Encoder().encode
# None: of more categories than are kept, only the shop's are there.
decode = msgspec.msgpack.Decoder(tuple[ByGroup, bool]).decode


def origin_every(step_ms: int, recent: int) -> int:
    """How many steps lie between two origins: a day, or as many steps as products remember.

    >>> [origin_every(hours * 3_600_000, 72) for hours in (1, 24, 168)], origin_every(900_000, 72)
    ([24, 1, 1], 72)
    """
    return min(max(DAY_MS // step_ms, 1), recent)


def is_origin(step: int, every: int) -> bool:
    """Whether the forecasts after a step are compared with what comes."""
    return (step + 1) % every == 0


def next_origin(step: int, every: int) -> int:
    """The first origin after a step.

    >>> next_origin(46, 24), next_origin(47, 24)
    (47, 71)
    """
    return ((step + 1) // every + 1) * every - 1


@dataclass(slots=True)
class Adding:
    """Products' forecasts being added up, some products at a time, in any order."""

    width: int  # horizon + sums
    recent: int
    _groups: dict[str, tuple[I64, I64, int]] = field(default_factory=dict)

    def add(self, categories: Sequence[str | None], mean: F32, cumulative: F32, recent: F32) -> None:
        """Of n products: `mean` (n, horizon), `cumulative` (n, sums), `recent` (n, recent) units of the newest steps, NaN before a product was born."""
        forecast = np.rint(np.concatenate([mean, cumulative], axis=1).astype(np.float64) * MEAN_SCALE).astype(np.int64)
        known = np.isfinite(recent)
        demand = np.rint(np.where(known, recent, 0).astype(np.float64) * UNIT_SCALE).astype(np.int64)
        age = np.where(known.any(axis=1), self.recent - known.argmax(axis=1), 0)
        members: dict[str, list[int]] = {SHOP: list(range(len(mean)))}
        for row, category in enumerate(categories):
            if category:
                members.setdefault(category, []).append(row)
        for name, rows in members.items():
            if rows:
                f, d, a = self._groups.get(name, (0, 0, 0))
                self._groups[name] = f + forecast[rows].sum(axis=0), d + demand[rows].sum(axis=0), max(a, int(age[rows].max()))

    def done(self) -> tuple[ByGroup, bool]:
        """By group, and whether the categories are among them; groups without a product are not there."""
        whole = len(self._groups) <= MOST_CATEGORIES + 1
        kept = self._groups if whole else {SHOP: self._groups[SHOP]}
        return {name: Sums(f.tolist(), d[self.recent - a :].tolist()) for name, (f, d, a) in kept.items()}, whole


def trimmed(groups: ByGroup, steps: int) -> ByGroup:
    """With the demand of the newest `steps` alone."""
    return {name: Sums(sums.forecast, sums.demand[-steps:]) for name, sums in groups.items()}


def total(parts: Iterable[ByGroup]) -> ByGroup:
    """The shards' sums, added up."""
    found: dict[str, Sums] = {}
    for part in parts:
        for name, sums in part.items():
            found[name] = _plus(found[name], sums) if name in found else sums
    return found


def _plus(one: Sums, other: Sums) -> Sums:
    longer, shorter = sorted((one.demand, other.demand), key=len, reverse=True)
    older = len(longer) - len(shorter)
    demand = longer[:older] + [a + b for a, b in zip(longer[older:], shorter, strict=True)]
    return Sums([a + b for a, b in zip(one.forecast, other.forecast, strict=True)], demand)


@dataclass(frozen=True, slots=True)
class Errors:
    """What is known of an aggregate's errors."""

    steps: F64  # (levels,) quantiles of a step's error in units of `_growth` of its mean
    sums: F64  # (sums, levels) quantiles of a sum's error as a share of its mean
    days: float  # of which steps were compared

    @property
    def cold(self) -> bool:
        """Whether they are rather assumed than known."""
        return self.days < COLD_DAYS

    def quantiles(self, mean: F64, sums: F64) -> tuple[F64, F64]:
        """Of the steps, (levels, horizon), and of the sums, (sums, levels): rising with the level, never negative."""
        steps = mean + self.steps[:, None] * _growth(mean)
        return np.maximum(steps, 0), np.maximum(sums[:, None] * (1 + self.sums), 0)


def errors(
    origins: Mapping[int, Sums], horizon: int, *, every: int, step_ms: int, lengths: Sequence[int], levels: Sequence[float]
) -> Errors:
    """What follows from an aggregate's forecasts at `origins` (by step), and from the demand that they hold of the steps that led to them.

    `lengths`: of the sums behind the horizon, in steps. Outcomes are those of the last weeks before the newest origin.
    """
    steps = sorted(origins)
    forecast = np.array([origins[step].forecast for step in steps], np.float64).reshape(len(steps), horizon + len(lengths)) / MEAN_SCALE
    demand = _Demand.of(origins)
    oldest = demand.newest - MEMORY_DAYS * DAY_MS // step_ms

    came = np.array([demand.after(step, horizon) for step in steps]).reshape(len(steps), horizon)
    came[np.add.outer(steps, np.arange(1, horizon + 1)) <= oldest] = np.nan
    known = np.isfinite(came)
    mean, error = forecast[:, :horizon][known], (came - forecast[:, :horizon])[known]
    weight = known.sum() / horizon * every * step_ms / DAY_MS
    spread = _shrunk(error / _growth(mean), weight, _UNKNOWN_SPREAD, 1.0)
    scaled = _mixed(error / (spread * _growth(mean)), weight, levels)

    def of_total(length: int, means: F64, prior: float) -> tuple[float, F64]:
        """The relative spread of a total, and quantiles of its errors. Totals overlap: as many as fit into one's length count as one outcome."""
        came = np.array([demand.after(step, length).sum() if step + length > oldest else np.nan for step in steps])
        known = np.isfinite(came)
        share, n = (came - means)[known] / np.maximum(means[known], _LEAST), known.sum() * every / max(length, every)
        relative = _shrunk(share, n, prior, _NORMAL_WEIGHT)
        return relative, relative * _mixed(share / relative, n, levels)

    relative = spread * _growth(mean).sum() / max(mean.sum(), _LEAST) if weight else spread
    whole, _ = of_total(horizon, forecast[:, :horizon].sum(axis=1), relative * horizon**-_SHRINKING)
    sums = [of_total(length, forecast[:, horizon + i], whole * (horizon / length) ** _SHRINKING)[1] for i, length in enumerate(lengths)]
    return Errors(spread * scaled, np.array(sums).reshape(len(lengths), len(levels)), float(weight))


@dataclass(frozen=True, slots=True)
class _Demand:
    """Units of consecutive steps, NaN where nothing is known."""

    newest: int
    units: F64  # of the steps that end with the newest

    @classmethod
    def of(cls, origins: Mapping[int, Sums]) -> "_Demand":
        newest = max(origins, default=0)
        oldest = min((step - len(sums.demand) for step, sums in origins.items()), default=0)
        units = np.full(newest - oldest, np.nan)
        for step, sums in origins.items():
            end = step - oldest
            units[end - len(sums.demand) : end] = np.array(sums.demand, np.float64) / UNIT_SCALE
        return cls(newest, units)

    def after(self, step: int, length: int) -> F64:
        """(length,) of the steps behind this one."""
        begin = len(self.units) - (self.newest - step)
        known = self.units[begin : begin + length]
        return np.concatenate([known, np.full(length - len(known), np.nan)])


def _growth(mean: F64) -> F64:
    """How the spread of a forecast grows with it."""
    grown: F64 = np.maximum(mean, _LEAST) ** _POWER
    return grown


def _shrunk(scaled: F64, weight: float, prior: float, prior_weight: float) -> float:
    """The spread of scaled errors, drawn towards a prior; by their median, which a bulk order does not move."""
    found = float(np.median(np.abs(scaled))) / _MEDIAN_OF_NORMAL if len(scaled) else 0.0
    return (weight * found + prior_weight * prior) / (weight + prior_weight)


def _mixed(scaled: F64, weight: float, levels: Sequence[float]) -> F64:
    """Quantiles of the errors, which weigh so much together, mixed with those of a normal distribution."""
    values = np.concatenate([scaled, _NORMAL])
    shares = np.concatenate([np.full(len(scaled), weight / max(len(scaled), 1)), np.full(len(_NORMAL), _NORMAL_WEIGHT / len(_NORMAL))])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(shares[order])
    quantiles: F64 = np.interp(levels, (reached - shares[order] / 2) / reached[-1], values[order])
    return quantiles
