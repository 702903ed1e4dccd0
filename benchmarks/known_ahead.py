"""What it brings to know ahead: one simulated shop, one recipe, a model that hears what the shop says and one that does not.

`python -m benchmarks.known_ahead [--days N] [--products N] [--iterations N] [--seeds N] [--json FILE]` prints the table of docs/training.md. Both
models learn from the same days, with the same gaps where shelves were empty, and forecast the newest fortnight from cut-offs half a day apart.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_store.tiles import Grid
from models import metrics
from models.backtest import stream
from models.batches import Recipe
from models.bench import BacktestForecasts, Bench, of_panel, outcomes
from models.dataset import Panel, from_cells, part_ms, with_known
from models.features import FeatureSpec
from models.known_future import KnownFuture, Place
from models.seasons import DAY_MS, HOUR_MS
from models.train import train
from simulator.demand import ShopConfig, speaking
from simulator.dirt import Dirt
from simulator.feed import Partitions
from simulator.shop import Shop
from streaming.training_log import Ahead, cells

STREAMS: Final = ("orders", "views", "carts")
COVARIATES: Final = ("price", "discount", "context:weather", "context:market")
HELD_BACK_DAYS: Final = 14
OPENED_MS: Final = 1_736_121_600_000

Bools = npt.NDArray[np.bool_]


def panel_of(shop: Shop, days: int, products: int) -> tuple[Panel, Ahead]:
    """The shop's demand by hour, and what it said ahead."""
    spec = FeatureSpec.for_step(HOUR_MS, STREAMS)
    ahead, end_ms = Ahead(), OPENED_MS + days * DAY_MS
    chunks = shop.chunks(OPENED_MS, end_ms, DAY_MS, partitions=Partitions(1, 1, 1, 1))
    parts = cells(chunks, shop.rules, Grid(300_000, HOUR_MS), part_ms(HOUR_MS, 300_000), ahead=ahead)
    per_step = HOUR_MS // part_ms(HOUR_MS, 300_000)
    return from_cells(parts, spec, "UTC", end_ms // HOUR_MS, products, per_step), ahead


def knowing(panel: Panel, ahead: Ahead, names: tuple[str, ...]) -> Panel:
    known: KnownFuture = ahead.known(names, HOUR_MS, Place("UTC"), panel.product_ids)
    return with_known(panel, known)


def promoted(bench: Bench, shop: Shop) -> Bools:
    """Which of the forecast steps lay in a promotion, (cutoffs, products, horizon)."""
    place = {name: i for i, name in enumerate(bench.panel.product_ids)}
    found = np.zeros((len(place), bench.panel.columns), np.bool_)
    first_ms = bench.panel.first_step * HOUR_MS
    for promotion in shop.demand.promotions(first_ms, first_ms + bench.panel.columns * HOUR_MS):
        if promotion.product_id in place:
            begin, end = ((at_ms - first_ms) // HOUR_MS for at_ms in (promotion.start_ms, promotion.end_ms))
            found[place[promotion.product_id], max(begin, 0) : end] = True
    return np.stack([found[:, cutoff + 1 : cutoff + 1 + bench.horizon] for cutoff in bench.cutoffs])


def starting(inside: Bools, before: Bools) -> Bools:
    """Steps in a promotion that had not begun when they were forecast."""
    return inside & ~before


def scores(bench: Bench, forecasts: BacktestForecasts, parts: dict[str, Bools]) -> dict[str, float]:
    """MWQL of each part of the forecast steps."""
    truth = outcomes(bench)
    return {
        name: metrics.mwql(truth[some], {level: forecasts.quantiles[level][some] for level in metrics.SCORED_LEVELS})
        for name, part in parts.items()
        for some in [part & np.isfinite(truth)]
    }


def measure(panel: Panel, spec: FeatureSpec, recipe: Recipe, parts: Callable[[Bench], dict[str, Bools]]) -> dict[str, float]:
    """Scores of a model trained on all but the newest days, on those."""
    newest = HELD_BACK_DAYS * 24
    artefact = train([panel.until(panel.columns - newest)], spec, recipe, name="known-ahead")
    bench = of_panel(panel, artefact.spec, artefact.horizon, panel.columns - newest, cutoffs=26)
    return scores(bench, stream(bench, artefact), parts(bench))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=75)
    parser.add_argument("--products", type=int, default=300)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = ShopConfig(
        products=options.products, lines_per_hour=2.0 * options.products, opened_ms=OPENED_MS, trends_per_day=0.0, views_per_line=2.0
    )
    shop = Shop(speaking(config), 1, dirt=Dirt.none())
    started = time.monotonic()
    panel, ahead = panel_of(shop, options.days, options.products)
    print(f"{len(panel.product_ids)} products, {panel.columns} hours, read in {time.monotonic() - started:.0f} s", flush=True)

    def parts(bench: Bench) -> dict[str, Bools]:
        inside = promoted(bench, shop)
        at = np.array(bench.cutoffs)
        first_ms = bench.panel.first_step * HOUR_MS
        begun = {
            (p.product_id, k)
            for p in shop.demand.promotions(first_ms, first_ms + bench.panel.columns * HOUR_MS)
            for k in np.flatnonzero((p.start_ms - first_ms) // HOUR_MS <= at).tolist()
            if p.end_ms > first_ms + (bench.cutoffs[k] + 1) * HOUR_MS
        }
        running = np.array([[(name, k) in begun for name in bench.panel.product_ids] for k in range(len(bench.cutoffs))])[..., None]
        moved = np.array([name in ("garden", "tools", "sports") for name in _categories(shop, bench.panel)])[None, :, None]
        return {
            "all steps": np.ones_like(inside),
            "in a promotion": inside,
            "in a promotion that was yet to begin": starting(inside, running),
            "products that the weather moves": np.broadcast_to(moved, inside.shape),
            "neither": ~inside & ~moved,
        }

    rows: list[dict[str, Any]] = []
    variants: tuple[tuple[str, tuple[str, ...]], ...] = (("without", ()), ("with", COVARIATES))
    for seed in range(1, options.seeds + 1):
        recipe = replace(Recipe.for_spec(FeatureSpec.for_step(HOUR_MS, STREAMS), iterations=options.iterations, seed=seed), check_every=100)
        for title, names in variants:
            started = time.monotonic()
            whole = knowing(panel, ahead, names)
            found = measure(whole, FeatureSpec.for_step(HOUR_MS, STREAMS, covariates=names), recipe, parts)
            rows.append({"model": title, "seed": seed, "seconds": round(time.monotonic() - started), **found})
            print(json.dumps(rows[-1]), flush=True)
    measured = [name for name in rows[0] if name not in ("model", "seed", "seconds")]
    print("\n| steps forecast | without | with | change |\n|---|---|---|---|")
    for name in measured:
        without, with_ = (np.mean([row[name] for row in rows if row["model"] == title]) for title in ("without", "with"))
        print(f"| {name} | {without:.3f} | {with_:.3f} | {with_ / without - 1:+.1%} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _categories(shop: Shop, panel: Panel) -> list[str]:
    from simulator.demand import CATEGORIES

    place = {name: i for i, name in enumerate(shop.names.product_ids)}
    return [CATEGORIES[shop.demand.category[place[name]]] for name in panel.product_ids]


if __name__ == "__main__":
    main()
