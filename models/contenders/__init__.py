"""Other models than ours, by name, each behind the interface of `models.bench.Contender`; any of them runs beside it in a backtest.

Importing this loads none of the libraries that they need.
"""

from typing import Final

from models.bench import Contender
from models.contenders import arima, boosting, ensembles, recurrent, regression, simple
from models.contenders.libraries import require
from models.dataset import UnusableData

# What a model must beat before it may serve; quick enough to run always.
BASELINES: Final[dict[str, Contender]] = {"28-day mean": simple.window_mean, "seasonal naive": simple.seasonal_naive}

# Quick ones that err in different ways: an ensemble trains each of its members a second time, on earlier cut-offs.
MEMBERS: Final[dict[str, Contender]] = {
    "28-day mean": simple.window_mean,
    "ARIMA": ensembles.remembered(arima.arima),
    "ridge": ensembles.remembered(regression.ridge),
    "random forest": ensembles.remembered(regression.random_forest()),
    "LightGBM": ensembles.remembered(boosting.boosted_trees()),
}

CONTENDERS: Final[dict[str, Contender]] = {
    **BASELINES,
    **MEMBERS,
    "SVR": regression.support_vectors,
    "window LSTM": recurrent.window_network("LSTM"),
    "window GRU": recurrent.window_network("GRU"),
    **ensembles.ensembles(MEMBERS),
}

_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "ARIMA": ("statsmodels",),
    "ridge": ("sklearn",),
    "random forest": ("sklearn",),
    "LightGBM": ("lightgbm",),
    "SVR": ("sklearn",),
    **dict.fromkeys(("average", "stacking", "blending"), ("statsmodels", "sklearn", "lightgbm")),
}


def chosen(names: str) -> dict[str, Contender]:
    """Contenders by `all`, `baselines`, `none`, or their names separated by commas, in small or capital letters.

    Raises UnusableData for a name that is unknown, or whose library is missing.

    >>> chosen("baselines") == BASELINES, chosen("none")
    (True, {})
    >>> list(chosen("Seasonal Naive, 28-day mean"))
    ['seasonal naive', '28-day mean']
    """
    sets = {"all": CONTENDERS, "baselines": BASELINES, "none": {}}
    if names in sets:
        found = dict(sets[names])
    else:
        known = {name.lower(): name for name in CONTENDERS}
        wanted = [part.strip() for part in names.split(",") if part.strip()]
        unknown = [part for part in wanted if part.lower() not in known]
        if unknown:
            raise UnusableData(f"there is no contender {', '.join(unknown)}; choose all, baselines, none, or from {', '.join(CONTENDERS)}")
        found = {known[part.lower()]: CONTENDERS[known[part.lower()]] for part in wanted}
    for name in found:
        for needed in _NEEDS.get(name, ()):
            require(needed)
    return found
