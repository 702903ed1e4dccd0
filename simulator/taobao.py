"""Reads Alibaba's "User Behavior" log: the owner's headerless csv (100 million rows, sorted by user), or parquet with the same columns.

Page views, additions to carts and favourites become clicks; a purchase becomes an order of one item, quantity 1, price 0 (the log has no prices).
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from simulator.events import Events, Kind, Names
from simulator.retail import Log
from streaming.errors import UserError

COLUMNS: Final = ("user_id", "item_id", "category_id", "behavior", "ts")
CLICKS: Final = {"pv": Kind.VIEW, "cart": Kind.ADD_TO_CART, "fav": Kind.WISHLIST}
PURCHASE: Final = "buy"
# The log's own days, 2017-11-25 to 12-03 in China: the few rows outside are known to be wrong.
FIRST_MS: Final = 1_511_539_200_000
END_MS: Final = 1_512_316_800_000


def is_taobao(fields: list[str]) -> bool:
    """Whether these are the names of its columns, or the fields of one of its rows."""
    return set(COLUMNS) <= set(fields) or (len(fields) == 5 and fields[3] in {*CLICKS, PURCHASE})


def read_taobao(path: Path, *, by: str = "item", start_ms: int = FIRST_MS, end_ms: int = END_MS) -> Log:
    """The rows of [start_ms, end_ms); products are its items or, `by="category"`, its categories."""
    if by not in ("item", "category"):
        raise UserError(f"products are taken by item or by category, not by {by!r}")
    start_ms, end_ms = max(start_ms, FIRST_MS), min(end_ms, END_MS)
    rows = 0
    parts = []
    for batch in _batches(path):
        rows += batch.num_rows
        inside = pc.and_(pc.greater_equal(batch["ts"], -(-start_ms // 1000)), pc.less(batch["ts"], -(-end_ms // 1000)))
        parts.append(pa.Table.from_batches([batch]).filter(inside).select(["user_id", f"{by}_id", "behavior", "ts"]))
    table = pa.concat_tables(parts).to_pandas()
    known = table["behavior"].isin([*CLICKS, PURCHASE]).to_numpy()
    skipped = {"outside the chosen days": rows - len(table), "unknown behaviour": int((~known).sum())}
    table = table[known].sort_values("ts", kind="stable")
    product, product_ids = pd.factorize(table[f"{by}_id"], sort=True)
    behaviour = table["behavior"].astype(str).to_numpy(dtype=object)
    bought = behaviour == PURCHASE
    kind = np.select([behaviour == name for name in CLICKS], list(CLICKS.values()), Kind.PLACED)

    def events(chosen: npt.NDArray[np.bool_], quantity: int) -> Events:
        n = int(chosen.sum())
        at_ms = table["ts"].to_numpy(np.int64)[chosen] * 1000
        key = table["user_id"].to_numpy(np.int64)[chosen]
        return Events.of(
            n, n, send_ms=at_ms, event_ms=at_ms, kind=kind[chosen], number=np.arange(n), key=key, product=product[chosen], quantity=quantity
        )

    about = f"Taobao user behaviour (Alibaba, for research): real clicks and purchases by {by}, no prices"
    skipped = {reason: n for reason, n in skipped.items() if n}
    return Log(events(bought, 1_000), events(~bought, 0), Names(tuple(map(str, product_ids)), sessions=False), rows, skipped, about)


def _batches(path: Path) -> "list[pa.RecordBatch] | pyarrow.csv.CSVStreamingReader":
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
        behaviour = table.schema.get_field_index("behavior")
        return table.set_column(behaviour, "behavior", table["behavior"].cast(pa.string())).to_batches()
    types = {name: pa.string() if name == "behavior" else pa.int64() for name in COLUMNS}
    return pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=list(COLUMNS), block_size=16 << 20),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types),
    )
