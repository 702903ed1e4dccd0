"""How much successive forecasts of the same step change, against their error, for shares of the last revision that are taken back.

    make bench-churn DATA=online_retail_2009-12_2010-11.parquet

The daily panel of `benchmarks.accuracy`, one seed, from every day between its first and its last cut-off. Damped by a share a, a forecast is
(1 - a) times the model's and a times the damped one, of the same step, of the day before: mean and quantiles alike, then whole units.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks import retail_panel, rig
from models import metrics
from models.backtest import stream
from models.batches import Recipe
from models.bench import BacktestForecasts, Bench, load, outcomes
from models.train import train

SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.5)
Floats = npt.NDArray[np.floating]


def every_day(bench: Bench) -> Bench:
    """With all columns between the first and the last cut-off as cut-offs."""
    return replace(bench, cutoffs=tuple(range(bench.cutoffs[0], bench.cutoffs[-1] + 1)))


def damped(raw: Floats, share: float) -> Floats:
    """Forecasts, (origins, products, horizon), of successive origins, each drawn back to the damped one before it.

    >>> damped(np.array([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]), 0.5).tolist()
    [[[1.0, 2.0, 3.0]], [[3.0, 4.0, 6.0]]]
    """
    out = raw.copy()
    for k in range(1, len(raw)):
        before = out[k - 1, :, 1:]
        out[k, :, :-1] = np.where(np.isfinite(before), (1 - share) * raw[k, :, :-1] + share * before, raw[k, :, :-1])
    return out


def churn(forecasts: Floats, demand: Floats) -> float:
    """Mean absolute change between successive forecasts of the same step, relative to the demand of these steps."""
    return float(np.nansum(np.abs(forecasts[1:, :, :-1] - forecasts[:-1, :, 1:])) / np.nansum(demand[1:, :, :-1]))


def row(truth: Floats, raw: BacktestForecasts, share: float) -> dict[str, float]:
    """Churn and errors of one share."""
    known = np.isfinite(truth)
    mean = damped(raw.mean, share)
    quantiles = {level: np.rint(damped(values, share)) for level, values in raw.quantiles.items()}
    below, at_most = metrics.coverage(truth[known], quantiles[0.9][known])
    whole = known.all(axis=-1)
    return {
        "churn of the mean": churn(mean, truth),
        "of q50": churn(quantiles[0.5], truth),
        "of q90": churn(quantiles[0.9], truth),
        "MWQL": metrics.mwql(truth[known], {level: values[known] for level, values in quantiles.items()}),
        "SUMW": metrics.sumw(truth[whole], mean[whole]),
        "P(y<q90)": below,
        "P(y<=q90)": at_most,
    }


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="order lines of Online Retail II, first year, as parquet")
    arguments.add_argument("--iterations", type=int, default=1_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/churn.json")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        retail_panel.write(chosen.data, retail_panel.DAILY, Path(scratch))
        bench = every_day(load(Path(scratch)))
    recipe = Recipe.for_spec(bench.spec, iterations=chosen.iterations, seed=chosen.seed)
    artefact = train([bench.panel.until(bench.cutoffs[0] + 1)], bench.spec, recipe, name="lstm", horizon=bench.horizon)
    rig.progress(f"trained; {len(bench.cutoffs)} origins")
    raw, truth = stream(bench, artefact), outcomes(bench)
    rows = {share: row(truth, raw, share) for share in SHARES}
    print(rig.table(["a", *rows[0.0]], [[f"{share}", *(f"{value:.4f}" for value in found.values())] for share, found in rows.items()]))
    figures: dict[str, Any] = {"machine": rig.machine(), "seed": chosen.seed, "rows": {str(share): found for share, found in rows.items()}}
    print(f"written: {rig.write('churn', figures, chosen.json)}")


if __name__ == "__main__":
    main()
