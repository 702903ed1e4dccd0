"""A promoted model's states, rebuilt from stored steps: how near they come to those of a model that saw all of the history, and what a product costs.

    make bench-rebuild                      # a simulated shop, six weeks
    make bench-rebuild DATA=orders.parquet  # a real log, in the formats of `trendcast replay`: its newest six weeks

Beside it stands what would be without: a start from zeros. Forecasts are of the 24 steps after the history, MWQL by what came then.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from benchmarks import rig
from models import artefact, metrics
from models.dataset import Panel
from models.features import F32, I64
from models.forecaster import Forecaster
from models.rebuild import rebuilt_state
from streaming.commands.sources import Sources, panels_of

DAYS: Final = 42
KEPT: Final = (24, 48, 96, 192)  # steps; 192 are stored by default
SLICE: Final = 256  # products at once, for the time


def lived(model: Forecaster, panel: Panel, columns: int) -> tuple[F32, F32]:
    """Features and states after `columns` steps, of all products born by then."""
    features, state = model.fresh(len(panel.product_ids))
    for column in range(columns):
        due = np.flatnonzero(panel.born <= column)
        step = np.full(len(due), panel.first_step + column)
        features[due], state[due] = model.advance(features[due], state[due], panel.demand[due, column], step)
    return features, state


def compared(model: Forecaster, features: F32, step: I64, whole: F32, states: F32, came: F32) -> dict[str, float]:
    """States against those of a whole run, and the forecasts that follow from both."""
    hidden, nothing = model.artefact.hidden, np.zeros((len(step), 1 + len(model.spec.streams)), np.float32)
    ours, theirs = (model.read_out(features, s, step, nothing, nothing[:, 0], np.empty(0, np.int64)) for s in (states, whole))
    off = np.linalg.norm(states[:, :hidden] - whole[:, :hidden], axis=1) / np.linalg.norm(whole[:, :hidden], axis=1)
    by_level = {level: model.published(ours).quantiles[:, i] for i, level in enumerate(model.levels)}
    moved = np.abs(ours.mean - theirs.mean).sum(axis=1) / theirs.mean.sum(axis=1)
    return {
        "h, median": float(np.median(off)),
        "h, 99 %": float(np.quantile(off, 0.99)),
        "mean, median": float(np.median(moved)),
        "mean, 99 %": float(np.quantile(moved, 0.99)),
        "mean, total": float(np.abs(ours.mean - theirs.mean).sum() / theirs.mean.sum()),
        "MWQL": metrics.mwql(came, by_level),
    }


def measure(model: Forecaster, panel: Panel) -> dict[str, dict[str, float]]:
    columns = panel.columns - model.horizon
    panel = panel.only(np.flatnonzero(panel.born < columns))
    features, whole = lived(model, panel, columns)
    step = np.full(len(features), panel.first_step + columns - 1)
    came = np.asarray(panel.demand[:, columns:, 0])
    rows = {"all of the history": compared(model, features, step, whole, whole, came)}
    for k in KEPT:
        demand = np.nan_to_num(panel.demand[:, columns - k : columns])
        rows[f"last {k} steps"] = compared(model, features, step, whole, rebuilt_state(model, features, step, demand), came)
    rows["zeros"] = compared(model, features, step, whole, np.zeros_like(whole), came)
    some = slice(0, SLICE)
    started = time.perf_counter()
    for _ in range(3):
        rebuilt_state(model, features[some], step[some], demand[some])
    rows[f"last {k} steps"]["ms a product"] = (time.perf_counter() - started) / 3 / len(features[some]) * 1000
    return rows


def newest(panel: Panel, columns: int) -> Panel:
    """The last `columns` steps; products born before are as good as born then."""
    cut = max(panel.columns - columns, 0)
    return replace(panel, first_step=panel.first_step + cut, born=np.maximum(panel.born - cut, 0), demand=panel.demand[:, cut:])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--products", type=int, default=1000)
    options = parser.parse_args(arguments)
    console = Console(width=160)
    sources = Sources([options.data]) if options.data else Sources(days=DAYS + 1)
    spec = artefact.read(rig.ROOT / "models" / "default").spec
    panels, _ = panels_of(sources, spec, options.products, 1, console)
    for source, panel in panels.items():
        model = Forecaster.load(rig.ROOT / "models" / "default", panel.timezone)
        model.warm_up()
        rows = measure(model, newest(panel, (DAYS + 1) * 24))
        show(source, rows, console)


def show(source: str, rows: dict[str, dict[str, float]], console: Console) -> None:
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    table: Any = Table("states from", *columns, title=f"{source}: against all of the history, relative", title_justify="left")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.3g}" if column in row else "" for column in columns))
    console.print(table)


if __name__ == "__main__":
    main()
