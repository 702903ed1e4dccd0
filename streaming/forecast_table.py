"""Forecasts as a table: the messages of the topic `forecasts`, a row for each step and each sum. Pure."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from streaming.contracts import Forecast

STEP, SUM = "step", "sum"
_QUALITIES: Final = ("ok", "gap", "late", "cold_start")
_KINDS: Final = ("close", "nowcast")
_DIRECTIONS: Final = ("rising", "falling", "flat")


def quantile_column(level: float) -> str:
    """Column of a quantile.

    >>> [quantile_column(level) for level in (0.05, 0.5, 0.975)]
    ['q05', 'q50', 'q97.5']
    """
    percent = f"{level * 100:.6g}"
    return f"q{percent:0>2}"


def schema(levels: Sequence[float], said: dict[str, str]) -> Any:
    """Columns of `table`, with `said` as the file's metadata. Words are dictionaries, which pandas reads as categories."""
    import pyarrow as pa

    words = pa.dictionary(pa.int8(), pa.string())
    return pa.schema(
        [
            ("product_id", pa.string()),
            ("interval", words),
            ("start_ms", pa.int64()),
            ("end_ms", pa.int64()),
            ("mean", pa.float64()),
            *((quantile_column(level), pa.float64()) for level in levels),
            ("observed", pa.float64()),
            ("kind", words),
            ("quality", words),
            ("trend", words),
            ("trend_strength", pa.float64()),
            ("revision_step", pa.int64()),
            ("revision_sequence", pa.int64()),
            ("as_of_ms", pa.int64()),
            ("complete_through_ms", pa.int64()),
        ],
        metadata=said,
    )


def table(made: Sequence[Forecast], schema: Any) -> Any:
    """One row a step, then one a sum, product by product: all of one horizon, with the same levels, at least one.

    `observed`: units that were already counted in the interval; null of steps that lie wholly ahead. A sum's interval begins with the running step.
    """
    import pyarrow as pa

    horizon, step_ms = made[0].horizon, made[0].step_ms
    rows = [horizon + len(f.cumulative) for f in made]
    whose = np.repeat(np.arange(len(made)), rows)
    place = np.arange(len(whose)) - np.repeat(np.cumsum(rows) - rows, rows)
    is_sum = place >= horizon
    first = np.array([f.first_step for f in made])[whose]
    lengths = np.array([steps for f in made for steps in (*range(1, horizon + 1), *(each.steps for each in f.cumulative))])
    mean = np.array([mean for f in made for mean in (*f.mean, *(each.mean for each in f.cumulative))])
    quantiles = np.concatenate(
        [part for f in made for part in (np.array(f.quantiles).T, *(np.array([each.quantiles]) for each in f.cumulative))]
    )
    running = np.array([f.running.observed if f.running else np.nan for f in made])[whose]

    def words(values: Sequence[str], known: Sequence[str]) -> Any:
        places = np.array([known.index(value) for value in values], np.int8)
        return pa.DictionaryArray.from_arrays(pa.array(places[whose]), pa.array(known, pa.string()))

    def each(values: Sequence[Any]) -> Any:
        return pa.array(np.array(values)[whose])

    columns = [
        pa.array([f.product_id for f in made], pa.string()).take(pa.array(whose)),
        pa.DictionaryArray.from_arrays(pa.array(is_sum.astype(np.int8)), pa.array([STEP, SUM], pa.string())),
        pa.array(first + step_ms * np.where(is_sum, 0, place)),
        pa.array(first + step_ms * lengths),
        pa.array(mean),
        *(pa.array(np.ascontiguousarray(column)) for column in quantiles.T),
        pa.array(np.where(is_sum | (place == 0), running, np.nan), from_pandas=True),
        words([f.kind for f in made], _KINDS),
        words([f.quality for f in made], _QUALITIES),
        words([f.trend.direction for f in made], _DIRECTIONS),
        each([f.trend.strength for f in made]),
        each([f.revision[0] for f in made]),
        each([f.revision[1] for f in made]),
        each([f.as_of for f in made]),
        each([f.complete_through for f in made]),
    ]
    return pa.table(columns, schema=schema)
