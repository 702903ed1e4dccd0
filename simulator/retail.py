"""Reads UCI's "Online Retail" and "Online Retail II": the owners' xlsx, their csv, and parquet with the same columns.

The rule: every line is replayed under its own StockCode, exactly as written, if it satisfies the order contract; that includes postage, samples at price 0
and manual lines. Invoices that start with C are cancellations (their negative quantity becomes the cancelled quantity). What cannot be said in an order (an
adjustment with a quantity of zero or less, a negative price) is left out and counted by reason. Local time is Europe/London.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from simulator.events import Events, Kind, Names
from streaming.errors import UserError

ZONE: Final = "Europe/London"
# Column → the owners' names of it in the first and second edition.
COLUMNS: Final = {
    "invoice": ("InvoiceNo", "Invoice"),
    "product": ("StockCode",),
    "quantity": ("Quantity",),
    "time": ("InvoiceDate",),
    "price": ("UnitPrice", "Price"),
    "customer": ("CustomerID", "Customer ID"),
}
TIME_FORMATS: Final = ("ISO8601", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%y %H:%M", "%d/%m/%y %H:%M")

# Limits of the order contract.
MAX_QUANTITY: Final = 1_000_000
MAX_PRICE: Final = 1e9
MAX_ID_BYTES: Final = 128
MAX_ITEMS: Final = 1_000

# Customers without a number get one above all real ones, from their order.
ANONYMOUS: Final = 10**9

Skipped = dict[str, int]


@dataclass(frozen=True, slots=True)
class Log:
    """A log of real events, sorted by time and sent at their event time."""

    orders: Events
    clicks: Events
    names: Names
    rows: int  # in the file
    skipped: Skipped  # reason → rows that were left out
    about: str  # one line for people


def is_retail(columns: list[str]) -> bool:
    """Whether these are the columns of an Online Retail file."""
    return all(any(name in columns for name in names) for names in COLUMNS.values())


def read_retail(path: Path) -> Log:
    """The file's order lines as orders: one record for each (invoice, minute), split where it has more lines than an order may."""
    table = _standard(_read(path))
    keep, skipped = _judge(table)
    lines = table[keep]
    event_ms = _utc_ms(lines["time"])
    order = np.argsort(event_ms, kind="stable")
    return _log(lines.iloc[order], event_ms[order], len(table), skipped)


def _read(path: Path) -> pd.DataFrame:
    text = {name: str for key in ("invoice", "product") for name in COLUMNS[key]}
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".xlsx":
        sheets = list(pd.read_excel(path, sheet_name=None, dtype=text).values())
        for sheet in sheets:
            _standard(sheet)  # says which columns are missing
        # The second edition's two sheets overlap by nine days: an invoice is read from the first sheet that has it.
        known: set[str] = set()
        parts = []
        for sheet in sheets:
            invoice = _standard(sheet)["invoice"].astype(str)
            parts.append(sheet[~invoice.isin(known)])
            known.update(invoice)
        return pd.concat(parts, ignore_index=True)
    try:
        return pd.read_csv(path, dtype=text, encoding="utf-8")
    except UnicodeDecodeError:
        return pd.read_csv(path, dtype=text, encoding="latin-1")


def _standard(table: pd.DataFrame) -> pd.DataFrame:
    """The columns under our names."""
    found = {}
    for name, owners in COLUMNS.items():
        there = [column for column in owners if column in table.columns]
        if not there:
            raise UserError(
                f"this is no Online Retail file: column {' or '.join(owners)} is missing; it has {', '.join(map(str, table.columns[:12]))}"
            )
        found[there[0]] = name
    return table.rename(columns=found)[list(COLUMNS)]


def _judge(table: pd.DataFrame) -> tuple[npt.NDArray[np.bool_], Skipped]:
    """Which rows are replayed, and why the others are not (the first reason counts). Times are parsed in place."""
    table["time"] = _local_times(table["time"])
    invoice, product = table["invoice"].astype(str), table["product"].astype(str)
    cancelled = invoice.str.startswith("C")
    quantity = pd.to_numeric(table["quantity"], errors="coerce").to_numpy(np.float64)
    price = pd.to_numeric(table["price"], errors="coerce").to_numpy(np.float64)
    reasons = {
        "no product or invoice number": table["product"].isna() | table["invoice"].isna() | (product == "") | (invoice == ""),
        "unfit product or invoice number": ~(_fit_id(product) & _fit_id(invoice)),
        "no readable time": table["time"].isna(),
        "no readable quantity or price": ~(np.isfinite(quantity) & np.isfinite(price)),
        "quantity of zero or less (adjustment)": ~cancelled & (quantity <= 0),
        "cancellation without a negative quantity": cancelled & (quantity >= 0),
        "quantity below one": np.abs(quantity) < 1,
        "quantity above 1,000,000": np.abs(quantity) > MAX_QUANTITY,
        "negative or absurd price": (price < 0) | (price > MAX_PRICE),
    }
    keep = np.ones(len(table), dtype=bool)
    skipped = {}
    for reason, rows in reasons.items():
        bad = keep & np.asarray(rows, dtype=bool)
        keep &= ~bad
        if bad.any():
            skipped[reason] = int(bad.sum())
    return keep, skipped


def _fit_id(text: pd.Series) -> npt.NDArray[np.bool_]:
    distinct = {
        value: len(value.encode()) <= MAX_ID_BYTES and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value) for value in text.unique()
    }
    fit: npt.NDArray[np.bool_] = text.map(distinct).to_numpy(bool)
    return fit


def _local_times(column: pd.Series) -> pd.Series:
    """Local times, NaT where unreadable. Of several readings of text, the one that parses most rows in ascending order: these logs are in time order."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column

    def quality(times: pd.Series) -> tuple[int, int]:
        known = times.dropna()
        return len(known), int((known.diff().dropna() >= pd.Timedelta(0)).sum())

    return max((pd.to_datetime(column, format=reading, errors="coerce") for reading in TIME_FORMATS), key=quality)


def _utc_ms(local: pd.Series) -> npt.NDArray[np.int64]:
    # The hour that occurs twice in autumn is taken as winter time; one that does not occur in spring moves on to the next that does.
    zoned = local.dt.tz_localize(ZONE, ambiguous=np.zeros(len(local), dtype=bool), nonexistent="shift_forward")
    instants: npt.NDArray[np.int64] = zoned.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[ms]").astype(np.int64)
    return instants


def _log(lines: pd.DataFrame, event_ms: npt.NDArray[np.int64], rows: int, skipped: Skipped) -> Log:
    invoice_code, invoices = pd.factorize(lines["invoice"].astype(str))
    product, product_ids = pd.factorize(lines["product"].astype(str), sort=True)
    # Lines of an invoice may be apart among others of the same minute: bring them together, keep the order otherwise.
    order = np.lexsort((invoice_code, event_ms))
    invoice_code, event_ms, product = invoice_code[order], event_ms[order], product[order]
    m = len(order)
    new = np.ones(m, dtype=bool)
    new[1:] = (invoice_code[1:] != invoice_code[:-1]) | (event_ms[1:] != event_ms[:-1])
    nth = np.arange(m) - np.maximum.accumulate(np.where(new, np.arange(m), 0))
    first = np.flatnonzero(new | (nth % MAX_ITEMS == 0))
    n = len(first)
    number = np.arange(n)
    ids = np.asarray(invoices, dtype=object)[invoice_code[first]]
    customer = pd.to_numeric(lines["customer"], errors="coerce").to_numpy(np.float64)[order][first]
    quantity = np.abs(pd.to_numeric(lines["quantity"]).to_numpy(np.float64)[order])
    orders = Events.of(
        n,
        m,
        send_ms=event_ms[first],
        event_ms=event_ms[first],
        kind=np.where([str(name).startswith("C") for name in ids], Kind.CANCELLED, Kind.PLACED),
        number=number,
        key=np.where(np.isnan(customer), ANONYMOUS + number, np.nan_to_num(customer)).astype(np.int64),
        lines=np.diff(np.append(first, m)),
        product=product,
        quantity=np.rint(quantity * 1_000).astype(np.int64),
        price=np.rint(pd.to_numeric(lines["price"]).to_numpy(np.float64)[order] * 10_000) / 10_000,
    )
    names = Names(tuple(map(str, product_ids)), tuple(map(str, ids)), currency="GBP")
    return Log(orders, Events.none(), names, rows, skipped, "Online Retail (UCI, CC BY 4.0): real orders and cancellations, Europe/London")
