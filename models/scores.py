"""Errors and calibration of a backtest's forecasts by parts: volume classes, steps of the horizon, sums over lead times."""

from typing import Final

import numpy as np
import numpy.typing as npt

from models import metrics
from models.bench import BacktestForecasts, Bench, outcomes, volume_classes
from models.metrics import Calibration, Floats

Bools = npt.NDArray[np.bool_]

# A quantile counts as calibrated up to this distance: over everything, and in a part with fewer outcomes.
OVERALL_LIMIT: Final = 0.02
PART_LIMIT: Final = 0.05


def by_class(bench: Bench, forecasts: BacktestForecasts) -> dict[str, float]:
    """MWQL of each volume class; NaN where a class sold nothing."""
    return {name: _mwql(bench, forecasts, part) for name, part in _classes(bench).items()}


def by_step(bench: Bench, forecasts: BacktestForecasts) -> list[float]:
    """Loss of each step of the horizon relative to a mean step's demand: their mean is MWQL, and steps without demand have a loss too."""
    truth = outcomes(bench)
    demand = np.nansum(truth)
    losses = [metrics.pinball(truth, forecasts.quantiles[level], level) for level in metrics.SCORED_LEVELS]
    each = 2 * np.nansum(losses, axis=(1, 2)).mean(axis=0) * bench.horizon
    return [float(loss / demand) if demand else float("nan") for loss in each]


def calibration(bench: Bench, forecasts: BacktestForecasts) -> dict[str, tuple[Calibration, ...]]:
    """By part: `all`, the volume classes, `step 1` … of the horizon. Parts without a product are left out."""
    truth = outcomes(bench)
    parts = {"all": np.isfinite(truth), **_classes(bench), **_steps(bench)}
    return {
        name: metrics.calibration(truth[part], {level: forecasts.quantiles[level][part] for level in metrics.LEVELS})
        for name, part in parts.items()
        if part.any()
    }


def sums(bench: Bench, forecasts: BacktestForecasts) -> dict[int, dict[str, float]]:
    """By lead time in steps, of those that were forecast: `MWQL` of the sums, `cov80`, and the `pinball` loss per level, in units.

    Cut-offs whose lead time ends beyond the panel do not count, nor do products with a gap in it.
    """
    found = {}
    for steps, quantiles in sorted(forecasts.sums.items()):
        ends = np.array([cutoff + steps < bench.panel.columns for cutoff in bench.cutoffs])
        born = np.stack([bench.panel.born <= cutoff for cutoff in bench.cutoffs])
        truth = np.stack(
            [bench.panel.demand[:, cutoff + 1 : cutoff + 1 + steps, 0].sum(axis=1, dtype=np.float64) for cutoff in bench.cutoffs]
        )
        known = born & ends[:, None] & np.isfinite(truth)
        if not known.any():
            continue
        demand, asked = truth[known], {level: values[known] for level, values in quantiles.items()}
        losses = {f"pinball {level}": float(metrics.pinball(demand, values, level).mean()) for level, values in asked.items()}
        found[steps] = {"MWQL": metrics.mwql(demand, asked), "cov80": metrics.inside(demand, asked[0.1], asked[0.9]), **losses}
    return found


def _mwql(bench: Bench, forecasts: BacktestForecasts, part: Bools) -> float:
    quantiles = {level: forecasts.quantiles[level][part] for level in metrics.SCORED_LEVELS}
    return metrics.mwql(outcomes(bench)[part], quantiles)


def _classes(bench: Bench) -> dict[str, Bools]:
    """Masks, (cutoffs, products, horizon), of the known outcomes of each class."""
    known, classes = np.isfinite(outcomes(bench)), volume_classes(bench)
    return {name: known & (classes == index)[:, None] for index, name in enumerate(metrics.VOLUMES)}


def _steps(bench: Bench) -> dict[str, Bools]:
    known = np.isfinite(outcomes(bench))
    return {f"step {h + 1}": known & (np.arange(bench.horizon) == h) for h in range(bench.horizon)}


def scaled_errors(bench: Bench, forecasts: BacktestForecasts) -> Floats:
    """Outcome minus mean forecast in root mean squared errors of its product, (cutoffs, products, horizon); NaN where not known."""
    errors = outcomes(bench) - forecasts.mean
    squared = np.nan_to_num(errors) ** 2
    known = np.maximum(np.isfinite(errors).sum(axis=(0, 2)), 1)
    size = np.sqrt(squared.sum(axis=(0, 2)) / known)
    return np.asarray(errors / np.where(size > 0, size, 1)[:, None])


def autocorrelation(errors: Floats) -> list[float]:
    """Of `scaled_errors` along the horizon: at lags 1 … of as many steps, over all products and cut-offs; 0 would be best."""
    clean = np.nan_to_num(errors)
    lags = range(1, min(clean.shape[-1], 29))
    power = (clean**2).sum()
    # A lag has fewer pairs than there are errors; the ratio makes up for it.
    share = clean.shape[-1] / (clean.shape[-1] - np.arange(1, len(lags) + 1))
    return [
        float((clean[..., lag:] * clean[..., :-lag]).sum() / power * part) if power else 0.0 for lag, part in zip(lags, share, strict=True)
    ]


def persistence(errors: Floats) -> float:
    """Correlation of a product's mean scaled error after a cut-off with that after the next; NaN with one cut-off."""
    means = errors.mean(axis=-1)
    earlier, later = means[:-1].ravel(), means[1:].ravel()
    both = np.isfinite(earlier) & np.isfinite(later)
    if both.sum() < 3 or not earlier[both].std() * later[both].std():
        return float("nan")
    return float(np.corrcoef(earlier[both], later[both])[0, 1])
