"""What moved an alert: the units observed beyond those expected, split along the way on which customers come to buy. Pure.

**The identity.** Units are views times carts a view times orders a cart times units an order, of the window as of what is usual at that time. What is
usual are the units that the forecast expected, times what usually comes for one of them (`alert_evidence.usual`): they have the forecast's season.

**The split** is the logarithmic mean Divisia index, additive (LMDI-I; Ang, "The LMDI approach to decomposition analysis: a practical guide",
Energy Policy 33, 2005): a factor's effect is `L(observed, usual) * ln(its ratio of observed to usual)` with the logarithmic mean
`L(a, b) = (a - b) / ln(a / b)`. Effects add up to the difference, nothing is left over, and the order of the factors does not matter.

**Zeros.** The method's own remedy is a small value in place of a zero, and what it says then hangs on that value (Ang and Liu, Energy Policy 35,
2007). Here half a usual order, with the views, carts and units that belong to it, is added to both sides: their difference stays what it was, no ratio
is 0 or infinite, and the less was seen, the less a ratio says.

**The forecast's part.** Where the product usually sells more, or less, than the forecast says, that lasting bias is a driver of its own.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.known_future import KnownFuture
from models.seasons import DAY_MS

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Columns of a funnel.
VIEWS, CARTS, ORDERS, UNITS = range(4)

NAMES: Final = (
    "traffic",  # views
    "cart_rate",  # carts a view
    "checkout_rate",  # orders a cart
    "conversion",  # orders a view, where carts are not known
    "orders",  # where no clicks are known
    "stock_out",  # from here on: why buyers' part changed, where facts say so
    "promotion",
    "price",
    "order_size",  # units an order
    "forecast",  # its lasting bias
)
TRAFFIC, CART_RATE, CHECKOUT_RATE, CONVERSION, ALL_ORDERS, STOCK_OUT, PROMOTION, PRICE, ORDER_SIZE, FORECAST = range(len(NAMES))
# What buyers did once they looked; facts may know why.
_BUYING: Final = np.array([CART_RATE, CHECKOUT_RATE, CONVERSION, ALL_ORDERS])

PSEUDO_ORDERS: Final = 0.5
# Prices that differ by less are the same: rounding, other currencies.
SAME_PRICE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the products at the time of their windows."""

    stock: Floats  # (k,) whether anything is in stock as the window's last step begins: 0 or more; NaN: not known
    promoted: Bools  # (k,) a promotion runs then, and did not a day before the window
    price: Floats  # (k,) relative to that of a day before the window, promotions not included; NaN: not known

    @classmethod
    def of(cls, shop: KnownFuture, rows: npt.NDArray[np.int64], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> "Facts":
        """Of windows of the products `rows`, (k,), from the step `first` to the step `last`, (k,) each."""
        stock, discount, price = shop.change(rows, first - max(DAY_MS // shop.step_ms, 1), last)
        return cls(stock, discount > 0, price)


def split(observed: Floats, usual: Floats, expected: Floats) -> Floats:
    """Effects in units by driver, (k, len(NAMES)), NaN where a driver does not apply; the others of a row add up to units observed less expected.

    `observed`: (k, 4) views, carts, orders, units in the window; `usual`: (k, 4) the same for one expected unit, orders and units positive, clicks 0
    where they are not known; `expected`: (k,) units.

    >>> many = split(np.array([[90.0, 9, 9, 18]]), np.array([[5, 0.5, 0.5, 1]]), np.array([6.0]))  # thrice the views, all else as usual
    >>> [(name, round(effect, 9)) for name, effect in ranked(many)[0] if effect]
    [('traffic', 12.0)]
    """
    meant = usual * expected[:, np.newaxis]
    pseudo = PSEUDO_ORDERS * usual / usual[:, [ORDERS]]
    above, below = observed + pseudo, meant + pseudo
    known = usual > 0
    ratio = np.log(np.where(known, above, 1.0) / np.where(known, below, 1.0))
    mean = _logarithmic_mean(above[:, UNITS], below[:, UNITS])[:, np.newaxis]
    views, carts, orders, units = (mean * ratio).T
    looked = known[:, VIEWS]
    stepwise = looked & known[:, CARTS]
    effects = np.full((len(observed), len(NAMES)), np.nan)
    effects[looked, TRAFFIC] = views[looked]
    effects[stepwise, CART_RATE] = (carts - views)[stepwise]
    effects[stepwise, CHECKOUT_RATE] = (orders - carts)[stepwise]
    effects[looked & ~stepwise, CONVERSION] = (orders - views)[looked & ~stepwise]
    effects[~looked, ALL_ORDERS] = orders[~looked]
    effects[:, ORDER_SIZE] = units - orders
    effects[:, FORECAST] = meant[:, UNITS] - expected
    return effects


def ranked(effects: Floats) -> list[list[tuple[str, float]]]:
    """Each row's drivers, the greatest effect first, whatever its sign."""
    order = np.argsort(-np.abs(effects), axis=1, kind="stable")  # NaN goes last
    counts = np.isfinite(effects).sum(axis=1).tolist()
    rows = zip(order.tolist(), effects.tolist(), counts, strict=True)
    return [[(NAMES[i], values[i]) for i in places[:n]] for places, values, n in rows]


def told(effects: Floats, facts: Facts) -> Floats:
    """Effects by `split`, (k, len(NAMES)), with what buyers did under its reason, where facts know one that works in that direction."""
    buying = np.nansum(effects[:, _BUYING], axis=1)
    dearer = np.log(np.where(np.isfinite(facts.price), facts.price, 1.0))
    reasons = np.select(
        [(facts.stock <= 0) & (buying < 0), facts.promoted & (buying > 0), (np.abs(dearer) > SAME_PRICE) & (dearer * buying < 0)],
        [STOCK_OUT, PROMOTION, PRICE],
        -1,
    )
    out = effects.copy()
    some = np.flatnonzero(reasons >= 0)
    out[np.ix_(some, _BUYING)] = np.nan
    out[some, reasons[some]] = buying[some]
    return out


def _logarithmic_mean(a: Floats, b: Floats) -> Floats:
    """(a - b) / ln(a / b) of positive numbers, a where they are equal."""
    difference = (a - b) / b
    same = difference == 0
    return np.where(same, a, b * difference / np.where(same, 1.0, np.log1p(difference)))
