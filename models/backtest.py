"""Rolling-origin backtest with the real product: trained up to the first cut-off, then streamed on with frozen weights and carried state."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from models import baselines, metrics
from models.artefact import Artefact
from models.dataset import Panel, UnusableData, panel
from models.features import FeatureSpec
from models.forecaster import Forecaster

Floats = npt.NDArray[np.floating]

_PANEL: Final = "panel.parquet"
_CUTOFFS: Final = "cutoffs.json"


@dataclass(frozen=True)
class Bench:
    """What is to be forecast: a panel beyond the last cut-off, its dates, and the columns of the cut-offs."""

    panel: Panel
    spec: FeatureSpec
    dates: Any  # pandas.DatetimeIndex, one a column
    cutoffs: tuple[int, ...]  # the last column known, rising
    horizon: int
    season: int


@dataclass(frozen=True)
class Scored:
    """Forecasts of one model for all cut-offs: shapes (cutoffs, products, horizon)."""

    mean: Floats
    quantiles: dict[float, Floats]  # by metrics.SCORED_LEVELS


def load(directory: Path) -> Bench:
    """A directory of `panel.parquet` (`unique_id, ds, y`, any `hist_…`) and `cutoffs.json`. Raises UnusableData."""
    try:
        frame = pd.read_parquet(directory / _PANEL)
        plan = json.loads((directory / _CUTOFFS).read_text(encoding="utf-8"))
        cutoffs = pd.to_datetime(plan["cutoffs"])
        horizon, season, freq = int(plan["horizon"]), int(plan["season"]), str(plan["freq"])
        ids, dates = frame["unique_id"].astype(str), pd.to_datetime(frame["ds"])
        every = pd.date_range(dates.min(), dates.max(), freq=freq)
    except FileNotFoundError as error:
        raise UnusableData(f"{error.filename} is missing; DIR must hold {_PANEL} and {_CUTOFFS}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableData(f"{directory} cannot be read as a bench ({error!r})") from error
    column = every.get_indexer(dates)
    at = every.get_indexer(cutoffs)
    if (column < 0).any() or (at < 0).any() or len(every) < 2:
        raise UnusableData(f"dates of {_PANEL} or {_CUTOFFS} are not on the grid of frequency {freq!r} that begins at {dates.min()}")
    streams = [name for name in frame.columns if name.startswith("hist_")]
    # Calendar units vary in length; the usual one decides which features suit.
    step_ms = int(np.median(np.diff(every.as_unit("ms").asi8)))
    spec = FeatureSpec.for_step(step_ms, streams)
    names, product = np.unique(ids.to_numpy(str), return_inverse=True)
    first = int(every[0].as_unit("ms").value) // step_ms
    values = frame[["y", *streams]].fillna(0).to_numpy(np.float64)
    whole = panel(names.tolist(), product, column.astype(np.int64) + first, values, first + len(every), spec.timezone)
    return Bench(whole, spec, every, tuple(sorted(int(cutoff) for cutoff in at)), horizon, season)


def of_panel(source: Panel, spec: FeatureSpec, horizon: int, known: int, cutoffs: int = 4) -> Bench:
    """A bench of the columns of a panel after the first `known`: as many cut-offs, evenly spread, as far as the horizon lets them."""
    last = source.columns - horizon - 1
    if last < known - 1:
        raise UnusableData(f"{source.columns - known} steps are too few to test a horizon of {horizon} on")
    at = np.unique(np.linspace(known - 1, last, cutoffs).round().astype(int))
    spec = replace(spec, timezone=source.timezone)
    season = max((period for period in spec.periods if period <= 24), default=1)
    start = pd.Timestamp(source.first_step * spec.step_ms, unit="ms")
    dates = pd.date_range(start, periods=source.columns, freq=pd.Timedelta(spec.step_ms, unit="ms"))
    return Bench(source, spec, dates, tuple(at.tolist()), horizon, season)


def stream(bench: Bench, artefact: Artefact, progress: Callable[[int, int], None] = lambda done, of: None) -> Scored:
    """Forecasts of the model as it serves: every product advanced step by step, read out at each cut-off."""
    forecaster = Forecaster(artefact, bench.spec.timezone)
    n, horizon = len(bench.panel.product_ids), bench.horizon
    if horizon > forecaster.horizon:
        raise UnusableData(f"the model reaches {forecaster.horizon} steps, the bench asks for {horizon}")
    scored = _nothing(bench)
    features, state = forecaster.fresh(n)
    wanted = [forecaster.levels.index(level) for level in metrics.SCORED_LEVELS]
    for column in range(bench.cutoffs[-1] + 1):
        alive = int(np.searchsorted(bench.panel.born, column, side="right"))
        step = np.full(alive, bench.panel.first_step + column, np.int64)
        demand = np.ascontiguousarray(bench.panel.demand[:alive, column])
        forecaster.advance(features[:alive], state[:alive], demand, step, in_place=True)
        if column in bench.cutoffs:
            k = bench.cutoffs.index(column)
            nothing = np.zeros_like(demand)
            out = forecaster.read_out(features[:alive], state[:alive], step, nothing, nothing[:, 0], np.empty(0, np.int64))
            scored.mean[k, :alive] = out.mean[:, :horizon]
            for level, index in zip(metrics.SCORED_LEVELS, wanted, strict=True):
                scored.quantiles[level][k, :alive] = out.quantiles[:, index, :horizon]
        progress(column + 1, bench.cutoffs[-1] + 1)
    return scored


def baseline(bench: Bench, forecast: Callable[[Floats], tuple[Floats, dict[float, Floats]]]) -> Scored:
    """Forecasts of `forecast(history)` at every cut-off; history is (products, steps), NaN before a product is born."""
    scored = _nothing(bench)
    columns = np.arange(bench.panel.columns)
    demand = np.where(columns >= bench.panel.born[:, None], bench.panel.demand[..., 0], np.nan)
    for k, cutoff in enumerate(bench.cutoffs):
        alive = int(np.searchsorted(bench.panel.born, cutoff, side="right"))
        scored.mean[k, :alive], quantiles = forecast(demand[:alive, : cutoff + 1])
        for level, values in quantiles.items():
            scored.quantiles[level][k, :alive] = values
    return scored


def baseline_table(bench: Bench) -> dict[str, dict[str, float]]:
    """Rows of the models that are to be beaten."""
    step_ms, horizon = bench.spec.step_ms, bench.horizon
    return {
        "28-day mean": score(bench, baseline(bench, lambda history: baselines.window_mean(history, horizon, step_ms))),
        "seasonal naive": score(bench, baseline(bench, lambda history: baselines.seasonal_naive(history, horizon, bench.season))),
    }


def score(bench: Bench, scored: Scored) -> dict[str, float]:
    """`metrics.table_row` over all products born by the cut-off."""
    truth, naive, alive = [], [], []
    for cutoff in bench.cutoffs:
        if cutoff + bench.horizon >= bench.panel.columns:
            raise UnusableData("the panel ends before the last cut-off's horizon: nothing to score against")
        truth.append(bench.panel.demand[:, cutoff + 1 : cutoff + 1 + bench.horizon, 0])
        alive.append(bench.panel.born <= cutoff)
        naive.append(_squared_change(bench, cutoff))
    known = np.stack(alive)
    quantiles = {level: values[known] for level, values in scored.quantiles.items()}
    return metrics.table_row(np.stack(truth)[known].astype(np.float64), scored.mean[known], quantiles, np.stack(naive)[known])


def _squared_change(bench: Bench, cutoff: int) -> Floats:
    """Mean squared step-to-step change since each product's first sale, (products,); 0 where there is none."""
    history = bench.panel.demand[:, : cutoff + 1, 0].astype(np.float64)
    started = np.maximum.accumulate(history > 0, axis=1)[:, :-1]
    squared = np.diff(history, axis=1) ** 2 * started
    return np.asarray(squared.sum(axis=1) / np.maximum(started.sum(axis=1), 1))


def external(bench: Bench, scored: Scored) -> Any:
    """A pandas frame (`unique_id, cutoff, ds, mean, q10, q50, q90`) of the forecasts, for other benches' tables."""
    k, n, horizon = scored.mean.shape
    dates = [_dates_after(bench, cutoff) for cutoff in bench.cutoffs]
    return pd.DataFrame(
        {
            "unique_id": np.tile(np.repeat(bench.panel.product_ids, horizon), k),
            "cutoff": np.repeat(bench.dates[list(bench.cutoffs)], n * horizon),
            "ds": np.concatenate([np.tile(after, n) for after in dates]),
            "mean": scored.mean.ravel(),
            **{f"q{round(level * 100)}": values.ravel() for level, values in scored.quantiles.items()},
        }
    ).dropna()


def _dates_after(bench: Bench, cutoff: int) -> Any:
    whole = pd.date_range(bench.dates[0], periods=cutoff + 1 + bench.horizon, freq=bench.dates.freq)
    return whole[cutoff + 1 :]


def _nothing(bench: Bench) -> Scored:
    shape = (len(bench.cutoffs), len(bench.panel.product_ids), bench.horizon)
    return Scored(np.full(shape, np.nan), {level: np.full(shape, np.nan) for level in metrics.SCORED_LEVELS})
