"""Accuracy on Online Retail's first year, by rolling origins: the model as it serves, three seeds, beside other models on the same panel.

    make bench-accuracy DATA=online_retail_2009-12_2010-11.parquet
    python -m benchmarks.accuracy --data FILE --panel hourly --seeds 1 2 3 --contenders LightGBM,"28-day mean"

Trained on what was known at the first cut-off, then streamed on with frozen weights and carried state. `early` ends the daily panel on 2010-10-05:
what helps on `daily` only was fitted to it. `--peers all` adds models of other libraries (`benchmarks.peers.forecasting`), in an environment of their own.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks import retail_panel, rig
from benchmarks.peers.environment import peers_python
from models import scores
from models.backtest import stream
from models.batches import Recipe
from models.bench import BacktestForecasts, Bench, load, no_progress, score
from models.contenders import chosen
from models.seasons import DAY_MS
from models.train import train

PANELS: Final = {"daily": (retail_panel.DAILY, None), "early": (retail_panel.DAILY, "2010-10-06"), "hourly": (retail_panel.HOURLY, None)}
# Measured and written, but too many for a table to be read.
NOT_PRINTED: Final = {"wRMSSE", "MASE", "MSE", "RMSE", "MAE", "MAPE", "R2", "cov80", "P(y<q90)", "P(y<=q90)"}


def row(bench: Bench, forecasts: BacktestForecasts, seconds: float) -> dict[str, float]:
    """Errors of one model: `table_row`, by volume class, distance from calibration, lead times."""
    parts = {part: max(level.distance for level in levels) for part, levels in scores.calibration(bench, forecasts).items()}
    steps = max(distance for part, distance in parts.items() if part.startswith("step"))
    classes = scores.by_class(bench, forecasts)
    return {
        **score(bench, forecasts),
        **{f"MWQL {name}": value for name, value in classes.items()},
        "off, all": parts["all"],
        "off, worst step": steps,
        "off, worst class": max(parts[name] for name in classes),
        **{f"in 80 %, {days} steps": value["cov80"] for days, value in scores.sums(bench, forecasts).items()},
        "seconds": seconds,
    }


def ours(bench: Bench, seed: int, iterations: int) -> dict[str, float]:
    """One seed, trained and streamed."""
    begin = time.perf_counter()
    recipe = Recipe.for_spec(bench.spec, iterations=iterations, seed=seed)
    artefact = train([bench.panel.until(bench.cutoffs[0] + 1)], bench.spec, recipe, name="lstm", horizon=bench.horizon)
    seconds = time.perf_counter() - begin
    return row(bench, stream(bench, artefact), seconds)


def peers(bench: Bench, directory: Path, names: str, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Models of other libraries on the bench that lies in `directory`, one after another."""
    out = directory / "peers"
    steps = "400" if bench.spec.step_ms < DAY_MS else "800"
    command = [
        str(peers_python("forecasting")),
        "-m",
        "benchmarks.peers.forecasting",
        str(directory),
        str(out),
        "--seed",
        str(seed),
        "--steps",
        steps,
    ]
    command += [] if names == "all" else ["--models", names]
    with subprocess.Popen(
        command, cwd=rig.ROOT, env={**os.environ, "PYTHONPATH": str(rig.ROOT)}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                answer = read_answer(bench, pd.read_parquet(out / f"{said['model']}.parquet"))
                yield said["model"], row(bench, answer, said["seconds"])
    if process.returncode:
        raise SystemExit(f"the peers failed (exit status {process.returncode})")


def read_answer(bench: Bench, answer: Any) -> BacktestForecasts:
    """The inverse of `models.bench.external`."""
    forecasts = BacktestForecasts.nothing(bench)
    place = {name: i for i, name in enumerate(bench.panel.product_ids)}
    for k, cutoff in enumerate(bench.cutoffs):
        rows = answer[answer["cutoff"] == bench.dates[cutoff]].sort_values(["unique_id", "ds"])
        products = [place[name] for name in rows["unique_id"].unique()]
        forecasts.mean[k, products] = rows["mean"].to_numpy().reshape(-1, bench.horizon)
        for level, values in forecasts.quantiles.items():
            values[k, products] = rows[f"q{round(level * 100)}"].to_numpy().reshape(-1, bench.horizon)
    return forecasts


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in rows])) for name in rows[0]}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Models by errors, the best MWQL first; columns that only some have are left empty."""
    columns = [name for name in dict.fromkeys(name for one in rows.values() for name in one) if name not in NOT_PRINTED]
    best_first = sorted(rows.items(), key=lambda item: item[1]["MWQL"])
    cells = [[name, *(f"{one[column]:.3f}" if column in one else "" for column in columns)] for name, one in best_first]
    return rig.table(["", *columns], cells)


def measure(bench: Bench, directory: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Errors by name of all that was asked for, on the bench that lies in `directory`."""
    rig.progress(f"{len(bench.panel.product_ids):,} products, horizon {bench.horizon}, first cut-off {bench.dates[bench.cutoffs[0]]}")
    rows: dict[str, dict[str, float]] = {}

    def note(name: str, errors: dict[str, float]) -> None:
        rows[name] = errors
        rig.progress(f"{name}: MWQL {errors['MWQL']:.4f}")

    for seed in options.seeds:
        note(f"ours, seed {seed}", ours(bench, seed, options.iterations))
    if len(rows) > 1:
        rows[f"ours, mean of {len(rows)} seeds"] = mean_of(list(rows.values()))
    for name, contender in chosen(options.contenders).items():
        begin = time.perf_counter()
        answer = contender(bench, no_progress)
        note(name, row(bench, answer, time.perf_counter() - begin))
    if options.peers != "none":
        for name, errors in peers(bench, directory, options.peers, min(options.seeds, default=1)):
            note(name, errors)
    return rows


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="order lines of Online Retail II, first year, as parquet")
    arguments.add_argument("--panel", choices=PANELS, default="daily")
    arguments.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    arguments.add_argument("--iterations", type=int, default=1_000)
    arguments.add_argument("--contenders", default="28-day mean,seasonal naive,LightGBM", help="all, none, or names separated by commas")
    arguments.add_argument("--peers", default="none", help="all, none, or names of benchmarks.peers.forecasting separated by commas")
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/accuracy-PANEL.json")
    chosen_options = arguments.parse_args()
    protocol, before = PANELS[chosen_options.panel]
    with tempfile.TemporaryDirectory() as scratch:
        retail_panel.write(chosen_options.data, protocol, Path(scratch), before)
        bench = load(Path(scratch))
        rows = measure(bench, Path(scratch), chosen_options)
    cutoffs = ", ".join(str(bench.dates[cutoff]) for cutoff in bench.cutoffs)
    print(f"\n{table(rows)}")
    figures: dict[str, Any] = {"panel": chosen_options.panel, "cutoffs": cutoffs, "rows": rows}
    print(f"\nwritten: {rig.write(f'accuracy-{chosen_options.panel}', figures, chosen_options.json)}")


if __name__ == "__main__":
    main()
