"""Decoder inputs against loops over single targets, and offline against online: equal to the bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import dataset, features, targets
from models.dataset import Panel
from models.features import F32, FeatureSpec, layout
from models.seasons import DAY_MS, HOUR_MS
from tests.models.model_oracles import target_mean

HOURLY = FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts"), "Europe/London")
DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))
PRICED = replace(DAILY, covariates=("price", "promotion"))
# 2010-10-30, so that hourly panels cross the end of summer time.
FIRST = {HOURLY: 357_984 - 30, DAILY: 14_910, PRICED: 14_910}


def shop(spec: FeatureSpec) -> tuple[F32, ...]:
    return tuple(np.linspace(0.5, 1.5, period, dtype=np.float32) for period in spec.periods)


def some_panel(spec: FeatureSpec, columns: int, seed: int = 0, products: int = 6) -> Panel:
    rng = np.random.default_rng(seed)
    born = np.sort(rng.integers(0, columns, products))
    born[0] = 0
    demand = rng.poisson(rng.gamma(0.5, 3.0, (products, 1, 1)), (products, columns, 1 + len(spec.streams))).astype(np.float32)
    demand[np.arange(columns) < born[:, None]] = 0
    covariates = rng.normal(10, 3, (products, columns, len(spec.covariates))).astype(np.float32)
    covariates[rng.random(covariates.shape) < 0.3] = np.nan
    return Panel(tuple(f"p{i}" for i in range(products)), FIRST[spec], born, demand, spec.timezone, covariates if spec.covariates else None)


def at_step(panel: Panel, i: int, column: int) -> F32 | None:
    """Covariates of one product and step as they are said: where nothing is, a row holds what was said in the product's life, 0 before."""
    return None if panel.covariates is None else panel.covariates[i : i + 1, column]


def streamed(spec: FeatureSpec, panel: Panel, column: int) -> F32:
    """Rows of the products born by `column` as the stream would hold them, each product advanced by itself."""
    rows = []
    for i in np.flatnonzero(panel.born <= column):
        row = features.fresh(spec, 1)
        for at in range(int(panel.born[i]), column + 1):
            step = np.array([panel.first_step + at])
            row = features.advance(spec, row, panel.demand[i : i + 1, at], step, covariates=at_step(panel, int(i), at))
        rows.append(row[0])
    return np.array(rows)


@pytest.mark.parametrize("spec", [HOURLY, DAILY, PRICED])
@settings(max_examples=10, deadline=None)
@given(column=st.integers(0, 59), seed=st.integers(0, 5))
def test_training_sees_what_the_stream_sees_to_the_bit(spec: FeatureSpec, column: int, seed: int) -> None:
    panel = some_panel(spec, 60, seed)
    encoded = dataset.encode(panel, spec, shop(spec), longest=672)
    rows = streamed(spec, panel, column)
    product = np.flatnonzero(panel.born <= column)
    step = np.full(len(product), panel.first_step + column)
    assert np.array_equal(encoded.inputs[product, column], features.encoder_inputs(spec, rows, step, shop(spec)))
    assert np.array_equal(encoded.scale[product, column], features.scales(spec, rows))
    lengths = np.random.default_rng(seed).integers(1, 672, (len(product), 3))
    ahead = None
    if panel.covariates is not None:
        ahead = np.pad(panel.covariates[product, column + 1 :], ((0, 0), (0, 672), (0, 0)), constant_values=np.nan)
    online = targets.decoder_inputs(spec, rows, step, 24, lengths, shop(spec), ahead=ahead)
    offline = encoded.decoder_inputs(product, np.full(len(product), column), 24, lengths)
    first_wave = 2 * len(spec.periods) + 3
    assert np.array_equal(online[:, :24], offline[:, :24])
    assert np.array_equal(online[..., :first_wave], offline[..., :first_wave])
    # Means of waves over a sum are differences of running totals that begin elsewhere.
    assert np.allclose(online[:, 24:, first_wave:], offline[:, 24:, first_wave:], atol=1e-6)


@given(length=st.integers(1, 700), seed=st.integers(0, 20))
def test_a_sum_sees_the_mean_of_the_profile_over_its_steps(length: int, seed: int) -> None:
    spec = replace(HOURLY, timezone="UTC")
    panel = replace(some_panel(HOURLY, 200, seed, products=1), timezone="UTC")
    row = streamed(spec, panel, 199)
    step = np.array([panel.first_step + 199])
    seen = targets.decoder_inputs(spec, row, step, 24, np.array([[length]]), shop(spec))[0, 24]
    scale = features.scales(spec, row)[0]
    first_phase = panel.first_step + 199 + 1 + 72  # hours since a Monday
    for p, (period, span) in enumerate(zip(spec.periods, layout(spec).profiles, strict=True)):
        own = target_mean(row[0, span].tolist(), first_phase % period, length)
        assert seen[p] == pytest.approx(np.log((own + 0.05 * scale + 0.01) / (scale + 0.01)), abs=1e-4)
        common = target_mean(shop(spec)[p].tolist(), first_phase % period, length)
        assert seen[2 + p] == pytest.approx(np.log(common + 0.05), abs=1e-4)


def test_a_phase_never_lived_through_is_taken_from_the_shop() -> None:
    row = features.fresh(DAILY, 1)
    monday = 14_911 + (7 - (14_911 + 3) % 7) % 7
    row = features.advance(DAILY, row, np.array([[4, 1]], np.float32), np.array([monday]))
    seen = targets.decoder_inputs(DAILY, row, np.array([monday]), 7, np.empty((1, 0), np.int64), shop(DAILY))[0]
    scale = features.scales(DAILY, row)[0]
    own = np.exp(seen[:, 0]) * (scale + 0.01) - 0.05 * scale - 0.01
    assert np.allclose(own[:6], shop(DAILY)[0][1:] * scale, rtol=1e-4)
    assert own[6] == pytest.approx(4, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_batch_mates_and_their_steps_do_not_matter(data: st.DataObject) -> None:
    columns = [data.draw(st.integers(20, 59)) for _ in range(5)]
    panel = some_panel(HOURLY, 60)
    rows = np.array([streamed(HOURLY, panel, column)[0] for column in columns])
    step = panel.first_step + np.array(columns)
    lengths = np.array([[24, data.draw(st.integers(1, 672))] for _ in columns])
    together = targets.decoder_inputs(HOURLY, rows, step, 24, lengths, shop(HOURLY))
    for i in range(5):
        alone = targets.decoder_inputs(HOURLY, rows[i : i + 1], step[i : i + 1], 24, lengths[i : i + 1], shop(HOURLY))
        assert np.array_equal(alone[0], together[i])
