"""Alerts on synthetic demand: false alerts, delays, recall. `python -m benchmarks.alerts_synthetic [--json FILE]` prints the tables of docs/alerts.md.

Orders per tile are negative binomial (variance = dispersion * mean; 1 is Poisson) around a daily season; an order holds a heavy-tailed number of
units, 5 on average. The forecaster is, by scenario,
- `exact`: the true mean;
- `biased`: for each product a constant factor, uniform in 0.7..1.3;
- `wrong`: the same, times an hourly error that lasts some hours: log-normal AR(1), standard deviation 0.25, correlation 0.8 an hour;
- `adaptive`: the season, times a level that follows the product's units (half-life 24 h), times the constant factor; it also follows events.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.alerts import Action, AlertPolicy, Transitions, fresh, judge

Floats = npt.NDArray[np.float64]
TILE_MS = 300_000
HOUR_TILES = 12
DAY_TILES = 288
UNITS_PER_ORDER = 5.0
RATES = (0.2, 1.0, 4.0, 40.0, 400.0)  # orders an hour, mean over the day
DISPERSIONS = (1.0, 2.0, 4.0, 6.0)
SCENARIOS = ("exact", "biased", "wrong", "adaptive")
WARM_DAYS = 10
NEVER = 2**40  # a tile beyond every run


@dataclass(frozen=True, slots=True)
class Shop:
    """Products (n,) of one run: mean orders per tile, dispersion, and an event each."""

    rate: Floats
    dispersion: Floats
    event_start: npt.NDArray[np.int64]  # tile; beyond the run: no event
    event_end: npt.NDArray[np.int64]
    factor: Floats

    def __len__(self) -> int:
        return len(self.rate)


def season(tile: int) -> float:
    """Share of the daily mean rate at this time of day: 0.1 at night to 1.9 by day."""
    return float(1 - 0.9 * np.cos(2 * np.pi * tile / DAY_TILES))


def draw(mean: Floats, dispersion: Floats, generator: np.random.Generator) -> Floats:
    """Negative binomial counts with variance = dispersion * mean."""
    extra = np.maximum(dispersion - 1, 1e-6)
    gamma = np.where(dispersion > 1, generator.gamma(np.maximum(mean, 1e-12) / extra, extra), mean)
    return generator.poisson(gamma).astype(np.float64)


def sizes(orders: Floats, generator: np.random.Generator) -> Floats:
    """Units of that many orders: 1 + Gamma-mixed Poisson, so that some orders are large; mean UNITS_PER_ORDER, variance some hundred."""
    extra = (UNITS_PER_ORDER - 1) / 0.1  # shape 0.1 an order
    return orders + generator.poisson(np.where(orders > 0, generator.gamma(np.maximum(0.1 * orders, 1e-9), extra), 0.0))


def run(shop: Shop, scenario: str, days: int, policy: AlertPolicy, seed: int) -> Iterator[tuple[int, Transitions]]:
    """Judges every tile; yields (tile, transitions) of the days after the warm-up."""
    generator = np.random.default_rng(seed)
    n = len(shop)
    bias = np.ones(n) if scenario == "exact" else generator.uniform(0.7, 1.3, n)
    error = np.zeros(n)
    level, level_units = np.array(shop.rate), np.zeros(n)
    keep = 0.5 ** (1 / 24)
    scores = fresh(n)
    for tile in range((WARM_DAYS + days) * DAY_TILES):
        if tile % HOUR_TILES == 0:
            hour_mean = np.mean([season(tile + i) for i in range(HOUR_TILES)])
            if scenario == "adaptive" and tile:
                before = np.mean([season(tile - 1 - i) for i in range(HOUR_TILES)])
                weight = 1 - keep**before  # an hour teaches as much as it should have sold
                level = (1 - weight) * level + weight * level_units / UNITS_PER_ORDER / HOUR_TILES / before
            level_units = np.zeros(n)
            error = 0.8 * error + 0.25 * 0.6 * generator.standard_normal(n)
            factor = bias * (np.exp(error) if scenario == "wrong" else 1.0)
            expected = UNITS_PER_ORDER * factor * hour_mean * (level if scenario == "adaptive" else shop.rate)
        during = (tile >= shop.event_start) & (tile < shop.event_end)
        orders = draw(shop.rate * season(tile) * np.where(during, shop.factor, 1.0), shop.dispersion, generator)
        units = sizes(orders, generator)
        level_units += units
        scores, happened = judge(scores, units, orders, expected, tile, policy, tile_ms=TILE_MS)
        if tile >= WARM_DAYS * DAY_TILES:
            yield tile, happened


def grid(per_cell: int, factor: float, duration: int, days: int, seed: int) -> Shop:
    """`per_cell` products for every rate and dispersion; with factor 1 nothing happens, else one event each."""
    rate, dispersion = (np.repeat(axis.ravel(), per_cell) for axis in np.meshgrid(RATES, DISPERSIONS, indexing="ij"))
    first = WARM_DAYS * DAY_TILES
    # Events begin within the two hours of the morning in which the season passes 1, so that a row's rate is the rate at which its event begins.
    morning = DAY_TILES // 4 + np.random.default_rng(seed).integers(-HOUR_TILES, HOUR_TILES, len(rate))
    start = first + morning
    if factor == 1:
        start = np.full_like(start, NEVER)
    return Shop(rate / HOUR_TILES, dispersion, start, start + duration, np.full(len(rate), factor))


def zipf(products: int, seed: int) -> Shop:
    """A shop without events: the r-th product sells 400 / r^0.9 orders an hour (2,000 products: 0.4 to 400, the middle one 0.8)."""
    generator = np.random.default_rng(seed)
    never = np.full(products, NEVER)
    rate = RATES[-1] / np.arange(1, products + 1) ** 0.9
    return Shop(rate / HOUR_TILES, generator.choice(DISPERSIONS, products), never, never, np.ones(products))


def firings(shop: Shop, scenario: str, days: int, policy: AlertPolicy, seed: int) -> dict[str, Floats]:
    """Alerts fired per product, by kind, (n,)."""
    fired = {"spike": np.zeros(len(shop)), "drop": np.zeros(len(shop))}
    for _, happened in run(shop, scenario, days, policy, seed):
        fires = happened.action == Action.FIRE
        np.add.at(fired["spike"], happened.rows[fires & happened.spike], 1)
        np.add.at(fired["drop"], happened.rows[fires & ~happened.spike], 1)
    return fired


def false_alerts(scenario: str, per_cell: int, days: int, policy: AlertPolicy, seed: int) -> dict[str, Floats]:
    """Alerts fired per 1,000 products and day without any event, by kind, (rates, dispersions)."""
    fired = firings(grid(per_cell, 1, 0, days, seed), scenario, days, policy, seed)
    cells = (len(RATES), len(DISPERSIONS), per_cell)
    return {kind: counts.reshape(cells).mean(axis=2) / days * 1000 for kind, counts in fired.items()}


def detections(scenario: str, factor: float, per_cell: int, duration: int, policy: AlertPolicy, seed: int) -> tuple[Floats, Floats]:
    """One event a product: (median delay in tiles of those found, share found while it lasts), both (rates, dispersions)."""
    days = duration // DAY_TILES + 1
    shop = grid(per_cell, factor, duration, days, seed)
    delay = np.full(len(shop), np.inf)
    for tile, happened in run(shop, scenario, days, policy, seed):
        rows = happened.rows[(happened.action == Action.FIRE) & (happened.spike == (factor > 1))]
        rows = rows[(tile >= shop.event_start[rows]) & (tile < shop.event_end[rows] + HOUR_TILES)]
        delay[rows] = np.minimum(delay[rows], tile + 1 - shop.event_start[rows])
    cells = delay.reshape(len(RATES), len(DISPERSIONS), per_cell)
    found = np.isfinite(cells)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a cell in which nothing was found has no median
        return np.nanmedian(np.where(found, cells, np.nan), axis=2), found.mean(axis=2)


def bound(factor: float, policy: AlertPolicy) -> list[float]:
    """Tiles that any test of Poisson counts at a constant rate needs on average, per rate: Lorden's ln(1 / false alerts per tile) / divergence."""
    divergence = (factor * np.log(factor) if factor else 0.0) - factor + 1
    return [float(np.log(DAY_TILES / policy.false_alerts) / (rate / HOUR_TILES * divergence)) for rate in RATES]


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table of Markdown."""
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--scale", type=float, default=1.0, help="products per cell and days, times this; below 1 is quicker and coarser")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    policy, scale, seed = AlertPolicy(), arguments.scale, arguments.seed
    per_cell, days = max(2, round(100 * scale)), max(2, round(30 * scale))
    result: dict[str, Any] = {"policy": asdict(policy), "rates": RATES, "dispersions": DISPERSIONS}
    started = time.perf_counter()

    shop = zipf(2_000, seed)
    in_shop = {scenario: firings(shop, scenario, days, policy, seed) for scenario in SCENARIOS}
    result["shop"] = {s: {kind: fired.sum() / len(shop) / days * 1000 for kind, fired in kinds.items()} for s, kinds in in_shop.items()}
    rows = [(s, *(f"{value:.2f}" for value in kinds.values()), f"{sum(kinds.values()):.2f}") for s, kinds in result["shop"].items()]
    table(f"False alerts per 1,000 products and day, shop of 2,000 products, {days} days", ("forecaster", "spike", "drop", "both"), rows)

    names = [f"dispersion {d:g}" for d in DISPERSIONS]
    result["false"] = {}
    for scenario in SCENARIOS:
        false = false_alerts(scenario, per_cell, days, policy, seed)
        result["false"][scenario] = {kind: values.tolist() for kind, values in false.items()}
        rows = [
            (f"{rate:g}", *(f"{v:.1f}" for v in false["spike"][i]), *(f"{v:.1f}" for v in false["drop"][i])) for i, rate in enumerate(RATES)
        ]
        header = ("orders an hour", *(f"spike, {n}" for n in names), *(f"drop, {n}" for n in names))
        table(f"False alerts per 1,000 products and day by rate; forecaster `{scenario}`", header, rows)

    result["events"] = []
    for scenario in ("biased", "adaptive", "wrong"):
        for factor in (3.0, 0.3, 0.0):
            delay, found = detections(scenario, factor, per_cell, DAY_TILES, policy, seed)
            result["events"].append({"scenario": scenario, "factor": factor, "delay": delay.tolist(), "found": found.tolist()})
            rows = [
                (
                    f"{RATES[i]:g}",
                    f"{least:.1f}",
                    *(f"{d:.0f} ({f:.0%})" if f >= 0.5 else f"– ({f:.0%})" for d, f in zip(delay[i], found[i], strict=True)),
                )
                for i, least in enumerate(bound(factor, policy))
            ]
            table(
                f"Demand times {factor:g} for a day; forecaster `{scenario}`: median delay in tiles (found)",
                ("orders an hour", "bound", *names),
                rows,
            )
    result["seconds"] = time.perf_counter() - started
    print(f"\n{result['seconds']:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, default=float), encoding="utf-8")


if __name__ == "__main__":
    main()
