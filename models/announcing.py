"""Which transitions of alerts are said and which are held back. Pure; what was said is a column of the product's scores."""

from models.alerts import Action, Transitions
from models.calibration import F64, Bools


def announce(scores: F64, said: int, moved: Transitions, held: Bools) -> tuple[Transitions, Transitions]:
    """Transitions that are said, and those that are not; notes in column `said` of `scores`, (n, …), in place, whether a product's open alert was.

    While `held`, (k,), no alert is begun. One that was said is followed to its end, so that nobody is left with an alert that never resolves; one that
    was held back is said with its next update after the hold, if it still fires, or never.
    """
    known = scores[moved.rows, said] > 0
    ends = moved.action == Action.RESOLVE
    say = known | (~held & ~ends)
    scores[moved.rows, said] = say & ~ends
    return moved.where(say), moved.where(~say)
