"""What the forecast worker says, built from arrays: forecasts from read-outs, trend alerts from transitions. Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models import features as rows
from models.alert_messages import Alert
from models.alerts import Action
from models.features import FeatureSpec
from models.levels import MEAN_SCALE, SHOP, UNIT_SCALE, Errors, Sums
from models.nowcast import Forecasts
from models.timeline import Timelines
from streaming.contracts import (
    Cumulative,
    Direction,
    Driver,
    Expected,
    Forecast,
    ModelName,
    Quality,
    Recent,
    Running,
    Trend,
    TrendAlert,
    Window,
    valid_id,
)

# Digits that a reader can use; the rest is noise that every subscriber would pay for.
DECIMALS: Final = 4
# A trend is called one when the coming day's mean leaves the last week's level by a fifth.
FLAT_BAND: Final = 0.2
# Alerts decided later than this after their window are history; nobody is paged for them.
REPLAY_AFTER_MS: Final = 15 * 60_000
# A forecast that was not renewed for two steps is not to be acted on.
VALID_STEPS: Final = 2
RUNBOOK: Final = "docs/alerts.md"


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What all forecasts of a shard share; times in epoch ms."""

    sequence: int
    as_of_ms: int
    complete_through_ms: int
    late_source: bool
    gap: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One product to be forecast."""

    product_id: str
    context: ShardContext
    observed: float  # units of the running step
    active: bool  # anything was counted in the running step
    cold: bool  # see `cold_start.is_cold`
    oldest_input_at_ms: int | None


def forecasts(
    requests: Sequence[Request],
    timelines: Timelines,
    out: Forecasts,
    *,
    spec: FeatureSpec,
    levels: Sequence[float],
    sums: Sequence[Sequence[int]],
    model: ModelName,
    issued_at_ms: int,
) -> Iterator[Forecast]:
    """One message per request; row i of `timelines` and `out` is request i's, all finite. The first predicted step is the running one.

    `sums`: lengths of each request's sums, in steps; 0: not asked for.
    """
    step_ms = spec.step_ms
    mean, quantiles = _rounded(out.mean), _rounded(out.quantiles)
    cumulative_mean, cumulative = _rounded(out.cumulative_mean), _rounded(out.cumulative_quantiles)
    running = out.running
    by_now_mean, by_now = _rounded(running.by_now_mean), _rounded(running.by_now_quantiles)
    step_mean, step_quantiles = _rounded(running.step_mean), _rounded(running.step_quantiles)
    recent = rows.recent(spec, timelines.features, timelines.step)
    level, ahead = _week_level(recent).tolist(), out.mean.mean(axis=1).tolist()
    demands = _or_none(recent)
    for i, request in enumerate(requests):
        context, step = request.context, int(timelines.step[i])
        first_ms = (step + 1) * step_ms
        elapsed_ms = min(max(context.as_of_ms - first_ms, 0), step_ms)
        yield Forecast(
            product_id=request.product_id,
            revision=(step, context.sequence),
            kind="nowcast" if request.active else "close",
            as_of=context.as_of_ms,
            complete_through=context.complete_through_ms,
            issued_at=issued_at_ms,
            valid_until=issued_at_ms + VALID_STEPS * step_ms,
            step_ms=step_ms,
            first_step=first_ms,
            horizon=len(mean[i]),
            mean=mean[i],
            levels=list(levels),
            quantiles=quantiles[i],
            cumulative=[
                Cumulative(steps=length, mean=cumulative_mean[i][k], quantiles=cumulative[i][k])
                for k, length in enumerate(sums[i])
                if length
            ],
            running=Running(
                elapsed_ms=elapsed_ms,
                observed=request.observed,
                expected_by_now=Expected(mean=by_now_mean[i], quantiles=by_now[i]),
                expected_step=Expected(mean=step_mean[i], quantiles=step_quantiles[i]),
            ),
            recent=Recent(first_step=(step + 1 - spec.recent) * step_ms, demand=demands[i]),
            trend=_trend(ahead[i], level[i]),
            model=model,
            quality=_quality(context, request.cold),
            oldest_input_at=request.oldest_input_at_ms,
        )


def level_key(name: str) -> str:
    """The key of a category's forecasts, or of the shop's (`levels.SHOP`): always an id.

    >>> level_key(""), level_key("mugs"), level_key("x" * 200)
    ('level/shop', 'level/category/mugs', 'level/category/aa20c23e32018340')
    """
    if name == SHOP:
        return "level/shop"
    key = f"level/category/{name}"
    return key if valid_id(key) else f"level/category/{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def level_forecast(
    name: str,
    sums: Sums,
    errors: Errors,
    *,
    step: int,
    spec: FeatureSpec,
    levels: Sequence[float],
    lengths: Sequence[int],
    model: ModelName,
    issued_at_ms: int,
    quality: Quality,
) -> Forecast:
    """The message of a category, or of the shop, after `step`; `sums` are those of all its products."""
    horizon = len(sums.forecast) - len(lengths)
    means = np.array(sums.forecast) / MEAN_SCALE
    quantiles, cumulative = errors.quantiles(means[:horizon], means[horizon:])
    first_ms = (step + 1) * spec.step_ms
    recent = np.array(sums.demand, np.float64) / UNIT_SCALE
    mean, of_sums = means.tolist(), np.round(cumulative, DECIMALS).tolist()
    return Forecast(
        product_id=level_key(name),
        revision=(step, 0),
        kind="close",
        as_of=first_ms,
        complete_through=first_ms,
        issued_at=issued_at_ms,
        valid_until=issued_at_ms + VALID_STEPS * spec.step_ms,
        step_ms=spec.step_ms,
        first_step=first_ms,
        horizon=horizon,
        mean=mean[:horizon],
        levels=list(levels),
        quantiles=np.round(quantiles, DECIMALS).tolist(),
        cumulative=[Cumulative(steps=length, mean=mean[horizon + k], quantiles=of_sums[k]) for k, length in enumerate(lengths)],
        running=None,
        recent=Recent(
            first_step=(step + 1 - spec.recent) * spec.step_ms, demand=[None] * (spec.recent - len(recent)) + np.round(recent, 3).tolist()
        ),
        trend=_trend(float(means[:horizon].mean()), float(recent.mean()) if len(recent) else 0.0),
        model=model,
        quality=quality,
        oldest_input_at=None,
        level="shop" if name == SHOP else "category",
        category=name or None,
    )


def trend_alert(alert: Alert, levels: Sequence[float], model: ModelName, *, now_ms: int | None, valid_for_ms: int) -> TrendAlert:
    """The message of one state of an alert. `now_ms`: the shop's time; None (a replayed log): everything is history."""
    return TrendAlert(
        alert_id=alert.alert_id,
        fingerprint=alert.fingerprint,
        sequence=alert.sequence,
        status="resolved" if alert.action is Action.RESOLVE else "firing",
        kind=alert.kind.value,
        severity=alert.severity.value,
        title=alert.title,
        product_id=alert.product_id,
        starts_at=alert.starts_at_ms,
        updated_at=alert.updated_at_ms,
        ends_at=alert.ends_at_ms,
        reason=None if alert.reason is None else alert.reason.value,
        window=Window(start=alert.starts_at_ms, end=alert.updated_at_ms),
        observed=_round(alert.observed),
        levels=list(levels),
        expected=Expected(mean=_round(alert.expected), quantiles=[_round(q) for q in alert.expected_quantiles]),
        score=alert.score,
        drivers=[Driver(name=name, effect=_round(effect)) for name, effect in alert.drivers],
        valid_until=alert.updated_at_ms + valid_for_ms,
        model=model,
        replay=now_ms is None or now_ms - alert.updated_at_ms > REPLAY_AFTER_MS,
        runbook=RUNBOOK,
    )


def _quality(context: ShardContext, cold: bool) -> Quality:
    if context.gap:
        return "gap"
    if context.late_source:
        return "late"
    return "cold_start" if cold else "ok"


def _trend(ahead: float, level: float) -> Trend:
    """Mean demand per step of the horizon against the recent level."""
    strength = _round((ahead - level) / max(level, 0.01)) if max(ahead, level) > 0.01 else 0.0
    direction: Direction = "flat" if abs(strength) < FLAT_BAND else "rising" if strength > 0 else "falling"
    return Trend(direction=direction, strength=strength, drivers=[])


def _week_level(recent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean of the known recent demands, (n,); 0 where none is known."""
    known = np.isfinite(recent)
    total = np.where(known, recent, 0).sum(axis=1)
    return np.asarray(total / np.maximum(known.sum(axis=1), 1), np.float32)


def _rounded(values: npt.NDArray[np.float32]) -> list:  # type: ignore[type-arg]
    """Nested lists of floats; the conversion to float64 comes first, so that what is written is short."""
    nested: list = np.round(values.astype(np.float64), DECIMALS).tolist()  # type: ignore[type-arg]
    return nested


def _round(value: float) -> float:
    return round(float(value), DECIMALS)


def _or_none(values: npt.NDArray[np.float32]) -> list[list[float | None]]:
    """Rows as lists, None for gaps."""
    rounded: npt.NDArray[Any] = np.round(values.astype(np.float64), 3)
    if (gaps := ~np.isfinite(values)).any():
        rounded = rounded.astype(object)
        rounded[gaps] = None
    rows_: list[list[float | None]] = rounded.tolist()
    return rows_
