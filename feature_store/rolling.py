"""Rolling features of products: names, units and meaning in one registry, from which `docs/features.md` is made.

python -m feature_store.rolling > docs/features.md
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from feature_store import windows
from feature_store.measures import CANCELLED_UNITS, CARTS, MEASURES, ORDERS, REVENUE, SCALES, UNITS, VIEWS, natural
from feature_store.tiles import Floats
from feature_store.windows import History, Kept

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

# name → length: the last moments, the running hour, and one whole cycle of the day and of the week, so that seasons cancel out
WINDOWS: Final = {"5m": 5 * MINUTE_MS, "1h": HOUR_MS, "24h": DAY_MS, "7d": 7 * DAY_MS}
# Steps of statistics and of half-lives: with steps of an hour, from a few hours through a day and two to a week.
STATISTIC_STEPS: Final = (24, 168)
HALF_LIVES: Final = (3, 12, 48, 168)

# The measures that are features; the netted ones only serve the judgement of alerts.
_MEASURE_UNITS: Final = {
    "units": ("units", "units sold, less cancellations that came while their step was open"),
    "orders": ("orders", "orders that name the product, less such cancellations"),
    "revenue": ("currency", "price times quantity of the units sold"),
    "cancelled_units": ("units", "units cancelled after the step of their order had ended, or without saying when they were ordered"),
    "returned_units": ("units", "units returned"),
    "views": ("events", "views of the product"),
    "carts": ("events", "additions to a cart"),
    "uncarts": ("events", "removals from a cart"),
    "favourites": ("events", "additions to a wish list"),
}


@dataclass(frozen=True, slots=True)
class View:
    """What features are computed from: `n` products as of one moment."""

    as_of: datetime  # in the shop's time zone
    sums: dict[str, Floats]  # window name → (n, N_MEASURES) natural units
    units_by_step: dict[int, Floats]  # count → (n, count) units of the last whole steps, the newest last
    units_kept: Floats  # (n, kept steps) the same of all that are kept
    hours_since_sale: Floats  # (n,)


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the feature matrix."""

    name: str
    unit: str
    description: str
    values: Callable[[View], npt.NDArray[np.float64]]  # (n,), or () where all products share it; NaN: undefined


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """Features of `n` products, columns as in FEATURES."""

    names: tuple[str, ...]
    values: Floats  # (n, n_features) in each feature's unit; NaN: undefined

    def of_product(self, row: int) -> dict[str, float | None]:
        """One product's features by name; None: undefined."""
        return {name: None if math.isnan(value) else value for name, value in zip(self.names, self.values[row].tolist(), strict=True)}


def rolling_features(history: History, as_of_ms: int, kept: Kept, timezone: str) -> FeatureMatrix:
    """All features of the products in `history` as of `as_of_ms`, which must not lie before the end of their last rolled-up step."""
    ends = windows.last_sale_end_ms(history, as_of_ms, kept)

    def units(count: int) -> Floats:
        return np.asarray(windows.step_series(history, as_of_ms, count, UNITS, kept) / SCALES[UNITS])

    view = View(
        as_of=datetime.fromtimestamp(as_of_ms / 1000, ZoneInfo(timezone)),
        sums={name: natural(windows.window_sums(history, as_of_ms, length_ms, kept)) for name, length_ms in WINDOWS.items()},
        units_by_step={count: units(count) for count in STATISTIC_STEPS},
        units_kept=units(kept.steps),
        hours_since_sale=(as_of_ms - ends) / HOUR_MS,
    )
    columns = [np.broadcast_to(feature.values(view), len(history)) for feature in FEATURES]
    return FeatureMatrix(tuple(feature.name for feature in FEATURES), np.stack(columns, axis=1))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise; NaN where the denominator is not positive.

    >>> ratio(np.array([1.0, 1.0, 1.0]), np.array([2.0, 0.0, -1.0])).tolist()
    [0.5, nan, nan]
    """
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def ewma(series: Floats, half_life: float) -> Floats:
    """Exponentially weighted mean of (n, count) values, the newest last: weight `2 ** (-age / half_life)`, over the sum of the weights.

    >>> ewma(np.array([[0.0, 3.0]]), half_life=1).tolist()
    [2.0]
    """
    weights = 0.5 ** (np.arange(series.shape[1])[::-1] / half_life)
    # Not a matrix product: BLAS orders its additions by the number of rows, and a product's features must not depend on its neighbours.
    means: Floats = (series * (weights / weights.sum())).sum(axis=1)
    return means


def _sum(window: str, measure: str) -> Feature:
    unit, meaning = _MEASURE_UNITS[measure]
    column = MEASURES.index(measure)
    return Feature(f"{measure}_{window}", unit, f"{meaning}, in the window of {window}", lambda view: view.sums[window][:, column])


def _ratio(name: str, window: str, unit: str, meaning: str, over: int, under: int) -> Feature:
    description = f"{meaning}, in the window of {window}; undefined where the latter is not positive"
    return Feature(f"{name}_{window}", unit, description, lambda view: ratio(view.sums[window][:, over], view.sums[window][:, under]))


def _ratios(window: str) -> tuple[Feature, ...]:
    return (
        _ratio("conversion", window, "orders per view", "orders over views", ORDERS, VIEWS),
        _ratio("cart_rate", window, "carts per view", "additions to a cart over views", CARTS, VIEWS),
        _ratio("mean_price", window, "currency per unit", "revenue over units", REVENUE, UNITS),
        _ratio("cancel_rate", window, "cancelled per sold unit", "cancelled units over units", CANCELLED_UNITS, UNITS),
    )


def _statistics(count: int) -> tuple[Feature, ...]:
    span = f"of the last {count} whole steps"
    return (
        Feature(
            f"units_mean_{count}",
            "units per step",
            f"mean {span}; silent steps are zeros",
            lambda view: view.units_by_step[count].mean(axis=1),
        ),
        Feature(
            f"units_std_{count}",
            "units per step",
            f"population standard deviation {span}",
            lambda view: view.units_by_step[count].std(axis=1),
        ),
    )


def _ewma(half_life: int) -> Feature:
    description = f"exponentially weighted mean of all kept whole steps, half-life {half_life} steps"
    return Feature(f"units_ewma_{half_life}", "units per step", description, lambda view: ewma(view.units_kept, half_life))


def _cycle(name: str, meaning: str, phase: Callable[[datetime], float]) -> tuple[Feature, ...]:
    return (
        Feature(f"{name}_sin", "-", f"sine of {meaning}", lambda view: np.array(math.sin(2 * math.pi * phase(view.as_of)))),
        Feature(f"{name}_cos", "-", f"cosine of {meaning}", lambda view: np.array(math.cos(2 * math.pi * phase(view.as_of)))),
    )


def _hour_phase(local: datetime) -> float:
    return (local.hour + local.minute / 60 + local.second / 3600) / 24


FEATURES: Final[tuple[Feature, ...]] = (
    *(_sum(window, measure) for window in WINDOWS for measure in _MEASURE_UNITS),
    *(feature for window in WINDOWS for feature in _ratios(window)),
    *(feature for count in STATISTIC_STEPS for feature in _statistics(count)),
    *(_ewma(half_life) for half_life in HALF_LIVES),
    *_cycle("hour", "the local time of day, one turn a day", _hour_phase),
    *_cycle("weekday", "the local weekday, one turn a week from Monday", lambda local: local.weekday() / 7),
    Feature(
        "hours_since_sale",
        "hours",
        "since the end of the last tile (more than the tiles' retention ago: step) with orders left after cancellations; undefined: none is kept",
        lambda view: view.hours_since_sale,
    ),
)


def features_page() -> str:
    """`docs/features.md`."""
    rows = "".join(f"| `{feature.name}` | {feature.unit} | {feature.description} |\n" for feature in FEATURES)
    return f"""# Rolling features

What `trendcast features PRODUCT` shows. Made by `python -m feature_store.rolling`; do not edit.

Windows hop by the tile and end with the running one; a window longer than tiles are kept (7 days, by default) hops by the step and ends with the
running step. At the end of a tile (of a step) they are exactly `[as-of - length, as-of)`. A step that has been rolled up is counted from its step
record, a later one from its tiles. "Whole steps" are those that had ended as of the moment asked for. Undefined values are shown as `null`.

| name | unit | what it is |
|---|---|---|
{rows}"""


if __name__ == "__main__":
    print(features_page(), end="")
