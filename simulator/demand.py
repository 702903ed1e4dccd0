"""How much of each product is wanted at each moment, without noise: the simulated shop's laws.

rate = popularity · hour of the week · slow drift · launch or fading · price and promotion · weather · injected trends; nothing without stock
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from math import ceil
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from simulator.events import DAY_MS, HOUR_MS, MINUTE_MS

Floats = npt.NDArray[np.float64]

TILE_MS: Final = 5 * MINUTE_MS  # demand is constant within; trends and promotions begin at multiples
TILES_PER_HOUR: Final = HOUR_MS // TILE_MS
HOURS_PER_WEEK: Final = 168
WEEK_MS: Final = 7 * DAY_MS

# Promotions are announced at least half a day before they begin, at most so many days.
MOST_DAYS_AHEAD: Final = 5
# Streams of random numbers: each thing has its own, so that one's settings do not move the others.
CATALOGUE, DRIFT, PRICE, PROMOTIONS, TRENDS, TRAFFIC, FACTS, WEATHER, MARKET, STOCK = range(10)
CAUSES: Final = 16

CATEGORIES: Final = ("garden", "kitchen", "toys", "tools", "books", "sports")
# Whose demand the weather moves; the market index moves nothing.
OUTDOOR: Final = frozenset({"garden", "sports", "tools"})

# Share of a day's purchases by local hour: working hours, evening, early and late.
_DAYS: Final = np.array(
    [
        [2, 1, 1, 1, 1, 2, 4, 8, 14, 18, 20, 20, 18, 18, 18, 17, 15, 12, 9, 7, 6, 5, 4, 3],
        [5, 3, 2, 1, 1, 1, 2, 4, 6, 7, 8, 9, 10, 10, 10, 11, 13, 17, 22, 26, 28, 24, 16, 9],
        [8, 6, 4, 3, 3, 5, 10, 16, 14, 9, 8, 10, 16, 14, 9, 8, 8, 9, 11, 13, 15, 17, 16, 12],
    ],
    dtype=np.float64,
)
# Monday … Sunday: working week, weekend, even.
_WEEKS: Final = np.array([[11, 12, 12, 12, 11, 6, 4], [8, 8, 8, 9, 12, 17, 16], [10, 10, 10, 10, 10, 10, 10]], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ShopConfig:
    """A shop. Rates are means over a week at its opening."""

    products: int = 1_000
    lines_per_hour: float = 1_000.0  # order lines of the whole shop
    opened_ms: int = 1_767_571_200_000  # 2026-01-05 00:00 UTC, a Monday; launches and fading begin within 60 days of it
    timezone: str = "UTC"
    zipf: float = 1.0  # popularity of the r-th product is r^-zipf
    dispersion: float = 0.05  # variance of the hourly gamma factor on each product's demand; 0: Poisson demand
    drift: float = 0.2  # standard deviation of the logarithm of the slow weekly drift
    launched: float = 0.05  # share of products that start after the opening
    fading: float = 0.05  # share of products that die away
    promotions_per_day: float = 0.01  # per product
    weather_effect: float = 0.0  # on the logarithm of demand of outdoor goods, per standard deviation of the weather
    stock_outs_per_day: float = 0.0  # per product
    category_spread: float = 0.0  # standard deviation of the logarithm of popularity between categories
    price_slope: float = (
        0.0  # on the logarithm of popularity, per logarithm of the catalogue's price: dear goods sell less where it is negative
    )
    trends_per_day: float = 8.0  # sudden changes, in the whole shop
    trend_min_lines_per_hour: float = 4.0  # slower products get none (the 20 most popular may always)
    lines_per_order: float = 1.8
    customers: int = 20_000
    views_per_line: float = 5.0
    carts_per_line: float = 1.3
    favourites_per_line: float = 0.3
    uncarts_per_line: float = 0.15
    cancelled: float = 0.03  # share of orders
    returned: float = 0.02
    currency: str | None = None  # of every order; None: orders do not say


def speaking(config: ShopConfig) -> ShopConfig:
    """The shop with promotions, weather and stock-outs that it pays to hear of."""
    return replace(config, promotions_per_day=0.03, weather_effect=0.3, stock_outs_per_day=0.003)


class Cause(StrEnum):
    """Why demand changes suddenly; order lines are multiplied by the trend's factor all the same."""

    TRAFFIC = "traffic"  # a mention, a listing that vanished: clicks of all kinds change with the lines
    CONVERSION = "conversion"  # a price error: as many look, but carts and lines change
    ORDER_SIZE = "order_size"  # bulk buyers come beside the usual customers: more lines, each holds `size` times as much
    STOCK_OUT = "stock_out"  # nothing in stock: as many look, carts and lines stay away
    CHECKOUT = "checkout"  # payment fails: as many look and fill carts, lines stay away


SPIKE_CAUSES: Final = (Cause.TRAFFIC, Cause.CONVERSION, Cause.ORDER_SIZE)
DROP_CAUSES: Final = (Cause.TRAFFIC, Cause.CONVERSION, Cause.STOCK_OUT, Cause.CHECKOUT)


@dataclass(frozen=True, slots=True)
class Trend:
    """An injected sudden change: from start to end, the product's order lines are multiplied by the factor, and their units by the size."""

    product: int
    product_id: str
    start_ms: int
    end_ms: int
    factor: float
    cause: Cause
    size: int = 1

    @property
    def kind(self) -> str:
        """spike or drop"""
        return "spike" if self.factor > 1 else "drop"


@dataclass(frozen=True, slots=True)
class Promotion:
    """A product's price is reduced by the discount (a fraction) from start to end."""

    product: int
    product_id: str
    start_ms: int
    end_ms: int
    discount: float
    announced_ms: int  # when the shop says so


@dataclass(frozen=True, slots=True)
class StockOut:
    """A product that cannot be bought from start to end, both whole hours."""

    product: int
    product_id: str
    start_ms: int
    end_ms: int


class Demand:
    """The noise-free rates; a pure function of configuration, seed and time (it only remembers what it has computed)."""

    def __init__(self, config: ShopConfig, seed: int) -> None:
        self.config = config
        self._seed = seed
        self._zone = ZoneInfo(config.timezone)
        n = config.products
        rng = self.generator(CATALOGUE)
        rank = rng.permutation(n) + 1.0
        share = rank**-config.zipf
        self.product_ids = tuple(f"p{i:05d}" for i in range(n))
        self.week: Floats = _profiles(rng, n)  # (n, 168) mean 1, from Monday 00:00 local
        self.weighed = rng.random(n) < 0.03
        # Weighed goods cost whole tenths, so that thousandths of a unit cost whole 1/10,000 of money.
        cents = np.maximum(np.rint(np.exp(rng.normal(2.3, 0.8, n)) * 100), 50)
        self.base_cents = np.where(self.weighed, np.rint(cents / 10) * 10, cents)  # (n,)
        self.extra_units: Floats = rng.gamma(1.0, 0.6, n)  # (n,) mean quantity of a line, less one
        self.elasticity: Floats = rng.uniform(1.2, 2.8, n)
        within = rng.uniform(0, 60 * DAY_MS, n).astype(np.int64) // DAY_MS * DAY_MS
        fate = rng.random(n)
        never = np.iinfo(np.int64).max // 2
        self.launch_ms = np.where(fate < config.launched, config.opened_ms + within, -never)
        self.fade_ms = np.where(fate > 1 - config.fading, config.opened_ms + within, never)
        self.fade_half_life_ms: Floats = rng.uniform(3, 12, n) * DAY_MS
        rng = self.generator(FACTS)
        self.category = rng.choice(len(CATEGORIES), n)  # (n,)
        self.lead_hours = rng.choice([48, 72, 120, 240], n)  # (n,)
        of_category = rng.standard_normal(len(CATEGORIES))[self.category]
        share = share * np.exp(config.category_spread * of_category) * (self.base_cents / 1_000) ** config.price_slope
        self.base: Floats = config.lines_per_hour * share / share.sum()  # (n,) order lines per hour
        # What lies on the shelves: between half and three times the usual demand over the lead time.
        self.shelf_units = np.ceil(self.base * (1 + self.extra_units) * self.lead_hours * rng.uniform(0.5, 3.0, n)) + 1  # (n,)
        self._outdoor = np.isin(self.category, [i for i, name in enumerate(CATEGORIES) if name in OUTDOOR])
        self._promotions_by_day: dict[int, list[Promotion]] = {}
        self._stock_outs_by_day: dict[int, list[StockOut]] = {}
        self._trends_by_day: dict[int, list[Trend]] = {}

    def generator(self, stream: int, index: int = 0) -> np.random.Generator:
        """Random numbers of one stream (CATALOGUE …) at an index (week, day or hour since 1970)."""
        return np.random.default_rng([self._seed, stream, index])

    def usual_lines(self, hour: int) -> Floats:
        """Expected order lines per tile in an hour since 1970 if nothing changed suddenly; shape (12, products)."""
        start_ms = hour * HOUR_MS
        rate = self._hourly(start_ms) * self._price_effect(start_ms)
        if self.config.weather_effect:
            rate = np.where(self._outdoor, rate * np.exp(self.config.weather_effect * self.weather(hour)), rate)
        for out in self.stock_outs(start_ms, start_ms + HOUR_MS):
            rate[out.product] = 0.0
        return np.tile(rate / TILES_PER_HOUR, (TILES_PER_HOUR, 1))

    def lines(self, hour: int) -> Floats:
        """Expected order lines per tile in an hour since 1970; shape (12, products)."""
        tiles = self.usual_lines(hour)
        for trend, during in self.changes(hour):
            tiles[during, trend.product] *= trend.factor
        return tiles

    def sizes(self, hour: int) -> npt.NDArray[np.int64]:
        """How many times the usual units a line holds, per tile; shape (12, products)."""
        tiles = np.ones((TILES_PER_HOUR, self.config.products), np.int64)
        for trend, during in self.changes(hour):
            tiles[during, trend.product] = trend.size
        return tiles

    def changes(self, hour: int) -> list[tuple[Trend, slice]]:
        """The trends of an hour since 1970, and during which of its tiles."""
        start_ms = hour * HOUR_MS
        return [
            (trend, slice(max(0, (trend.start_ms - start_ms) // TILE_MS), min(TILES_PER_HOUR, (trend.end_ms - start_ms) // TILE_MS)))
            for trend in self.trends(start_ms, start_ms + HOUR_MS)
        ]

    def cents(self, hour: int) -> Floats:
        """Price of one unit at the start of an hour, in hundredths; shape (products,)."""
        start_ms = hour * HOUR_MS
        cents = self.list_cents(hour)
        for promotion in self.promotions(start_ms, start_ms + 1):
            cents[promotion.product] = np.rint(cents[promotion.product] * (1 - promotion.discount))
        least: Floats = np.maximum(np.where(self.weighed, np.rint(cents / 10) * 10, cents), 10)
        return least

    def list_cents(self, hour: int) -> Floats:
        """Price of one unit before promotions, in hundredths; shape (products,)."""
        cents: Floats = np.rint(self.base_cents * self._price_level(hour * HOUR_MS))
        return cents

    def weather(self, hour: int) -> float:
        """A number that wanders from day to day, mean 0, variance below 1."""
        return self._wandering(WEATHER, hour)

    def market(self, hour: int) -> float:
        """Another one, which moves nothing."""
        return self._wandering(MARKET, hour)

    def _wandering(self, stream: int, hour: int) -> float:
        day, into = divmod(hour, 24)
        before, after = (float(self.generator(stream, each).standard_normal()) for each in (day, day + 1))
        return before + (after - before) * into / 24

    def stock_outs(self, start_ms: int, end_ms: int) -> list[StockOut]:
        """Stock-outs that overlap [start_ms, end_ms)."""
        days = range(start_ms // DAY_MS - 3, -(-end_ms // DAY_MS)) if self.config.stock_outs_per_day else range(0)
        return [out for day in days for out in self._stock_outs_of(day) if out.start_ms < end_ms and out.end_ms > start_ms]

    def _stock_outs_of(self, day: int) -> list[StockOut]:
        if day not in self._stock_outs_by_day:
            rng = self.generator(STOCK, day)
            # Every third product on every third day: they last up to two days, so a product's never overlap.
            candidates = np.arange(day % 3, self.config.products, 3)
            n = min(int(rng.poisson(self.config.stock_outs_per_day * self.config.products)), len(candidates))
            start_ms = day * DAY_MS + rng.integers(0, 24, n) * HOUR_MS
            columns = (rng.choice(candidates, n, replace=False), start_ms, start_ms + rng.integers(6, 48, n) * HOUR_MS)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            self._stock_outs_by_day[day] = [StockOut(product, self.product_ids[product], *rest) for product, *rest in rows]
        return self._stock_outs_by_day[day]

    def promotions(self, start_ms: int, end_ms: int) -> list[Promotion]:
        """Promotions that overlap [start_ms, end_ms)."""
        days = range(start_ms // DAY_MS - 7, -(-end_ms // DAY_MS))
        return [
            promotion
            for day in days
            for promotion in self._promotions_of(day)
            if promotion.start_ms < end_ms and promotion.end_ms > start_ms
        ]

    def trends(self, start_ms: int, end_ms: int) -> list[Trend]:
        """Injected trends that overlap [start_ms, end_ms); never two of one product at the same time."""
        days = range(start_ms // DAY_MS - 1, -(-end_ms // DAY_MS))
        return [trend for day in days for trend in self._trends_of(day) if trend.start_ms < end_ms and trend.end_ms > start_ms]

    def _hourly(self, start_ms: int) -> Floats:
        local = datetime.fromtimestamp(start_ms / 1000, self._zone)
        rate = self.base * self.week[:, local.weekday() * 24 + local.hour]
        if self.config.drift:
            week, into = divmod(start_ms, WEEK_MS)
            part = into / WEEK_MS
            drift = (1 - part) * self._normals(week) + part * self._normals(week + 1)
            rate = rate * np.exp(self.config.drift * drift)
        age = np.maximum(start_ms - self.launch_ms, 0)
        ramp = 1 - np.exp(-age / (3 * DAY_MS))
        fade = 0.5 ** (np.maximum(start_ms - self.fade_ms, 0) / self.fade_half_life_ms)
        hourly: Floats = rate * ramp * fade
        return hourly

    def _price_effect(self, start_ms: int) -> Floats:
        effect: Floats = self._price_level(start_ms) ** -self.elasticity
        for promotion in self.promotions(start_ms, start_ms + 1):
            effect[promotion.product] *= (1 - promotion.discount) ** -self.elasticity[promotion.product]
        return effect

    def _price_level(self, start_ms: int) -> Floats:
        """A product's list price is 10 % higher or lower in some four-week periods."""
        return self.generator(PRICE, start_ms // (4 * WEEK_MS)).choice(np.array([0.9, 1.0, 1.0, 1.0, 1.1]), self.config.products)

    def _normals(self, week: int) -> Floats:
        return self.generator(DRIFT, week).standard_normal(self.config.products)

    def _promotions_of(self, day: int) -> list[Promotion]:
        if day not in self._promotions_by_day:
            rng = self.generator(PROMOTIONS, day)
            n = min(int(rng.poisson(self.config.promotions_per_day * self.config.products)), self.config.products)
            products = rng.choice(self.config.products, n, replace=False)
            start_ms = day * DAY_MS + rng.integers(0, 24, n) * HOUR_MS
            end_ms = start_ms + rng.integers(1, 8, n) * DAY_MS
            discount = rng.integers(2, 9, n) / 20
            columns = (products, start_ms, end_ms, discount, start_ms - rng.integers(12, 24 * MOST_DAYS_AHEAD, n) * HOUR_MS)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            self._promotions_by_day[day] = [Promotion(product, self.product_ids[product], *rest) for product, *rest in rows]
        return self._promotions_by_day[day]

    def _trends_of(self, day: int) -> list[Trend]:
        if day not in self._trends_by_day:
            rng = self.generator(TRENDS, day)
            # Every other product on every other day: trends last up to 12 hours, so a product's never overlap.
            candidates = self._sellers(day)
            chosen = rng.permutation(candidates[candidates % 2 == day % 2])[: rng.poisson(self.config.trends_per_day)]
            causes = self.generator(CAUSES, day)
            self._trends_by_day[day] = [_with_cause(causes, self._trend(rng, day, product)) for product in chosen.tolist()]
        return self._trends_by_day[day]

    def _sellers(self, day: int) -> npt.NDArray[np.int64]:
        """Products that sell enough for a sudden change to show, and are neither being launched nor fading."""
        top = np.sort(self.base)[-min(20, self.config.products)]
        settled = (self.launch_ms < (day - 7) * DAY_MS) & (self.fade_ms > (day + 2) * DAY_MS)
        return np.flatnonzero((self.base >= min(self.config.trend_min_lines_per_hour, top)) & settled)

    def _trend(self, rng: np.random.Generator, day: int, product: int) -> Trend:
        start_ms = day * DAY_MS + int(rng.integers(0, DAY_MS // TILE_MS)) * TILE_MS
        length_ms = int(rng.integers(2 * TILES_PER_HOUR, 12 * TILES_PER_HOUR + 1)) * TILE_MS
        factor = rng.uniform(2.5, 6.0) if rng.random() < 0.65 else rng.uniform(0.0, 0.25)
        return Trend(product, self.product_ids[product], start_ms, start_ms + length_ms, round(float(factor), 3), Cause.TRAFFIC)


def _with_cause(rng: np.random.Generator, trend: Trend) -> Trend:
    """The trend with a cause that fits its direction."""
    causes, choice, more = SPIKE_CAUSES if trend.factor > 1 else DROP_CAUSES, rng.random(), int(rng.integers(1, 4))
    cause = causes[int(choice * len(causes))]
    # Orders change more by their size than by their number: else it would be called otherwise.
    return replace(trend, cause=cause, size=ceil(trend.factor) + more if cause is Cause.ORDER_SIZE else 1)


def _profiles(rng: np.random.Generator, products: int) -> Floats:
    """Each product's own mixture of the daily and weekly shapes; shape (products, 168), mean 1."""
    shapes = np.stack([np.outer(week / week.mean(), day / day.mean()).ravel() for week in _WEEKS for day in _DAYS])  # (9, 168)
    shares = rng.dirichlet(np.full(len(shapes), 0.4), products)
    profiles: Floats = shares @ shapes
    return profiles
