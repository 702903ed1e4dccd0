"""Quantiles from past outcomes."""

import numpy as np
import pytest

from models.contenders.spread import spread
from models.metrics import LEVELS


def test_quantiles_of_counts_are_calibrated_at_every_volume() -> None:
    rng = np.random.default_rng(1)
    mean = np.exp(rng.uniform(-3, 4, 40_000))
    seen = spread(mean, rng.poisson(mean).astype(float))
    for volume in (0.3, 3.0, 30.0):
        outcomes = rng.poisson(volume, 5_000)
        for level, quantile in seen.quantiles(np.array([volume])).items():
            assert np.mean(outcomes < quantile - 1) <= level + 0.03
            assert np.mean(outcomes <= quantile + 1) >= level - 0.03


@pytest.mark.parametrize("k", [1, 7, 500])
def test_any_number_of_outcomes_gives_finite_ordered_quantiles(k: int) -> None:
    rng = np.random.default_rng(2)
    seen = spread(np.zeros(k), rng.poisson(0.3, k).astype(float))
    found = np.stack([seen.quantiles(np.array([0.0, 1.0, 1e6]))[level] for level in LEVELS])
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=0) >= 0).all()
