"""What a challenger's forecasts were worth beside those of the model that serves, over the same live steps of the same products. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from models.accuracy import ALL, accuracy
from models.calibration import Outcomes
from models.metrics import VOLUMES

# A challenger may lose so much more than the model that serves, relatively, before a day's outcomes speak against what the backtest said of weeks.
TOLERANCE: Final = 0.02
# Fewer outcomes say nothing: a day of some eighty products, by the hour.
FEWEST_OUTCOMES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Live:
    """A model's forecasts, as they would have been published, against what came."""

    outcomes: int
    mwql: float  # see `models.metrics.mwql`; NaN where nothing was sold
    naive: float  # the same of the naive forecast
    bias: float
    by_volume: Mapping[str, float]  # MWQL of the model's own classes that something came of

    @classmethod
    def of(cls, found: Outcomes, levels: Sequence[float]) -> Self | None:
        """None: nothing came of anything."""
        each = accuracy(found, levels)
        if ALL not in each:
            return None
        whole = each[ALL]
        by_volume = {name: scores.mwql for name, scores in each.items() if name in VOLUMES and scores.demand}
        return cls(whole.outcomes, whole.mwql, whole.naive, whole.bias, by_volume)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.4f}" for name, value in self.by_volume.items())
        return f"MWQL {self.mwql:.4f} of {self.outcomes:,} outcomes ({parts}), bias {100 * self.bias:+.1f} %; the naive forecast's {self.naive:.4f}"

    @property
    def row(self) -> dict[str, float]:
        """As one line of a table."""
        return {"MWQL": self.mwql, "naive": self.naive, "bias": self.bias, **self.by_volume}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether live outcomes speak against a challenger."""

    enough: bool  # outcomes to say anything
    objection: str | None


def judge(challenger: Live | None, serving: Live | None, names: tuple[str, str]) -> Verdict:
    """Not where it loses at most TOLERANCE more than the model that serves, in MWQL; `names` are the challenger's and that one's.

    >>> one, other = (Live(2_000, mwql, 0.9, 0.0, {}) for mwql in (0.5, 0.48))
    >>> judge(one, other, ("lstm/2", "lstm/1")).objection
    'live, of 2,000 outcomes, lstm/1, which serves, has MWQL 0.4800 and lstm/2 0.5000, more than 2 % worse'
    >>> judge(other, one, ("lstm/2", "lstm/1"))
    Verdict(enough=True, objection=None)
    """
    if challenger is None or serving is None or serving.outcomes < FEWEST_OUTCOMES or not serving.mwql > 0:
        return Verdict(enough=False, objection=None)
    if challenger.outcomes < serving.outcomes:
        lost = serving.outcomes - challenger.outcomes
        return Verdict(True, f"live, {names[0]} had no usable forecast for {lost:,} of {serving.outcomes:,} outcomes")
    if challenger.mwql <= serving.mwql * (1 + TOLERANCE):
        return Verdict(enough=True, objection=None)
    return Verdict(
        True,
        f"live, of {serving.outcomes:,} outcomes, {names[1]}, which serves, has MWQL {serving.mwql:.4f} and {names[0]} {challenger.mwql:.4f}, "
        f"more than {100 * TOLERANCE:g} % worse",
    )
