"""What the demo shows on a terminal, drawn from one view of the run. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from simulator.session import moment
from streaming.contracts import Forecast, TrendAlert

BARS: Final = "▁▂▃▄▅▆▇█"
RECENT_STEPS: Final = 24
MAX_ALERTS: Final = 8


@dataclass(frozen=True, slots=True)
class View:
    """One look at the run."""

    phase: str
    shop_ms: int
    produced: int
    produced_per_s: float
    counted: int
    rejected: int
    duplicates: int
    lag: int
    products: int
    forecasts: int
    forecasts_per_s: float
    freshness_ms: tuple[float, float] | None  # p50, p99
    firing: Sequence[TrendAlert]
    forecasts_of: Sequence[Forecast]


def draw(view: View) -> RenderableType:
    """The whole screen."""
    return Group(_numbers(view), _products(view.forecasts_of), _alerts(view.firing))


def line(view: View) -> str:
    """The same in one line, for logs."""
    fresh = "" if view.freshness_ms is None else f", fresh p50 {view.freshness_ms[0]:.0f} ms p99 {view.freshness_ms[1]:.0f} ms"
    return (
        f"{view.phase}  shop time {moment(view.shop_ms)}  {view.produced:,} events in, {view.counted:,} counted, {view.rejected:,} rejected, "
        f"lag {view.lag:,}, {view.forecasts:,} forecasts out{fresh}, {len(view.firing)} alerts firing"
    )


def sparkline(values: Sequence[float | None]) -> str:
    """Bars of eight heights, from zero; a blank where nothing is known.

    >>> sparkline([0, 1, None, 2])
    '▁▅ █'
    """
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    return "".join(" " if value is None else BARS[min(int(max(value, 0) / top * 8), 7)] for value in values)


def _numbers(view: View) -> Panel:
    grid = Table.grid(padding=(0, 3))
    fresh = "-" if view.freshness_ms is None else f"{view.freshness_ms[0]:.0f} / {view.freshness_ms[1]:.0f} ms"
    grid.add_row("shop time", f"[bold]{moment(view.shop_ms)}[/]", "events in", f"[bold]{view.produced:,}[/]  {view.produced_per_s:,.0f}/s")
    grid.add_row("products", f"{view.products:,}", "counted", f"[bold]{view.counted:,}[/]  lag {view.lag:,}")
    rejected = f"{view.rejected:,} rejected, {view.duplicates:,} duplicates"
    grid.add_row("freshness p50 / p99", fresh, "kept out", rejected)
    grid.add_row("firing alerts", f"{len(view.firing)}", "forecasts out", f"[bold]{view.forecasts:,}[/]  {view.forecasts_per_s:,.0f}/s")
    return Panel(grid, title=f"trendcast · {view.phase}", title_align="left")


def _products(forecasts: Sequence[Forecast]) -> Table:
    table = Table(title="best sellers: last 24 hours | next 24 hours", title_justify="left", expand=True)
    for title, justify in (
        ("product", "left"),
        ("hour by hour", "left"),
        ("so far", "right"),
        ("this hour", "right"),
        ("next 7 days", "right"),
    ):
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=True)
    for f in forecasts:
        past: list[float | None] = list(f.recent.demand[-RECENT_STEPS:])
        bars = sparkline([*past, *f.mean])
        week = f.cumulative[0]
        low, high = week.quantiles[1], week.quantiles[-2]
        table.add_row(
            f.product_id,
            Text(bars[: len(past)]) + Text("|", style="dim") + Text(bars[len(past) :], style="cyan"),
            "-" if f.running is None else f"{f.running.observed:,.0f}",
            f"{f.mean[0]:,.1f}",
            f"{week.mean:,.0f} ({low:,.0f}-{high:,.0f})",
        )
    return table


def _alerts(firing: Sequence[TrendAlert]) -> Table:
    table = Table(title="firing alerts", title_justify="left", expand=True)
    for title in ("kind", "since", "what"):
        table.add_column(title, no_wrap=True)
    for alert in firing[:MAX_ALERTS]:
        style = "red" if alert.kind == "spike" else "yellow"
        table.add_row(Text(f"{alert.kind} {alert.severity}", style=style), moment(alert.starts_at), alert.title)
    if not firing:
        table.add_row("none", "", "")
    elif len(firing) > MAX_ALERTS:
        table.add_row("…", "", f"and {len(firing) - MAX_ALERTS} more")
    return table
