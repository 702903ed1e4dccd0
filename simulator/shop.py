"""A simulated shop whose truth is known: customers look, put into carts, order, cancel and return, and the log gets dirty on the way."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from simulator.announcements import Announcement, announcements
from simulator.demand import OUTDOOR, TILE_MS, TRAFFIC, Cause, Demand, Floats, ShopConfig, Trend
from simulator.dirt import Dirt, is_clean, soil, with_copies
from simulator.events import ABSENT, DAY_MS, HOUR_MS, MINUTE_MS, Events, Kind, Names, Topic
from simulator.feed import HEARTBEAT_MS, Chunk, Feed, Partitions, Traffic
from simulator.truth import Rules

# A purchase is looked at, and put into a cart, within half an hour before it is ordered.
BROWSING_MS: Final = 30 * MINUTE_MS
# Two of three cancellations come soon and net their order; the others come after the order's step has closed.
SOON_CANCELLED: Final = 0.67
# Shops need not say when the cancelled order was placed.
SAYS_PLACED_AT: Final = 0.8
ORDERS_PER_HOUR_LIMIT: Final = 10_000_000  # order numbers: hour · this + running number


class Shop:
    """A shop with a seed: the same seed gives the same records, however time is cut. It is a Source for a Feed."""

    def __init__(self, config: ShopConfig | None = None, seed: int = 0, *, dirt: Dirt | None = None, rules: Rules | None = None) -> None:
        self.config = config or ShopConfig()
        self.seed = seed
        self.dirt = dirt or Dirt()
        self.rules = rules or Rules()
        self.demand = Demand(self.config, seed)
        self.names = Names(self.demand.product_ids, currency=self.config.currency)
        self.period_ms = HOUR_MS
        self.lead_ms = BROWSING_MS

    def feed(self, start_ms: int, *, partitions: Partitions = Partitions(), heartbeat_ms: int = HEARTBEAT_MS) -> Feed:
        """A stream of records from `start_ms` on, which can be advanced again and again: history first, then live."""
        return Feed(self, start_ms, rules=self.rules, partitions=partitions, heartbeat_ms=heartbeat_ms)

    def chunks(self, start_ms: int, end_ms: int, chunk_ms: int = HOUR_MS, *, partitions: Partitions = Partitions()) -> Iterator[Chunk]:
        """All records that are sent in [start_ms, end_ms)."""
        return self.feed(start_ms, partitions=partitions).chunks(end_ms, chunk_ms)

    def trends(self, start_ms: int, end_ms: int) -> list[Trend]:
        """The injected sudden changes that overlap [start_ms, end_ms)."""
        return self.demand.trends(start_ms, end_ms)

    def expected(self, start_ms: int, end_ms: int) -> pd.DataFrame:
        """Columns product_id, start_ms, units: noise-free units ordered per product and hour, for the hours that start in [start_ms, end_ms).

        Gross of cancellations, and of the small shares that dirt rejects. Includes promotions and injected trends.
        """
        hours = np.arange(-(-start_ms // HOUR_MS), -(-end_ms // HOUR_MS))
        lines = [(self.demand.lines(hour) * self.demand.sizes(hour)).sum(axis=0) for hour in hours.tolist()]
        units = [of_hour * (1 + self.demand.extra_units) for of_hour in lines]
        return pd.DataFrame(
            {
                "product_id": np.tile(np.array(self.names.product_ids, dtype=object), len(hours)),
                "start_ms": np.repeat(hours * HOUR_MS, self.config.products),
                "units": np.concatenate(units) if units else np.zeros(0),
            }
        )

    def notes(self, start_ms: int, end_ms: int) -> dict[str, Any]:
        """What a truth file says about the shop: configuration, seed, dirt, and the trends and promotions of [start_ms, end_ms)."""
        return {
            "seed": self.seed,
            "start_ms": start_ms,
            "shop": asdict(self.config),
            "dirt": asdict(self.dirt),
            "trends": [{**asdict(trend), "kind": trend.kind} for trend in self.trends(start_ms, end_ms)],
            "stock_outs": [asdict(out) for out in self.demand.stock_outs(start_ms, end_ms)],
            "context": {
                "weather": {"moves": sorted(OUTDOOR), "effect": self.config.weather_effect},
                "market": {"moves": [], "effect": 0.0},
            },
            "promotions": [asdict(promotion) for promotion in self.demand.promotions(start_ms, end_ms)],
        }

    def announced(self, start_ms: int, end_ms: int, first: bool) -> list[Announcement]:
        """What the shop says ahead."""
        return announcements(self.demand, start_ms, end_ms, first=first)

    def period(self, index: int) -> Traffic:
        """The orders and clicks of an hour since 1970, with what follows from them later."""
        rng = self.demand.generator(TRAFFIC, index)
        noise = _noise(rng, self.config)
        rates = self.demand.lines(index) * noise
        placed = self._orders(rng, index, rates)
        clicks = self._clicks(rng, index, self._others(index, rates, noise), placed)
        orders = soil(Topic.ORDERS, placed, self.dirt, self.rules, rng)
        honest = orders.where(is_clean(orders, self.rules))
        after = [self._cancellations(rng, honest), self._returns(rng, honest)]
        orders = Events.concatenate([orders, *(soil(Topic.ORDERS, events, self.dirt, self.rules, rng) for events in after)])
        return Traffic(with_copies(orders, self.dirt, self.rules, rng), soil(Topic.CLICKSTREAM, clicks, self.dirt, self.rules, rng))

    def _orders(self, rng: np.random.Generator, hour: int, rates: npt.NDArray[np.float64]) -> Events:
        time_ms, product = _arrivals(rng, hour, rates)
        order = np.argsort(time_ms, kind="stable")
        time_ms, product = time_ms[order], product[order]
        m = len(product)
        # Every line begins a new order with this probability: geometric sizes. An order happens when its first line does.
        begins = rng.random(m) < 1 / self.config.lines_per_order
        begins[:1] = True
        first = np.flatnonzero(begins)
        n = len(first)
        demand = self.demand
        whole = 1 + rng.poisson(demand.extra_units[product])
        weight = 1_000 + np.rint(1_000 * rng.exponential(demand.extra_units[product])).astype(np.int64)
        size = demand.sizes(hour)[(time_ms - hour * HOUR_MS) // TILE_MS, product]
        return Events.of(
            n,
            m,
            send_ms=time_ms[first],
            event_ms=time_ms[first],
            kind=Kind.PLACED,
            number=hour * ORDERS_PER_HOUR_LIMIT + np.arange(n),
            key=rng.integers(0, self.config.customers, n),
            lines=np.diff(np.append(first, m)),
            product=product,
            quantity=size * np.where(demand.weighed[product], weight, 1_000 * whole),
            price=demand.cents(hour)[product] / 100,
        )

    def _others(self, hour: int, rates: Floats, noise: Floats) -> Floats:
        """Expected clicks of those who buy nothing, per tile, product and kind: view, cart, removal, wish; shape (12, products, 4).

        `rates`, (12, products), are the lines', `noise`, (products,), is in them.
        """
        config = self.config
        least = [max(config.views_per_line - 1, 0), max(config.carts_per_line - 1, 0), config.uncarts_per_line, config.favourites_per_line]
        a_line = np.array(least)
        others: Floats = rates[..., np.newaxis] * a_line
        changed = [(trend, during) for trend, during in self.demand.changes(hour) if trend.cause is not Cause.TRAFFIC]
        all_usual = self.demand.usual_lines(hour) * noise if changed else rates
        for trend, during in changed:
            lines, usual = rates[during, trend.product], all_usual[during, trend.product]
            # Every line has a view and a cart of its own before it, in `_clicks`.
            if trend.cause is Cause.ORDER_SIZE:
                others[during, trend.product] = usual[:, np.newaxis] * a_line
                continue
            others[during, trend.product, 0] = np.maximum(config.views_per_line * usual - lines, 0)
            if trend.cause is Cause.CHECKOUT:
                others[during, trend.product, 1] = np.maximum(config.carts_per_line * usual - lines, 0)
            others[during, trend.product, 3] = config.favourites_per_line * usual
        return others

    def _clicks(self, rng: np.random.Generator, hour: int, others: Floats, placed: Events) -> Events:
        """Before every purchase a view and an addition to the cart; and others' clicks, who buy nothing."""
        config = self.config
        m = len(placed.product)
        ordered_ms, buyer = placed.event_ms[placed.line_record()], placed.key[placed.line_record()]
        viewed_before = rng.integers(MINUTE_MS, BROWSING_MS, m)
        carted_before = (viewed_before * rng.uniform(0.05, 0.95, m)).astype(np.int64)

        time_ms, product = _arrivals(rng, hour, others.sum(axis=-1))
        n = len(product)
        kinds = np.array([Kind.VIEW, Kind.ADD_TO_CART, Kind.REMOVE_FROM_CART, Kind.WISHLIST])
        below = np.cumsum(others, axis=-1)[(time_ms - hour * HOUR_MS) // TILE_MS, product]
        kind = kinds[np.minimum((rng.random(n)[:, np.newaxis] * below[:, -1:] >= below).sum(axis=1), 3)]

        event_ms = np.concatenate([ordered_ms - viewed_before, ordered_ms - carted_before, time_ms - rng.integers(0, BROWSING_MS, n)])
        key = np.concatenate([buyer, buyer, rng.integers(0, config.customers, n)])
        kind = np.concatenate([np.full(m, Kind.VIEW), np.full(m, Kind.ADD_TO_CART), kind])
        product = np.concatenate([placed.product, placed.product, product])
        return Events.of(len(product), len(product), send_ms=event_ms, event_ms=event_ms, kind=kind, key=key, product=product)

    def _cancellations(self, rng: np.random.Generator, orders: Events) -> Events:
        chosen = orders.where(rng.random(len(orders)) < self.config.cancelled)
        n = len(chosen)
        soon = rng.random(n) < SOON_CANCELLED
        delay = np.where(soon, rng.exponential(15 * MINUTE_MS, n), HOUR_MS + rng.exponential(DAY_MS, n)).astype(np.int64) + MINUTE_MS
        at_ms = chosen.event_ms + delay
        placed_ms = np.where(rng.random(n) < SAYS_PLACED_AT, chosen.event_ms, ABSENT)
        return chosen.but(send_ms=at_ms, event_ms=at_ms, placed_ms=placed_ms, kind=Kind.CANCELLED)

    def _returns(self, rng: np.random.Generator, orders: Events) -> Events:
        chosen = orders.where(rng.random(len(orders)) < self.config.returned)
        at_ms = chosen.event_ms + DAY_MS + rng.exponential(4 * DAY_MS, len(chosen)).astype(np.int64)
        return chosen.but(send_ms=at_ms, event_ms=at_ms, kind=Kind.RETURNED)


def _noise(rng: np.random.Generator, config: ShopConfig) -> npt.NDArray[np.float64]:
    """An hour's gamma factor of each product, mean 1, variance `dispersion`; shape (products,)."""
    if not config.dispersion:
        return np.ones(config.products)
    return rng.gamma(1 / config.dispersion, config.dispersion, config.products)


def _arrivals(rng: np.random.Generator, hour: int, rates: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Poisson arrivals at `rates` per tile, shape (12, products): times (m,) in the hour and products (m,), by tile."""
    counts = rng.poisson(rates).ravel()
    tile, product = np.divmod(np.repeat(np.arange(len(counts)), counts), rates.shape[1])
    return hour * HOUR_MS + tile * TILE_MS + rng.integers(0, TILE_MS, len(tile)), product
