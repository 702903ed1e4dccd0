"""Other models than ours, by name, each behind the interface of `models.bench.Contender`; they are run beside it in every backtest."""

from typing import Final

from models.bench import Contender
from models.contenders import simple

# What a model must beat before it may serve; quick enough to run always.
BASELINES: Final[dict[str, Contender]] = {"28-day mean": simple.window_mean, "seasonal naive": simple.seasonal_naive}
