"""What the running step's observed part is worth: errors and calibration at 10, 50 and 90 % of the step, beside the forecast from the step's start.

    make bench-nowcast DATA=online_retail_2009-12_2010-11.parquet
    python -m benchmarks.nowcast --data FILE --step hour --iterations 1000 --seed 1

Online Retail's best sellers, 800 by the day and 300 by the hour. Daily: a model, and its nowcast rule, of the first half of the year. Hourly: the weights
of models/default, whose training saw the whole year (the comparison is with its own forecast from the step's start), and a rule of the first half. Both
then stream through the second half, quantiles calibrated as in the stream.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks import rig
from models import artefact, metrics
from models.batches import Recipe
from models.bench import of_panel
from models.dataset import Panel
from models.features import FeatureSpec
from models.fit_nowcast import Cases, cases, fit_nowcast, fit_pace, seen
from models.forecaster import Forecaster
from models.nowcast import Forecasts
from models.seasons import DAY_MS, HOUR_MS
from models.train import train
from streaming.commands.sources import Sources, panels_of

STEPS: Final = {"day": DAY_MS, "hour": HOUR_MS}
PRODUCTS: Final = {"day": 800, "hour": 300}
STREAMS: Final = ("orders", "views", "carts")
SHARES: Final = (0.1, 0.5, 0.9)
# Origins in the second half of the year; prime to a day and a week, so that every hour and weekday has its turn.
EVERY: Final = {"day": 2, "hour": 37}
# At night next to nothing is expected to have come, but not nothing: quantiles fall by as little as that.
SAME: Final = 1.0001
Floats = npt.NDArray[np.floating]


def half_year(panel: Panel, step: str, iterations: int, seed: int, daily: Path | None) -> artefact.Artefact:
    """The model with its pace and rule, from the first half of a panel."""
    first = panel.until(panel.columns // 2)
    spec = FeatureSpec.for_step(STEPS[step], STREAMS, panel.timezone)
    if step == "day" and daily is None:
        recipe = Recipe.for_spec(spec, iterations=iterations, seed=seed)
        return train([first], spec, recipe, name="half a year", progress=lambda look: rig.progress(f"iteration {look.iteration:,}"))
    model = artefact.read(daily if step == "day" and daily is not None else rig.ROOT / "models" / "default")
    model = replace(model, pace=fit_pace([first], spec.step_ms))
    return replace(model, nowcast=fit_nowcast(model, [first]))


def totals(some: Cases, out: Forecasts, step: str) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Demand, (n,), mean, (n,), and quantiles, (n, levels), of the running step, and of the coming day where that is more."""
    found = {f"running {step}": (some.demand[:, 0], out.running.step_mean, out.running.step_quantiles)}
    if step == "hour":
        found["coming day"] = (some.demand[:, out.mean.shape[1]], out.cumulative_mean[:, 0], out.cumulative_quantiles[:, 0])
    return found


def errors(demand: Floats, mean: Floats, quantiles: Floats, levels: tuple[float, ...]) -> dict[str, float]:
    """Of the known outcomes."""
    known = np.isfinite(demand)
    demand, mean, quantiles = demand[known], mean[known], quantiles[known]
    of = {level: quantiles[:, levels.index(level)] for level in (0.1, 0.5, 0.9)}
    below, at_most = metrics.coverage(demand, of[0.9])
    return {
        "MAE": metrics.mae(demand, mean),
        "MAE of median": metrics.mae(demand, of[0.5]),
        "pinball": float(metrics.pinball(demand[:, None], quantiles, np.asarray(levels)).mean()),
        "inside 80 %": metrics.inside(demand, of[0.1], of[0.9]),
        "P(y<q90)": below,
        "P(y<=q90)": at_most,
    }


def measured(panel: Panel, model: artefact.Artefact, step: str, *, of_time: bool) -> dict[str, dict[str, dict[str, float]]]:
    """By total and part of the step, then class: errors with what was seen, and `of start`: those of the forecast from the step's start."""
    half = panel.columns // 2
    count = (panel.columns - half - model.horizon) // EVERY[step]
    forecaster = Forecaster(model, panel.timezone)
    some = cases(of_panel(panel, forecaster.spec, model.horizon, half, count), forecaster, SHARES, of_time=of_time)
    rig.progress(f"{len(some):,} forecasts of a {step}")
    blind = replace(some, observed=0 * some.observed, passed=0 * some.passed)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for i, share in enumerate(SHARES):
        now, start = (
            totals(some, seen(each, model.nowcast, model.levels, i, whole_units=model.whole_units), step) for each in (some, blind)
        )
        for total, arrays in now.items():
            rows = found.setdefault(f"{total}, {share:.0%} of its {'time' if of_time else 'demand'}", {})
            for name, members in classes(some.group):
                with_it, without = (
                    errors(demand[members], mean[members], quantiles[members], model.levels)
                    for demand, mean, quantiles in (arrays, start[total])
                )
                rows[name] = with_it | {f"start {column}": value for column, value in without.items()}
    return found


def classes(group: npt.NDArray[np.int64]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """All, then each volume class that has a forecast."""
    yield "all", np.ones(len(group), np.bool_)
    for index, name in enumerate(metrics.VOLUMES):
        if (group == index).any():
            yield name, group == index


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    cells = []
    for part, rows in found.items():
        for name, row in rows.items():
            pairs = [f"{row[c]:.3f} / {row[f'start {c}']:.3f}" for c in ("MAE", "MAE of median", "pinball", "inside 80 %")]
            cells.append([part, name, *pairs, *(f"{row[c]:.3f}" for c in ("P(y<q90)", "P(y<=q90)"))])
    return rig.table(["", "", "MAE, now / from start", "MAE of median", "pinball", "inside 80 %", "P(y<q90)", "P(y<=q90)"], cells)


def worse(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Where an error is above that of the forecast from the step's start, by more than SAME."""
    return [
        f"{part}, {name}: {error} {row[error] / row[f'start {error}'] - 1:+.2%}"
        for part, rows in found.items()
        for name, row in rows.items()
        for error in ("MAE", "MAE of median", "pinball")
        if row[error] > row[f"start {error}"] * SAME
    ]


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="order lines of Online Retail II, first year, as parquet")
    arguments.add_argument("--step", choices=STEPS, nargs="+", default=list(STEPS))
    arguments.add_argument("--iterations", type=int, default=1_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--daily", type=Path, help="directory of a daily model of the first half of the year, instead of training one")
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/nowcast.json")
    chosen = arguments.parse_args()
    figures: dict[str, Any] = {"machine": rig.machine()}
    for step in chosen.step:
        spec = FeatureSpec.for_step(STEPS[step], STREAMS)
        panels, _ = panels_of(Sources([chosen.data]), spec, PRODUCTS[step], chosen.seed, Console(stderr=True))
        panel = next(iter(panels.values()))
        model = half_year(panel, step, chosen.iterations, chosen.seed, chosen.daily)
        rig.progress(f"rule of the first half: {model.nowcast}")
        found = {
            k: v
            for of_time in ((True, False) if step == "day" else (True,))
            for k, v in measured(panel, model, step, of_time=of_time).items()
        }
        figures[step] = {"rule": str(model.nowcast), "errors": found, "worse": worse(found)}
        print(f"\n{table(found)}\n\nworse than from the step's start: {'; '.join(worse(found)) or 'nowhere'}\n", flush=True)
    print(f"written: {rig.write('nowcast', figures, chosen.json)}")


if __name__ == "__main__":
    main()
