"""A consumer's sums beside the truth."""

from typing import Final

import numpy as np
import pandas as pd

from simulator.truth import MEASURES, SCALES, Truth

CELL: Final = ["product_id", "start_ms"]
SCALE_OF: Final = dict(zip(MEASURES, SCALES.tolist(), strict=True))


def differences(truth: Truth, counted: pd.DataFrame, start_ms: int | None = None, end_ms: int | None = None) -> pd.DataFrame:
    """Where a consumer's sums differ from the truth, in the steps that start in [start_ms, end_ms); no rows: nowhere.

    `counted` has product_id, start_ms (of steps, or of shorter intervals within them) and the measures in natural units, as
    `trendcast export features` writes them; what is absent is zero. The result has product_id, start_ms (of the step), measure, expected, counted.
    """
    step_ms = truth.rules.step_ms
    steps = counted.assign(start_ms=counted["start_ms"] // step_ms * step_ms)
    if start_ms is not None:
        steps = steps[steps["start_ms"] >= start_ms]
    if end_ms is not None:
        steps = steps[steps["start_ms"] < end_ms]
    expected, found = _long(truth.by_step(start_ms, end_ms)), _long(steps)
    both = pd.concat([expected, found], axis=1, keys=["expected", "counted"]).fillna(0)
    wrong = both[both["expected"] != both["counted"]].rename_axis([*CELL, "measure"]).reset_index()
    scales = np.array([SCALE_OF[measure] for measure in wrong["measure"]], dtype=float)
    return wrong.assign(expected=wrong["expected"] / scales, counted=wrong["counted"] / scales)


def _long(frame: pd.DataFrame) -> pd.Series:
    """Integer sums by product, step and measure: those that are not zero."""
    sums = frame.groupby(CELL)[list(MEASURES)].sum()
    integers = pd.DataFrame(np.rint(sums.to_numpy(float) * SCALES), index=sums.index, columns=sums.columns).stack()
    return integers[integers != 0]
