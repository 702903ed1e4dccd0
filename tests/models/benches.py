"""Small benches for tests."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.bench import Bench
from models.dataset import Panel
from models.features import FeatureSpec
from models.seasons import DAY_MS


def daily_bench(history: npt.ArrayLike, horizon: int, season: int = 7, cutoffs: tuple[int, ...] | None = None) -> Bench:
    """A bench of daily demand, (products, steps), NaN before a product is born; without `cutoffs`, one at the end of the history."""
    demand = np.asarray(history, np.float32)
    steps = demand.shape[1]
    cutoffs = cutoffs or (steps - 1,)
    born = np.isfinite(demand).argmax(axis=1)
    order = np.argsort(born, kind="stable")
    streams = np.stack([demand, np.minimum(demand, 3)], axis=-1)[order]
    panel = Panel(tuple(f"p{i}" for i in order), 14_610, born[order], np.nan_to_num(streams), "UTC")
    dates = pd.date_range("2010-01-01", periods=steps, freq="D")
    return Bench(panel, FeatureSpec.for_step(DAY_MS, ("hist_orders",)), dates, cutoffs, horizon, season)
