"""A product's recurrent state under another model, rebuilt from its stored steps: what a promotion costs a product is this, not a start from zeros.

The network runs over the steps that are kept, each product from where it was born or from the oldest of them. Its inputs follow from feature rows, and
of those only today's is stored: the row before the oldest step is wound back from it (`models.rewind`), and carried forward again by `features.advance`.

A pure function of a product's records: the same give the same state, whoever asks, in whatever batch.
"""

from typing import Final, Protocol

import numpy as np

from models import features as rows
from models.features import F32, I64, FeatureSpec
from models.known_future import KnownFuture
from models.rewind import before, steps_lived, with_gaps
from models.timeline import censored

# So many steps are enough, where more are kept: see docs/adr/0010.
STEPS: Final = 192


class Network(Protocol):
    """What is asked of a forecaster (`models.forecaster.Forecaster`)."""

    spec: FeatureSpec
    state_size: int

    def advance(
        self, features: F32, state: F32, demand: F32, step: I64, *, covariates: F32 | None = None, in_place: bool = False
    ) -> tuple[F32, F32]: ...


def rebuilt_state(model: Network, features: F32, step: I64, demand: F32, shop: KnownFuture | None = None) -> F32:
    """State of products after `step`, (n, state_size), given their feature rows after it, (n, size).

    `demand`: (n, k, 1 + streams) of the steps `step - k + 1 .. step`, natural units; zeros where nothing was counted.
    `shop`: what was known ahead of the products.
    """
    return rebuilt_at(model, features, step, demand, step, shop)[1]


def rebuilt_at(model: Network, features: F32, step: I64, demand: F32, through: I64, shop: KnownFuture | None = None) -> tuple[F32, F32]:
    """Feature rows and states of the same products as they were after `through`, (n,), which none of them is behind."""
    n, k = demand.shape[:2]
    everyone, counted = np.arange(n), demand.copy()
    for place in range(k if shop is not None else 0):
        counted[:, place] = censored(demand[:, place], shop, everyone, step - (k - 1 - place))
    known = with_gaps(model.spec, features, step, counted)
    lived = steps_lived(model.spec, features, step, k) if shop is None else _lived(known, rows.ages(model.spec, features))
    row, state = before(model.spec, features, step, known, lived), np.zeros((n, model.state_size), np.float32)
    for place in range(k):
        at = step - (k - 1 - place)
        due = np.flatnonzero((place >= k - lived) & (at <= through))
        covariates = shop.of_step(due, at[due]) if shop is not None and model.spec.covariates else None
        if len(due) == n:
            model.advance(row, state, known[:, place], at, covariates=covariates, in_place=True)
        elif len(due):
            row[due], state[due] = model.advance(row[due], state[due], known[due, place], at[due], covariates=covariates)
    return row, state


def _lived(demand: F32, age: F32) -> I64:
    """How many of the last steps hold as many observed ones as products are old, (n,); all, where none do.

    Stock-outs may lie further back than rows remember.
    """
    observed = np.isfinite(demand[:, ::-1, 0]).cumsum(axis=1)
    old = np.fmax(age, 0)[:, None]  # a product's broken row must not stop its neighbours
    reached = observed >= old
    lived: I64 = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, demand.shape[1])
    return np.where(old[:, 0] > 0, lived, 0)
