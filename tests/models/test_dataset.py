"""Panels from exports and tiles, and what is common to all products."""

import numpy as np
import pandas as pd
import pytest

from feature_store.measures import MEASURES, SCALES
from models import dataset
from models.dataset import Cells, Panel, UnusableData
from models.features import FeatureSpec
from models.seasons import DAY_MS, HOUR_MS

HOURLY = FeatureSpec.for_step(HOUR_MS, ("orders", "views"))
DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))


def export(rows: list[tuple[str, int, float]], step_ms: int = HOUR_MS, closed: bool = True) -> pd.DataFrame:
    """As `trendcast export features` writes it: (product, step, units)."""
    frame = pd.DataFrame(rows, columns=["product_id", "step", "units"])
    frame["start_ms"], frame["end_ms"] = frame["step"] * step_ms, (frame["step"] + 1) * step_ms
    frame["closed"] = closed
    for name in MEASURES[1:]:
        frame[name] = 1.0
    return frame


def test_an_export_becomes_a_panel_with_silent_steps_as_zeros() -> None:
    panel = dataset.from_export(export([("b", 10, 2.5), ("a", 12, 1.0), ("b", 13, 4.0)]), HOURLY, "UTC")
    assert panel.product_ids == ("b", "a")
    assert (panel.first_step, panel.born.tolist()) == (10, [0, 2])
    assert panel.demand[:, :, 0].tolist() == [[2.5, 0, 0, 4.0], [0, 0, 1.0, 0]]
    assert panel.demand[0, :, 1].tolist() == [1, 0, 0, 1]


def test_open_steps_are_left_out_and_repeated_ones_count_once() -> None:
    parts = [export([("a", 10, 1.0), ("a", 11, 2.0)]), export([("a", 11, 2.0)]), export([("a", 12, 9.0)], closed=False)]
    panel = dataset.from_export(pd.concat(parts), HOURLY, "UTC")
    assert panel.demand[0, :, 0].tolist() == [1, 2]


def test_hours_add_up_to_days() -> None:
    panel = dataset.from_export(export([("a", 24 + hour, 1.0) for hour in range(48)]), DAILY, "UTC")
    assert panel.demand[0, :, 0].tolist() == [24, 24]


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (export([("a", 1, 1.0)]).drop(columns="views"), "lacks the columns"),
        (export([("a", 1, 1.0)], step_ms=7 * DAY_MS), "do not fill"),
        (export([("a", 1, 1.0)], closed=False), "no closed step"),
    ],
)
def test_an_unusable_export_says_why(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(UnusableData, match=says):
        dataset.from_export(frame, HOURLY, "UTC")


def test_cells_of_many_batches_add_up_in_natural_units() -> None:
    def part(ids: list[str], product: list[int], step: list[int]) -> Cells:
        return Cells(ids, np.array(product), np.array(step), np.tile(SCALES * 2, (len(step), 1)))

    parts = [part(["x", "y"], [0, 1], [5, 6]), part(["y"], [0], [6]), part(["z"], [0], [9])]
    panel = dataset.from_cells(parts, HOURLY, "UTC", end=8)
    assert panel.product_ids == ("x", "y")
    assert panel.demand[1].tolist() == [[0, 0, 0], [4, 4, 4], [0, 0, 0]]


def test_parts_tell_how_a_steps_demand_came() -> None:
    """Half hours 10 .. 15 are the hours 5 .. 7: x sells at 10, 11 and 15, y at 13 only, z later than the panel."""
    measures = np.array([[2.0], [3.0], [4.0], [5.0], [6.0]]) * SCALES
    pieces = [
        Cells(["x", "y"], np.array([0, 1, 0]), np.array([10, 13, 11]), measures[:3]),
        Cells(["z", "x"], np.array([0, 1]), np.array([19, 15]), measures[3:]),
    ]
    panel = dataset.from_cells(pieces, HOURLY, "UTC", end=8, per_step=2)
    assert panel.demand[..., 0].tolist() == [[6, 0, 6], [0, 3, 0]]
    assert panel.parts is not None
    both = np.array([0, 1])
    assert [panel.parts.come(both, step).tolist() for step in (5, 6, 7)] == [[[2, 6], [0, 0]], [[0, 0], [0, 3]], [[0, 6], [0, 0]]]
    alone = panel.only([1]).parts
    assert alone is not None
    assert alone.come(np.array([0]), 6).tolist() == [[0, 3]]
    early = panel.until(1).parts
    assert early is not None
    assert (early.product.tolist(), early.part.tolist(), early.units.tolist()) == ([0, 0], [10, 11], [2, 4])


def test_an_export_of_hours_tells_a_days_hours() -> None:
    panel = dataset.from_export(export([("a", 24 + hour, float(hour)) for hour in range(24)]), DAILY, "UTC")
    assert panel.parts is not None
    assert panel.parts.come(np.array([0]), 1)[0].tolist() == np.cumsum(range(24)).tolist()
    assert dataset.from_export(export([("a", 1, 1.0)]), HOURLY, "UTC").parts is None


def test_a_limit_keeps_those_with_most_demand() -> None:
    rows = [(f"p{i}", 1, float(i)) for i in range(1, 6)]
    assert dataset.from_export(export(rows), HOURLY, "UTC", limit=2).product_ids == ("p4", "p5")


def test_until_knows_nothing_of_later_products() -> None:
    panel = dataset.from_export(export([("a", 1, 1.0), ("b", 4, 1.0), ("a", 5, 1.0)]), HOURLY, "UTC").until(3)
    assert (panel.product_ids, panel.columns) == (("a",), 3)


def test_the_fingerprint_follows_every_value() -> None:
    panel = dataset.from_export(export([("a", 1, 1.0), ("b", 4, 1.0)]), HOURLY, "UTC")
    demand = panel.demand.copy()
    demand[0, 1, 0] = 1e-3
    other = Panel(panel.product_ids, panel.first_step, panel.born, demand, panel.timezone)
    assert panel.fingerprint != other.fingerprint
    assert panel.fingerprint == panel.only([0, 1]).fingerprint


def test_the_shops_profile_finds_the_season_under_growth() -> None:
    week = np.array([1, 2, 3, 4, 3, 2, 1]) / 16 * 7
    first = 14_914 - (14_914 + 3) % 7  # a Monday
    demand = (np.tile(week, 30) * np.linspace(1, 20, 210))[None, :, None].astype(np.float32)
    found = dataset.shop_profiles(Panel(("a",), first, np.array([0]), np.repeat(demand, 2, axis=2), "UTC"), DAILY)[0]
    assert np.allclose(found, week, rtol=0.05)
