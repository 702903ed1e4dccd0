"""The network: an LSTM over steps and a direct decoder over targets, written in `keras.ops` over named weights.

The same functions serve training and inference, on TensorFlow and on JAX. A quantile at a low level never exceeds one at a higher level.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np

# TensorFlow tells a page about itself on standard error, unless told not to before it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import ops

from models.features import F32
from models.thinning import level_shares
from models.weights import CLIP

Tensor = Any  # of the backend
Weights = Mapping[str, Tensor]

_EPSILON: Final = 1e-5
# Added to every mean, so that deviances and ratios stay finite.
_LEAST_MEAN: Final = 1e-3
# Lowest quantile before clipping at 0: lets a quantile be exactly 0 without an infinite weight.
_BELOW_ZERO: Final = 0.05
# Share of the mean head in a forecast's mean; what it is worth stands in benchmarks/README.md.
_HEAD_SHARE: Final = 0.2
# Spread grows slower than the level along a seasonal profile (between Poisson's 0.5 and proportional's 1).
_SPREAD_POWER: Final = 0.7


def normalised(weights: Weights, inputs: Tensor) -> Tensor:
    """Encoder inputs, (..., encoder_inputs), as the LSTM takes them."""
    return ops.clip((inputs - weights["input.mean"]) / weights["input.deviation"], -CLIP, CLIP)


def lstm_step(weights: Weights, inputs: Tensor, state: Tensor) -> Tensor:
    """State, (n, 2 hidden) = h beside c, after one step of encoder inputs, (n, encoder_inputs)."""
    n = weights["lstm.recurrent"].shape[0]
    h, c = state[:, :n], state[:, n:]
    # One product for inputs and h, and as sigmoid(z) = (1 + tanh(z / 2)) / 2 one hyperbolic tangent for the gates and the candidate.
    halved = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), n)
    kernel = ops.concatenate([weights["lstm.kernel"], weights["lstm.recurrent"]], axis=0) * halved
    inputs = ops.concatenate([normalised(weights, inputs), h], axis=-1)
    z = ops.tanh(ops.matmul(inputs, kernel) + weights["lstm.bias"] * halved)
    gate_in, gate_forget, gate_out = (0.5 + 0.5 * z[:, at * n : (at + 1) * n] for at in (0, 1, 3))
    c = gate_forget * c + gate_in * z[:, 2 * n : 3 * n]
    return ops.concatenate([gate_out * ops.tanh(c), c], axis=-1)


def decode(
    weights: Weights,
    inputs: Tensor,
    h: Tensor,
    rows: Tensor,
    scale: Tensor,
    *,
    horizon: int,
    n_profiles: int,
    drop: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Tensor, Tensor]:
    """Mean, (n, rows), and quantiles, (n, rows, levels), of the demand *per step* of each target.

    `inputs`: (n, encoder_inputs) of the last consumed step; `h`: (n, hidden) after it; `rows`: (n, rows, decoder_inputs), the first
    `horizon` of them steps, then sums; `scale`: (n,). The mean is a bounded factor on the seasonal profile; quantiles are
    cumulated positive increments, so they rise.
    """
    context = ops.matmul(ops.concatenate([_layer_norm(weights, h), normalised(weights, inputs)], axis=-1), weights["context.kernel"])
    rows = _with_normalised_covariates(weights, rows)
    z = _silu((context + weights["context.bias"])[:, None] + ops.matmul(rows, weights["target.kernel"]) + weights["target.bias"])
    z = z + _silu(ops.matmul(drop(z), weights["inner.kernel"]) + weights["inner.bias"])
    z = drop(z)
    # One product for both heads, half of it unused, is faster than one for each.
    both = ops.matmul(z, ops.concatenate([weights["step.kernel"], weights["sum.kernel"]], axis=1))
    n = weights["step.bias"].shape[0]
    out = ops.concatenate([both[:, :horizon, :n] + weights["step.bias"], both[:, horizon:, n:] + weights["sum.bias"]], axis=1)
    level = ops.mean(rows[..., :n_profiles], axis=-1) if n_profiles else ops.zeros_like(rows[..., 0])
    mean = ops.exp(level + ops.clip(out[..., 0], -4.0, 4.0)) * scale[:, None] + _LEAST_MEAN
    rising = ops.cumsum(ops.softplus(out[..., 1:]), axis=-1) - _BELOW_ZERO
    return mean, rising * ops.exp(_SPREAD_POWER * level)[..., None] * scale[:, None, None]


def central(mean: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """A fifth of the mean head, the rest the mean of the distribution that the (calibrated) quantiles describe, (n, rows).

    Single bulk orders move the head and hardly the quantiles: near this share lie the least errors of sums and of single steps.
    """
    return _HEAD_SHARE * mean + (1 - _HEAD_SHARE) * ops.sum(ops.maximum(quantiles, 0.0) * level_shares(levels), axis=-1)


def _with_normalised_covariates(weights: Weights, rows: Tensor) -> Tensor:
    n = weights["covariate.mean"].shape[0]
    if not n:
        return rows
    covariates = ops.clip((rows[..., -n:] - weights["covariate.mean"]) / weights["covariate.deviation"], -CLIP, CLIP)
    return ops.concatenate([rows[..., :-n], covariates], axis=-1)


def _silu(x: Tensor) -> Tensor:
    """`x · sigmoid(x)` by a hyperbolic tangent: a sixth less for the whole decoder on a CPU."""
    return x * (0.5 + 0.5 * ops.tanh(0.5 * x))


def _layer_norm(weights: Weights, h: Tensor) -> Tensor:
    centred = h - ops.mean(h, axis=-1, keepdims=True)
    deviation = ops.sqrt(ops.mean(centred * centred, axis=-1, keepdims=True) + _EPSILON)
    return centred / deviation * weights["norm.gain"] + weights["norm.offset"]


Compiled = Callable[..., Any]


def compiled(function: Callable[..., Any], weights: Mapping[str, F32], on_trace: Callable[[], None]) -> Compiled:
    """`function(weights, *arrays)` compiled by the backend, once for each shape; takes NumPy arrays, returns them (or tuples), not to be written to.

    `on_trace` is called for each compilation, so that tests can count them.
    """
    backend = keras.backend.backend()

    def traced(held: Weights, *arrays: Tensor) -> Any:
        on_trace()
        return function(held, *arrays)

    if backend == "tensorflow":
        return _compiled_by_tensorflow(traced, weights)
    if backend == "jax":
        return _compiled_by_jax(traced, weights)
    raise RuntimeError(f"the Keras backend {backend!r} is not supported; set KERAS_BACKEND to tensorflow or jax")


def _compiled_by_tensorflow(function: Callable[..., Any], weights: Mapping[str, F32]) -> Compiled:
    import tensorflow as tf

    held = {name: tf.constant(value) for name, value in weights.items()}
    # A concrete function a set of shapes: it calls faster, but alone it would accept a wrong batch size.
    by_shape: dict[tuple[tuple[int, ...], ...], Any] = {}

    def call(*arrays: F32) -> Any:
        shapes = tuple(array.shape for array in arrays)
        if shapes not in by_shape:
            traced = tf.function(lambda *tensors: function(held, *tensors), jit_compile=True, autograph=False)
            by_shape[shapes] = traced.get_concrete_function(*(tf.TensorSpec(shape, tf.float32) for shape in shapes))
        return tf.nest.map_structure(np.asarray, by_shape[shapes](*map(tf.convert_to_tensor, arrays)))  # views: `numpy()` would copy

    return call


def _compiled_by_jax(function: Callable[..., Any], weights: Mapping[str, F32]) -> Compiled:
    jax: Any = import_module("jax")  # optional: not among the program's requirements
    held = {name: jax.numpy.asarray(value) for name, value in weights.items()}
    run = jax.jit(function)  # weights are an argument: a closure would bake them into the program

    def call(*arrays: F32) -> Any:
        return jax.tree.map(np.asarray, run(held, *arrays))

    return call
