"""The accuracy bench: Online Retail's order lines as a panel with cut-offs, in the files that `trendcast backtest` reads.

Products are five-digit codes. Left out are cancellations, lines without units or price, and bulk lines of 1,000 units or more that were cancelled on the
same day. A product begins with its first sale; taken are those that sold most in the last weeks before the first cut-off and had begun early enough.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

BULK: Final = 1_000
# Of hourly panels, which are mostly zeros, only the best sellers over the whole time are looked at.
HOURLY_PRODUCTS: Final = 600


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a bench is cut."""

    freq: str
    season: int
    horizon: int
    spacing: int  # steps between cut-offs
    products: int
    selling: int  # newest steps before the first cut-off by whose units products are chosen
    begun: int  # steps that they must have lived through by then
    cutoffs: int = 4


DAILY: Final = Protocol("D", season=7, horizon=14, spacing=14, products=1_000, selling=28, begun=56)
HOURLY: Final = Protocol("h", season=24, horizon=24, spacing=72, products=200, selling=336, begun=336)


def write(orders: Path, protocol: Protocol, directory: Path, before: str | None = None) -> None:
    """Make the bench of an order file (parquet); `before`: only of lines before this date."""
    sold = sold_lines(pd.read_parquet(orders), before)
    sold["ds"] = sold["InvoiceDate"].dt.floor(protocol.freq)
    cells = sold.groupby(["StockCode", "ds"]).agg(y=("Quantity", "sum"), hist_orders=("InvoiceNo", "nunique")).reset_index()
    if protocol.freq == "h":
        total = cells.groupby("StockCode")["y"].sum().sort_values(ascending=False)
        cells = cells[cells["StockCode"].isin(total.index[:HOURLY_PRODUCTS])]
    dates = pd.date_range(cells["ds"].min(), sold["InvoiceDate"].max().floor(protocol.freq), freq=protocol.freq)
    last = len(dates) - 1 - protocol.horizon
    cutoffs = [last - protocol.spacing * back for back in range(protocol.cutoffs - 1, -1, -1)]
    chosen = _chosen(cells, dates, cutoffs[0], protocol)
    parts = [
        of_product.set_index("ds")[["y", "hist_orders"]]
        .reindex(pd.date_range(of_product["ds"].min(), dates[-1], freq=protocol.freq, name="ds"), fill_value=0)
        .assign(unique_id=product)
        .reset_index()
        for product, of_product in cells[cells["StockCode"].isin(chosen)].groupby("StockCode")
    ]
    directory.mkdir(parents=True, exist_ok=True)
    pd.concat(parts, ignore_index=True).to_parquet(directory / "panel.parquet", index=False)
    plan = {
        "cutoffs": [str(dates[cutoff]) for cutoff in cutoffs],
        "horizon": protocol.horizon,
        "freq": protocol.freq,
        "season": protocol.season,
    }
    (directory / "cutoffs.json").write_text(json.dumps(plan) + "\n", encoding="utf-8")


def sold_lines(lines: Any, before: str | None = None) -> Any:
    """Lines of sales: see the module's."""
    lines["StockCode"] = lines["StockCode"].astype(str).str.upper()
    if before:
        lines = lines[lines["InvoiceDate"] < before]
    lines = lines[lines["StockCode"].str.match(r"^\d{5}[A-Z]*$")]
    buyer, code, units, day = lines["CustomerID"], lines["StockCode"], lines["Quantity"], lines["InvoiceDate"].dt.floor("D")
    cancelled = lines["InvoiceNo"].astype(str).str.startswith("C")
    undone = set(zip(buyer[cancelled], code[cancelled], -units[cancelled], day[cancelled], strict=True))
    bulk = (units >= BULK) & pd.Series([line in undone for line in zip(buyer, code, units, day, strict=True)], index=lines.index)
    return lines[~bulk & (units > 0) & (lines["UnitPrice"] > 0)].copy()


def _chosen(cells: Any, dates: Any, cutoff: int, protocol: Protocol) -> list[str]:
    known = cells[cells["ds"] <= dates[cutoff]]
    lately = known[known["ds"] >= dates[max(0, cutoff - protocol.selling + 1)]]
    begun = set(known.loc[known["ds"] <= dates[max(0, cutoff - protocol.begun + 1)], "StockCode"])
    total = lately.groupby("StockCode")["y"].sum()
    total = total[total.index.isin(begun) & (total > 0)].sort_values(ascending=False, kind="stable")
    return sorted(total.index[: protocol.products])
