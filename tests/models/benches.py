"""Small benches for tests."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.artefact import Artefact
from models.bench import Bench, load
from models.dataset import Panel
from models.features import FeatureSpec
from models.nowcast import NowcastRule
from models.seasons import DAY_MS
from models.weights import Sizes, initial

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
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, len(LEVELS), covariates=len(spec.covariates))
    profiles = tuple(np.ones(period, np.float32) for period in spec.periods)
    weights = initial(sizes, np.random.default_rng(1))
    return Artefact("test", spec, 14, 28, LEVELS, 64, 96, NowcastRule(), (0.5, 2.0), True, profiles, weights)


def promoted_bench(directory: Path, *, known_ahead: bool) -> Bench:
    """Forty products that sell four times as much while they are promoted, on days at random."""
    rng = np.random.default_rng(7)
    dates = pd.date_range("2010-01-04", periods=160, freq="D")
    parts = []
    for i in range(40):
        promotion = rng.random(len(dates)) < 0.15
        units = rng.poisson((2 + i / 4) * np.where(promotion, 4.0, 1.0)).astype(float)
        known = {"futr_promotion": promotion.astype(float)} if known_ahead else {}
        parts.append(pd.DataFrame({"unique_id": f"p{i}", "ds": dates, "y": units, **known}))
    directory.mkdir()
    pd.concat(parts).to_parquet(directory / "panel.parquet")
    plan = {"cutoffs": [str(dates[-1 - 14 - back]) for back in (14, 0)], "horizon": 14, "freq": "D", "season": 7}
    (directory / "cutoffs.json").write_text(json.dumps(plan))
    return load(directory)


def daily_bench(history: npt.ArrayLike, horizon: int, season: int = 7, cutoffs: tuple[int, ...] | None = None) -> Bench:
    """A bench of daily demand, (products, steps), NaN before a product is born; without `cutoffs`, one at the end of the history."""
    demand = np.asarray(history, np.float32)
    steps = demand.shape[1]
    cutoffs = cutoffs or (steps - 1,)
    born = np.isfinite(demand).argmax(axis=1)
    order = np.argsort(born, kind="stable")
    streams = np.stack([demand, np.minimum(demand, 3)], axis=-1)[order]
    panel = Panel(tuple(f"p{i}" for i in order), 14_610, born[order], np.nan_to_num(streams), "UTC")
    dates = pd.date_range("2010-01-01", periods=steps, freq="D")
    return Bench(panel, FeatureSpec.for_step(DAY_MS, ("hist_orders",)), dates, cutoffs, horizon, season)


def seasonal_shop(step_ms: int = DAY_MS, season: int = 7, steps: int = 120, horizon: int = 14) -> Bench:
    """Twelve products that sell five times as much at one phase of the season, and three cut-offs half a horizon apart.

    Product 9 is born in the middle, 10 at the second cut-off's own step (age 1), 11 after that cut-off. Product 8 never sells.
    """
    rng = np.random.default_rng(3)
    last = steps - horizon - 1
    cutoffs = (last - horizon // 2 * 2, last - horizon // 2, last)
    phase = np.arange(steps) % season == 0
    demand = rng.poisson(np.geomspace(0.5, 12, 12)[:, None] * (1 + 4 * phase)).astype(np.float32)
    demand[8] = 0
    for product, born in ((9, steps // 2), (10, cutoffs[1]), (11, cutoffs[1] + 2)):
        demand[product, :born] = np.nan
    streams = np.nan_to_num(np.stack([demand, np.minimum(demand, 3)], axis=-1))
    born = np.isfinite(demand).argmax(axis=1)
    panel = Panel(tuple(f"p{i}" for i in range(12)), 14_610 * DAY_MS // step_ms, born, streams, "UTC")
    dates = pd.date_range("2010-01-01", periods=steps, freq=pd.Timedelta(step_ms, unit="ms"))
    return Bench(panel, FeatureSpec.for_step(step_ms, ("hist_orders",)), dates, cutoffs, horizon, season)


def with_another_future(bench: Bench, column: int) -> Bench:
    """The bench with all demand after a column multiplied and shuffled."""
    demand = bench.panel.demand.copy()
    demand[:, column + 1 :] = demand[:, :column:-1] * 50 + 7
    born = np.arange(demand.shape[1]) < bench.panel.born[:, None]
    demand[born] = 0
    return replace(bench, panel=replace(bench.panel, demand=demand))
