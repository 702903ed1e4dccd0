"""Names, shapes and initial values of the network's weights; NumPy only, so that an artefact is checked without a backend."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.features import F32

# Inputs are clipped to this many standard deviations: a wild product must not saturate the LSTM for weeks.
CLIP: Final = 6.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers that fix the shapes of all weights."""

    encoder_inputs: int
    decoder_inputs: int
    levels: int
    hidden: int = 64
    width: int = 96
    covariates: int = 0


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights. LSTM gates lie in Keras' order: input, forget, cell, output."""
    hidden, width, outputs = sizes.hidden, sizes.width, 1 + sizes.levels
    return {
        "input.mean": (sizes.encoder_inputs,),
        "input.deviation": (sizes.encoder_inputs,),
        # The last of the decoder's inputs are three of each covariate: they come as they are, in any unit.
        "covariate.mean": (3 * sizes.covariates,),
        "covariate.deviation": (3 * sizes.covariates,),
        "lstm.kernel": (sizes.encoder_inputs, 4 * hidden),
        "lstm.recurrent": (hidden, 4 * hidden),
        "lstm.bias": (4 * hidden,),
        "norm.gain": (hidden,),
        "norm.offset": (hidden,),
        "context.kernel": (hidden + sizes.encoder_inputs, width),
        "context.bias": (width,),
        "target.kernel": (sizes.decoder_inputs, width),
        "target.bias": (width,),
        "inner.kernel": (width, width),
        "inner.bias": (width,),
        "step.kernel": (width, outputs),
        "step.bias": (outputs,),
        "sum.kernel": (width, outputs),
        "sum.bias": (outputs,),
    }


def initial(sizes: Sizes, rng: np.random.Generator) -> dict[str, F32]:
    """Untrained weights: uniform in ±1/sqrt(fan in), and outputs that start at the seasonal profile with a plausible spread."""
    fan_in = {"lstm": sizes.hidden, "context": sizes.hidden + sizes.encoder_inputs, "target": sizes.decoder_inputs, "inner": sizes.width}
    out: dict[str, F32] = {}
    for name, shape in shapes(sizes).items():
        layer, kind = name.split(".")
        if layer in fan_in:
            limit = fan_in[layer] ** -0.5
            value = rng.uniform(-limit, limit, shape)
        elif kind == "kernel":
            value = rng.normal(0, 0.01, shape)
        elif kind == "bias":
            value = np.array([0.0, -3.0, *[-1.5] * (sizes.levels - 1)])
        else:
            value = np.full(shape, 1.0 if kind in ("gain", "deviation") else 0.0)
        out[name] = value.astype(np.float32)
    return out
