"""The backtest streams like the product, sees no future, and writes what other benches read."""

import datetime
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from models import backtest
from models import bench as benches
from models.batches import Recipe
from models.bench import BacktestForecasts, no_progress
from models.contenders import BASELINES
from models.dataset import UnusableData
from models.train import train
from streaming.cli import build
from tests.models.benches import LEVELS, promoted_bench, untrained, write_bench


@pytest.mark.parametrize(
    ("freq", "season", "periods"), [("D", 7, (7,)), ("h", 24, (24, 168)), ("30min", 48, (48, 336)), ("W-SUN", 1, ()), ("MS", 1, ())]
)
def test_any_frequency(tmp_path: Path, freq: str, season: int, periods: tuple[int, ...]) -> None:
    bench = benches.load(write_bench(tmp_path / "bench", freq, season))
    assert bench.spec.periods == periods
    start = pd.Timestamp(bench.panel.first_step * bench.spec.step_ms, unit="ms")
    assert start <= bench.dates[0] < start + pd.Timedelta(bench.spec.step_ms, unit="ms")
    scored = backtest.stream(bench, untrained(bench.spec))
    frame = benches.external(bench, scored)
    assert np.isfinite(list(benches.score(bench, scored).values())).all()
    truth = pd.read_parquet(tmp_path / "bench" / "panel.parquet")
    assert len(frame.merge(truth, on=["unique_id", "ds"])) == len(frame) == 3 * 8 * 14


def test_a_bench_knows_what_day_it_is(tmp_path: Path) -> None:
    """In steps since 1970, or hours, weekdays and holidays would be those of another time."""
    assert benches.load(write_bench(tmp_path / "days")).panel.first_step == (datetime.date(2010, 1, 4) - datetime.date(1970, 1, 1)).days
    assert benches.load(write_bench(tmp_path / "hours", "h", 24)).panel.first_step == 14_613 * 24


def test_forecasts_do_not_see_the_future(tmp_path: Path) -> None:
    bench = benches.load(write_bench(tmp_path / "bench"))
    model = untrained(bench.spec)
    before = backtest.stream(bench, model)
    changed = bench.panel.demand.copy()
    changed[:, bench.cutoffs[1] + 1 :] *= 50
    after = backtest.stream(replace(bench, panel=replace(bench.panel, demand=changed)), model)
    assert np.array_equal(before.mean[:2], after.mean[:2])
    assert not np.array_equal(before.mean[2], after.mean[2])


def test_a_promotion_known_ahead_is_forecast(tmp_path: Path) -> None:
    errors = []
    for known_ahead in (True, False):
        bench = promoted_bench(tmp_path / str(known_ahead), known_ahead=known_ahead)
        recipe = replace(Recipe.for_spec(bench.spec, iterations=150, seed=1), segment=70, batch=16, forks=12)
        artefact = train([bench.panel.until(bench.cutoffs[0] + 1)], bench.spec, recipe, name="test", horizon=bench.horizon)
        errors.append(benches.score(bench, backtest.stream(bench, artefact))["MWQL"])
    assert errors[0] < 0.9 * errors[1]


def test_scores_are_those_of_the_forecasts(tmp_path: Path) -> None:
    bench = benches.load(write_bench(tmp_path / "bench"))
    perfect = np.stack([bench.panel.demand[:, c + 1 : c + 15, 0] for c in bench.cutoffs]).astype(np.float64)
    row = benches.score(bench, BacktestForecasts(perfect, dict.fromkeys(LEVELS, perfect)))
    assert row["MWQL"] == row["RMSSE"] == 0
    for contender in BASELINES.values():
        assert 0 < benches.score(bench, contender(bench, no_progress))["MWQL"] < 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cutoffs": ["1999-01-01"]}, "not on the grid"),
        ({"cutoffs": "soon"}, "cannot be read"),
        ({"freq": "sometimes"}, "cannot be read"),
    ],
)
def test_an_unusable_bench_says_why(tmp_path: Path, change: dict[str, object], says: str) -> None:
    bench = write_bench(tmp_path / "bench")
    plan = json.loads((bench / "cutoffs.json").read_text())
    (bench / "cutoffs.json").write_text(json.dumps(plan | change))
    with pytest.raises(UnusableData, match=says):
        benches.load(bench)


def test_the_command_writes_what_benches_read(tmp_path: Path) -> None:
    bench = write_bench(tmp_path / "bench")
    out = tmp_path / "out" / "forecasts.parquet"
    page = tmp_path / "out" / "report.html"
    options = ["--out", str(out), "--iterations", "3", "--report", str(page), "--contenders", "ridge, seasonal naive"]
    done = CliRunner().invoke(build(), ["backtest", str(bench), *options], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["unique_id", "cutoff", "ds", "mean", "q10", "q25", "q50", "q75", "q90"]
    assert (frame["q10"] <= frame["q50"]).all()
    assert (frame["q50"] <= frame["q90"]).all()
    printed = [line.split("│")[1].strip() for line in done.output.splitlines() if line.startswith("│")]
    assert set(printed) == {"lstm", "ridge", "seasonal naive"}
    assert "What the forecasts live on" in page.read_text(encoding="utf-8")


def test_a_bench_comes_back_as_it_was_written(tmp_path: Path) -> None:
    there = benches.load(write_bench(tmp_path / "bench"))
    there = replace(there, spec=replace(there.spec, timezone="Asia/Tokyo"))
    benches.write(there, tmp_path / "again")
    back = benches.load(tmp_path / "again")
    assert (back.spec, back.cutoffs, back.horizon, back.season) == (there.spec, there.cutoffs, there.horizon, there.season)
    assert np.array_equal(back.panel.demand, there.panel.demand)
    assert back.panel.product_ids == there.panel.product_ids


def test_the_bench_command_writes_what_backtests_read(tmp_path: Path) -> None:
    options = ["--simulate", "40", "--products", "6", "--step", "day", "--cutoffs", "3"]
    done = CliRunner().invoke(build(), ["bench", str(tmp_path / "bench"), *options])
    assert done.exit_code == 0, done.output
    bench = benches.load(tmp_path / "bench")
    assert (bench.panel.columns, bench.cutoffs, bench.horizon) == (40, (11, 18, 25), 14)
    assert bench.spec.streams == ("hist_orders", "hist_views", "hist_carts")
    none = CliRunner().invoke(build(), ["bench", str(tmp_path / "bench"), "--simulate", "10", "--products", "6", "--step", "day"])
    assert none.exit_code == 1
    assert "too few" in str(none.exception)


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["backtest", str(tmp_path / "nothing"), "--out", str(tmp_path / "x.parquet")])
    assert done.exit_code == 1
    assert "missing" in str(done.exception)
