"""Fits what the nowcast rests on: the pace of a shop's days, and the rule by which a part of a step moves the rest.

The rule is chosen on forecasts whose outcomes are known, seen when parts of their first step had passed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from models import metrics, pace
from models.artefact import Artefact
from models.backtest import Streamed
from models.bench import Bench, of_panel
from models.dataset import Panel
from models.features import F32, I64
from models.forecaster import Forecaster
from models.nowcast import Forecasts, NowcastRule, nowcast
from models.seasons import DAY_MS, HOUR_MS

Floats = npt.NDArray[np.floating]

# Expected shares of the running step at which the rule is looked at.
SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
# Most cautious first: of rules that do equally well, the one that moves forecasts least.
_WEIGHTS: Final = (256.0, 128.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0)
_INDEPENDENT: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_CARRIES: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
_PERSISTENCES: Final = (0.7, 0.8, 0.9, 0.95, 0.99)
# Origins of forecasts: enough for a day's and a week's every phase.
_ORIGINS: Final = 150
_MOST_CASES: Final = 6_000
# Products that are looked at. The few that a training holds out are too few: what they choose is worse on other products and later times.
_MOST_PRODUCTS: Final = 300
_FEWEST_CASES: Final = 200
# A rule may not lose more than this against the plain forecast in any part that it is fitted on: what remains is chance.
_TOLERANCE: Final = 1.002


@dataclass(frozen=True, slots=True)
class Cases:
    """Plain forecasts of products from several origins, what came, and what had come of the first step at shares of it."""

    mean: F32  # (n, horizon + sums)
    quantiles: F32  # (n, horizon + sums, levels)
    lengths: I64  # (n, sums)
    demand: Floats  # (n, horizon + sums); NaN: unknown
    observed: F32  # (n, shares)
    passed: F32  # (n, shares) expected to have come by then
    group: I64  # (n,) volume class

    def __len__(self) -> int:
        return len(self.mean)

    def at(self, rows: npt.NDArray[np.intp]) -> "Cases":
        return Cases(
            self.mean[rows],
            self.quantiles[rows],
            self.lengths[rows],
            self.demand[rows],
            self.observed[rows],
            self.passed[rows],
            self.group[rows],
        )


def sums_of(step_ms: int, horizon: int) -> list[int]:
    """Steps of the sums that a rule must not spoil: a day's, where that is more than a step, and a week's.

    >>> sums_of(HOUR_MS, 24), sums_of(DAY_MS, 14)
    ([24, 168], [7])
    """
    return [days * DAY_MS // step_ms for days in (1, 7) if days * DAY_MS // step_ms > 1]


def fit_pace(panels: Sequence[Panel], step_ms: int) -> F32:
    """Of all shops whose demand is known by the hour, each with the same weight."""
    if step_ms <= HOUR_MS:
        return pace.even()
    found = [
        pace.fit(panel.parts.part, panel.parts.units.astype(np.float64), panel.timezone)
        for panel in panels
        if panel.parts is not None and step_ms // panel.parts.per_step == HOUR_MS
    ]
    return np.asarray(np.mean(found, axis=0), np.float32) if found else pace.even()


def cases(bench: Bench, forecaster: Forecaster, shares: Sequence[float], *, of_time: bool = False) -> Cases:
    """What the model as it serves, calibrated, said after each cut-off of the bench, and what came of it. The panel must know parts.

    The running step is looked at where its part expected to have come, or the part of its time, is nearest to each of `shares`. Steps whose parts
    do not add up to them, as after cleaning, are left out.
    """
    parts = bench.panel.parts
    assert parts is not None
    spec = forecaster.spec
    shop = Streamed(bench, forecaster, sums_of(spec.step_ms, forecaster.horizon))
    found = []
    for column in range(bench.cutoffs[-1] + 1):
        shop.live(column)
        if column not in bench.cutoffs:
            continue
        rows, step = np.arange(bench.alive(column)), bench.panel.first_step + column + 1
        out, group, _ = shop.forecast(column, rows)
        come = parts.come(rows, step)
        ends = np.arange(1, parts.per_step + 1, dtype=np.float32) / np.float32(parts.per_step)
        expected = pace.passed(forecaster.artefact.pace, np.full(len(ends), step), ends, spec.step_ms, spec.timezone)
        chosen = np.abs((ends if of_time else expected)[:, None] - np.asarray(shares)).argmin(axis=0)
        ahead = bench.panel.demand[rows, column + 1 : column + 1 + forecaster.horizon, 0].astype(np.float64)
        totals = [_total(bench.panel, rows, column, int(length)) for length in shop.sums]
        known = np.isfinite(ahead).all(axis=1) & (np.abs(come[:, -1] - ahead[:, 0]) <= 1e-3 * (1 + ahead[:, 0]))
        several = Cases(
            np.concatenate([out.mean, out.cumulative_mean], axis=1),
            np.concatenate([out.quantiles.transpose(0, 2, 1), out.cumulative_quantiles], axis=1),
            np.broadcast_to(shop.sums, (len(rows), len(shop.sums))),
            np.concatenate([ahead, *(total[:, None] for total in totals)], axis=1),
            come[:, chosen].astype(np.float32),
            np.broadcast_to(expected[chosen], (len(rows), len(chosen))),
            group,
        )
        found.append(several.at(np.flatnonzero(known)))
    return _joined(found)


def _total(panel: Panel, rows: I64, column: int, length: int) -> Floats:
    """Sum of the steps after a column, (rows,); NaN where one is unknown."""
    if column + length >= panel.columns:
        return np.full(len(rows), np.nan)
    return np.asarray(panel.demand[rows, column + 1 : column + 1 + length, 0].sum(axis=1, dtype=np.float64))


def _joined(found: Sequence[Cases]) -> Cases:
    names = ("mean", "quantiles", "lengths", "demand", "observed", "passed", "group")
    return Cases(*(np.concatenate([getattr(one, name) for one in found]) for name in names))


def seen(some: Cases, rule: NowcastRule, levels: Sequence[float], share: int, *, whole_units: bool) -> Forecasts:
    """The forecasts at one of the shares."""
    horizon = some.mean.shape[1] - some.lengths.shape[1]
    decoded = some.mean, some.quantiles
    out = nowcast(rule, levels, decoded, horizon, some.lengths, some.observed[:, share], some.passed[:, share])
    return out.whole() if whole_units else out


def losses(some: Cases, out: Forecasts, levels: Sequence[float]) -> Floats:
    """Pinball loss of each case, mean over levels: of the running step, of the later ones (their mean), and of each sum, (n, 2 + sums); NaN: unknown."""
    horizon, level = out.mean.shape[1], np.asarray(levels)
    steps = metrics.pinball(some.demand[:, None, :horizon], out.quantiles, level[:, None]).mean(axis=1)
    sums = metrics.pinball(some.demand[:, horizon:, None], out.cumulative_quantiles, level).mean(axis=2)
    return np.concatenate([steps[:, :1], steps[:, 1:].mean(axis=1, keepdims=True), sums], axis=1)


def relative(some: Cases, rule: NowcastRule, levels: Sequence[float], *, whole_units: bool) -> Floats:
    """Loss with what was seen relative to the plain forecast's, (shares, targets, classes), see `losses`; NaN where the plain one has none."""
    shares = range(some.observed.shape[1])
    plain = losses(
        some, seen(replace(some, observed=0 * some.observed, passed=0 * some.passed), rule, levels, 0, whole_units=whole_units), levels
    )
    classes = [some.group == group for group in range(len(metrics.VOLUMES))]

    def by_class(found: Floats) -> Floats:
        return np.stack([np.nansum(found[of_class], axis=0) for of_class in classes], axis=-1)

    out = np.stack([by_class(losses(some, seen(some, rule, levels, share, whole_units=whole_units), levels)) for share in shares])
    before = by_class(plain)
    return np.asarray(np.where(before > 0, out / np.where(before > 0, before, 1), np.nan))


def fit_rule(some: Cases, levels: Sequence[float], *, whole_units: bool) -> NowcastRule:
    """The rule of the least mean relative loss, among those that lose nowhere: in no class, at no share, in no target.

    One number after the other, twice, from a rule that hardly moves a forecast; the most cautious of equals.
    """
    if len(some) > _MOST_CASES:
        some = some.at(np.linspace(0, len(some) - 1, _MOST_CASES).astype(np.intp))
    remembered: dict[NowcastRule, tuple[float, float]] = {}

    def badness(rule: NowcastRule) -> tuple[float, float]:
        if rule not in remembered:
            found = relative(some, rule, levels, whole_units=whole_units)
            remembered[rule] = max(float(np.nanmax(found)), _TOLERANCE), float(np.nanmean(found))
        return remembered[rule]

    best = NowcastRule(weight=_WEIGHTS[0], independent=1.0, carry=0.0, persistence=_PERSISTENCES[2])
    for _ in range(2):
        best = min([best, *(replace(best, independent=value) for value in _INDEPENDENT)], key=badness)
        best = min([best, *(replace(best, weight=value) for value in _WEIGHTS)], key=badness)
        best = min([best, *(replace(best, carry=value) for value in _CARRIES)], key=badness)
        best = min([best, *(replace(best, persistence=value) for value in _PERSISTENCES)], key=badness)
    return best


def fit_nowcast(artefact: Artefact, panels: Iterable[Panel], newest: int | None = None) -> NowcastRule:
    """The rule that suits a model's forecasts of the `newest` steps of these panels, the second half where None; its own rule where they are too few."""
    found = []
    for whole in panels:
        n = len(whole.product_ids)
        panel = whole.only(np.unique(np.linspace(0, n - 1, min(n, _MOST_PRODUCTS)).astype(np.int64)))
        first = panel.columns // 2 if newest is None else max(panel.columns - newest, 1)
        if panel.parts is None or panel.columns - first <= artefact.horizon:
            continue
        bench = of_panel(panel, artefact.spec, artefact.horizon, first, _ORIGINS)
        found.append(cases(bench, Forecaster(artefact, panel.timezone), SHARES))
    if sum(map(len, found)) < _FEWEST_CASES:
        return artefact.nowcast
    return fit_rule(_joined(found), artefact.levels, whole_units=artefact.whole_units)
