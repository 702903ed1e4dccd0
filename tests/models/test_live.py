"""What live outcomes say of a challenger: when they speak against it, and when they say nothing."""

import numpy as np
import pytest

from models import calibration
from models.calibration import NO_TRIAL, Outcomes, Trials
from models.live import FEWEST_OUTCOMES, TOLERANCE, Live, judge
from tests.models.benches import LEVELS

NAMES = ("new 2", "old 1")


def live(mwql: float, outcomes: int = FEWEST_OUTCOMES) -> Live:
    return Live(outcomes, mwql, 0.9, 0.0, {})


@pytest.mark.parametrize(
    ("challenger", "serving", "enough", "objects"),
    [
        (live(0.50), live(0.50), True, False),
        (live(0.40), live(0.50), True, False),
        (live(0.5 * (1 + TOLERANCE) - 1e-6), live(0.50), True, False),
        (live(0.5 * (1 + TOLERANCE) + 1e-6), live(0.50), True, True),
        (live(0.90, FEWEST_OUTCOMES - 1), live(0.50, FEWEST_OUTCOMES - 1), False, False),
        (live(0.40, FEWEST_OUTCOMES), live(0.50, FEWEST_OUTCOMES + 1), True, True),  # one forecast was not finite
        (live(float("nan")), live(float("nan")), False, False),
        (None, live(0.50), False, False),
        (None, None, False, False),
    ],
)
def test_only_what_is_worse_by_more_than_chance_is_refused(
    challenger: Live | None, serving: Live | None, enough: bool, objects: bool
) -> None:
    verdict = judge(challenger, serving, NAMES)
    assert (verdict.enough, verdict.objection is not None) == (enough, objects)


def test_live_accuracy_is_that_of_the_outcomes() -> None:
    """Two products sold 4 and 0 where 2 was forecast at every level."""
    n, horizon = 2, 3
    quantiles = np.full((n, horizon, len(LEVELS)), 2, np.float32)
    ones = np.ones((n, len(LEVELS)), np.float32)
    trials = Trials.of(np.array([9, 9]), np.array([0, 2]), quantiles[..., 0], quantiles, ones)
    came, naive = np.array([4, 0], np.float32), np.array([1, 1], np.float32)
    found = Live.of(calibration.outcomes(trials, np.array([10, 10]), came, naive, LEVELS, whole_units=True), LEVELS)
    assert found is not None
    # Losses of 2 (1 - level) and 2 level, over a demand of 4, whatever the level.
    assert (found.outcomes, found.bias) == (2, 0.0)
    assert found.mwql == pytest.approx(1.0)
    assert found.naive == pytest.approx(1.0)
    assert found.by_volume == {"slow": pytest.approx(0.5)}  # of nothing sold there is no relative loss
    assert "MWQL 1.0000 of 2 outcomes" in str(found)
    assert trials.step[0] != NO_TRIAL
    assert Live.of(Outcomes.none(len(LEVELS)), LEVELS) is None
