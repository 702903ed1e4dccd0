"""Boards against a slow reading of the same definition; what moves a product up and down."""

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.movers import CONFIDENT, PRIOR_UNITS, Board, Moved, Movers, variance_per_unit
from streaming.contracts import Forecast
from tests.gateway.messages import HOUR_MS, STEP_MS, forecast, of_category

NOW_MS = STEP_MS + HOUR_MS // 2


def slow_board(forecasts: list[Forecast], now_ms: int, limit: int) -> Board:
    """The oracle: one product at a time."""
    found = []
    for f in forecasts:
        assert f.running is not None
        if f.valid_until < now_ms:
            continue
        ahead = max((now_ms - f.first_step) // f.step_ms, 0)
        if ahead >= f.horizon:
            continue
        into = max(now_ms - f.first_step - ahead * f.step_ms, 0)
        sold, expected = 0.0, f.mean[ahead] * into / f.step_ms
        if not ahead:
            sold = f.running.observed
            if f.running.elapsed_ms:
                expected = f.running.expected_by_now.mean * max(into, f.running.elapsed_ms) / f.running.elapsed_ms
        deviation = math.sqrt(max(variance_per_unit(f) * expected, 0.25))
        confidence = 0.5 * (1 + math.erf(max(abs(sold - expected) - 0.5, 0) / deviation / math.sqrt(2)))
        change = (PRIOR_UNITS + sold) / (PRIOR_UNITS + expected) - 1
        if confidence >= CONFIDENT:
            found.append(Moved(f.product_id, round(change, 4), round(confidence, 4), round(sold, 3), round(expected, 3)))
    rising = sorted((one for one in found if one.change > 0), key=lambda one: -one.change)[:limit]
    falling = sorted((one for one in found if one.change < 0), key=lambda one: one.change)[:limit]
    return Board(rising, falling)


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 120), st.integers(0, 60), st.integers(-4, 0)),
        min_size=1,
        max_size=30,
        unique_by=lambda row: row[:2],
    )
)
def test_the_board_is_its_definition(rows: list[tuple[int, int, int, int]]) -> None:
    forecasts = [
        forecast(
            f"p{i}",
            mean=mean / 3,
            observed=float(sold),
            elapsed_ms=minutes * 60_000,
            step_ms=STEP_MS + back * HOUR_MS,
            valid_until=NOW_MS + back + 3,
        )
        for i, (mean, sold, minutes, back) in enumerate(rows)
    ]
    movers = Movers()
    for one in forecasts:
        movers.put(one, None)
    fast, slow = movers.products(NOW_MS, 10), slow_board(forecasts, NOW_MS, 10)
    for side in ("rising", "falling"):
        assert [one.change for one in getattr(fast, side)] == [one.change for one in getattr(slow, side)]
        assert set(getattr(fast, side)[:-1]) <= set(slow_board(forecasts, NOW_MS, 1_000)[side == "falling"])


def test_one_order_of_a_slow_product_does_not_lead() -> None:
    movers = Movers()
    movers.put(forecast("slow", mean=0.1, observed=1.0), None)
    movers.put(forecast("fast", mean=40.0, observed=60.0), None)
    assert [one.name for one in movers.products(NOW_MS, 5).rising] == ["fast", "slow"]


def test_a_product_that_stopped_selling_falls_without_a_message() -> None:
    movers = Movers()
    movers.put(forecast("silent", mean=40.0, observed=2.0, elapsed_ms=3 * 60_000), None)
    assert movers.products(STEP_MS + 3 * 60_000, 5) == Board([], [])
    (fallen,) = movers.products(NOW_MS, 5).falling
    assert (fallen.name, fallen.observed, fallen.expected) == ("silent", 2.0, 20.0)
    (later,) = movers.products(NOW_MS + HOUR_MS, 5).falling  # the next hour: nothing was sold in it
    assert (later.observed, later.expected) == (0.0, 20.0)


def test_what_is_stale_or_forgotten_moves_nobody() -> None:
    movers = Movers()
    movers.put(forecast("old", mean=40.0, observed=90.0, valid_until=NOW_MS - 1), None)
    movers.put(forecast("gone", mean=40.0, observed=90.0), None)
    movers.drop("gone")
    assert movers.products(NOW_MS, 5) == Board([], [])
    movers.put(forecast("new", mean=40.0, observed=90.0), None)  # takes the place that became free
    assert [one.name for one in movers.products(NOW_MS, 5).rising] == ["new"]


def test_a_category_is_its_products_sums_judged_by_its_own_spread() -> None:
    movers = Movers()
    for i in range(8):
        movers.put(forecast(f"g{i}", mean=10.0, observed=7.0), "garden")
        movers.put(forecast(f"t{i}", mean=10.0, observed=5.0), "toys")
    movers.put(forecast("other", mean=10.0, observed=90.0), "nobody's own forecast")
    assert movers.categories(NOW_MS, 5) == Board([], [])
    narrow = of_category("garden", mean=80.0, quantiles=[[76.0 + i] * 24 for i in range(7)])
    movers.put_category("garden", narrow)
    movers.put_category("toys", narrow)
    (rising,) = movers.categories(NOW_MS, 5).rising
    assert (rising.name, rising.observed, rising.expected, rising.change) == ("garden", 56.0, 40.0, round(61 / 45 - 1, 4))
    movers.put_category("garden", of_category("garden", mean=80.0))  # wide: this may be chance
    assert movers.categories(NOW_MS, 5).rising == []
    assert [one.name for one in movers.products(NOW_MS, 50, "nobody's own forecast").rising] == ["other"]


def test_the_next_steps_spread_counts_and_never_less_than_chance() -> None:
    assert variance_per_unit(forecast(mean=0.0)) == 1.0
    assert variance_per_unit(forecast(mean=0.2)) == 1.0
    assert variance_per_unit(forecast(mean=50.0)) == ((85.0 - 25.0) / 2.5631031310892007) ** 2 / 50.0
