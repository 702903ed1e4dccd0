"""What the page says, in three sentences that are made of its numbers."""

import math
from typing import Final

import numpy as np

from models import scores
from models.report.markup import number, percent
from models.report.study import Study

# Below it, two models differ by no more than two seeds of one.
_SEED_NOISE: Final = 0.005


def findings(study: Study) -> list[str]:
    """Which model is best and by how much; what that means for planning; where it is weak."""
    if not math.isfinite(study.rows[study.best]["MWQL"]):
        return ["Nothing was sold after any cut-off: errors relative to demand have no value, and there is no best model."]
    return [_ranking(study), _planning(study), _weakness(study)]


def _ranking(study: Study) -> str:
    best, loss = study.best, study.rows[study.best]["MWQL"]
    if len(study.rows) == 1:
        return f"{best} has a loss (MWQL) of {number(loss)}; there is no other model on this page to compare it with."
    second = list(study.rows)[1]
    other = study.rows[second]["MWQL"]
    lead = 1 - loss / other if other else 0.0
    if lead < _SEED_NOISE:
        apart = "less apart than two seeds of one model"
        text = f"{best} and {second} forecast equally well (loss {number(loss)} and {number(other)} MWQL): {apart}"
    else:
        ahead = f"{percent(lead)} below that of the next, {second} ({number(other)})"
        text = f"{best} forecasts best of {len(study.rows)} models: its loss (MWQL) of {number(loss)} is {ahead}"
    if study.subject != best:
        text += f"; {study.subject}, which the rest of this page looks at, has {number(study.rows[study.subject]['MWQL'])}"
    return text + "."


def _planning(study: Study) -> str:
    row = study.rows[study.subject]
    direction = "too low" if row["bias"] < 0 else "too high"
    return (
        f"Summed over {study.steps(study.bench.horizon)} ahead, its forecasts miss {percent(row['SUMW'])} of demand and are "
        f"{percent(abs(row['bias']))} {direction} as a whole; {percent(row['cov80'])} of all outcomes lay in its 80 % interval."
    )


def _weakness(study: Study) -> str:
    parts = []
    classes = {name: value for name, value in study.by_class[study.subject].items() if math.isfinite(value)}
    if len(classes) > 1:
        worst, best = max(classes, key=lambda name: classes[name]), min(classes, key=lambda name: classes[name])
        parts.append(f"it is weakest with {worst} sellers (loss {number(classes[worst])}; {best} ones: {number(classes[best])})")
    if study.rival is not None:
        behind = int((np.array(study.by_step[study.subject]) > np.array(study.by_step[study.rival])).sum())
        steps = study.steps(study.bench.horizon)
        parts.append(
            f"{study.rival} is ahead of it on {behind} of {steps}"
            if behind
            else f"it is ahead of {study.rival} on every {study.step} ahead"
        )
    off = max(study.calibration["all"], key=lambda one: one.distance)
    if off.distance > scores.OVERALL_LIMIT:
        calibrated = f"its {percent(off.level)} quantile is off by {percent(off.distance)} of outcomes"
    else:
        calibrated = f"its quantiles are right to within {percent(scores.OVERALL_LIMIT)} of outcomes"
    sentence = "; ".join([*parts, calibrated])
    return f"I{sentence[1:]}." if sentence.startswith("it") else f"{sentence}."
