"""What a report is made of, and what follows from it once: outcomes, scores, the model to look at, products to show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models import metrics, scores
from models.bench import BacktestForecasts, Bench, outcomes, recent_units, score, volume_classes
from models.metrics import Calibration, Floats
from models.seasons import DAY_MS, HOUR_MS

_STEP_NAMES: Final = {HOUR_MS: "hour", DAY_MS: "day", 7 * DAY_MS: "week"}


@dataclass(frozen=True)
class Study:
    """A bench and what models answered; everything else may be left out."""

    title: str
    bench: Bench
    answers: Mapping[str, BacktestForecasts]  # by the model's name; at least one
    chosen: str | None = None  # the model that is looked at closely; None: the best one
    curve: Sequence[Mapping[str, Any]] = ()  # looks at the training, `artefact.training["curve"]`
    importance: Mapping[str, float] = field(default_factory=dict)  # what `models.importance.importance` gives
    changes: Sequence[Mapping[str, object]] = ()  # what cleaning changed: rows of equal columns

    @cached_property
    def truth(self) -> Floats:
        """(cutoffs, products, horizon); NaN where not born, and in gaps."""
        return outcomes(self.bench)

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self.truth)

    @cached_property
    def classes(self) -> npt.NDArray[np.int64]:
        return volume_classes(self.bench)

    @cached_property
    def rows(self) -> dict[str, dict[str, float]]:
        """Scores by model, the best MWQL first."""
        found = {name: score(self.bench, answer) for name, answer in self.answers.items()}
        return dict(sorted(found.items(), key=lambda item: _last_if_nan(item[1]["MWQL"])))

    @property
    def best(self) -> str:
        return next(iter(self.rows))

    @property
    def subject(self) -> str:
        """The model that is looked at closely."""
        return self.chosen or self.best

    @property
    def rival(self) -> str | None:
        """The best of the others."""
        return next((name for name in self.rows if name != self.subject), None)

    @property
    def forecasts(self) -> BacktestForecasts:
        return self.answers[self.subject]

    @cached_property
    def by_class(self) -> dict[str, dict[str, float]]:
        return {name: scores.by_class(self.bench, self.answers[name]) for name in self.rows}

    @cached_property
    def by_step(self) -> dict[str, list[float]]:
        return {name: scores.by_step(self.bench, self.answers[name]) for name in self.rows}

    @cached_property
    def calibration(self) -> dict[str, tuple[Calibration, ...]]:
        return scores.calibration(self.bench, self.forecasts)

    @cached_property
    def errors(self) -> Floats:
        return scores.scaled_errors(self.bench, self.forecasts)

    @property
    def step(self) -> str:
        return _STEP_NAMES.get(self.bench.spec.step_ms, "step")

    def steps(self, n: int) -> str:
        """So many steps in words."""
        return f"{n} {self.step}{'s' * (n != 1)}"

    def date(self, column: int) -> str:
        """Of a column of the panel, as exactly as its steps need."""
        when, step_ms = self.bench.dates[column], self.bench.spec.step_ms
        text = "%-d %b %H:%M" if step_ms < DAY_MS else "%b %Y" if step_ms > 27 * DAY_MS else "%-d %b"
        return str(when.strftime(text))

    def products(self) -> list[tuple[str, int]]:
        """Up to six typical products, as reason and index, by their forecasts from the last cut-off and by rule: nobody chose pretty ones.

        Their loss is relative to what they sell, before and after; products that did not sell at all come only where no other did.
        """
        usual = self._sold_before_and_after()
        loss = _losses(self.truth[-1], self.forecasts)
        relative = loss / np.where(usual > 0, usual, 1)
        sold = np.flatnonzero(usual > 0)
        rules = []
        for index, name in enumerate(metrics.VOLUMES):
            members = sold[self.classes[sold] == index]
            members = members[np.argsort(relative[members], kind="stable")]
            from_middle = np.abs(np.arange(len(members)) - len(members) // 2)
            rules.append((f"typical {name} seller", members[np.argsort(from_middle, kind="stable")]))
        rules.append(("best seller", _first(usual, sold)))
        if self.rival is not None:
            gain = _losses(self.truth[-1], self.answers[self.rival]) - loss
            rules.append((f"gains most over {self.rival}", _first(gain, sold[gain[sold] > 0])))
        rules.append(("forecast worst, of the medium and fast", _first(relative, sold[self.classes[sold] > 0])))
        if not len(sold):
            rules.append(("a product", np.flatnonzero(self.known[-1, :, 0])))
        found: list[tuple[str, int]] = []
        for reason, order in rules:
            free = [int(i) for i in order if i not in [taken for _, taken in found]]
            found += [(reason, free[0])] if free else []
        return found

    def _sold_before_and_after(self) -> Floats:
        """Units lately before and over the horizon after the last cut-off, (products,); 0 for products that are not born by it."""
        before = recent_units(self.bench, self.bench.cutoffs[-1])
        return np.where(self.known[-1, :, 0], before + np.nan_to_num(self.truth[-1]).sum(axis=-1), 0.0)

    def class_rows(self) -> dict[str, dict[str, float]]:
        """What each volume class is, and how the subject does with it."""
        units = recent_units(self.bench, self.bench.cutoffs[0])
        found = {}
        for index, name in enumerate(metrics.VOLUMES):
            part = self.known & (self.classes == index)[:, None]
            if not part.any():
                continue
            truth, whole = self.truth[part], part.all(axis=-1)
            found[name] = {
                "products": float((self.classes == index).sum()),
                "most units": float(units[self.classes == index].max()),
                "share": float(truth.sum() / (self.truth[self.known].sum() or np.nan)),
                "zeros": float((truth == 0).mean()),
                "SUMW": metrics.sumw(self.truth[whole], self.forecasts.mean[whole]),
                "bias": metrics.bias(truth, self.forecasts.mean[part]),
                "cov80": metrics.inside(truth, self.forecasts.quantiles[0.1][part], self.forecasts.quantiles[0.9][part]),
            }
        return found


def _last_if_nan(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _first(values: Floats, among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices, the greatest value first."""
    return np.asarray(among[np.argsort(-values[among], kind="stable")])


def _losses(truth: Floats, forecasts: BacktestForecasts) -> Floats:
    """Pinball loss of each product over the steps after the last cut-off, `truth`, and the scored levels, (products,)."""
    each = [metrics.pinball(truth, forecasts.quantiles[level][-1], level) for level in metrics.SCORED_LEVELS]
    return np.asarray(np.nansum(each, axis=(0, 2)))
