"""The backtest streams like the product, sees no future, and writes what other benches read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from models import backtest
from models import bench as benches
from models.artefact import Artefact
from models.bench import BacktestForecasts, no_progress
from models.contenders import BASELINES
from models.dataset import UnusableData
from models.features import FeatureSpec
from models.nowcast import NowcastRule
from models.weights import Sizes, initial
from streaming.cli import build

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def write_bench(directory: Path, freq: str = "D", season: int = 7, steps: int = 110) -> Path:
    """A bench of eight products with a week; the last two begin later."""
    rng = np.random.default_rng(5)
    dates = pd.date_range("2010-01-04", periods=steps, freq=freq)
    parts = []
    for i in range(8):
        begin = 0 if i < 6 else 20 * (i - 5)
        units = rng.poisson((1 + i) * (1 + (np.arange(steps) % season == 0) * 3))[begin:]
        parts.append(
            pd.DataFrame({"unique_id": f"p{i}", "ds": dates[begin:], "y": units.astype(float), "hist_orders": np.minimum(units, 3)})
        )
    directory.mkdir(exist_ok=True)
    pd.concat(parts).to_parquet(directory / "panel.parquet")
    cutoffs = [str(dates[-1 - 14 - back]) for back in (14, 7, 0)]
    plan = {"cutoffs": cutoffs, "horizon": 14, "freq": freq, "season": season, "ids": [f"p{i}" for i in range(8)]}
    (directory / "cutoffs.json").write_text(json.dumps(plan))
    return directory


def untrained(spec: FeatureSpec) -> Artefact:
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, len(LEVELS))
    profiles = tuple(np.ones(period, np.float32) for period in spec.periods)
    return Artefact(
        "test", spec, 14, 28, LEVELS, 64, 96, NowcastRule(), (0.5, 2.0), True, profiles, initial(sizes, np.random.default_rng(1))
    )


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


def test_forecasts_do_not_see_the_future(tmp_path: Path) -> None:
    bench = benches.load(write_bench(tmp_path / "bench"))
    model = untrained(bench.spec)
    before = backtest.stream(bench, model)
    changed = bench.panel.demand.copy()
    changed[:, bench.cutoffs[1] + 1 :] *= 50
    after = backtest.stream(replace(bench, panel=replace(bench.panel, demand=changed)), model)
    assert np.array_equal(before.mean[:2], after.mean[:2])
    assert not np.array_equal(before.mean[2], after.mean[2])


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


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["backtest", str(tmp_path / "nothing"), "--out", str(tmp_path / "x.parquet")])
    assert done.exit_code == 1
    assert "missing" in str(done.exception)
