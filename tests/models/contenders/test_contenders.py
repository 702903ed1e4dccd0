"""What every contender must come to, and the command that runs them."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.bench import BacktestForecasts, Bench, no_progress, score
from models.contenders import CONTENDERS, MEMBERS, arima, boosting, ensembles, libraries, recurrent, regression, simple
from models.dataset import UnusableData
from models.metrics import LEVELS
from models.seasons import DAY_MS, HOUR_MS
from streaming.cli import build
from streaming.errors import UserError
from tests.models.benches import daily_bench, promoted_bench, seasonal_shop, with_another_future

SMALL = recurrent.Recipe(window=14, units=12, dropout=0.0, batch=64, iterations=150, learning_rate=1e-2)
# The same, of a size for tests.
QUICK_MEMBERS = {
    "28-day mean": simple.window_mean,
    "ARIMA": ensembles.remembered(arima.arima),
    "ridge": ensembles.remembered(regression.ridge),
    "random forest": ensembles.remembered(regression.random_forest(12)),
    "LightGBM": ensembles.remembered(boosting.boosted_trees(40)),
}
TESTED = {
    **CONTENDERS,
    **QUICK_MEMBERS,
    **ensembles.ensembles(QUICK_MEMBERS),
    "window LSTM": recurrent.window_network("LSTM", SMALL),
    "window GRU": recurrent.window_network("GRU", SMALL),
}
# The GRU is the LSTM but for its layers; one of them is slow enough.
LEARNING = [name for name in TESTED if name not in {"28-day mean", "seasonal naive", "window GRU"}]
WITHOUT_SEASONS = {"28-day mean"}


def test_all_are_tested() -> None:
    assert TESTED.keys() == CONTENDERS.keys()
    assert QUICK_MEMBERS.keys() == MEMBERS.keys()


@cache
def shop() -> tuple[Bench, Bench]:
    """A bench, and the same with another future after the second of its three cut-offs."""
    bench = seasonal_shop()
    return bench, with_another_future(bench, bench.cutoffs[1])


@cache
def answers(name: str) -> tuple[BacktestForecasts, BacktestForecasts]:
    one, other = shop()
    return TESTED[name](one, no_progress), TESTED[name](other, no_progress)


def all_of(forecasts: BacktestForecasts) -> np.ndarray:
    """Mean and quantiles, (6, cutoffs, products, horizon)."""
    return np.stack([forecasts.mean, *(forecasts.quantiles[level] for level in LEVELS)])


@pytest.mark.parametrize("name", TESTED)
def test_what_comes_after_a_cutoff_changes_nothing_and_the_same_gives_the_same(name: str) -> None:
    before, after = answers(name)
    assert np.array_equal(all_of(before)[:, :2], all_of(after)[:, :2], equal_nan=True)
    assert not np.array_equal(all_of(before)[:, 2], all_of(after)[:, 2], equal_nan=True)


def check(bench: Bench, forecasts: BacktestForecasts) -> None:
    found = all_of(forecasts)
    born = np.stack([bench.panel.born <= cutoff for cutoff in bench.cutoffs])
    assert np.isfinite(found[:, born]).all()
    assert np.isnan(found[:, ~born]).all()
    assert (found[:, born] >= 0).all()
    assert (np.diff(found[1:, born], axis=0) >= 0).all()


@pytest.mark.parametrize("name", TESTED)
def test_forecasts_are_finite_ordered_and_only_for_products_that_exist(name: str) -> None:
    check(shop()[0], answers(name)[0])


@pytest.mark.parametrize("name", [name for name in TESTED if name not in WITHOUT_SEASONS])
def test_a_season_is_worth_more_than_the_mean_of_a_month(name: str) -> None:
    bench, _ = shop()
    own, flat = score(bench, answers(name)[0]), score(bench, answers("28-day mean")[0])
    assert own["RMSSE"] < 0.9 * flat["RMSSE"]
    assert own["MWQL"] < 0.95 * flat["MWQL"]


@pytest.mark.parametrize("name", ["ARIMA", "ridge", "LightGBM"])
@pytest.mark.parametrize(
    ("step_ms", "season", "horizon"), [(HOUR_MS // 2, 48, 10), (HOUR_MS, 24, 24), (7 * DAY_MS, 1, 6), (30 * DAY_MS, 12, 3)]
)
def test_any_step(name: str, step_ms: int, season: int, horizon: int) -> None:
    bench = seasonal_shop(step_ms, season, steps=100, horizon=horizon)
    check(bench, TESTED[name](bench, no_progress))


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("steps", [2, 12])
def test_hardly_any_history_is_enough(name: str, steps: int) -> None:
    demand = np.random.default_rng(1).poisson(2.0, (2, steps)).astype(float)
    bench = daily_bench(demand, 3)
    check(bench, TESTED[name](bench, no_progress))


@pytest.mark.parametrize("name", LEARNING)
def test_progress_rises_to_its_end(name: str) -> None:
    seen: list[float] = []
    bench = seasonal_shop(steps=60, horizon=4)
    TESTED[name](bench, lambda done, of: seen.append(done / of))
    assert seen == sorted(seen)
    assert seen[-1] == 1


def run(*options: str) -> UserError:
    done = CliRunner().invoke(build(), ["backtest", "nowhere", "--out", "nowhere.parquet", *options])
    assert isinstance(done.exception, UserError)
    return done.exception


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    assert "no contender prophet; choose all, baselines, none, or from 28-day mean, seasonal naive, ARIMA" in str(
        run("--contenders", "ridge,prophet")
    )


def missing(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == gone else find_spec(name))


def test_a_missing_library_is_named_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "lightgbm")
    assert "lightgbm is not installed; pip install 'trendcast[training]'" in str(run("--contenders", "stacking"))
    with pytest.raises(UnusableData, match="lightgbm is not installed"):
        CONTENDERS["LightGBM"](seasonal_shop(), no_progress)
    assert "lightgbm" not in str(run("--contenders", "ridge"))


@pytest.mark.parametrize("name", ["LightGBM", "ridge"])
def test_regressions_know_a_promotion_ahead(name: str, tmp_path: Path) -> None:
    errors = []
    for known_ahead in (True, False):
        bench = promoted_bench(tmp_path / str(known_ahead), known_ahead=known_ahead)
        errors.append(score(bench, QUICK_MEMBERS[name](bench, no_progress))["MWQL"])
    assert errors[0] < 0.9 * errors[1]
