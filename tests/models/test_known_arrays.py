"""What was known ahead comes back from a file as it was: in panels, and in benches, where nobody may see what was said after a cut-off."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_store.facts import Entry, Facts, Version, context_field, encode, put
from models import bench as benches
from models import panels
from models.backtest import stream, unfit
from models.bench import no_progress
from models.calendar import Event
from models.contenders import BASELINES
from models.contenders.table import Known
from models.dataset import Panel, UnusableData, with_known
from models.features import FeatureSpec
from models.known_arrays import from_arrays, to_arrays
from models.known_future import KnownFuture, Place
from models.seasons import HOUR_MS
from tests.models.benches import untrained

NAMES = ("price", "discount", "event", "context:rain")
FIRST, COLUMNS, CUTOFF = 400_000, 240, 180
NAMED = ("zebra", "apple", "mango")  # in order of birth
PLACE = Place("Europe/London", "GB", None, (Event("sale", ("11-11",), days=2),))


def known() -> KnownFuture:
    """At the cut-off a promotion in its horizon has been announced of the first product; of the second only three steps later."""
    begins, ends = ((FIRST + CUTOFF + at) * 3600 for at in (6, 12))
    facts: Facts | None = None
    for at, price in ((3, 100), (90, 120)):
        facts = put(facts, Version(FIRST + at, price, category="fruit"))
    told = put(facts, Version(FIRST + CUTOFF - 5, 120, promotions=(begins, ends, 5_000), stock=1))
    late = put(facts, Version(FIRST + CUTOFF + 4, 120, promotions=(begins, ends, 5_000)))
    empty = put(put(facts, Version(FIRST + 50, 120, stock=0)), Version(FIRST + 56, 120, stock=1))
    rain = encode(
        [
            Entry(FIRST, FIRST * 3600, (FIRST + 300) * 3600, 2.0, 1),
            Entry(FIRST + CUTOFF + 9, (FIRST + 190) * 3600, (FIRST + 195) * 3600, 9.0, 1),
        ]
    )
    return KnownFuture.of(
        NAMES, HOUR_MS, PLACE, [encode(told), encode(late), encode(empty)], [((context_field("rain", "").encode(), rain),)]
    )


@pytest.fixture
def panel() -> Panel:
    demand = np.random.default_rng(3).poisson(2.0, (3, COLUMNS, 2)).astype(np.float32)
    demand[1, :20] = demand[2, :30] = 0
    demand[2, 50:56] = 0
    return with_known(Panel(NAMED, FIRST, np.array([0, 20, 30]), demand, "Europe/London"), known())


def test_arrays_hold_all_of_it() -> None:
    again = from_arrays(to_arrays(known()))
    assert again.fingerprint == known().fingerprint
    assert (again.place, again.names, again.facts.category) == (PLACE, NAMES, known().facts.category)
    rows, step = np.arange(3), np.full(3, FIRST + CUTOFF)
    np.testing.assert_array_equal(again.ahead(rows, step, 24), known().ahead(rows, step, 24))
    np.testing.assert_array_equal(again.lead_steps(rows), known().lead_steps(rows))
    with pytest.raises(ValueError, match="truncated"):
        from_arrays({**to_arrays(known()), "rest": np.zeros(0, np.uint8)})


def test_a_panel_comes_back_with_what_was_known(panel: Panel, tmp_path: Path) -> None:
    panels.save(panel, tmp_path / "panel.npz")
    again = panels.load(tmp_path / "panel.npz")
    assert again.fingerprint == panel.fingerprint
    assert again.known is not None
    assert again.known.fingerprint == known().fingerprint


def test_a_bench_tells_what_was_known_at_its_cut_offs_and_no_more(panel: Panel, tmp_path: Path) -> None:
    spec = FeatureSpec.for_step(HOUR_MS, ("orders",), covariates=NAMES)
    made = benches.of_panel(panel, spec, 24, CUTOFF + 1)
    benches.write(made, tmp_path)
    frame = pd.read_parquet(tmp_path / "panel.parquet")
    assert {"futr_price", "futr_discount", "futr_event", "futr_context:rain", "gap"} <= set(frame.columns)
    assert frame["gap"].sum() == 5  # the sixth ended with stock
    again = benches.load(tmp_path)
    assert again.panel.product_ids == panel.product_ids
    np.testing.assert_array_equal(again.panel.demand, panel.demand)
    assert again.panel.covariates is not None
    assert panel.covariates is not None
    lived = np.arange(COLUMNS) >= panel.born[:, None]
    np.testing.assert_array_equal(again.panel.covariates[lived], panel.covariates[lived])
    at = again.panel.ahead(np.arange(3), np.full(3, CUTOFF), 24)
    expected = panel.ahead(np.arange(3), np.full(3, CUTOFF), 24)
    assert at is not None
    assert expected is not None
    np.testing.assert_array_equal(at, expected)
    assert at[0, 5:11, 1].tolist() == [0.5] * 6
    assert not at[1, :, 1].any()  # announced after the cut-off, though the column says that it came
    assert again.panel.covariates[1, CUTOFF + 6 : CUTOFF + 12, 1].tolist() == [0.5] * 6
    assert at[0, :, 3].tolist() == [2.0] * 24
    np.testing.assert_array_equal(Known.at(again, CUTOFF).covariates[:, 1:], at)  # other models see no more


def test_a_model_that_knows_the_same_ahead_is_measured_on_the_bench(panel: Panel, tmp_path: Path) -> None:
    spec = FeatureSpec.for_step(HOUR_MS, ("orders",), "Europe/London", NAMES)
    model = replace(untrained(spec), horizon=24)
    benches.write(benches.of_panel(panel, spec, 24, CUTOFF + 1), tmp_path)
    bench = benches.load(tmp_path)
    assert unfit(bench, model) is None
    assert "discount, price ahead, the bench price, discount" in (
        unfit(bench, replace(model, spec=replace(spec, covariates=NAMES[::-1]))) or ""
    )
    answers = {"model": stream(bench, model), **{name: contender(bench, no_progress) for name, contender in BASELINES.items()}}
    for answer in answers.values():
        assert np.isfinite(benches.score(bench, answer)["MWQL"])


def test_a_gap_in_the_horizon_is_not_scored(panel: Panel) -> None:
    """Nobody knows what would have been sold: neither a miss nor a hit."""
    spec = FeatureSpec.for_step(HOUR_MS, ("orders",), covariates=NAMES)
    gap = panel.demand.copy()
    gap[0, CUTOFF + 3, 0] = np.nan
    bench = benches.of_panel(replace(panel, demand=gap), spec, 24, CUTOFF + 1, cutoffs=1)
    whole = benches.of_panel(panel.only([1, 2]), spec, 24, CUTOFF + 1, cutoffs=1)
    for contender in BASELINES.values():
        assert benches.score(bench, contender(bench, no_progress)) == benches.score(whole, contender(whole, no_progress))


def test_a_bench_whose_files_do_not_belong_together_is_refused(panel: Panel, tmp_path: Path) -> None:
    spec = FeatureSpec.for_step(HOUR_MS, ("orders",), covariates=NAMES)
    benches.write(benches.of_panel(panel, spec, 24, CUTOFF + 1), tmp_path)
    pd.read_parquet(tmp_path / "panel.parquet").drop(columns="futr_price").to_parquet(tmp_path / "panel.parquet")
    with pytest.raises(UnusableData, match=r"speaks of price, discount.* of futr_discount"):
        benches.load(tmp_path)
    (tmp_path / "known.npz").write_bytes(b"x")
    with pytest.raises(UnusableData, match="cannot be read"):
        benches.load(tmp_path)
