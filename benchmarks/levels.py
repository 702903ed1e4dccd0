"""Forecasts of the shop and of categories on Online Retail's first year: their own quantiles, beside summed ones of their products and a naive forecast.

    make bench-levels DATA=online_retail_2009-12_2010-11.parquet

The model is trained on what was known 16 weeks before the end, then streamed on with frozen weights; every later day is an origin. Stand-ins for
categories, which the log has none of: the first two digits of the stock code, where five products or more share them. An aggregate's quantiles come from
what was known of its errors at the origin; the naive forecast is the same weekday's demand (of sums: the last week's), with the quantiles of its own
errors over as many days.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks import retail_panel, rig
from models import levels
from models.backtest import Streamed
from models.batches import Recipe
from models.bench import Bench, load
from models.forecaster import Forecaster
from models.levels import MEMORY_DAYS, SHOP, Adding, Sums
from models.metrics import SCORED_LEVELS, pinball
from models.train import train

F64 = npt.NDArray[np.float64]

PROTOCOL: Final = replace(retail_panel.DAILY, cutoffs=8)
LENGTHS: Final = (7, 14)
WHAT: Final = ("steps", "7 days", "14 days")
LEAST_PRODUCTS: Final = 5
SHOP_ROW, CATEGORIES_ROW = "the shop", "categories"


@dataclass
class Judged:
    """Outcomes and the quantiles that were said of them."""

    inside: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    loss: float = 0.0
    demand: float = 0.0

    def add(self, came: F64, quantiles: F64) -> None:
        """`came`: (n,), `quantiles`: (n, SCORED_LEVELS)."""
        self.inside.append((came >= quantiles[:, 0]) & (came <= quantiles[:, -1]))
        self.loss += 2 * float(pinball(came[:, None], quantiles, np.array(SCORED_LEVELS)).sum()) / len(SCORED_LEVELS)
        self.demand += float(came.sum())

    @property
    def coverage(self) -> float:
        return float(np.concatenate(self.inside).mean())

    @property
    def mwql(self) -> float:
        return self.loss / self.demand


@dataclass(frozen=True)
class Said:
    """What the model said of every product at every day's end, from early enough for the memory of errors to be full at the first origin."""

    mean: F64  # (days, products, horizon)
    sums: F64  # (days, products, LENGTHS)
    quantiles: F64  # (days, products, horizon, SCORED_LEVELS)
    sum_quantiles: F64  # (days, products, LENGTHS, SCORED_LEVELS)


def stream(bench: Bench, forecaster: Forecaster) -> Said:
    """Every product through all days."""
    shop, (days, n) = Streamed(bench, forecaster, LENGTHS), (bench.panel.columns, len(bench.panel.product_ids))
    shape, k = (days, n, forecaster.horizon), len(SCORED_LEVELS)
    said = Said(np.zeros(shape), np.zeros((days, n, 2)), np.zeros((*shape, k)), np.zeros((days, n, 2, k)))
    wanted = [forecaster.levels.index(level) for level in SCORED_LEVELS]
    for day in range(days):
        shop.live(day)
        if day < bench.cutoffs[0] - MEMORY_DAYS - max(LENGTHS):
            continue
        alive = bench.alive(day)
        out = forecaster.published(shop.forecast(day, np.arange(alive))[0])
        said.mean[day, :alive], said.sums[day, :alive] = out.mean, out.cumulative_mean
        said.quantiles[day, :alive] = out.quantiles[:, wanted].transpose(0, 2, 1)
        said.sum_quantiles[day, :alive] = out.cumulative_quantiles[..., wanted]
    return said


def judge(bench: Bench, said: Said, members: Sequence[int]) -> dict[str, dict[str, Judged]]:
    """Of one aggregate: by what is forecast, by who forecasts it."""
    units = bench.panel.demand[members, :, 0].sum(axis=0, dtype=np.float64)
    first, end, horizon = bench.cutoffs[0], bench.panel.columns, said.mean.shape[2]
    origins = {day: _sums(bench, said, members, day) for day in range(first - MEMORY_DAYS - max(LENGTHS), end)}
    found: defaultdict[str, defaultdict[str, Judged]] = defaultdict(lambda: defaultdict(Judged))
    for day in range(first, end - 1):
        known = {at: sums for at, sums in origins.items() if day - MEMORY_DAYS - max(LENGTHS) <= at <= day}
        errors = levels.errors(known, horizon, every=1, step_ms=bench.spec.step_ms, lengths=LENGTHS, levels=SCORED_LEVELS)
        said_of = np.array(origins[day].forecast) / levels.MEAN_SCALE
        steps, sums = errors.quantiles(said_of[:horizon], said_of[horizon:])
        came = units[day + 1 : day + 1 + horizon]
        of_steps = found["steps"]
        of_steps["own"].add(came, steps.T[: len(came)])
        of_steps["summed"].add(came, said.quantiles[day, members].sum(axis=0)[: len(came)])
        of_steps["naive"].add(came, _naive(units, day, horizon)[: len(came)])
        for i, length in enumerate(LENGTHS):
            if day + length < end:
                total, of_sum = units[day + 1 : day + 1 + length].sum(keepdims=True), found[f"{length} days"]
                of_sum["own"].add(total, sums[i : i + 1])
                of_sum["summed"].add(total, said.sum_quantiles[day, members, i].sum(axis=0)[None])
                of_sum["naive"].add(total, _naive_sum(units, day, length)[None])
    return {what: dict(by_whom) for what, by_whom in found.items()}


def _sums(bench: Bench, said: Said, members: Sequence[int], day: int) -> Sums:
    adding = Adding(said.mean.shape[2] + len(LENGTHS), 1)
    units = bench.panel.demand[members, day : day + 1, 0]
    adding.add([None] * len(members), said.mean[day, members].astype(np.float32), said.sums[day, members].astype(np.float32), units)
    return adding.done()[0][SHOP]


def _naive(units: F64, day: int, horizon: int) -> F64:
    """(horizon, SCORED_LEVELS)"""

    def forecast(at: int, h: int) -> float:
        return float(units[at - 6 + h % 7])

    pairs = [(at, h) for at in range(day - MEMORY_DAYS - horizon, day) for h in range(horizon) if day - MEMORY_DAYS < at + 1 + h <= day]
    errors = np.quantile([units[at + 1 + h] - forecast(at, h) for at, h in pairs], SCORED_LEVELS)
    return np.asarray(np.maximum(np.array([forecast(day, h) for h in range(horizon)])[:, None] + errors, 0), np.float64)


def _naive_sum(units: F64, day: int, length: int) -> F64:
    """(SCORED_LEVELS,)"""

    def forecast(at: int) -> float:
        return float(units[at - 6 : at + 1].sum() * length / 7)

    past = range(day - MEMORY_DAYS - length + 1, day - length + 1)
    errors = np.quantile([units[at + 1 : at + 1 + length].sum() - forecast(at) for at in past], SCORED_LEVELS)
    return np.asarray(np.maximum(forecast(day) + errors, 0), np.float64)


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="order lines of Online Retail II, first year, as parquet")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--iterations", type=int, default=400)
    arguments.add_argument("--json", type=Path, help="write the figures here instead of benchmarks/results/levels.json")
    options = arguments.parse_args()
    about = rig.machine()
    with tempfile.TemporaryDirectory() as scratch:
        retail_panel.write(options.data, PROTOCOL, Path(scratch))
        bench = load(Path(scratch))
    rig.progress(f"{len(bench.panel.product_ids):,} products, first origin {bench.dates[bench.cutoffs[0]]:%Y-%m-%d}")
    recipe = Recipe.for_spec(bench.spec, iterations=options.iterations, seed=options.seed)
    artefact = train([bench.panel.until(bench.cutoffs[0] + 1)], bench.spec, recipe, name="lstm", horizon=bench.horizon)
    rig.progress("trained")
    said = stream(bench, Forecaster(artefact, bench.spec.timezone))
    by_code: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(bench.panel.product_ids):
        by_code[name[:2]].append(row)
    categories = {code: rows for code, rows in sorted(by_code.items()) if len(rows) >= LEAST_PRODUCTS}
    rig.progress(f"streamed; {len(categories)} categories of {', '.join(str(len(rows)) for rows in categories.values())} products")
    judged = {SHOP_ROW: judge(bench, said, range(len(bench.panel.product_ids)))}
    judged |= {code: judge(bench, said, rows) for code, rows in categories.items()}
    figures: dict[str, Any] = {
        name: {what: {who: {"coverage": j.coverage, "mwql": j.mwql} for who, j in of.items()} for what, of in row.items()}
        for name, row in judged.items()
    }
    figures[CATEGORIES_ROW] = {
        what: {
            who: {figure: float(np.mean([figures[code][what][who][figure] for code in categories])) for figure in ("coverage", "mwql")}
            for who in ("own", "summed", "naive")
        }
        for what in WHAT
    }
    rows = [
        [
            f"{name}, {what}",
            *(f"{figures[name][what][who]['coverage']:.2f}" for who in ("own", "summed", "naive")),
            *(f"{figures[name][what][who]['mwql']:.3f}" for who in ("own", "summed", "naive")),
        ]
        for name in (SHOP_ROW, CATEGORIES_ROW)
        for what in WHAT
    ]
    print(f"\n{rig.said(about)}\n")
    print(rig.table(["", "in 80 %: own", "summed", "naive", "MWQL: own", "summed", "naive"], rows))
    print(f"\nwritten: {rig.write('levels', {'machine': about, 'rows': figures}, options.json)}")


if __name__ == "__main__":
    main()
