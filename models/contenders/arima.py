"""ARIMA, one model a product: the classic of forecasting, made frugal enough for thousands of products.

A product's seasonal profile is taken off, one of a few small orders is fitted to the rest by the Hannan-Rissanen regressions (two least
squares instead of a search for the likelihood's maximum), and the order with the least corrected Akaike criterion forecasts. Quantiles are
normal, of the model's forecast variance. Everything is fitted anew at each cut-off, on what lies before it. A product too young or too
silent for a regression, or whose parameters come out unstable, is taken for noise around its mean.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.bench import BacktestForecasts, Bench, Progress
from models.contenders.libraries import library, require
from models.metrics import LEVELS

F64 = npt.NDArray[np.float64]

# (autoregressive, differences, moving average); noise around a mean competes too.
_ORDERS: Final = ((1, 0, 1), (2, 0, 0), (0, 1, 1))
# Older demand says little of a few parameters.
_NEWEST: Final = 400
_FEWEST: Final = 30
# Criteria are taken over the same steps; the first ones have no past that all orders could use.
_SKIPPED: Final = 4
# A phase seen so often counts half: profiles of lumpy demand are mostly noise.
_PRIOR_VISITS: Final = 3.0
_NORMAL: Final = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model of (differenced) demand without its mean and season."""

    differences: int  # 0 or 1
    ar: F64  # lag polynomial, 1 first: x[t] + ar[1] x[t-1] + … = noise side
    ma: F64  # lag polynomial of the noise, 1 first
    variance: float  # of the noise


NOISE: Final = np.ones(1)


def arima(bench: Bench, progress: Progress) -> BacktestForecasts:
    """Forecasts of every product from its own demand alone."""
    for name in ("statsmodels", "scipy"):
        require(name)
    forecasts = BacktestForecasts.nothing(bench)
    for k, cutoff in enumerate(bench.cutoffs):
        history = bench.history(cutoff)[:, -_NEWEST:].astype(np.float64)
        for i, demand in enumerate(history):
            mean, deviation = one_product(demand[np.isfinite(demand)], bench.season, bench.horizon)
            forecasts.mean[k, i] = np.maximum(mean, 0)
            for level, z in zip(LEVELS, _NORMAL, strict=True):
                forecasts.quantiles[level][k, i] = np.maximum(mean + z * deviation, 0)
        progress(k + 1, len(bench.cutoffs))
    return forecasts


def one_product(demand: F64, season: int, horizon: int) -> tuple[F64, F64]:
    """Mean and standard deviation of the next steps, (horizon,) each."""
    profile = _profile(demand, season)
    # Phases are counted backwards from the newest step.
    past, ahead = np.arange(len(demand))[::-1] % season, -np.arange(1, horizon + 1) % season
    level = demand.mean()
    rest = demand - level - profile[past]
    model = _best(rest)
    mean, deviation = _ahead(model, rest, horizon)
    return level + profile[ahead] + mean, deviation


def _profile(demand: F64, season: int) -> F64:
    """What each phase adds to the mean, (season,), phase 0 being the newest step's; shrunk towards nothing."""
    phase = np.arange(len(demand))[::-1] % season
    visits = np.bincount(phase, minlength=season)
    added = np.bincount(phase, weights=demand - demand.mean(), minlength=season)
    return np.asarray(added / (visits + _PRIOR_VISITS))


def _best(rest: F64) -> Fitted:
    """The order with the least corrected Akaike criterion."""
    best = Fitted(0, NOISE, NOISE, float(rest.var()))
    if len(rest) < _FEWEST or best.variance < 1e-9:
        return best
    least = _criterion(best, rest)
    for order in _ORDERS:
        model = _fit(rest, order)
        if model is not None and (criterion := _criterion(model, rest)) < least:
            best, least = model, criterion
    return best


def _fit(rest: F64, order: tuple[int, int, int]) -> Fitted | None:
    """The model of an order, or None where it is not stable."""
    ar, differences, ma = order
    hannan_rissanen: Any = library("statsmodels.tsa.arima.estimators.hannan_rissanen").hannan_rissanen
    series = np.diff(rest) if differences else rest
    try:
        parameters, _ = hannan_rissanen(series, ar_order=ar, ma_order=ma, demean=False, unbiased=False)
    except (ValueError, np.linalg.LinAlgError):
        return None
    found = np.concatenate([parameters.ar_params, parameters.ma_params])
    if not (np.isfinite(found).all() and parameters.is_stationary and parameters.is_invertible):
        return None
    model = Fitted(differences, np.r_[1.0, -parameters.ar_params], np.r_[1.0, parameters.ma_params], 0.0)
    variance = float((_noise(model, series)[_SKIPPED:] ** 2).mean())
    return Fitted(differences, model.ar, model.ma, variance) if np.isfinite(variance) and variance > 0 else None


def _noise(model: Fitted, series: F64) -> F64:
    """What the model could not foresee of each value, nothing being known before the first."""
    return np.asarray(library("scipy.signal").lfilter(model.ar, model.ma, series), np.float64)


def _criterion(model: Fitted, rest: F64) -> float:
    """Akaike's, corrected for few steps; up to a constant that is the same for all orders."""
    series = np.diff(rest) if model.differences else rest
    noise = _noise(model, series)[_SKIPPED - model.differences :]
    n, parameters = len(noise), len(model.ar) + len(model.ma) - 1
    penalty = 2 * parameters * n / max(n - parameters - 1, 1)
    return float(n * np.log(max((noise**2).mean(), 1e-12)) + penalty)


def _ahead(model: Fitted, rest: F64, horizon: int) -> tuple[F64, F64]:
    """Mean and standard deviation of the next values of `rest`, (horizon,) each."""
    series = np.diff(rest) if model.differences else rest
    noise = np.concatenate([_noise(model, series), np.zeros(horizon)])
    values = np.concatenate([series, np.zeros(horizon)])
    for at in range(len(series), len(values)):
        known = min(len(model.ar) - 1, at), min(len(model.ma) - 1, at)
        values[at] = sum(model.ma[j] * noise[at - j] for j in range(1, known[1] + 1))
        values[at] -= sum(model.ar[j] * values[at - j] for j in range(1, known[0] + 1))
    mean = values[len(series) :]
    weights = library("scipy.signal").lfilter(model.ma, model.ar, np.eye(1, horizon)[0])
    if model.differences:
        mean, weights = rest[-1] + np.cumsum(mean), np.cumsum(weights)
    return mean, np.sqrt(model.variance * np.cumsum(weights**2))
