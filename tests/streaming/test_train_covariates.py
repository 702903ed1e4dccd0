"""`trendcast train --covariates`: what a model learns of what a shop knows ahead, and which covariates are refused."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from models import calendar
from simulator.demand import ShopConfig, speaking
from simulator.dirt import Dirt
from simulator.shop import Shop
from streaming.commands.train import SIMULATION_START_MS, CalendarOptions, Step, panels_of, spec_of
from streaming.errors import UserError
from streaming.settings import HOUR_MS

DAYS = 3
PRODUCTS = 25


def test_unknown_covariates_and_those_that_no_source_has_are_refused() -> None:
    with pytest.raises(UserError, match="no covariate 'prices'"):
        spec_of(Step.HOUR, "orders", None, 1, None, "prices")
    with pytest.raises(UserError, match="logs and exports do not hold price"):
        spec_of(Step.HOUR, "orders", [Path("log.parquet")], 1, None, "price,holiday")
    assert spec_of(Step.HOUR, "orders", [Path("log.parquet")], 0, None, "holiday, weekend").covariates == ("holiday", "weekend")
    with pytest.raises(UserError, match="TRENDCAST_COUNTRY"):
        CalendarOptions(country="XX").place("UTC")


def test_a_simulated_shop_brings_what_it_said_when_it_said_it() -> None:
    spec = spec_of(Step.HOUR, "orders", None, DAYS, None, "discount,context:weather,holiday")
    panels, _ = panels_of([], DAYS, [], spec, PRODUCTS, 1, Console(file=StringIO()), CalendarOptions(country="US"))
    panel = panels["simulated"]
    assert panel.covariates is not None
    assert panel.covariates.shape == (len(panel.product_ids), panel.columns, 3)
    config = speaking(ShopConfig(products=PRODUCTS, lines_per_hour=float(PRODUCTS), opened_ms=SIMULATION_START_MS))
    demand = Shop(config, 1, dirt=Dirt.none()).demand
    steps = panel.first_step + np.arange(panel.columns)
    weather = np.array([demand.weather(int(hour)) for hour in steps])
    np.testing.assert_allclose(panel.covariates[0, 1:, 1], weather[1:], atol=1e-4)
    expected = calendar.columns(panel.first_step, panel.columns, step_ms=HOUR_MS, timezone="UTC", country="US")[:, 0]
    np.testing.assert_array_equal(panel.covariates[0, :, 2], expected)
    discount = np.zeros((len(panel.product_ids), panel.columns))
    for promotion in demand.promotions(SIMULATION_START_MS, SIMULATION_START_MS + DAYS * 24 * HOUR_MS):
        row = panel.product_ids.index(promotion.product_id)
        inside = (steps * HOUR_MS >= promotion.start_ms) & (steps * HOUR_MS < promotion.end_ms)
        discount[row, inside] = np.maximum(discount[row, inside], promotion.discount)
    np.testing.assert_allclose(panel.covariates[:, 1:, 0], discount[:, 1:], atol=1e-6)
    assert discount.any()
    ahead = panel.ahead(np.arange(len(panel.product_ids)), np.full(len(panel.product_ids), 20), 12)
    assert ahead is not None
    np.testing.assert_allclose(ahead[:, :, 0], discount[:, 21:33], atol=1e-6)  # all are announced half a day before they begin
