"""Slow, obvious answers for the models' fast paths: plain loops over one product's history, in the words of the definitions."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from models.features import FeatureSpec


def local_middle(step: int, spec: FeatureSpec) -> datetime:
    """Local time of the middle of a step."""
    middle = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=step * spec.step_ms + spec.step_ms // 2)
    return middle.astimezone(ZoneInfo(spec.timezone))


def hour_of_week(step: int, spec: FeatureSpec) -> int:
    """Hours since Monday, local."""
    local = local_middle(step, spec)
    return local.weekday() * 24 + local.hour


def ewma(values: Sequence[float], half_life: float) -> float:
    """Mean in which a value counts half as much as one that is `half_life` steps newer."""
    weights = [float(0.5 ** (age / half_life)) for age in range(len(values))][::-1]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def since_last_sale(values: Sequence[float], never: int = 200, cap: int = 500) -> float:
    """Steps since a value above 0."""
    for age, value in enumerate(reversed(values)):
        if value > 0:
            return min(age, cap)
    return min(never + len(values), cap)


def profile(values: Sequence[float], first_step: int, period: int, floor: float) -> list[float]:
    """Adaptive mean by phase: each visit counts at least `floor`. UTC, hours since Monday."""
    found = [0.0] * period
    for i, value in enumerate(values):
        phase = (first_step + i + 72) % period
        found[phase] += max(1 / (i // period + 1), floor) * (value - found[phase])
    return found


def target_mean(by_phase: Sequence[float], first_phase: int, length: int) -> float:
    """Mean of a profile over `length` steps."""
    return sum(by_phase[(first_phase + i) % len(by_phase)] for i in range(length)) / length


def lstm_step(weights: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of an LSTM for one product, in float64 (Hochreiter and Schmidhuber, with a forget gate)."""
    x = np.clip((x - weights["input.mean"]) / weights["input.deviation"], -6, 6)
    z = x @ weights["lstm.kernel"] + h @ weights["lstm.recurrent"] + weights["lstm.bias"]
    i, f, g, o = np.split(z.astype(np.float64), 4)
    sigmoid = np.vectorize(lambda v: 1 / (1 + math.exp(-v)))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def pinball(demand: float, quantile: float, level: float) -> float:
    """Cost of a quantile: `level` per unit too low, `1 - level` per unit too high."""
    return level * (demand - quantile) if demand > quantile else (1 - level) * (quantile - demand)


def errors(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of (actual, forecast) pairs, in the words of the definitions; NaN where a ratio has nothing below its line."""
    n, mean = len(pairs), sum(y for y, _ in pairs) / len(pairs)
    mse = sum((y - f) ** 2 for y, f in pairs) / n
    variance = sum((y - mean) ** 2 for y, _ in pairs) / n
    relative = [abs(y - f) / y for y, f in pairs if y > 0]
    return {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "mae": sum(abs(y - f) for y, f in pairs) / n,
        "mape": sum(relative) / len(relative) if relative else math.nan,
        "r_squared": 1 - mse / variance if variance else math.nan,
    }
