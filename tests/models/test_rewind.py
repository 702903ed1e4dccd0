"""Rows rewound and advanced again see what they saw before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import features
from models.features import F32, I64, FeatureSpec
from models.rewind import before, steps_lived
from models.seasons import DAY_MS, HOUR_MS

SPECS = {step: FeatureSpec.for_step(step, ("orders", "views"), covariates=("price",)) for step in (HOUR_MS, DAY_MS)}
LAST = 490_200


def lived(spec: FeatureSpec, demand: F32, rows: F32 | None = None) -> F32:
    """Rows after all steps of `demand`, (n, steps, 1 + streams), the last of which is LAST."""
    n, steps = demand.shape[:2]
    rows = features.fresh(spec, n) if rows is None else rows
    for i in range(steps):
        rows = features.advance(spec, rows, demand[:, i], at(n, LAST - steps + 1 + i), covariates=np.full((n, 1), 3, np.float32))
    return rows


def at(n: int, step: int) -> I64:
    return np.full(n, step)


def rewind(spec: FeatureSpec, rows: F32, demand: F32) -> F32:
    """Rows before `demand`, the last of which is LAST."""
    step = at(len(rows), LAST)
    return before(spec, rows, step, demand, steps_lived(spec, rows, step, demand.shape[1]))


def seen(spec: FeatureSpec, rows: F32) -> F32:
    """All that the network sees of rows."""
    profiles = [np.ones(period, np.float32) for period in spec.periods]
    return features.encoder_inputs(spec, rows, at(len(rows), LAST), profiles)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([HOUR_MS, DAY_MS]), st.integers(0, 2**32), st.floats(0.05, 50), st.integers(250, 700), st.integers(100, 192))
def test_rewound_and_replayed_is_as_before(step_ms: int, seed: int, rate: float, age: int, back: int) -> None:
    spec = SPECS[step_ms]
    demand = np.random.default_rng(seed).poisson(rate, (3, age, 3)).astype(np.float32)
    rows = lived(spec, demand)
    then_rows = rewind(spec, rows, demand[:, -back:])
    again = lived(spec, demand[:, -back:], then_rows)
    np.testing.assert_allclose(seen(spec, again), seen(spec, rows), atol=2e-3)
    assert (then_rows >= 0)[:, : features.layout(spec).recent.start].all()


def test_slow_means_are_what_they_were() -> None:
    spec = SPECS[HOUR_MS]
    demand = np.random.default_rng(3).poisson(4, (5, 500, 3)).astype(np.float32)
    demand[:, -100:] *= 6  # something happened, and is undone
    then = lived(spec, demand[:, :-100])
    then_rows = rewind(spec, lived(spec, demand), demand[:, -100:])
    for found, expected in zip(features.long_run(spec, then_rows), features.long_run(spec, then), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    profile = features.layout(spec).profiles[0]
    assert then_rows[:, profile].mean() == pytest.approx(4, rel=0.2)


def test_a_product_born_meanwhile_was_fresh() -> None:
    spec = SPECS[HOUR_MS]
    demand = np.ones((2, 50, 3), np.float32)
    then_rows = rewind(spec, lived(spec, demand), np.ones((2, 192, 3), np.float32))
    np.testing.assert_array_equal(then_rows, features.fresh(spec, 2))
