"""The compiled model: equal to the layer over whole sequences, and blind to batches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers

from models import dataset
from models.artefact import Artefact
from models.dataset import Panel
from models.features import F32, FeatureSpec
from models.forecaster import BATCHES, SUMS, Forecaster
from models.nowcast import Forecasts, NowcastRule
from models.seasons import DAY_MS, HOUR_MS
from models.weights import Sizes, initial
from tests.models import model_oracles

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HOURLY = FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts"))
DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))
FIRST = {HOURLY: 350_000, DAILY: 14_600}
NO_SUMS = np.empty(0, np.int64)


def untrained(spec: FeatureSpec, horizon: int) -> Artefact:
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, len(LEVELS), covariates=len(spec.covariates))
    rng = np.random.default_rng(3)
    weights = initial(sizes, rng)
    # Larger outputs than a new network has, so that differences would show.
    for head in ("step.kernel", "sum.kernel"):
        weights[head] = (weights[head] * 30).astype(np.float32)
    profiles = tuple(rng.uniform(0.5, 1.5, period).astype(np.float32) for period in spec.periods)
    return Artefact("test", spec, horizon, 672, LEVELS, sizes.hidden, sizes.width, NowcastRule(), (0.5, 2.0), True, profiles, weights)


@pytest.fixture(scope="module", params=[HOURLY, DAILY], ids=["hourly", "daily"])
def forecaster(request: pytest.FixtureRequest) -> Forecaster:
    made = Forecaster(untrained(request.param, 24 if request.param is HOURLY else 14))
    made.warm_up()
    return made


def history(spec: FeatureSpec, n: int, steps: int) -> F32:
    rng = np.random.default_rng(n)
    return rng.poisson(rng.gamma(0.5, 4.0, (1, n, 1)), (steps, n, 1 + len(spec.streams))).astype(np.float32)


def lived(forecaster: Forecaster, n: int, steps: int = 30) -> tuple[F32, F32]:
    """Rows of n products after some steps."""
    features, state = forecaster.fresh(n)
    for i, demand in enumerate(history(forecaster.spec, n, steps)):
        step = np.full(n, FIRST[forecaster.spec] + i)
        features, state = forecaster.advance(features, state, demand, step)
    return features, state


def parts(out: Forecasts) -> list[F32]:
    running = out.running
    steps = [out.mean, out.quantiles, out.cumulative_mean, out.cumulative_quantiles]
    return [*steps, running.by_now_mean, running.by_now_quantiles, running.step_mean, running.step_quantiles]


def read(forecaster: Forecaster, features: F32, state: F32, rows: slice | np.ndarray = slice(None)) -> list[F32]:
    n = len(features[rows])
    step = np.full(n, FIRST[forecaster.spec] + 29)
    running = np.ones((n, 1 + len(forecaster.spec.streams)), np.float32)
    return parts(forecaster.read_out(features[rows], state[rows], step, running, np.full(n, 0.4, np.float32), np.array([7, 100])))


def test_step_by_step_equals_the_layer_over_the_whole_sequence(forecaster: Forecaster) -> None:
    spec, weights = forecaster.spec, forecaster.artefact.weights
    n, steps = 40, 309
    demand = history(spec, n, steps)
    panel = Panel(tuple(map(str, range(n))), FIRST[spec], np.zeros(n, np.int64), np.ascontiguousarray(demand.transpose(1, 0, 2)), "UTC")
    encoded = dataset.encode(panel, spec, forecaster.artefact.profiles, longest=24)
    layer = layers.LSTM(forecaster.state_size // 2, return_state=True, unit_forget_bias=False)
    layer.build((None, None, spec.n_encoder_inputs))
    layer.set_weights([weights["lstm.kernel"], weights["lstm.recurrent"], weights["lstm.bias"]])
    seen = np.clip((encoded.inputs - weights["input.mean"]) / weights["input.deviation"], -6, 6)
    _, h, c = (np.asarray(part) for part in layer(seen))
    features, state = forecaster.fresh(n)
    for i in range(steps):
        forecaster.advance(features, state, demand[i], np.full(n, FIRST[spec] + i), in_place=True)
    hidden = forecaster.state_size // 2
    assert np.abs(state[:, :hidden] - h).max() <= 1e-5
    assert (np.abs(state[:, hidden:] - c) / np.maximum(np.abs(c), 1)).max() <= 1e-4


def test_one_step_equals_the_definition(forecaster: Forecaster) -> None:
    features, state = lived(forecaster, 2, steps=5)
    demand = np.ones((2, 1 + len(forecaster.spec.streams)), np.float32)
    step = np.full(2, FIRST[forecaster.spec] + 5)
    new_features, new_state = forecaster.advance(features, state, demand, step)
    from models.features import encoder_inputs

    inputs = encoder_inputs(forecaster.spec, new_features, step, forecaster.artefact.profiles)
    hidden = forecaster.state_size // 2
    for i in range(2):
        h, c = model_oracles.lstm_step(dict(forecaster.artefact.weights), inputs[i], state[i, :hidden], state[i, hidden:])
        assert np.allclose(new_state[i], np.concatenate([h, c]), atol=1e-5)


def test_batch_mates_do_not_matter(forecaster: Forecaster) -> None:
    n = 4200  # a batch of each size, by these cuts
    features, state = lived(forecaster, n)
    whole = read(forecaster, features, state)
    step = np.full(n, FIRST[forecaster.spec] + 30)
    demand = history(forecaster.spec, n, 1)[0]
    advanced = forecaster.advance(features, state, demand, step)
    order = np.random.default_rng(0).permutation(n)
    for rows in (slice(0, 1), slice(0, 7), slice(100, 356), slice(3, 1027), slice(4000, 4200), order):
        for full, some in zip(whole, read(forecaster, features, state, rows), strict=True):
            assert np.array_equal(full[rows], some)
        some_advanced = forecaster.advance(features[rows], state[rows], demand[rows], step[rows])
        assert all(np.array_equal(full[rows], some, equal_nan=True) for full, some in zip(advanced, some_advanced, strict=True))


def test_broken_neighbours_do_not_matter(forecaster: Forecaster) -> None:
    features, state = lived(forecaster, 10)
    good = read(forecaster, features, state)
    features[1::2], state[1::2] = np.nan, np.nan
    with np.errstate(invalid="ignore"):
        bad = read(forecaster, features, state)
    assert all(np.array_equal(a[::2], b[::2]) for a, b in zip(good, bad, strict=True))


def test_nothing_is_compiled_after_warming_up(forecaster: Forecaster) -> None:
    before = forecaster.compilations
    assert before == 3 * len(BATCHES)
    for n in (1, 200, 300, 1025, 5000):
        features, state = forecaster.fresh(n)
        step, demand = np.full(n, 350_000), np.zeros((n, 1 + len(forecaster.spec.streams)), np.float32)
        forecaster.advance(features, state, demand, step)
        forecaster.expect(features, state, step)
        for sums in (NO_SUMS, np.array([7]), np.full((n, SUMS), 14)):
            forecaster.read_out(features, state, step, demand, demand[:, 0], sums)
    assert forecaster.compilations == before


def test_what_is_expected_next_is_the_mean_heads_part_of_the_first_mean(forecaster: Forecaster) -> None:
    n = 300
    features, state = forecaster.fresh(n)
    rng = np.random.default_rng(0)
    for step in range(350_000, 350_012):
        demand = rng.poisson(3, (n, 1 + len(forecaster.spec.streams))).astype(np.float32)
        features, state = forecaster.advance(features, state, demand, np.full(n, step))
    steps = np.full(n, 350_011)
    plain = forecaster.read_out(features, state, steps, np.zeros_like(demand), np.zeros(n, np.float32), NO_SUMS)
    ends = [0.0, *np.convolve(forecaster.levels, [0.5, 0.5], "valid"), 1.0]
    of_quantiles = np.diff(ends) @ plain.quantiles[:, :, 0].T
    np.testing.assert_allclose(0.2 * forecaster.expect(features, state, steps) + 0.8 * of_quantiles, plain.mean[:, 0], rtol=1e-4)


def test_forecasts_are_finite_ordered_and_of_the_promised_shapes(forecaster: Forecaster) -> None:
    n, horizon, levels = 5, forecaster.horizon, len(forecaster.levels)
    features, state = lived(forecaster, n)
    out = forecaster.read_out(
        features, state, np.full(n, FIRST[forecaster.spec] + 29), np.zeros((n, 1 + len(forecaster.spec.streams)), np.float32),
        np.zeros(n, np.float32), np.array([1, 7, 14, 672]),
    )  # fmt: skip
    shapes = [(n, horizon), (n, levels, horizon), (n, 4), (n, 4, levels), (n,), (n, levels), (n,), (n, levels)]
    assert [part.shape for part in parts(out)] == shapes
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in parts(out))
    assert (np.diff(out.quantiles, axis=1) >= 0).all()
    assert (np.diff(out.cumulative_quantiles, axis=2) >= 0).all()


def test_a_days_share_is_that_of_its_demand_and_an_hours_that_of_the_clock() -> None:
    """A shop that sells from six to twelve only: at nine half of a day's demand is to be expected."""
    morning = np.tile(np.repeat(np.array([1e-6, 1, 1e-6], np.float32), [6, 6, 12]), 7)
    for spec, horizon, share in ((DAILY, 14, 0.5), (HOURLY, 24, 0.375)):
        model = Forecaster(replace(untrained(spec, horizon), pace=morning))
        features, state = lived(model, 3)
        step, nothing = np.full(3, FIRST[spec] + 29), np.zeros((3, 1 + len(spec.streams)), np.float32)
        plain = model.read_out(features, state, step, nothing, nothing[:, 0], NO_SUMS)
        at_nine = model.read_out(features, state, step, nothing, np.full(3, 0.375, np.float32), NO_SUMS)
        assert np.allclose(at_nine.running.by_now_mean, share * plain.mean[:, 0], rtol=1e-3)


def test_no_forecast_leaves_what_the_product_has_shown(forecaster: Forecaster) -> None:
    """A network whose heads say thousands, whatever is asked."""
    artefact = forecaster.artefact
    wild = {name: artefact.weights[name] + np.float32(5_000) for name in ("step.bias", "sum.bias")}
    model = Forecaster(replace(artefact, weights={**artefact.weights, **wild}))
    features, state = lived(forecaster, 20)
    shown = np.maximum(np.concatenate([history(forecaster.spec, 20, 30)[..., 0], np.ones((1, 20))]).max(axis=0), 1)
    step, nothing = np.full(20, FIRST[forecaster.spec] + 29), np.zeros((20, 1 + len(forecaster.spec.streams)), np.float32)
    out = model.read_out(features, state, step, nothing, nothing[:, 0], np.array([7]))
    assert np.allclose(out.mean, 10 * shown[:, None])
    assert np.allclose(out.quantiles[:, -1], 10 * shown[:, None])
    assert np.allclose(out.cumulative_quantiles[:, 0, -1], 70 * shown)
    assert (np.diff(out.quantiles, axis=1) >= 0).all()


def test_each_product_has_its_own_sums(forecaster: Forecaster) -> None:
    features, state = lived(forecaster, 3)
    step, demand = np.full(3, FIRST[forecaster.spec] + 29), np.zeros((3, 1 + len(forecaster.spec.streams)), np.float32)
    own = forecaster.read_out(features, state, step, demand, demand[:, 0], np.array([[7, 3], [7, 9], [7, 27]]))
    for i, length in enumerate((3, 9, 27)):
        same = forecaster.read_out(features, state, step, demand, demand[:, 0], np.array([7, length]))
        assert np.array_equal(own.cumulative_quantiles[i], same.cumulative_quantiles[i])


@pytest.mark.parametrize("sums", [[0], [673], [7, -1]])
def test_sums_beyond_what_was_trained_are_refused(forecaster: Forecaster, sums: list[int]) -> None:
    features, state = forecaster.fresh(1)
    demand = np.zeros((1, 1 + len(forecaster.spec.streams)), np.float32)
    with pytest.raises(ValueError, match="1 to 672"):
        forecaster.read_out(features, state, np.array([1]), demand, demand[:, 0], np.array(sums))


def test_wrong_shapes_are_refused_before_anything_is_compiled(forecaster: Forecaster) -> None:
    features, state = forecaster.fresh(2)
    demand = np.zeros((2, 1 + len(forecaster.spec.streams)), np.float32)
    step = np.array([1, 1])
    double: Any = state.astype(np.float64)
    for wrong in ((features[:1], state, demand), (features, double, demand), (features, state, demand[:, :1])):
        with pytest.raises(ValueError, match="must be float32"):
            forecaster.advance(wrong[0], wrong[1], wrong[2], step)


def test_no_products_are_no_trouble(forecaster: Forecaster) -> None:
    features, state = forecaster.fresh(0)
    demand, step = np.zeros((0, 1 + len(forecaster.spec.streams)), np.float32), np.zeros(0, np.int64)
    assert len(forecaster.advance(features, state, demand, step)[0]) == 0
    assert forecaster.read_out(features, state, step, demand, demand[:, 0], np.array([7])).mean.shape == (0, forecaster.horizon)


def test_the_default_model_serves(repository: Path) -> None:
    model = Forecaster.load(repository / "models" / "default", timezone="Europe/Berlin")
    assert (model.spec.streams, model.horizon, model.levels) == (("orders", "views", "carts"), 24, LEVELS)
    assert model.spec.timezone == "Europe/Berlin"
    elsewhere = Forecaster.load(repository / "models" / "default", timezone="Asia/Tokyo")
    assert model.version == elsewhere.version
    assert model.spec.hash != elsewhere.spec.hash
    assert 4 * (model.feature_size + model.state_size) <= 2048
