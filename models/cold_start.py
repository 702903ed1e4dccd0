"""Forecasts of products without a history: from what the shop's own products of the same category did after their birth, and from their first steps.

Of every step that products close, counts and moments of demand are added up by category and by the products' age (`observe`). What they say on a day
(`Launches`): how much a product of the category sells a step, how this changes with age, how different products are, and how large an order is. A product's
own first steps move that rate by a credibility estimate (Bühlmann 1967; the posterior of a gamma-Poisson rate): rates differ between products by a
gamma distribution, and demand comes in orders of a typical size. What it says of the coming steps is averaged with what the network says, mean with
mean and quantile with quantile, with a weight that falls with the product's active steps.

Sums are integers: they do not depend on the order in which products close, and a replay gives them again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from models import features as rows
from models.features import F32, I64, FeatureSpec
from models.known_future import KnownFuture
from models.thinning import gamma_quantiles

F64 = npt.NDArray[np.float64]

# Ages, in observed steps before the one in question, at which a class ends: the step of birth, the next one, two more, four more, … Older products are settled.
AGE_ENDS: Final = tuple(1 << i for i in range(10))
CLASSES: Final = len(AGE_ENDS) + 1
BIRTH, SETTLED = 0, CLASSES - 1
_YOUNG: Final = slice(BIRTH + 1, SETTLED)
# Columns of the sums of an age: steps; units; units times the product's mean until then, which is, as chance in a step has nothing to do with the steps before,
# on average the square of a product's rate; and, of slow products above all, units and by how much their squares exceed that product.
COUNT, UNITS, CROSS, SLOW_UNITS, SLOW_EXCESS = range(5)
# The row behind the ages is of steps whose price is known: how many, logarithms of the price, their squares; how many of them had demand, their logarithms.
PRICED, LOGS, LOG_SQUARES, SOLD, SOLD_LOGS, COLUMNS = range(6)
PRICES: Final = CLASSES
SHAPE: Final = (CLASSES + 1, COLUMNS)
# Units are kept in thousandths, and so are products of units. In these a step counts for no more than so many times what the product sells in one, or
# so many units; of 10,000 pieces that somebody buys at once nothing is learnt.
RESOLUTION: Final = 1000
_BULK: Final = 10.0
_LARGEST: Final = 1e4
# Steps that are older than this many days say nothing any more; factors' own lag (`calibration.LAG_DAYS`) holds here, too.
MEMORY_DAYS: Final = 56
# As many launches are worth as much as what is known of other products; so many, as that demand does not depend on age.
_CATEGORY_WEIGHT: Final = 8.0
_AGE_WEIGHT: Final = 20.0
# A category with this share of the shop's steps is half its own.
_FEW_STEPS: Final = 0.05
_SPREADS: Final = (0.1, 20.0)
_ORDERS: Final = (1.0, 1e4)
_LEAST: Final = 1e-9
# Units of the smallest sale: a quantile nearer to none is none.
_SMALLEST: Final = 1.0
# The order that a product is born by, in typical ones: large orders, which make these, are rarer.
_FIRST_ORDER: Final = 0.8
# A product's own orders are worth no more than so many: its demand changes as it becomes known.
_MOST_ORDERS: Final = 5.0
# A rate is doubted so many times as much as it would be if it stayed what it is.
_DOUBT: Final = 2.0
# Prices further than this from the usual one, in logarithm, say no more.
_DEAREST: Final = 1.5
# A new product's first steps: its forecast is mostly the shop's, or its category's; and so it is while the prior weighs so much.
FIRST_STEPS: Final = 24
COLD_WEIGHT: Final = 0.09
# The network's forecast of a step is worth as much as the prior after so many active steps.
_HALF_WEIGHT: Final = 1.0

# The category of products of which none is known.
UNKNOWN: Final = ""

Sums = Mapping[str, I64]  # SHAPE, by category


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of products before they sell anything; row i belongs to product i."""

    categories: Sequence[str | None]  # None: unknown
    log_prices: F64  # (n,) NaN: unknown

    @classmethod
    def of(cls, known: KnownFuture | None, rows_: npt.NDArray[np.intp], step: I64) -> Self:
        """Of the products in `rows_`, (n,), as their `step`, (n,), began."""
        if known is None:
            return cls([None] * len(rows_), np.full(len(rows_), np.nan))
        return cls(known.categories(rows_, step), known.log_prices(rows_, step))


def age_class(age: F32) -> I64:
    """Of products that have lived through `age` steps, (n,).

    >>> age_class(np.float32([0, 1, 2, 3, 4, 511, 512])).tolist()
    [0, 1, 2, 2, 3, 9, 10]
    """
    return np.searchsorted(AGE_ENDS, age, side="right").astype(np.int64)


def observe(spec: FeatureSpec, before: F32, units: F32, price: F64, group: I64, groups: int) -> I64:
    """What steps add to the sums of each group, (groups, *SHAPE).

    `before`: products' rows before their steps, (n, size); `units`: demand in them, (n,), NaN: unknown; `price`: its logarithm, (n,), NaN: unknown.
    """
    known = np.isfinite(units)
    came, log = np.maximum(units[known], 0).astype(np.float64), price[known]
    mean = np.minimum(rows.slowest(spec, before)[known].astype(np.float64), _LARGEST)
    capped = np.minimum(came, _BULK * (mean + 1))
    slow = RESOLUTION / (1 + mean) ** 3  # of fast ones the hours differ by more than chance
    of_age = np.ones_like(came), came * RESOLUTION, capped * mean * RESOLUTION, capped * slow, capped * (capped - mean) * slow
    priced, log, sold = np.isfinite(log), np.where(np.isfinite(log), log, 0) * RESOLUTION, came > 0
    of_price = priced, log, log * log / RESOLUTION, priced & sold, log * sold
    out = np.zeros((groups, *SHAPE), np.int64)
    ages, group = age_class(rows.ages(spec, before)[known]), group[known]
    for column, values in enumerate(of_age):
        found = np.bincount(group * CLASSES + ages, weights=np.rint(values), minlength=groups * CLASSES)
        out[:, :CLASSES, column] = found.reshape(groups, CLASSES)
    for column, values in enumerate(of_price):
        out[:, PRICES, column] = np.bincount(group, weights=np.rint(values), minlength=groups)
    return out


@dataclass(slots=True)
class Lived:
    """Steps of products being added up, by pool and day, and in these by category."""

    by_day: dict[tuple[int, int], dict[str, I64]] = field(default_factory=dict)

    def add(self, spec: FeatureSpec, before: F32, units: F32, pool: I64, day: int, facts: "Facts") -> None:
        """A step of a day of products whose rows were these before, (n, size), with this demand in it, of these pools, (n,); `facts` as it began."""
        groups: dict[tuple[int, str], int] = {}
        group = [groups.setdefault((p, name or UNKNOWN), len(groups)) for p, name in zip(pool.tolist(), facts.categories, strict=True)]
        for (p, name), found in zip(
            groups, observe(spec, before, units, facts.log_prices, np.array(group, np.int64), len(groups)), strict=True
        ):
            if found.any():
                of_day = self.by_day.setdefault((p, day), {})
                of_day[name] = of_day[name] + found if name in of_day else found


@dataclass(frozen=True, slots=True)
class Launches:
    """What is known of products after their birth."""

    rates: Mapping[str, float]  # units a step, by category
    rate: float  # of all
    spread: float  # variance between products' rates, over the square of the rate of their category
    order: float  # variance of a step's demand by chance over its mean: units of a typical order
    curve: F64  # (CLASSES,) a step's demand at each age, over the rate
    slope: float  # of the logarithm of products' rates, by the logarithm of their price
    log_prices: Mapping[str, float]  # what a category's rate is at, by category

    @classmethod
    def of(cls, by_day: Mapping[int, Sums], steps_a_day: float) -> "Launches | None":
        """From the sums of some days; None: nothing was sold in them."""
        launched: dict[str, F64] = {}
        others: dict[str, F64] = {}
        for day in sorted(by_day):
            # What was there when the first day began was not born in it, though nothing is known of it from before.
            new = np.array([*AGE_ENDS, np.inf, 0]) <= (day - min(by_day)) * steps_a_day
            for name, found in by_day[day].items():
                for into, some in ((launched, new), (others, ~new)):
                    into[name] = into.get(name, np.zeros(SHAPE)) + found * some[:, None]
        names = sorted(launched)  # sums of fractions depend on their order
        born, there = (sum((of[name] for name in names), np.zeros(SHAPE)) for of in (launched, others))
        both = {name: (launched[name] + others[name])[:CLASSES].sum(axis=0) for name in names}
        total = sum(both.values(), np.zeros(COLUMNS))
        if total[UNITS] <= 0:
            return None
        rate = _rate(born, total[UNITS] / total[COUNT] / RESOLUTION, _CATEGORY_WEIGHT)
        rates = {}
        for name in names:
            here, all_ = (each[:CLASSES].sum(axis=0) for each in (others[name], there))
            rates[name] = _rate(launched[name], rate * _relative(here, all_), _CATEGORY_WEIGHT)
        # Within categories: what these differ by is no difference between their products.
        expected = sum(of[COUNT] * (of[UNITS] / max(of[COUNT], 1) / RESOLUTION) ** 2 for of in both.values()) * RESOLUTION
        spread = np.clip(total[CROSS] / max(expected, _LEAST) - 1, *_SPREADS)
        order = np.clip(total[SLOW_EXCESS] / max(total[SLOW_UNITS], 1), *_ORDERS)
        return cls(
            rates, rate, float(spread), float(order), _curve(born), *_prices({name: launched[name] + others[name] for name in names})
        )

    def of_product(self, category: str | None, log_price: float) -> float:
        """Units a step of a product of this category; of one that is not known, the shop's."""
        if not category or category not in self.rates:
            return self.rate
        usual = self.log_prices.get(category, math.nan)
        dearer = log_price - usual if math.isfinite(log_price) and math.isfinite(usual) else 0.0
        return self.rates[category] * math.exp(self.slope * min(max(dearer, -_DEAREST), _DEAREST))


def _rate(born: F64, prior: float, weight: float) -> float:
    """Of launches, which were born like this: units a step, drawn towards a prior that is worth so many of them."""
    young, n = born[_YOUNG].sum(axis=0), born[BIRTH, COUNT]
    return float((n * young[UNITS] / max(young[COUNT], 1) / RESOLUTION + weight * prior) / (n + weight))


def _relative(here: F64, everywhere: F64) -> float:
    """What products of a category sell, relative to the shop's, drawn towards 1 where they live through few of its steps."""
    if everywhere[UNITS] <= 0:
        return 1.0
    few = _FEW_STEPS * everywhere[COUNT]
    return float((here[UNITS] / everywhere[UNITS] * everywhere[COUNT] + few) / (here[COUNT] + few))


def _prices(total: Mapping[str, F64]) -> tuple[float, dict[str, float]]:
    """The slope, and by category the price at which its mean product sells what its rate says."""
    within = variance = 0.0
    usual, spread = {}, {}
    for name, found in total.items():
        prices = found[PRICES]
        if prices[PRICED]:
            mean = prices[LOGS] / prices[PRICED] / RESOLUTION
            spread[name] = max(prices[LOG_SQUARES] / prices[PRICED] / RESOLUTION - mean**2, 0.0)
            usual[name] = mean
            within += prices[SOLD_LOGS] / RESOLUTION - prices[SOLD] * mean
            variance += prices[SOLD] * spread[name]
    # Of logarithms that are normal, those of units sold lie the slope times their variance beside those of products.
    slope = within / variance if variance else 0.0
    return slope, {name: mean + slope * spread[name] / 2 for name, mean in usual.items()}


def _curve(born: F64) -> F64:
    """By age, drawn towards 1; products that are settled go on as the oldest of the others, and the step of birth begins as the one after it."""
    young = born[_YOUNG].sum(axis=0)
    if young[UNITS] <= 0:
        return np.ones(CLASSES)
    weight = born[:CLASSES, COUNT] / np.diff([0, *AGE_ENDS, 2 * AGE_ENDS[-1]])  # about as many products
    level = born[:CLASSES, UNITS] / np.maximum(born[:CLASSES, COUNT], 1) / (young[UNITS] / young[COUNT])
    curve: F64 = (weight * level + _AGE_WEIGHT) / (weight + _AGE_WEIGHT)
    curve[BIRTH], curve[SETTLED] = curve[BIRTH + 1], curve[SETTLED - 1]
    return curve


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of the young ones among some products before they have a history; row i of each array belongs to the i-th of these."""

    rows: npt.NDArray[np.intp]  # (y,) their places
    weight: F32  # (y,) of the prior in the forecast, the rest is the network's
    rate: F64  # (y,) units a step
    spread: F64  # (y,)
    order: F64  # (y,)
    curve: F64  # (y, CLASSES)

    @classmethod
    def of(cls, places: npt.NDArray[np.intp], weight: F32, known: Sequence[Launches | None], facts: Facts) -> Self:
        """Of the young products at these places, with these weights, of whose launches this is known; None: nothing, and the network stands alone."""
        there = [i for i, each in enumerate(known) if each is not None]
        launches = [each for each in known if each is not None]
        return cls(
            rows=places[there],
            weight=weight[there],
            rate=np.array(
                [each.of_product(facts.categories[i], float(facts.log_prices[i])) for i, each in zip(there, launches, strict=True)],
                np.float64,
            ),
            spread=np.array([each.spread for each in launches], np.float64),
            order=np.array([each.order for each in launches], np.float64),
            curve=np.array([each.curve for each in launches], np.float64).reshape(len(there), CLASSES),
        )

    def weights(self, n: int) -> F32:
        """Of all the products, (n,)."""
        out = np.zeros(n, np.float32)
        out[self.rows] = self.weight
        return out


def weight(spec: FeatureSpec, features: F32) -> F32:
    """How much of the forecast of a step the prior is, (n,); 0 of products that are settled.

    It falls with the product's active steps, those before the remembered ones by the rate of these, and with its age: silence tells something, too.
    """
    age = rows.ages(spec, features)
    lives = age / np.float32(spec.recent)
    active = rows.active(spec, features) * np.maximum(lives, 1)
    share = 1 / (1 + (active + lives) / np.float32(_HALF_WEIGHT))
    return np.where(age < AGE_ENDS[-1], share, 0).astype(np.float32)


def is_cold(spec: FeatureSpec, features: F32, weight: F32) -> npt.NDArray[np.bool_]:
    """Whether forecasts rest on what is known of other products, (n,): in their first steps, and while the prior has this weight, (n,), in them."""
    return np.asarray((rows.ages(spec, features) < FIRST_STEPS) | (weight >= COLD_WEIGHT))


def blended(
    prior: Prior,
    spec: FeatureSpec,
    profiles: Sequence[F32],
    features: F32,
    step: I64,
    lengths: I64,
    levels: Sequence[float],
    decoded: tuple[F32, F32],
    factors: F32 | None,
    observed: F32,
    passed: F32,
) -> tuple[F32, F32]:
    """The network's forecasts of whole targets averaged with the prior's: mean, (n, horizon + sums), and quantiles, (n, horizon + sums, levels), as `decoded`.

    `profiles`: the shop's, see `models.artefact`; `step`: (n,) last consumed; `lengths`: (n, sums) in steps; `factors`: (n, levels) that calibrate the
    steps' quantiles, those of the prior as those of the network; `observed`, `passed`: (n,) as in `nowcast.nowcast`. Products of which nothing is known
    keep every bit.
    """
    young = prior.rows
    if not len(young):
        return decoded
    mean, quantiles = decoded[0].copy(), decoded[1].copy()
    horizon = mean.shape[1] - lengths.shape[1]
    lived = _Lives.of(prior.curve, spec, profiles, features[young], step[young])
    said = _said(prior, lived, rows.slowest(spec, features[young]), observed[young], passed[young], horizon, lengths[young], levels)
    if factors is not None:
        said[1][:, :horizon] *= factors[young][:, None]
        np.maximum.accumulate(said[1], axis=-1, out=said[1])
    # The network has learnt steps and sums of products with a history: the longer a sum, the more it takes a newborn's first hours for its rate.
    spans = np.concatenate([np.ones((len(young), horizon), np.float32), np.sqrt(lengths[young], dtype=np.float32)], axis=1)
    share = spans / (spans + 1 / prior.weight[:, None] - 1)
    mean[young] += share * (said[0] - mean[young])
    quantiles[young] += share[..., None] * (said[1] - quantiles[young])
    return mean, quantiles


def _said(
    prior: Prior, lives: "_Lives", mean: F32, observed: F32, passed: F32, horizon: int, lengths: I64, levels: Sequence[float]
) -> tuple[F32, F32]:
    """What the prior and the products' own steps, with this mean until now, say of whole targets."""
    age = lives.age
    # The step of birth, all lived through, the running one, then what is asked for.
    begins = [np.zeros_like(age), np.zeros_like(age), age, *(age + k for k in range(horizon)), *(age for _ in lengths.T)]
    ends = [np.ones_like(age), age, age + 1, *(age + k + 1 for k in range(horizon)), *(age + length for length in lengths.T)]
    birth, before, running, *targets = lives.between(np.stack(begins), np.stack(ends))
    # A product is born by its first order. What comes after that one says how much it sells; in the step of birth, for half of its time.
    exposed = before + passed * running - 0.5 * np.where(age > 0, 1, passed) * birth
    orders = np.maximum(mean * age + observed - _FIRST_ORDER * prior.order, 0) / prior.order
    shape, trust = 1 / prior.spread, 1 / (1 + orders / _MOST_ORDERS)
    rate = (shape + trust * orders) / (shape / prior.rate + trust * exposed / prior.order)
    coming = rate[:, None] * np.stack(targets, axis=1)
    # Relative variance: of chance, and of the doubt about the rate that is left.
    doubt = prior.order[:, None] / np.maximum(coming, _LEAST) + _DOUBT / (shape + trust * orders)[:, None]
    quantiles = gamma_quantiles(coming, 1 / doubt, levels)
    quantiles[quantiles < _SMALLEST / 2] = 0
    return coming.astype(np.float32), quantiles.astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Lives:
    """Products' time, in steps of usual demand: by the season of the shop, and by what products of their age sell."""

    age: F64  # (n,) steps lived through
    curve: F64  # (n, CLASSES)
    born: I64  # (n,) phase of the step of birth
    before: F64  # (period + 1,) sums of the season's profile

    @classmethod
    def of(cls, curve: F64, spec: FeatureSpec, profiles: Sequence[F32], features: F32, step: I64) -> Self:
        """Of products after `step`, (n,)."""
        age = rows.ages(spec, features).astype(np.float64)
        if not spec.periods:
            return cls(age, curve, np.zeros(len(age), np.int64), np.array([0.0, 1.0]))
        longest = int(np.argmax(spec.periods))
        before = np.concatenate([[0.0], np.cumsum(profiles[longest], dtype=np.float64)])
        return cls(age, curve, rows.phases(spec, step + 1)[longest] - age.astype(np.int64), before)

    def between(self, begins: F64, ends: F64) -> F64:
        """From one age to another, (spans, n)."""
        out = np.zeros(begins.shape)
        edges = (0.0, *AGE_ENDS, np.inf)
        for k in range(CLASSES):
            low, high = np.clip(edges[k], begins, ends), np.clip(edges[k + 1], begins, ends)
            out += self.curve[:, k] * (self._season(high) - self._season(low))
        return out

    def _season(self, age: F64) -> F64:
        period = len(self.before) - 1
        turns, phase = np.divmod(self.born + age.astype(np.int64), period)
        return np.asarray(turns * self.before[-1] + self.before[phase])
