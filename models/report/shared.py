"""How models are told apart in drawings, and what drawings say in words."""

import numpy as np

from models.report import plots
from models.report.markup import number
from models.report.study import Study


def colour(study: Study, name: str) -> str:
    """The subject's and the rival's own, grey for the others; as a key that is unique."""
    return f"{plots.ACCENT if name == study.subject else plots.SECOND if name == study.rival else plots.OTHERS}:{name}"


def key(study: Study) -> dict[str, str]:
    others = [name for name in study.rows if name not in (study.subject, study.rival)]
    key = {"accent": study.subject, "second": study.rival or "", "others": ", ".join(others)}
    return {kind: name for kind, name in key.items() if name}


def range_text(title: str, values: list[float]) -> str:
    finite = [value for value in values if np.isfinite(value)]
    return f"{title}: from {number(min(finite))} to {number(max(finite))}" if finite else f"{title}: no value"
