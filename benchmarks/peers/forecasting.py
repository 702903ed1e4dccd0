"""Other libraries' models on a bench: each writes its forecasts as `trendcast backtest` does, and says in a line of JSON how long it trained.

    python -m benchmarks.peers.forecasting BENCH OUT [--models NHITS,TSB] [--seed 1] [--steps 800]

Neural ones (neuralforecast) are trained once, on what was known at the first cut-off, and read newer history afterwards; statistical ones (statsforecast),
which have nothing but their state, are fitted again at each cut-off. Point forecasts of the Croston family get quantiles of a negative binomial distribution
whose dispersion follows from the product's past.
"""

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
# A finer grid for the networks, of which the mean is made too.
TRAINED_LEVELS: Final = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)
SAME_PHASE: Final = 8  # same weekdays, or same hours of the week
STATISTICAL: Final = ("CrostonOptimized", "TSB", "IMAPA", "ADIDA", "AutoETS")
NEURAL: Final = ("LSTM", "NHITS")
MODELS: Final = (*NEURAL, *STATISTICAL, "same phase")


@dataclass(frozen=True, slots=True)
class Panel:
    """A bench as a long frame, one row a product and step from its first sale on."""

    rows: Any  # unique_id, ds, y, hist_…
    cutoffs: Any  # pandas.DatetimeIndex
    horizon: int
    season: int
    freq: str

    @classmethod
    def read(cls, directory: Path) -> "Panel":
        rows = pd.read_parquet(directory / "panel.parquet").sort_values(["unique_id", "ds"], ignore_index=True)
        plan = json.loads((directory / "cutoffs.json").read_text(encoding="utf-8"))
        return cls(rows, pd.to_datetime(plan["cutoffs"]), plan["horizon"], plan["season"], plan["freq"])

    def until(self, cutoff: Any, last: int | None = None) -> Any:
        """What is known at a cut-off: all of it, or the last steps of each product."""
        known = self.rows[self.rows["ds"] <= cutoff]
        return known if last is None else known.groupby("unique_id").tail(last)

    def ahead(self, cutoff: Any) -> Any:
        """The steps after a cut-off."""
        return pd.date_range(cutoff, periods=self.horizon + 1, freq=self.freq)[1:]


def answer(ids: Any, cutoff: Any, ahead: Any, mean: Any, quantiles: Any) -> Any:
    """Forecasts as rows: mean (n, horizon) and quantiles (n, horizon, levels), neither below 0."""
    n = len(ids)
    columns = {f"q{round(level * 100)}": np.maximum(quantiles[..., i], 0).ravel() for i, level in enumerate(LEVELS)}
    named = {"unique_id": np.repeat(np.asarray(ids), len(ahead)), "cutoff": cutoff, "ds": np.tile(ahead, n)}
    return pd.DataFrame({**named, "mean": np.maximum(mean, 0).ravel(), **columns})


def wide(frame: Any, column: str) -> Any:
    """A column by product and step, (n, horizon), products in order."""
    return frame.pivot_table(index="unique_id", columns="ds", values=column).to_numpy()


def negative_binomial(mean: Any, history: Any) -> Any:
    """Quantiles (n, horizon, levels) around a mean (n, horizon), by the overdispersion of each product's history."""
    from scipy.stats import nbinom

    past = history.groupby("unique_id")["y"].agg(["mean", "var"])
    usual = past["mean"].to_numpy() + 1e-6
    excess = np.maximum((past["var"].to_numpy() - usual) / usual**2, 1e-3)
    n = 1 / np.broadcast_to(excess[:, None], mean.shape)
    centre = np.maximum(mean, 1e-6)
    return np.stack([nbinom.ppf(level, n, n / (n + centre)) for level in LEVELS], axis=-1)


def statistical(panel: Panel, name: str) -> Iterator[Any]:
    """One of statsforecast's models, fitted at each cut-off."""
    from statsforecast import StatsForecast  # type: ignore[import-not-found]
    from statsforecast import models as library

    if name == "AutoETS" and panel.freq != "D":
        return  # a day's season and most steps without a sale: it takes hours, and has nothing to say
    model = {"TSB": lambda: library.TSB(0.1, 0.1), "AutoETS": lambda: library.AutoETS(panel.season)}.get(name, getattr(library, name))()
    levels = {"level": [50, 80]} if name == "AutoETS" else {}
    for cutoff in panel.cutoffs:
        known = panel.until(cutoff)
        found = StatsForecast([model], freq=panel.freq, n_jobs=1).forecast(df=known[["unique_id", "ds", "y"]], h=panel.horizon, **levels)
        mean = np.maximum(wide(found, name), 0)
        if levels:
            quantiles = np.stack([wide(found, f"{name}{part}") for part in ("-lo-80", "-lo-50", "", "-hi-50", "-hi-80")], axis=-1)
        else:
            quantiles = negative_binomial(mean, panel.until(cutoff, 16 * panel.season))
        yield answer(np.unique(found["unique_id"]), cutoff, panel.ahead(cutoff), mean, quantiles)


def same_phase(panel: Panel) -> Iterator[Any]:
    """Empirical distribution of the newest same weekdays, or same hours of the week."""
    cycle = 7 * panel.season if panel.freq == "h" else panel.season
    for cutoff in panel.cutoffs:
        known = panel.until(cutoff, cycle * (SAME_PHASE + 2)).pivot_table(index="unique_id", columns="ds", values="y")
        history = known.to_numpy()
        # The newest step of each target's phase that is known, and those a cycle apart before it.
        newest = np.array([step % cycle - cycle for step in range(panel.horizon)])
        past = np.stack([history[:, newest - back * cycle] for back in range(SAME_PHASE)], axis=-1)
        quantiles = np.moveaxis(np.nanquantile(past, LEVELS, axis=-1), 0, -1)
        yield answer(known.index, cutoff, panel.ahead(cutoff), np.nanmean(past, axis=-1), quantiles)


def with_calendar(frame: Any, freq: str) -> Any:
    """The frame with weekday and hour, or day of the month, between 0 and 1."""
    time_of = frame["ds"].dt
    other = time_of.hour / 23 if freq == "h" else time_of.day / 31
    return frame.assign(weekday=time_of.dayofweek / 6, other=other)


def neural(panel: Panel, name: str, seed: int, steps: int) -> Iterator[Any]:
    """One of neuralforecast's models with quantile loss."""
    import torch  # type: ignore[import-not-found]
    from neuralforecast import NeuralForecast  # type: ignore[import-not-found]
    from neuralforecast import models as library
    from neuralforecast.losses.pytorch import MQLoss  # type: ignore[import-not-found]

    torch.set_num_threads(os.cpu_count() or 1)
    window = 168 if panel.freq == "h" else 56
    shared = {
        "h": panel.horizon,
        "input_size": window,
        "loss": MQLoss(quantiles=list(TRAINED_LEVELS)),
        "max_steps": steps,
        "learning_rate": 1e-3,
        "random_seed": seed,
        "scaler_type": "standard",
        "batch_size": 32,
        "hist_exog_list": [column for column in panel.rows.columns if column.startswith("hist_")],
        "futr_exog_list": ["weekday", "other"],
        "start_padding_enabled": True,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    own: dict[str, Any]
    if name == "LSTM":
        own = {"encoder_hidden_size": 64, "encoder_n_layers": 1, "decoder_hidden_size": 64, "recurrent": False, "windows_batch_size": 256}
    else:
        own = {"mlp_units": 3 * [[256, 256]], "windows_batch_size": 512}
    forecaster = NeuralForecast([getattr(library, name)(**shared, **own)], freq=panel.freq)
    forecaster.fit(with_calendar(panel.until(panel.cutoffs[0]), panel.freq))
    for cutoff in panel.cutoffs:
        known = with_calendar(panel.until(cutoff, window + panel.horizon), panel.freq)
        ids, ahead = np.unique(known["unique_id"]), panel.ahead(cutoff)
        future = pd.DataFrame({"unique_id": np.repeat(ids, len(ahead)), "ds": np.tile(ahead, len(ids))})
        found = forecaster.predict(df=known, futr_df=with_calendar(future, panel.freq))
        columns = [column for column in found.columns if column.startswith(name)]  # in the order of TRAINED_LEVELS
        curve = np.sort(np.maximum(np.stack([wide(found, column) for column in columns], axis=-1), 0), axis=-1)
        ends = np.concatenate([[0], np.convolve(TRAINED_LEVELS, [0.5, 0.5], "valid"), [1]])
        yield answer(ids, cutoff, ahead, curve @ np.diff(ends), curve[..., [TRAINED_LEVELS.index(level) for level in LEVELS]])


def main() -> None:
    """Forecast, write, say how long it took."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bench", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--models", default=",".join(MODELS), help="separated by commas")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=800, help="of the networks' training")
    given = arguments.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    panel = Panel.read(given.bench)
    given.out.mkdir(parents=True, exist_ok=True)
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        **{name: lambda name=name: neural(panel, name, given.seed, given.steps) for name in NEURAL},  # type: ignore[misc]
        **{name: lambda name=name: statistical(panel, name) for name in STATISTICAL},  # type: ignore[misc]
        "same phase": lambda: same_phase(panel),
    }
    for name in given.models.split(","):
        begin = time.perf_counter()
        parts = list(ways[name]())
        if parts:
            pd.concat(parts, ignore_index=True).to_parquet(given.out / f"{name}.parquet", index=False)
            print(json.dumps({"model": name, "seconds": round(time.perf_counter() - begin, 1)}), flush=True)


if __name__ == "__main__":
    main()
