"""A challenger's products: advanced by the steps that the serving model has closed, their forecasts on trial as that one's are. Pure."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from models import calibration
from models.calibration import Outcomes, Pools, Trials
from models.features import F32, I64, seasonal_naive
from models.known_future import KnownFuture
from models.seasons import DAY_MS
from models.timeline import Closed, Model, censored, compare, consume


@dataclass(frozen=True, slots=True)
class Followed:
    """Products of one shard, all after the same step; row i of each array belongs to product i."""

    names: tuple[str, ...]
    born: I64  # (n,) first step; until it has come, features and state are fresh
    ends: I64  # (n,) last step before the product is forgotten for its silence
    features: F32  # (n, features)
    state: F32  # (n, state)
    trials: Trials

    @classmethod
    def none(cls, features: int, state: int, horizon: int, levels: int) -> Self:
        nobody = np.zeros(0, np.int64)
        rows = np.zeros((0, features), np.float32), np.zeros((0, state), np.float32)
        return cls((), nobody, nobody, *rows, calibration.no_trials(0, horizon, levels))

    def at(self, rows: npt.NDArray[np.intp]) -> "Followed":
        names = tuple(self.names[i] for i in rows)
        return Followed(names, self.born[rows], self.ends[rows], self.features[rows], self.state[rows], self.trials.at(rows))

    def joined(self, others: "Followed") -> "Followed":
        """These, then the others."""
        return Followed(
            names=self.names + others.names,
            born=np.concatenate([self.born, others.born]),
            ends=np.concatenate([self.ends, others.ends]),
            features=np.concatenate([self.features, others.features]),
            state=np.concatenate([self.state, others.state]),
            trials=Trials(*(np.concatenate(pair) for pair in zip(self.trials.parts(), others.trials.parts(), strict=True))),
        )


def follow(
    model: Model, before: Followed, demand: F32, first: int, pools: Pools, shop: KnownFuture | None = None
) -> tuple[Followed, dict[int, Outcomes]]:
    """Products after the steps from `first` on, and what came of their forecasts, by day.

    `demand`: (n, steps, 1 + streams) natural units. `pools` are one for all, with the factors of the days of these steps; `shop`: what was known
    ahead of the products.
    """
    n, closed = len(before.names), list[Closed]()
    features, state, trials = before.features.copy(), before.state.copy(), before.trials.copy()
    for place in range(demand.shape[1]):
        step = first + place
        living = np.flatnonzero((before.born <= step) & (step <= before.ends))
        came, naive, at = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32), np.full(len(living), step)
        sold = censored(demand[living, place], shop, living, at)
        came[living], naive[living] = sold[:, 0], seasonal_naive(model.spec, features[living], at)
        features[living], state[living] = consume(model, features[living], state[living], sold, at, shop, living)
        due = living[step % model.horizon == pools.turn[living]]
        closed.append(Closed(step, came, naive, due, features[due], state[due]))
    _, outcomes = compare(trials, closed, model, pools, shop)
    return Followed(before.names, before.born, before.ends, features, state, trials), {day: found for (_, day), found in outcomes.items()}


def first_whole_day(step: int, horizon: int, step_ms: int) -> int:
    """The first day all of whose steps are judged, of products that are followed from after `step` on: each has had its turn by then.

    >>> first_whole_day(23, 24, 3_600_000), first_whole_day(24, 24, 3_600_000)
    (2, 3)
    """
    return -(-(step + 1 + horizon) * step_ms // DAY_MS)
