"""When alerts fire and end: what the shop may choose."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """Times are tiles; the defaults are for tiles of 5 minutes and are measured in `docs/alerts.md`. ValueError for values that make no sense.

    >>> AlertPolicy(spike_factor=0.5)
    Traceback (most recent call last):
        ...
    ValueError: spike_factor must lie between 1.1 and 100, not 0.5
    """

    false_alerts: float = 0.0008  # expected false alerts per product, day and kind, were the forecast right
    spike_factor: float = 3.0  # the rise, in times the expectation, that is found fastest; see `models.alert_evidence.reference`
    drop_factor: float = 0.25  # the same for the fall; its reference (0.54) is then as far from 1 as the spike's (1.82), in logarithms
    doubt: float = 1.5  # standard errors of the expectation by which it is moved towards no alert
    warm_up_tiles: int = 288  # a product is not judged before it was seen for a day
    drop_history: float = 20.0  # orders of the last weeks without which no drop is judged
    min_units: float = 5.0  # units in the window, observed of a spike, expected of a drop, without which nothing fires
    floor_orders: float = 0.004  # expected orders per tile that a spike is held against at least: a forecast of nothing is not that certain
    memory_tiles: int = 2016  # half-life of what is learned per product: a week
    max_share: float = 0.6  # of the level that one tile may add: two tiles must agree
    resolve_tiles: int = 3  # an alert needs at least so many tiles to end
    silence_tiles: int = 12  # without an order for so long, and for as long as it had lasted, an open spike ends
    fade_tiles: int = 576  # without fresh evidence an open alert ends after so long: the new level is the normal one by then
    update_tiles: int = 12  # a firing alert is re-sent so often
    critical_factor: float = 5.0  # severity: so many times the expectation, or less than this part of it

    def __post_init__(self) -> None:
        for name, low, high in (
            ("false_alerts", 1e-9, 1.0),
            ("spike_factor", 1.1, 100.0),
            ("drop_factor", 0.01, 0.9),
            ("doubt", 0.0, 10.0),
            ("warm_up_tiles", 0, 1e6),
            ("drop_history", 0.0, 1e9),
            ("min_units", 0.0, 1e9),
            ("floor_orders", 1e-6, 1e6),
            ("memory_tiles", 1, 1e9),
            ("max_share", 0.01, 1.0),
            ("resolve_tiles", 1, 1e6),
            ("silence_tiles", 1, 1e6),
            ("fade_tiles", 1, 1e6),
            ("update_tiles", 1, 1e6),
            ("critical_factor", 1.0, 1e6),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {value:g}")

    @property
    def keep(self) -> float:
        """Part of what is learned that is left after one more tile."""
        return float(0.5 ** (1 / self.memory_tiles))
