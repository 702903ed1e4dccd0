"""Training batches by forking sequences: one pass of the LSTM over a segment, forecasts at many of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from models.dataset import Encoded, UnusableData
from models.features import F32, I64, FeatureSpec
from models.seasons import DAY_MS, HOUR_MS

# Sums of each fork: two typical lead times, and one at random so that any product's own lead time is known.
_TYPICAL_SUMS_MS: Final = (7 * DAY_MS, 14 * DAY_MS)


@dataclass(frozen=True)
class Recipe:
    """How to train. Steps are those of the feature specification."""

    iterations: int = 1000
    batch: int = 48  # products
    forks: int = 24  # forecasts per product and batch
    segment: int = 224  # steps the LSTM runs over
    burn_in: int = 28  # steps at a segment's start without a forecast: the state begins at zero
    history: int = 730  # newest steps to train on
    youngest: int = 28  # observed steps that a product needs before it is forecast
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    dropout: float = 0.1
    hidden: int = 64  # units of the LSTM; a product's state is twice as many numbers
    width: int = 96  # units of the decoder's layers
    average: float = 0.995  # momentum of the moving average of the weights, which is what is kept
    held_out: float = 0.04  # share of the products kept for early stopping
    check_every: int = 100  # iterations between two looks at the held-out products
    patience: int = 6  # looks without improvement before training ends
    seed: int = 1

    @classmethod
    def for_spec(cls, spec: FeatureSpec, *, iterations: int, seed: int) -> "Recipe":
        """Segments of some months of days, or of three weeks of hours."""
        if spec.step_ms >= DAY_MS:
            return cls(iterations=iterations, seed=seed)
        per_hour = HOUR_MS / spec.step_ms
        # Finer than hours: as many steps, or the LSTM would take too long; the EWMAs hold the longer memory.
        return cls(iterations, segment=504, burn_in=72, history=round(4000 * per_hour), youngest=round(168 * per_hour), seed=seed)


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of one iteration: `b` products with `forks` forecasts each, all shapes fixed."""

    inputs: F32  # (b, segment, encoder inputs)
    at: I64  # (forks,) steps of the segment at which forecasts are made, the same for all products
    targets: F32  # (b * forks, rows, decoder inputs)
    scale: F32  # (b * forks,)
    demand: F32  # (b * forks, rows) per step of the target
    known: F32  # (b * forks, rows) 1 where the target counts

    def arrays(self) -> tuple[F32 | I64, ...]:
        return self.inputs, self.at, self.targets, self.scale, self.demand, self.known


def shortened(recipe: Recipe, columns: Sequence[int], horizon: int) -> Recipe:
    """The recipe for panels of so many columns: segments that fit into the shortest. Raises UnusableData below a minimum.

    >>> shortened(Recipe(), [100], 14).segment
    86
    """
    segment = min(recipe.segment, min(columns) - horizon)
    burn_in = min(recipe.burn_in, segment // 4)
    if segment - burn_in < recipe.forks:
        raise UnusableData(f"{min(columns)} steps are too few to train on; at least {2 * recipe.forks + horizon} are needed")
    return replace(recipe, segment=segment, burn_in=burn_in, youngest=min(recipe.youngest, segment // 2))


def draw(data: Sequence[Encoded], recipe: Recipe, horizon: int, longest_sum: int, rng: np.random.Generator) -> Batch:
    """A random batch from one of the panels, larger ones more often; segments end anywhere in the panel's kept part."""
    # By the root of the size: a large shop teaches more, but must not drown the others.
    sizes = np.sqrt([one.inputs.shape[0] * one.inputs.shape[1] for one in data])
    one = data[rng.choice(len(data), p=sizes / sizes.sum())]
    products, columns = one.inputs.shape[:2]
    chosen = rng.choice(products, recipe.batch, replace=products < recipe.batch)
    first = rng.integers(0, columns - horizon - recipe.segment + 1, recipe.batch)
    at = np.sort(rng.choice(np.arange(recipe.burn_in, recipe.segment), recipe.forks, replace=False))
    steps = first[:, None] + np.arange(recipe.segment)
    inputs = one.inputs[chosen[:, None], steps]
    product = np.repeat(chosen, recipe.forks)
    column = one.start + (first[:, None] + at).ravel()
    lengths = _lengths(one.spec, longest_sum, len(product), rng)
    demand, known = _targets(one, recipe, product, column, horizon, lengths)
    targets = one.decoder_inputs(product, column, horizon, lengths)
    return Batch(inputs, at.astype(np.int64), targets, one.scale[product, column - one.start], demand, known)


def _lengths(spec: FeatureSpec, longest_sum: int, n: int, rng: np.random.Generator) -> I64:
    typical = [min(max(ms // spec.step_ms, 1), longest_sum) for ms in _TYPICAL_SUMS_MS]
    anything = np.exp(rng.uniform(0, np.log(longest_sum + 0.999), n)).astype(np.int64)
    return np.stack([*(np.full(n, length, np.int64) for length in typical), anything], axis=1)


def _targets(one: Encoded, recipe: Recipe, product: I64, column: I64, horizon: int, lengths: I64) -> tuple[F32, F32]:
    """Demand per step of each target and whether it counts; those that reach beyond the panel or hold a gap do not."""
    n, last = len(product), one.panel.columns
    starts = np.concatenate([np.broadcast_to(np.arange(horizon), (n, horizon)), np.zeros_like(lengths)], axis=1)
    ends = np.concatenate([np.broadcast_to(np.arange(1, horizon + 1), (n, horizon)), lengths], axis=1)
    begin, end = column[:, None] + 1 + starts, column[:, None] + 1 + ends
    at = product[:, None]
    whole = one.gaps_before[at, np.minimum(end, last)] == one.gaps_before[at, np.minimum(begin, last)]
    inside = (end <= last) & whole
    demand = (one.demand_before[at, np.minimum(end, last)] - one.demand_before[at, np.minimum(begin, last)]) / (ends - starts)
    grown = one.age[product, column - one.start] >= recipe.youngest
    return np.where(inside, demand, 0).astype(np.float32), (inside & grown[:, None]).astype(np.float32)
