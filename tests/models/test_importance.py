"""Inputs that a model does not use have no importance, those that it uses have some."""

from dataclasses import replace

import numpy as np
import pytest

from models.artefact import Artefact
from models.bench import Bench
from models.features import FeatureSpec
from models.importance import importance
from models.input_groups import groups
from models.nowcast import NowcastRule
from models.seasons import DAY_MS, HOUR_MS
from models.weights import Sizes, initial
from tests.models.benches import daily_bench

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@pytest.mark.parametrize("streams", [(), ("orders", "views")])
@pytest.mark.parametrize("step_ms", [HOUR_MS // 2, HOUR_MS, DAY_MS, 7 * DAY_MS])
def test_every_input_is_in_one_group(step_ms: int, streams: tuple[str, ...]) -> None:
    spec = FeatureSpec.for_step(step_ms, streams)
    found = groups(spec).values()
    assert sorted(column for group in found for column in group.encoder) == list(range(spec.n_encoder_inputs))
    assert sorted(column for group in found for column in group.decoder) == list(range(spec.n_decoder_inputs))


def bench() -> Bench:
    history = np.random.default_rng(1).poisson(np.linspace(0.5, 9, 20)[:, None], (20, 90)).astype(float)
    history[-3:, :70] = np.nan
    return daily_bench(history, 7, cutoffs=(55, 75))


def model(spec: FeatureSpec) -> Artefact:
    """Untrained, and with all its inputs cut off."""
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, len(LEVELS))
    weights = initial(sizes, np.random.default_rng(1))
    for name in ("lstm.kernel", "context.kernel", "target.kernel"):
        weights[name] = np.zeros_like(weights[name])
    weights["step.kernel"] *= 20
    profiles = tuple(np.ones(period, np.float32) for period in spec.periods)
    return Artefact("test", spec, 7, 28, LEVELS, sizes.hidden, sizes.width, NowcastRule(), (0.5, 2.0), True, profiles, weights)


def test_only_what_is_connected_matters() -> None:
    made = bench()
    artefact = model(made.spec)
    kernel = artefact.weights["target.kernel"].copy()
    place = groups(made.spec)["place in the horizon"].decoder
    kernel[list(place)] = np.random.default_rng(2).normal(size=(len(place), kernel.shape[1]))
    found = importance(made, replace(artefact, weights={**artefact.weights, "target.kernel": kernel}), np.random.default_rng(3))
    # The seasonal profile also sets the level that the network's outputs multiply.
    assert {name for name, increase in found.items() if increase != 0} == {"place in the horizon", "seasonal profile"}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_lstm_carries_what_only_the_past_knew() -> None:
    made = bench()
    artefact = model(made.spec)
    rng = np.random.default_rng(2)
    kernel, context = artefact.weights["lstm.kernel"].copy(), artefact.weights["context.kernel"].copy()
    silence = groups(made.spec)["silence and age"].encoder
    kernel[list(silence)] = rng.normal(size=(len(silence), kernel.shape[1]))
    context[:64] = rng.normal(size=(64, context.shape[1]))
    weights = {**artefact.weights, "lstm.kernel": kernel, "context.kernel": context}
    found = importance(made, replace(artefact, weights=weights), rng)
    assert {name for name, increase in found.items() if increase != 0} == {"silence and age", "seasonal profile"}


def test_where_nothing_sold_nothing_matters() -> None:
    made = daily_bench(np.zeros((5, 60)), 7, cutoffs=(40,))
    assert importance(made, model(made.spec), np.random.default_rng(1)) == {}
