"""Whether alerts and forecasts say what moved them, and what that costs.

    make bench-explanations
    python -m benchmarks.explanations --days 21 --seed 2

A simulated shop is folded into tiles and judged by the stream's own code (`models.timeline`) with the shipped model, without servers. Sudden changes
are injected with a cause (`simulator.demand.Cause`). Every alert that fires within one, in its direction, should name the cause as its first driver.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks import rig
from benchmarks.inference import median_seconds
from feature_store.measures import N_MEASURES
from models import calibration, drivers, features, timeline
from models.alert_messages import Alert, messages
from models.alerts import Action, AlertPolicy, Transitions
from models.calibration import Memory, Pools
from models.drivers import Facts
from models.explain import explain
from models.forecaster import Forecaster
from models.timeline import Timelines
from simulator.demand import TILE_MS, Cause, ShopConfig, Trend
from simulator.events import DAY_MS, HOUR_MS
from simulator.shop import Shop
from simulator.truth import Rules

TILES: Final = HOUR_MS // TILE_MS
# The LSTM and the usual rates have seen a week and a half before alerts count.
WARM_DAYS: Final = 10
HISTORY: Final = 192  # steps that the store keeps
# What tells each cause: of clicks alone, a stock-out looks like goods that nobody wants any more.
TELLING: Final = {
    Cause.TRAFFIC: "traffic",
    Cause.CONVERSION: "cart_rate",
    Cause.ORDER_SIZE: "order_size",
    Cause.STOCK_OUT: "cart_rate",
    Cause.CHECKOUT: "checkout_rate",
}
TARGET: Final = 0.8


@dataclass
class Run:
    """The shop's products on their way through time."""

    shop: Shop
    model: Forecaster
    policy: AlertPolicy
    lines: Timelines
    demand: list[npt.NDArray[np.float32]]  # (n, 1 + streams) of the newest steps
    moved: list[Transitions] = field(default_factory=list)


def hours(shop: Shop, start_ms: int, days: int) -> Iterator[npt.NDArray[np.float64]]:
    """Sums of each hour's tiles, (products, 12, N_MEASURES), with whatever was sent by an hour after it."""
    n = shop.config.products
    first = start_ms // TILE_MS
    waiting: defaultdict[int, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros((n, TILES, N_MEASURES)))
    for i, chunk in enumerate(shop.chunks(start_ms, start_ms + (days * 24 + 1) * HOUR_MS)):
        cells = chunk.increment.cells
        hour, tile = np.divmod(cells.step - first, TILES)
        for at in np.unique(hour[hour >= i - 1]).tolist():
            mine = hour == at
            waiting[at][cells.product[mine], tile[mine]] += cells.sums[mine]
        if i:
            yield waiting.pop(i - 1)


def begin(shop: Shop, model: Forecaster, start_ms: int) -> Run:
    """Products that nothing is known of."""
    n, step = shop.config.products, start_ms // HOUR_MS - 1
    lines = Timelines(
        step=np.full(n, step),
        tile=np.full(n, (step + 1) * TILES - 1),
        features=features.fresh(model.spec, n),
        state=np.zeros((n, model.state_size), np.float32),
        scores=timeline.fresh_scores(n),
        trials=calibration.no_trials(n, model.horizon, len(model.levels)),
    )
    return Run(shop, model, AlertPolicy(), lines, [])


def alerts_of(run: Run, start_ms: int, days: int) -> Iterator[Alert]:
    """Every message of every alert, in order, after the warm-up."""
    names, n = run.shop.names.product_ids, run.shop.config.products
    pool, turns = np.zeros(n, np.int64), calibration.turn(names, run.model.horizon)
    for i, sums in enumerate(hours(run.shop, start_ms, days)):
        step = start_ms // HOUR_MS + i
        day = calibration.day_of(step, HOUR_MS)
        pools = Pools.of(pool, turns, [Memory(len(run.model.levels), {})], day, day)
        advanced = timeline.advance(run.lines, sums, step * TILES, TILES, run.model, run.policy, pools)
        run.lines = advanced.timelines
        run.demand = [*run.demand[1 - HISTORY :], timeline.demand(run.model.spec, sums.sum(axis=1))]
        for moved in advanced.transitions if i >= WARM_DAYS * 24 else []:
            if len(moved):
                run.moved.append(moved)
                yield from messages(moved, names, run.policy, tile_ms=TILE_MS, levels=run.model.levels)


def event_of(alert: Alert, trends: Sequence[Trend]) -> Trend | None:
    """The injected change that the alert's first window overlaps, in its direction; None: there is none."""
    return next(
        (
            trend
            for trend in trends
            if trend.product_id == alert.product_id
            and trend.kind == alert.kind
            and alert.starts_at_ms < trend.end_ms
            and alert.updated_at_ms > trend.start_ms
        ),
        None,
    )


def told_with_stock(alert: Alert) -> str:
    """The alert's first driver if it were known that nothing is in stock."""
    effects = np.full((1, len(drivers.NAMES)), np.nan)
    for name, effect in alert.drivers:
        effects[0, drivers.NAMES.index(name)] = effect
    facts = Facts(np.zeros(1), np.zeros(1, np.bool_), np.full(1, np.nan))
    return drivers.ranked(drivers.told(effects, facts))[0][0][0]


def scored(said: Sequence[Alert], trends: Sequence[Trend]) -> tuple[dict[str, list[Any]], float]:
    """By cause: alerts, and shares whose first driver is the cause, when it fires and when last said that it fires; and the greatest gap in adding up."""
    first: dict[str, Alert] = {}
    last: dict[str, Alert] = {}
    for alert in said:
        if alert.action is Action.FIRE:
            first[alert.alert_id] = alert
        if alert.firing:
            last[alert.alert_id] = alert
    gap = max(abs(sum(effect for _, effect in a.drivers) - (a.observed - a.expected)) for a in said)
    found: dict[str, list[Any]] = {}
    for key, alert in first.items():
        trend = event_of(alert, trends)
        if trend is None:
            continue
        rows = [(trend.cause.value, TELLING[trend.cause], alert.drivers[0][0], last[key].drivers[0][0])]
        if trend.cause is Cause.STOCK_OUT:
            rows.append(("stock_out, stock known", "stock_out", told_with_stock(alert), told_with_stock(last[key])))
        for name, telling, at_first, at_last in rows:
            entry = found.setdefault(name, [0, 0, 0, Counter()])
            entry[0] += 1
            entry[1] += at_first == telling
            entry[2] += at_last == telling
            entry[3][at_first] += at_first != telling
    return found, gap


def alert_costs(run: Run) -> tuple[float, float]:
    """Microseconds an alert's message takes to be explained: alone, and all in one batch."""

    def explained(moved: Transitions) -> None:
        drivers.ranked(drivers.split(moved.funnel, moved.usual, moved.expected))

    first = run.moved[0]
    alone = Transitions(*(getattr(first, part.name)[:1] for part in fields(Transitions)))
    whole = Transitions(*(np.concatenate([getattr(moved, part.name) for moved in run.moved]) for part in fields(Transitions)))
    return median_seconds(lambda: explained(alone)) * 1e6, median_seconds(lambda: explained(whole)) / len(whole) * 1e6


def forecasts(run: Run, batches: Sequence[int]) -> tuple[dict[int, float], float]:
    """Products a second of `models.explain` by batch, and the greatest gap in adding up relative to the forecast."""
    rates, gap = {}, 0.0
    history = np.stack(run.demand, axis=1)
    for n in batches:
        rows = np.arange(n) % run.shop.config.products

        def once(rows: npt.NDArray[np.int64] = rows) -> Any:
            some = run.lines.at(rows)
            nothing = np.zeros((len(rows), history.shape[2]), np.float32)
            return explain(run.model, some.features, some.state, some.step, history[rows], nothing, nothing[:, 0])

        made = once()
        # Nothing has happened in the running step: what its driver says is what the coalitions leave over.
        gap = max(gap, float(np.abs(made.effects[:, -1]).max() / made.total.max()))
        rates[n] = n / median_seconds(once)
    return rates, gap


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file instead")
    parser.add_argument("--days", type=int, default=14, help="days after the warm-up")
    parser.add_argument("--products", type=int, default=500)
    parser.add_argument("--lines-per-hour", type=float, default=1500.0)
    parser.add_argument("--trends-per-day", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    about = rig.machine()
    print(rig.said(about), flush=True)
    config = ShopConfig(products=arguments.products, lines_per_hour=arguments.lines_per_hour, trends_per_day=arguments.trends_per_day)
    shop = Shop(config, arguments.seed, rules=Rules(step_ms=TILE_MS))
    start_ms, days = config.opened_ms, WARM_DAYS + arguments.days
    run = begin(shop, Forecaster.load(rig.ROOT / "models" / "default"), start_ms)
    said = list(alerts_of(run, start_ms, days))
    trends = shop.trends(start_ms + WARM_DAYS * DAY_MS, start_ms + days * DAY_MS)
    found, gap = scored(said, trends)
    causes = [value for name, value in found.items() if "known" not in name]
    total = [sum(value[k] for value in causes) for k in range(3)]

    def row(name: str, value: Sequence[Any]) -> list[str]:
        others = ", ".join(f"{driver} {n}" for driver, n in value[3].most_common(3) if n)
        return [name, str(value[0]), f"{value[1] / value[0]:.0%}", f"{value[2] / value[0]:.0%}", others]

    rows = [row(name, value) for name, value in sorted(found.items())] + [row("all, by clicks alone", [*total, Counter()])]
    print(
        f"\n{len(trends)} changes injected in {arguments.days} days; first driver of the alerts that fired within them (target {TARGET:.0%}):\n"
    )
    print(rig.table(["cause", "alerts", "right when fired", "right when last said", "wrong ones said"], rows))
    each_us, micros = alert_costs(run)
    print(
        f"\n{len(said)} messages; adding up: at most {gap:.1e} units off; drivers of a message: {micros:.0f} µs, {each_us:.0f} µs where it comes alone"
    )
    rates, forecast_gap = forecasts(run, (1, 64, 256))
    print(rig.table(["forecasts at once", "explained a second"], [[str(n), f"{rate:,.0f}"] for n, rate in rates.items()]))
    print(f"adding up: at most {forecast_gap:.1e} of the greatest forecast off")
    figures = {
        "machine": about,
        "injected": len(trends),
        "by_cause": {name: {"alerts": v[0], "fired": v[1], "last": v[2], "wrong": dict(v[3])} for name, v in found.items()},
        "share": total[1] / total[0],
        "gap": gap,
        "alert_us": micros,
        "lone_alert_us": each_us,
        "forecasts": rates,
        "forecast_gap": forecast_gap,
    }
    rig.write("explanations", figures, arguments.json)


if __name__ == "__main__":
    main()
