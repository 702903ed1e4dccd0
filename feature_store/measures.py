"""What is summed per product and interval, and in which integer unit.

Sums are integers held as float64: exact, and independent of the order of addition, below 2**53.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

MEASURES: Final = (
    "units",
    "orders",
    "revenue",
    "cancelled_units",
    "returned_units",
    "views",
    "carts",
    "uncarts",
    "favourites",
    # What cancellations have taken off `units` and `orders`. With it, what was placed is known whatever has been cancelled since.
    "netted_units",
    "netted_orders",
)
N_MEASURES: Final = len(MEASURES)

# Quantities carry up to three decimals (weighed goods), money up to four (unit prices of fractions of a cent).
INTEGERS_PER_UNIT: Final = 1_000
INTEGERS_PER_CURRENCY: Final = 10_000

UNITS, ORDERS, REVENUE, CANCELLED_UNITS, RETURNED_UNITS, VIEWS, CARTS, UNCARTS, FAVOURITES, NETTED_UNITS, NETTED_ORDERS = range(N_MEASURES)

_INTEGER_UNITS: Final = {
    "units": INTEGERS_PER_UNIT,
    "cancelled_units": INTEGERS_PER_UNIT,
    "returned_units": INTEGERS_PER_UNIT,
    "netted_units": INTEGERS_PER_UNIT,
    "revenue": INTEGERS_PER_CURRENCY,
}
# (N_MEASURES,) integer units per natural unit
SCALES: Final[npt.NDArray[np.float64]] = np.array([_INTEGER_UNITS.get(name, 1) for name in MEASURES], dtype=np.float64)


def natural(integers: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Integer sums, shape (..., N_MEASURES), in natural units: units, orders, currency.

    >>> natural([1_500, 1, 125_000, 0, 0, 3, 0, 0, 0, 500, 1]).tolist()
    [1.5, 1.0, 12.5, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    """
    return np.asarray(integers, dtype=np.float64) / SCALES
