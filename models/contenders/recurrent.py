"""Window networks, as tutorials and many articles build them: two stacked recurrent layers over a product's newest 60 steps.

Nothing but the window goes in, scaled by its own mean and deviation; one dense layer gives all steps of the horizon at once, trained on
squared errors. Windows are computed anew for each forecast. Quantiles come from a fifth of the products, which the network does not learn
from: how demand turned out there, by volume (`spread`).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.bench import BacktestForecasts, Bench, Contender, Progress
from models.contenders import simple, table
from models.contenders.libraries import library
from models.contenders.spread import spread
from models.features import F32

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

# A shorter window than this holds no season.
_SHORTEST: Final = 4
# Added to a window's deviation, in units: silence has one too, and what is below a unit is no deviation of counts.
_LEAST_DEVIATION: Final = 1.0
# Deviations of a target beyond which an error counts no more: a few orders after silence would rule all squares.
_FARTHEST: Final = 8.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the network is, and how it is trained."""

    window: int = 60  # steps; half the history where there are fewer
    units: int = 32  # of each of the two layers
    dropout: float = 0.2  # after each
    batch: int = 128  # windows
    iterations: int = 500
    epochs: int = 30  # at most so often over the same windows, where there are few
    learning_rate: float = 2e-3
    checked: int = 4_000  # windows for the quantiles
    seed: int = 1


def window_network(layer: str, recipe: Recipe | None = None) -> Contender:
    """A contender of two layers of this kind: `LSTM` or `GRU`."""
    chosen = recipe or Recipe()
    return lambda bench, progress: _forecast(bench, progress, layer, chosen)


def _forecast(bench: Bench, progress: Progress, layer: str, recipe: Recipe) -> BacktestForecasts:
    rng = np.random.default_rng(recipe.seed)
    first, horizon = bench.cutoffs[0], bench.horizon
    window = min(recipe.window, (first + 1) // 2)
    product, origin = _origins(bench, window)
    out = table.held_out(product, rng)
    if window < _SHORTEST or out.all() or not out.any():
        return simple.window_mean(bench, progress)
    learnt = np.flatnonzero(~out)
    checked = rng.permutation(np.flatnonzero(out))[: recipe.checked]
    iterations = min(recipe.iterations, recipe.epochs * -(-len(learnt) // recipe.batch))
    of = iterations + len(bench.cutoffs)

    known = _demand(bench, first)
    model = _network(layer, window, horizon, recipe)
    for iteration in range(iterations):
        chosen = rng.choice(learnt, recipe.batch)
        inputs, mean, deviation = windows(known, product[chosen], origin[chosen], window)
        targets = _targets(known, product[chosen], origin[chosen], horizon)
        scaled = (targets - mean[:, None]) / deviation[:, None]
        model.train_on_batch(inputs, np.clip(scaled, -_FARTHEST, _FARTHEST))
        progress(iteration + 1, of)
    expected = _answer(model, known, product[checked], origin[checked], window)
    seen = spread(expected.ravel(), _targets(known, product[checked], origin[checked], horizon).ravel())

    forecasts = BacktestForecasts.nothing(bench)
    for k, cutoff in enumerate(bench.cutoffs):
        alive = np.arange(bench.alive(cutoff))
        answer = _answer(model, _demand(bench, cutoff), alive, np.full(len(alive), cutoff), window)
        forecasts.mean[k, : len(alive)] = answer
        for level, quantile in seen.quantiles(answer).items():
            forecasts.quantiles[level][k, : len(alive)] = quantile
        progress(iterations + k + 1, of)
    return forecasts


def _origins(bench: Bench, window: int) -> tuple[I64, I64]:
    """Products and columns, (k,) each, after which a whole horizon is known at the first cut-off; at least half a window before them."""
    columns = np.arange(bench.cutoffs[0] + 1 - bench.horizon)
    old = columns - bench.panel.born[:, None] + 1 >= max(window // 2, 1)
    product, origin = np.nonzero(old)
    return product, columns[origin]


def _demand(bench: Bench, cutoff: int) -> F32:
    """What is known at a cut-off, (products, cutoff + 1); NaN before birth."""
    return bench.history(cutoff).astype(np.float32)


def _targets(known: F32, product: I64, origin: I64, horizon: int) -> F32:
    return np.asarray(known[product[:, None], origin[:, None] + 1 + np.arange(horizon)])


def windows(known: F32, product: I64, origin: I64, window: int) -> tuple[F32, F32, F32]:
    """Scaled windows, (k, window, 1), that end at `origin`, and the mean and deviation, (k,), they were scaled by.

    Steps before a product's birth are 0: as the mean.
    """
    at = origin[:, None] - window + 1 + np.arange(window)
    values = np.where(at >= 0, known[product[:, None], np.maximum(at, 0)], np.float32(np.nan))
    there = np.isfinite(values)
    count = np.maximum(there.sum(axis=1), 1)
    mean = np.where(there, values, 0).sum(axis=1) / count
    centred = np.where(there, values - mean[:, None], 0)
    deviation = np.sqrt((centred**2).sum(axis=1) / count) + _LEAST_DEVIATION
    return (centred / deviation[:, None])[..., None].astype(np.float32), mean.astype(np.float32), deviation.astype(np.float32)


def _network(layer: str, window: int, horizon: int, recipe: Recipe) -> Any:
    """Every random choice has a seed of its own: nothing depends on what ran before."""
    keras = library("keras")
    layers, initial = keras.layers, keras.initializers
    stack = [keras.Input((window, 1))]
    for depth in range(2):
        seed = recipe.seed + 10 * depth
        stack += [
            getattr(layers, layer)(
                recipe.units,
                return_sequences=depth == 0,
                kernel_initializer=initial.GlorotUniform(seed),
                recurrent_initializer=initial.Orthogonal(seed=seed + 1),
            ),
            layers.Dropout(recipe.dropout, seed=seed + 2),
        ]
    stack.append(layers.Dense(horizon, kernel_initializer=initial.GlorotUniform(recipe.seed + 20)))
    model = keras.Sequential(stack)
    model.compile(keras.optimizers.Adam(recipe.learning_rate, clipnorm=1.0), loss="mse", jit_compile=False)
    return model


def _answer(model: Any, known: F32, product: I64, origin: I64, window: int, batch: int = 1_000) -> F64:
    """Forecast means, (k, horizon)."""
    parts = []
    for begin in range(0, len(product), batch):
        chosen = slice(begin, begin + batch)
        inputs, mean, deviation = windows(known, product[chosen], origin[chosen], window)
        parts.append(np.maximum(np.asarray(model.predict_on_batch(inputs)) * deviation[:, None] + mean[:, None], 0))
    return np.concatenate(parts).astype(np.float64)
