"""What is known of each product before a tile is judged, and what the tile teaches. Rows of float64, one a product; pure.

**Orders per forecast unit** takes out both the units of an order and a lasting bias of the forecaster. The variance of the orders X of an interval
around their expectation M is taken as `dispersion * M + error * M^2`: the first part is bursts of customers, which short blocks of tiles show, the
second is the forecaster being wrong for hours, which longer spans show. All three are learned per product, with priors, half-life a week.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from models.alert_policy import AlertPolicy

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Columns of a product's row. All zeros is a product never judged.
(
    TILE,  # last judged tile + 1, so that 0 says never
    AGE,  # judged tiles, forgetting (as the next two)
    ORDERS,  # orders
    EXPECTED,  # units expected by the forecast
    RECENT_EXPECTED,  # their mean per tile over about a day; starts at 0
    DISPERSION,  # estimate minus DISPERSION_PRIOR: a fresh row is zero
    ERROR,  # estimate minus ERROR_PRIOR
    BLOCK_ORDERS,  # the running block of the dispersion's estimate: orders
    BLOCK_MASS,  # and expected orders
    SPAN_ORDERS,  # the same of the error's estimate
    SPAN_MASS,
    LAST_SALE,  # last tile with an order, + 1
    FIRED,  # tile in which the open alert fired, + 1: positive a spike, negative a drop, 0 none
    UP,  # walks
    DOWN,
    UP_START,  # tile in which the walk left zero
    DOWN_START,
    UP_UNITS,  # units observed since then
    DOWN_UNITS,
    UP_EXPECTED,  # units expected since then
    DOWN_EXPECTED,
    UP_ORDERS,  # from here on whole counts and slow means, rounded to float32 at each tile: stored so
    UP_CARTS,
    UP_VIEWS,
    DOWN_ORDERS,
    DOWN_CARTS,
    DOWN_VIEWS,
    UNITS,  # of judged tiles, forgetting as ORDERS
    CARTS,
    VIEWS,
    SCORE_SIZE,
) = range(31)
COARSE: Final = slice(UP_ORDERS, SCORE_SIZE)

# Weight of "one order a forecast unit" before own evidence: it errs towards too many expected orders, and drops wait for history anyway.
PRIOR_ORDERS: Final = 5.0
# A block must be long enough to show bursts on the time scale of a detection, short enough that a rare product fills some a week.
BLOCK_MASS_FULL: Final = 4.0
# A new product counts as mildly overdispersed until about ten blocks have spoken.
DISPERSION_PRIOR: Final = 1.5
DISPERSION_PRIOR_MASS: Final = 40.0
# One block's squared residual counts at most so many times the estimate: an event must not teach the product that events are normal.
RESIDUAL_CAP: Final = 16.0
MAX_DISPERSION: Final = 50.0
# The forecaster's error counts as 14 % (squared 0.02) until as much has been seen as a day of hours with ten orders tells.
SPAN_MS: Final = 3_600_000
ERROR_PRIOR: Final = 0.02
ERROR_PRIOR_SPANS: Final = 24.0
ERROR_PRIOR_MASS: Final = 10.0
MAX_ERROR: Final = 1.0
# False alarms come at FALSE_RATE * exp(-h) a unit of mass, and no more per tile than with TILE_MASS_CAP: docs/alerts.md.
FALSE_RATE: Final = 0.35
TILE_MASS_CAP: Final = 0.5
MIN_H: Final = 4.0
# Fewer clicks of a kind than this tell no rate; also the shop may send none.
MIN_CLICKS: Final = 5.0
# Half an order of one unit, before a product's own: a size for products that never sold.
PRIOR_SALES: Final = 0.5
DAY_MS: Final = 86_400_000
# Half-life of RECENT_EXPECTED: long enough to hold a day's season, short enough to see a forecast rise.
RECENT_MS: Final = DAY_MS
TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Known:
    """What the rows tell of their products before a tile; n of them."""

    orders_per_unit: Floats  # (n,) expected orders per unit of the forecast
    certainty: Floats  # (n,) orders behind it, the prior's included
    dispersion: Floats  # (n,)
    error: Floats  # (n,) squared, relative
    h: Floats  # (n,) evidence, in nats, at which an alert fires
    exponent: Floats  # (n, 2) nats per order of the walks up and down
    risen: Floats  # (n,) how far the forecast's level of the last day lies above the week's; at least 1
    warm: Bools  # (n,) seen for long enough to be judged

    @property
    def relative_variance(self) -> Floats:
        """Squared relative standard error of the expectation, (n,)."""
        return self.error + 1 / self.certainty


def usual(s: Floats) -> Floats:
    """Views, carts, orders and units that usually come for one unit of the forecast, by the rows s: (n, 4); 0 where clicks are not known.

    Units for one unit of the forecast are its lasting bias, learned against the same weight of "none" as the orders.
    """
    size = (s[:, UNITS] + PRIOR_SALES) / (s[:, ORDERS] + PRIOR_SALES)
    units = (s[:, UNITS] + PRIOR_ORDERS * size) / (s[:, EXPECTED] + PRIOR_ORDERS * size)
    orders = units / size
    clicks = s[:, [VIEWS, CARTS]]
    a_order = np.where(clicks >= MIN_CLICKS, clicks, 0.0) / (s[:, [ORDERS]] + PRIOR_SALES)
    return np.column_stack((a_order * orders[:, np.newaxis], orders, units))


def reference(factor: float) -> float:
    """The ratio of observed to expected orders at which the walk for `factor` neither rises nor falls.

    >>> round(reference(3.0), 2), round(reference(0.25), 2)
    (1.82, 0.54)
    """
    return float((factor - 1) / np.log(factor))


@lru_cache(maxsize=16)
def _exponents(factor: float) -> tuple[Floats, Floats]:
    """Lundberg's exponents s > 0 of the walk for `factor` on a grid: (log dispersion, s), both (g,). Counts are NB with var = dispersion * mean."""
    dispersion = np.geomspace(1.0, MAX_DISPERSION, 200)
    extra = np.maximum(dispersion - 1, 1e-9)
    sign = 1.0 if factor > 1 else -1.0
    low, high = np.zeros_like(dispersion), np.full_like(dispersion, 2 * abs(np.log(factor)))
    for _ in range(60):  # the cumulant function is convex, 0 at 0, then negative: bisect its second root
        s = (low + high) / 2
        inside = extra * np.expm1(sign * s)
        cumulant = np.where(inside < 1, -np.log1p(-np.minimum(inside, 1 - 1e-12)) / extra - sign * s * reference(factor), np.inf)
        low, high = np.where(cumulant < 0, s, low), np.where(cumulant < 0, high, s)
    return np.log(dispersion), low


def exponent(factor: float, dispersion: npt.ArrayLike) -> Floats:
    """Evidence in nats that one order adds to the walk for `factor` (one missing order, where it is below 1), at the dispersion(s) given.

    For Poisson counts it is the logarithm of the factor; bursts make an order tell less, and a burst more than a lack.

    >>> exponent(3.0, [1.0, 6.0]).round(3).tolist(), exponent(1 / 3, [1.0, 6.0]).round(3).tolist()
    ([1.099, 0.13], [1.099, 0.238])
    """
    grid, values = _exponents(factor)
    return np.interp(np.log(np.asarray(dispersion, dtype=np.float64)), grid, values)


def known(s: Floats, policy: AlertPolicy, tile_ms: int) -> Known:
    """What the rows s, (n, SCORE_SIZE), tell."""
    certainty = s[:, ORDERS] + PRIOR_ORDERS
    dispersion = np.clip(s[:, DISPERSION] + DISPERSION_PRIOR, 1.0, MAX_DISPERSION)
    tile_orders, day_tiles = s[:, ORDERS] / np.maximum(s[:, AGE], 1.0), DAY_MS / tile_ms
    mass = np.clip(tile_orders / dispersion, policy.floor_orders, TILE_MASS_CAP)
    return Known(
        orders_per_unit=certainty / (s[:, EXPECTED] + PRIOR_ORDERS),
        certainty=certainty,
        dispersion=dispersion,
        error=np.clip(s[:, ERROR] + ERROR_PRIOR, 0.0, MAX_ERROR),
        h=np.maximum(np.log(FALSE_RATE * mass * day_tiles / policy.false_alerts), MIN_H),
        exponent=np.stack((exponent(policy.spike_factor, dispersion), exponent(policy.drop_factor, dispersion)), axis=1),
        risen=np.maximum(s[:, RECENT_EXPECTED] * s[:, AGE] / np.maximum(s[:, EXPECTED], TINY), 1.0),
        # half a tile of tolerance: AGE is a sum of floats
        warm=s[:, AGE] > (1 - policy.keep**policy.warm_up_tiles) / (1 - policy.keep) - 0.5,
    )


def learn(s: Floats, seen: Floats, tile: Floats, before: Known, learns: Bools, policy: AlertPolicy, tile_ms: int) -> None:
    """Puts one tile into the rows, in place, where `learns`: what happens during an event is not what a product is normally like.

    `seen`: (n, 5) units observed and expected, orders, carts, views.
    """
    _, expected, orders, *_ = seen.T
    mass = expected * before.orders_per_unit
    for column, value in ((AGE, 1.0), *zip((UNITS, EXPECTED, ORDERS, CARTS, VIEWS), seen.T, strict=True)):
        s[:, column] = np.where(learns, policy.keep * s[:, column] + value, s[:, column])
    for column, value in ((BLOCK_ORDERS, orders), (BLOCK_MASS, mass), (SPAN_ORDERS, orders), (SPAN_MASS, mass)):
        s[:, column] = np.where(learns, s[:, column] + value, 0.0)
    recent = 0.5 ** (tile_ms / RECENT_MS)
    s[:, RECENT_EXPECTED] = recent * s[:, RECENT_EXPECTED] + (1 - recent) * expected
    _learn_dispersion(s, before)
    _learn_error(s, tile, before, max(SPAN_MS // tile_ms, 1))


def _learn_dispersion(s: Floats, before: Known) -> None:
    """From blocks of tiles that expect at least BLOCK_MASS_FULL orders, the error's part taken out."""
    full = s[:, BLOCK_MASS] >= BLOCK_MASS_FULL
    mass = np.maximum(s[:, BLOCK_MASS], BLOCK_MASS_FULL)
    found = (s[:, BLOCK_ORDERS] - mass) ** 2 / mass - before.error * mass
    found = np.clip(found, 0.0, RESIDUAL_CAP * before.dispersion)
    weight = np.minimum(mass / (s[:, ORDERS] + DISPERSION_PRIOR_MASS), 1.0)
    s[:, DISPERSION] += np.where(full, weight * (found - DISPERSION_PRIOR - s[:, DISPERSION]), 0.0)
    s[full, BLOCK_ORDERS] = s[full, BLOCK_MASS] = 0.0


def _learn_error(s: Floats, tile: Floats, before: Known, span_tiles: int) -> None:
    """From spans of whole hours that expect as much, the dispersion's part taken out; each weighs by the inverse variance of what it tells."""
    full = (s[:, SPAN_MASS] >= BLOCK_MASS_FULL) & ((tile + 1) % span_tiles == 0)
    mass = np.maximum(s[:, SPAN_MASS], BLOCK_MASS_FULL)
    found = np.minimum((s[:, SPAN_ORDERS] / mass - 1) ** 2, MAX_ERROR) - before.dispersion / mass
    information = 1 / (before.dispersion / mass + before.error) ** 2
    spans = np.minimum(s[:, AGE] / span_tiles, s[:, ORDERS] / BLOCK_MASS_FULL)
    prior = ERROR_PRIOR_SPANS / (1 / ERROR_PRIOR_MASS + ERROR_PRIOR) ** 2
    weight = information / (np.maximum(spans, 1.0) * information + prior)
    s[:, ERROR] += np.where(full, weight * (found - ERROR_PRIOR - s[:, ERROR]), 0.0)
    s[full, SPAN_ORDERS] = s[full, SPAN_MASS] = 0.0
