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
    """One row a step, then one a sum, product by product: all of one horizon, with the same sums and levels, at least one.

    `observed`: units that were already counted in the interval; null of steps that lie wholly ahead. A sum's interval begins with the running step.
    """
    import pyarrow as pa

    n, horizon, sums = len(made), made[0].horizon, [each.steps for each in made[0].cumulative]
    per_product = horizon + len(sums)
    whose = np.repeat(np.arange(n), per_product)
    first = np.array([f.first_step for f in made])[:, None]
    step_ms = made[0].step_ms
    starts = first + step_ms * np.r_[np.arange(horizon), np.zeros(len(sums), np.int64)]
    ends = first + step_ms * np.r_[np.arange(1, horizon + 1), sums].astype(np.int64)
    mean = np.array([[*f.mean, *(each.mean for each in f.cumulative)] for f in made])
    of_steps = np.array([f.quantiles for f in made]).transpose(0, 2, 1)
    of_sums = np.array([[each.quantiles for each in f.cumulative] for f in made]).reshape(n, len(sums), -1)
    quantiles = np.concatenate([of_steps, of_sums], axis=1).reshape(n * per_product, -1)
    observed = np.full((n, per_product), np.nan)
    observed[:, [0, *range(horizon, per_product)]] = np.array([f.running.observed if f.running else np.nan for f in made])[:, None]

    def words(values: Sequence[str], known: Sequence[str]) -> Any:
        places = np.array([known.index(value) for value in values], np.int8)
        return pa.DictionaryArray.from_arrays(pa.array(places[whose]), pa.array(known, pa.string()))

    def each(values: Sequence[Any]) -> Any:
        return pa.array(np.array(values)[whose])

    is_sum = pa.array(np.tile(np.r_[np.zeros(horizon, np.int8), np.ones(len(sums), np.int8)], n).astype(np.int8))
    columns = [
        pa.array([f.product_id for f in made], pa.string()).take(pa.array(whose)),
        pa.DictionaryArray.from_arrays(is_sum, pa.array([STEP, SUM], pa.string())),
        pa.array(starts.ravel()),
        pa.array(ends.ravel()),
        pa.array(mean.ravel()),
        *(pa.array(np.ascontiguousarray(column)) for column in quantiles.T),
        pa.array(observed.ravel(), from_pandas=True),
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
