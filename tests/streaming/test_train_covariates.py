"""`trendcast train --covariates`: what a model learns of what a shop knows ahead, and which covariates are refused."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from models import bench as benches
from models import calendar
from simulator.demand import ShopConfig, speaking
from simulator.dirt import Dirt
from simulator.shop import Shop
from streaming.cli import build
from streaming.commands.sources import SIMULATION_START_MS, AheadOptions, Sources, Step, features_of, panels_of
from streaming.errors import UserError
from streaming.settings import HOUR_MS

DAYS = 3
PRODUCTS = 25


def test_unknown_covariates_and_those_that_no_source_has_are_refused() -> None:
    with pytest.raises(UserError, match="no covariate 'prices'"):
        features_of(Step.HOUR, "orders", "prices")
    both = Sources([Path("log.parquet")], days=1)
    with pytest.raises(UserError, match="logs and exports do not hold price, context:rain; give --facts FILE and --context FILE"):
        both.check(("price", "holiday", "context:rain"))
    replace(both, ahead=AheadOptions(facts=(Path("facts.jsonl"),))).check(("price",))
    Sources(days=1).check(("price", "context:rain"))
    both.check(features_of(Step.HOUR, "orders", "holiday, weekend").covariates)
    with pytest.raises(UserError, match="a simulated shop says itself"):
        Sources(days=1, ahead=AheadOptions(context=(Path("context.jsonl"),))).check(())
    with pytest.raises(UserError, match="nothing to read"):
        Sources().check(())
    with pytest.raises(UserError, match="TRENDCAST_COUNTRY"):
        AheadOptions(country="XX").place("UTC")


def test_a_simulated_shop_brings_what_it_said_when_it_said_it() -> None:
    spec = features_of(Step.HOUR, "orders", "discount,context:weather,holiday")
    panels, _ = panels_of(Sources(days=DAYS, ahead=AheadOptions(country="US")), spec, PRODUCTS, 1, Console(file=StringIO()))
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


def test_a_bench_of_an_export_and_a_file_of_facts_knows_at_a_cut_off_what_had_been_said(tmp_path: Path) -> None:
    """One promotion is announced a day ahead, the other when it has begun."""
    hours = 10 * 24
    first_ms = SIMULATION_START_MS
    frame = pd.DataFrame({"product_id": np.repeat(["a", "b"], hours), "start_ms": np.tile(first_ms + np.arange(hours) * HOUR_MS, 2)})
    frame = frame.assign(end_ms=frame["start_ms"] + HOUR_MS, closed=True, units=2.0, orders=1.0)
    frame.to_parquet(tmp_path / "steps.parquet")
    cutoff = hours - 25
    begins_ms = first_ms + (cutoff + 6) * HOUR_MS
    sale = [{"start": begins_ms, "end": begins_ms + 5 * HOUR_MS, "discount": 0.5}]
    said = [
        {"at": first_ms, "product_id": "a", "unit_price": 4},
        {"at": begins_ms - 24 * HOUR_MS, "product_id": "a", "unit_price": 4, "promotions": sale},
        {"at": begins_ms + 1, "product_id": "b", "unit_price": 4, "promotions": sale},
    ]
    (tmp_path / "facts.jsonl").write_text("\n".join(json.dumps(line) for line in said))
    options = ["--export", "steps.parquet", "--facts", "facts.jsonl", "--covariates", "discount,weekend", "--streams", "orders"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(build(), ["bench", "made", *options, "--test", "1", "--cutoffs", "1"])
    assert done.exit_code == 0, done.output
    bench = benches.load(tmp_path / "made")
    assert bench.cutoffs == (cutoff,)
    ahead = bench.panel.ahead(np.arange(2), np.full(2, cutoff), 24)
    assert ahead is not None
    assert ahead[0, :, 0].tolist() == [0.0] * 5 + [0.5] * 5 + [0.0] * 14
    assert not ahead[1, :, 0].any()
    assert bench.panel.covariates is not None
    assert bench.panel.covariates[1, cutoff + 6 :, 0].tolist() == [0.0] + [0.5] * 4 + [0.0] * 14  # it came all the same
