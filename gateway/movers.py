"""Who rises and falls fastest against its own expectation, in the step that is under way. Pure.

Of each product its newest forecast says what was expected by then, and what came. Until another message comes the product has sold nothing more, and
its expectation grows in proportion to time. With `O` units sold and `E` expected by now,

- `change` = (k + O) / (k + E) - 1 with k = 5 units: the posterior mean of the factor on the expectation under a gamma prior worth k expected units, so
  that one order of a slow product does not lead the board;
- `confidence` = Φ((|O - E| - ½) / s): how sure it is that this is no chance. s² = D·E; D, the variance per unit, is that of the forecast's own
  quantiles for the next step, and at least 1 (Poisson).

A category's O and E are its products' sums; its D is that of the category's own forecast, because errors of products partly go together. Movers with less than
`CONFIDENT` are not shown. Nobody is, where the forecast is past its `valid_until`.
"""

import math
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.cover import quantile
from streaming.contracts import Forecast

PRIOR_UNITS: Final = 5.0
CONFIDENT: Final = 0.8
# Between the 10 and 90 % quantiles of a normal distribution, in standard deviations.
_SPREAD_SD: Final = 2.5631031310892007
_NO_CATEGORY: Final = -1
_GROWTH: Final = 1024

F64 = npt.NDArray[np.float64]


class Moved(NamedTuple):
    """One mover."""

    name: str  # product or category
    change: float  # 0.5: half as much again as expected
    confidence: float
    observed: float
    expected: float


class Board(NamedTuple):
    """The fastest, fastest first."""

    rising: list[Moved]
    falling: list[Moved]


def variance_per_unit(forecast: Forecast) -> float:
    """Of the first step that has not begun (the running one's quantiles know what came of it); at least 1."""
    h = min(1 if forecast.running is not None else 0, forecast.horizon - 1)
    of_step = [of_level[h] for of_level in forecast.quantiles]
    low, high = quantile(forecast.levels, of_step, 0.1), quantile(forecast.levels, of_step, 0.9)
    mean = forecast.mean[h]
    return max(((high - low) / _SPREAD_SD) ** 2 / mean, 1.0) if mean > 0 else 1.0


class Movers:
    """Numbers of all products in columns: a board of 100,000 is some milliseconds."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._names: list[str | None] = []
        self._free: list[int] = []
        self._categories: dict[str, int] = {}
        self._own: dict[str, float] = {}  # variance per unit of the categories that have a forecast
        self._first = np.zeros(0, np.int64)  # start of the running step
        self._step = np.ones(0, np.int64)
        self._valid = np.zeros(0, np.int64)
        self._sold = np.zeros(0)  # so far
        self._elapsed = np.zeros(0)  # ms of the step that `by_now` speaks of
        self._by_now = np.zeros(0)
        self._mean = np.zeros((0, 1), np.float32)  # (slots, horizon)
        self._spread = np.ones(0)
        self._category = np.zeros(0, np.int64)

    def put(self, forecast: Forecast, category: str | None) -> None:
        """A product's newest forecast; one without a running step is no mover."""
        if forecast.running is None:
            self.drop(forecast.product_id)
            return
        slot = self._slot(forecast.product_id)
        if forecast.horizon > self._mean.shape[1]:
            self._mean = np.pad(self._mean, ((0, 0), (0, forecast.horizon - self._mean.shape[1])))
        self._first[slot], self._step[slot], self._valid[slot] = forecast.first_step, forecast.step_ms, forecast.valid_until
        self._sold[slot], self._elapsed[slot] = forecast.running.observed, forecast.running.elapsed_ms
        self._by_now[slot] = forecast.running.expected_by_now.mean
        self._mean[slot, : forecast.horizon] = forecast.mean
        self._spread[slot] = variance_per_unit(forecast)
        self._category[slot] = self._code(category)

    def put_category(self, name: str, forecast: Forecast) -> None:
        """A category's own forecast."""
        self._own[name] = variance_per_unit(forecast)

    def drop(self, product_id: str) -> None:
        """The product is forgotten."""
        slot = self._slots.pop(product_id, None)
        if slot is not None:
            self._names[slot] = None
            self._valid[slot] = 0
            self._free.append(slot)

    def drop_category(self, name: str) -> None:
        """The category has no forecast any more."""
        self._own.pop(name, None)

    def products(self, now_ms: int, limit: int, category: str | None = None) -> Board:
        """The board of products, of one category where one is named. `now_ms`: the newest `as_of`."""
        rows, sold, expected = self._now(now_ms)
        if category is not None:
            chosen = self._category[rows] == self._categories.get(category, _NO_CATEGORY - 1)
            rows, sold, expected = rows[chosen], sold[chosen], expected[chosen]
        names = self._names
        return _board(lambda i: str(names[int(rows[i])]), sold, expected, self._spread[rows], limit)

    def categories(self, now_ms: int, limit: int) -> Board:
        """The board of the categories that have a forecast of their own."""
        rows, sold, expected = self._now(now_ms)
        codes = self._category[rows]
        known = codes >= 0
        n = len(self._categories)
        sums = [np.bincount(codes[known], weights=of[known], minlength=n).astype(np.float64) for of in (sold, expected)]
        names = [name for name in self._categories if name in self._own]
        at = np.array([self._categories[name] for name in names], np.int64)
        spread = np.array([self._own[name] for name in names])
        return _board(lambda i: names[i], sums[0][at], sums[1][at], spread, limit)

    def _now(self, now_ms: int) -> tuple[npt.NDArray[np.int64], F64, F64]:
        """Slots of the products that count, what each sold in the step under way, and what was expected by now."""
        n = len(self._names)
        ahead = (now_ms - self._first[:n]) // self._step[:n]
        rows = np.flatnonzero((self._valid[:n] >= now_ms) & (ahead < self._mean.shape[1]))
        ahead = np.maximum(ahead[rows], 0)
        running = ahead == 0
        into = np.maximum(now_ms - self._first[rows] - ahead * self._step[rows], 0)
        mean = self._mean[rows, ahead].astype(np.float64)
        elapsed, by_now = self._elapsed[rows], self._by_now[rows]
        grown = np.where(elapsed > 0, by_now * np.maximum(into, elapsed) / np.maximum(elapsed, 1), mean * into / self._step[rows])
        expected = np.where(running, grown, mean * into / self._step[rows])
        return rows, np.where(running, self._sold[rows], 0.0), expected

    def _slot(self, product_id: str) -> int:
        slot = self._slots.get(product_id)
        if slot is None:
            slot = self._free.pop() if self._free else len(self._names)
            self._slots[product_id] = slot
            if slot == len(self._names):
                self._names.append(product_id)
                if slot >= len(self._first):
                    self._grow()
            else:
                self._names[slot] = product_id
        return slot

    def _grow(self) -> None:
        more = max(_GROWTH, len(self._first))
        for name in ("_first", "_step", "_valid", "_sold", "_elapsed", "_by_now", "_spread", "_category"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate((column, np.ones(more, column.dtype))))
        self._mean = np.concatenate((self._mean, np.zeros((more, self._mean.shape[1]), np.float32)))

    def _code(self, category: str | None) -> int:
        return _NO_CATEGORY if category is None else self._categories.setdefault(category, len(self._categories))


def _board(name: Callable[[int], str], sold: F64, expected: F64, spread: F64, limit: int) -> Board:
    change = (PRIOR_UNITS + sold) / (PRIOR_UNITS + expected) - 1
    deviation = np.sqrt(np.maximum(spread * expected, 0.25))
    score = np.maximum(np.abs(sold - expected) - 0.5, 0) / deviation
    sure = score >= _NEEDED
    order = np.argsort(change, kind="stable")
    order = order[sure[order]]

    def told(indices: Iterable[int]) -> list[Moved]:
        return [
            Moved(
                name(i), round(float(change[i]), 4), round(_phi(float(score[i])), 4), round(float(sold[i]), 3), round(float(expected[i]), 3)
            )
            for i in indices
        ]

    falling = [i for i in order[:limit].tolist() if change[i] < 0]
    rising = [i for i in order[::-1][:limit].tolist() if change[i] > 0]
    return Board(told(rising), told(falling))


def _phi(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


# The score at which Φ reaches CONFIDENT.
_NEEDED: Final = 0.8416212335729143
