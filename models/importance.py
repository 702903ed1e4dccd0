"""Which inputs the forecasts live on: how much worse the model gets when a group of them tells nothing.

A group is taken from another product at another time (in the encoder: along the whole history that the LSTM sees; in the decoder: from
another product and another step of the horizon), so that its values stay plausible and their connection is lost.
"""

from typing import Any, Final

import numpy as np

from models import metrics
from models.artefact import Artefact
from models.bench import Bench, outcomes
from models.dataset import Encoded, encode
from models.features import F32
from models.input_groups import groups

# Enough for two digits of the loss, few enough for seconds.
_MOST_PRODUCTS: Final = 500
# The LSTM begins afresh so many steps before the first cut-off: what is older reaches it through the slow averages.
_MEMORY: Final = 224


def importance(bench: Bench, artefact: Artefact, rng: np.random.Generator) -> dict[str, float]:
    """By group: increase of MWQL over all cut-offs, relative to the model's own (0.1: a tenth worse), most first.

    Of the products born by the first cut-off, at most some hundred; empty where they then sold nothing. Loads the Keras backend.
    """
    alive = bench.alive(bench.cutoffs[0])
    chosen = rng.permutation(alive)[:_MOST_PRODUCTS]
    panel = bench.panel.only(chosen)
    truth = outcomes(bench)[:, np.sort(chosen)]
    start = max(bench.cutoffs[0] + 1 - _MEMORY, 0)
    encoded = encode(panel, artefact.spec, artefact.profiles, artefact.horizon, start)
    inputs = np.where(np.isnan(encoded.inputs), artefact.weights["input.mean"], encoded.inputs)
    network = _Network(artefact, bench)
    asked = network.asked(encoded)
    own = network.loss(encoded, inputs, asked, truth)
    if not own > 0:
        return {}
    found = {}
    for name, group in groups(artefact.spec).items():
        seen, wanted = _exchanged(inputs, group.encoder, rng), [_exchanged_targets(rows, group.decoder, rng) for rows in asked]
        found[name] = network.loss(encoded, seen, wanted, truth) / own - 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _exchanged(inputs: F32, columns: tuple[int, ...], rng: np.random.Generator) -> F32:
    """Columns of another product, from as many steps earlier, around the end; `inputs`: (n, steps, encoder inputs)."""
    out = inputs.copy()
    n, steps, _ = inputs.shape
    other, shift = rng.permutation(n), rng.integers(0, steps, n)
    when = (np.arange(steps) + np.reshape(shift, (n, 1))) % steps
    for column in columns:
        out[..., column] = inputs[other[:, None], when, column]
    return out


def _exchanged_targets(rows: F32, columns: tuple[int, ...], rng: np.random.Generator) -> F32:
    """Columns of another product's other step; `rows`: (n, horizon, decoder inputs)."""
    out = rows.copy()
    flat = rows.reshape(-1, rows.shape[-1])
    order = rng.permutation(len(flat))
    for column in columns:
        out[..., column] = flat[order, column].reshape(rows.shape[:2])
    return out


class _Network:
    """The compiled network over the steps up to the last cut-off."""

    def __init__(self, artefact: Artefact, bench: Bench) -> None:
        from models.network import compiled, decode, lstm_step

        self._artefact, self._bench = artefact, bench

        def decoded(weights: Any, *arrays: Any) -> Any:
            return decode(weights, *arrays, horizon=artefact.horizon, n_profiles=len(artefact.spec.periods))[1]

        self._step = compiled(lstm_step, artefact.weights, lambda: None)
        self._decode = compiled(decoded, artefact.weights, lambda: None)

    def asked(self, encoded: Encoded) -> list[F32]:
        """Decoder inputs of each cut-off, (n, horizon, decoder inputs)."""
        n = len(encoded.panel.product_ids)
        products, no_sums = np.arange(n), np.zeros((n, 0), np.int64)
        return [encoded.decoder_inputs(products, np.full(n, at), self._artefact.horizon, no_sums) for at in self._bench.cutoffs]

    def loss(self, encoded: Encoded, inputs: F32, wanted: list[F32], truth: metrics.Floats) -> float:
        """MWQL over all cut-offs with these inputs of the encoder, from `encoded.start` on, and of the decoder, one for each cut-off."""
        hidden, levels = self._artefact.hidden, self._artefact.levels
        state = np.zeros((len(inputs), 2 * hidden), np.float32)
        found = []
        for column in range(encoded.start, self._bench.cutoffs[-1] + 1):
            here = column - encoded.start
            seen = np.ascontiguousarray(inputs[:, here])
            state = self._step(seen, state)
            if column in self._bench.cutoffs:
                rows = wanted[self._bench.cutoffs.index(column)]
                found.append(self._decode(seen, np.ascontiguousarray(state[:, :hidden]), rows, encoded.scale[:, here]))
        quantiles = np.maximum(np.stack(found), 0)[:, :, : self._bench.horizon]
        known = np.isfinite(truth)
        return metrics.mwql(truth[known], {level: quantiles[known][:, levels.index(level)] for level in metrics.SCORED_LEVELS})
