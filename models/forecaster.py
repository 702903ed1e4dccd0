"""The model as the stream uses it: advance products by a step, read their forecasts out. Importing this module loads the Keras backend.

Any number of products goes in; inside, batches have one of three fixed sizes, so that nothing is compiled while events wait and no
product's result depends on its batch-mates. Not thread-safe: call it from one thread.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from keras import ops

from models import cold_start, nowcast, pace, targets
from models import features as rows
from models.artefact import Artefact, read
from models.cold_start import Prior
from models.features import F32, I64, FeatureSpec
from models.network import central, compiled, decode, lstm_step
from models.nowcast import Forecasts

# Few shapes to compile, little padding for a handful of products, and full speed for a sweep.
BATCHES: Final = (64, 256, 1024, 4096)
# Sums are decoded in groups of this many, so that one shape serves any number up to it (two weeks and the product's own lead time).
SUMS: Final = 3
# No forecast of a step exceeds so many times the largest demand that the product's memory holds, or so many units where that is less than one: events
# multiply demand by less, and a network that is asked what it never saw may say anything.
LIMIT: Final = np.float32(10)


class Forecaster:
    """A loaded model with its compiled functions.

    A product's memory are two float32 rows: `features` (see `models.features`), which depend on the feature specification only and
    survive a promotion, and `state` (the LSTM's h and c), which belongs to one model version.
    """

    def __init__(self, artefact: Artefact, timezone: str | None = None) -> None:
        """For a shop in `timezone`; None: in the one that the model names."""
        self.name = artefact.name
        self.version = artefact.version  # the same in every time zone; `spec.hash` is not
        if timezone is not None:
            artefact = replace(artefact, spec=replace(artefact.spec, timezone=timezone))
        self.artefact = artefact
        self.spec: FeatureSpec = artefact.spec
        self.horizon = artefact.horizon
        self.longest_sum = artefact.longest_sum
        self.levels = artefact.levels
        self.volume_limits = artefact.volume_limits
        self.whole_units = artefact.whole_units
        self.feature_size = artefact.spec.size
        self.state_size = 2 * artefact.hidden
        self.compilations = 0  # grows with each new shape; constant after `warm_up`
        self._advance = compiled(lstm_step, artefact.weights, self._count)
        self._decode = compiled(self._decoded, artefact.weights, self._count)
        self._decode_next = compiled(self._decoded_next, artefact.weights, self._count)

    @classmethod
    def load(cls, directory: Path | str, timezone: str | None = None) -> Self:
        """The model in `directory`, for a shop in `timezone` (the model's own where None). Raises UnusableArtefact."""
        return cls(read(Path(directory)), timezone)

    def _count(self) -> None:
        self.compilations += 1

    def _decoded(self, weights: Any, inputs: Any, state: Any, targets_: Any, scale: Any, factors: Any) -> Any:
        h = state[:, : self.artefact.hidden]
        mean, quantiles = decode(weights, inputs, h, targets_, scale, horizon=self.horizon, n_profiles=len(self.spec.periods))
        quantiles = ops.concatenate([quantiles[:, : self.horizon] * factors[:, None], quantiles[:, self.horizon :]], axis=1)
        return central(mean, quantiles, self.levels), quantiles

    def _decoded_next(self, weights: Any, inputs: Any, state: Any, targets_: Any, scale: Any) -> Any:
        h = state[:, : self.artefact.hidden]
        return decode(weights, inputs, h, targets_, scale, horizon=1, n_profiles=len(self.spec.periods))[0][:, 0]

    def warm_up(self) -> None:
        """Compile every shape that `advance` and `read_out` will meet with up to `SUMS` sums; some seconds."""
        for n in BATCHES:
            features, state = self.fresh(n)
            step = np.zeros(n, np.int64)
            demand = np.zeros((n, 1 + len(self.spec.streams)), np.float32)
            self.advance(features, state, demand, step)
            self.expect(features, state, step)
            self.read_out(features, state, step, demand, np.zeros(n, np.float32), np.ones(SUMS, np.int64))

    def fresh(self, n: int) -> tuple[F32, F32]:
        """Features, (n, feature_size), and state, (n, state_size), of products that nothing is known of."""
        return rows.fresh(self.spec, n), np.zeros((n, self.state_size), np.float32)

    def advance(
        self, features: F32, state: F32, demand: F32, step: I64, *, covariates: F32 | None = None, in_place: bool = False
    ) -> tuple[F32, F32]:
        """Features and state after each product consumed step `step[i]`, shape (n,), the one after the step it consumed last.

        `demand`: (n, 1 + streams) natural units: demand, then `spec.streams`; units of NaN: a gap (see `features.advance`).
        `covariates`: (n, covariates) of the step, if any. `in_place`: write into `features` and `state`, which are then the
        result; about twice as fast for thousands of products.
        """
        self._check(len(step), features=features, state=state, demand=demand)
        new_features = rows.advance(self.spec, features, demand, step, out=features if in_place else None, covariates=covariates)
        new_state = state if in_place else np.empty_like(state)
        inputs = rows.encoder_inputs(self.spec, new_features, step, self.artefact.profiles)
        for part, size in _batches(len(step)):
            new_state[part] = self._advance(_padded(inputs[part], size), _padded(state[part], size))[: part.stop - part.start]
        return new_features, new_state

    def seen(self, features: F32, step: I64) -> F32:
        """What the network sees of rows that have consumed `step`, (n, inputs), in deviations from the training's mean; not cut off."""
        inputs = rows.encoder_inputs(self.spec, features, step, self.artefact.profiles)
        weights = self.artefact.weights
        standardised: F32 = (inputs - weights["input.mean"]) / weights["input.deviation"]
        return standardised

    def expect(self, features: F32, state: F32, step: I64, *, ahead: F32 | None = None) -> F32:
        """Mean demand of the step after `step`, (n,), by the mean head alone, bulk orders included: what alerts compare with. Far cheaper than `read_out`.

        `ahead`: (n, 1, covariates) of that step, see `targets.decoder_inputs`.
        """
        n = len(step)
        inputs = rows.encoder_inputs(self.spec, features, step, self.artefact.profiles)
        scale = rows.scales(self.spec, features)
        no_sums = np.zeros((n, 0), np.int64)
        wanted = targets.decoder_inputs(self.spec, features, step, self.horizon, no_sums, self.artefact.profiles, asked=1, ahead=ahead)
        mean = np.empty(n, np.float32)
        for part, size in _batches(n):
            batch = (_padded(array[part], size) for array in (inputs, state, wanted, scale))
            mean[part] = self._decode_next(*batch)[: part.stop - part.start]
        return mean

    def read_out(
        self,
        features: F32,
        state: F32,
        step: I64,
        running: F32,
        elapsed: F32,
        sums: I64,
        *,
        ahead: F32 | None = None,
        factors: F32 | None = None,
        prior: Prior | None = None,
    ) -> Forecasts:
        """Forecasts of the `horizon` steps after `step`, shape (n,), and of the sums of as many steps as `sums`, (k,) or (n, k), says.

        `running`: (n, 1 + streams) demand and streams seen so far in step `step + 1`; `elapsed`: (n,) share of its time that has passed.
        Zeros in both give the plain forecast. `ahead`: (n, span, covariates) of the coming steps, see `targets.decoder_inputs`.
        `factors`: (n, levels) that calibrate the steps' quantiles. `prior`: what is known of young products beside (see
        `models.cold_start`). Raises ValueError on a sum longer than `longest_sum`.
        """
        n = len(step)
        self._check(n, features=features, state=state, demand=running)
        lengths = np.broadcast_to(np.asarray(sums, np.int64), (n, np.shape(sums)[-1]))
        if lengths.size and not 1 <= lengths.min() <= lengths.max() <= self.longest_sum:
            raise ValueError(f"sums must span 1 to {self.longest_sum} steps, not {lengths.min()} to {lengths.max()}")
        decoded = self._read(features, state, step, lengths, ahead, factors)
        observed = np.maximum(running[:, 0], 0)
        time = np.clip(elapsed, 0, 1).astype(np.float32)
        passed = pace.passed(self.artefact.pace, step + 1, time, self.spec.step_ms, self.spec.timezone)
        if prior is not None:
            place = features, step, lengths, self.levels
            decoded = cold_start.blended(prior, self.spec, self.artefact.profiles, *place, decoded, factors, observed, passed)
        return nowcast.nowcast(self.artefact.nowcast, self.levels, decoded, self.horizon, lengths, observed, passed)

    def published(self, forecasts: Forecasts) -> Forecasts:
        """What readers get of `read_out`'s forecasts: quantiles in whole units where demand comes in such."""
        return forecasts.whole() if self.artefact.whole_units else forecasts

    def _read(self, features: F32, state: F32, step: I64, lengths: I64, ahead: F32 | None, factors: F32 | None) -> tuple[F32, F32]:
        """Decoded mean, (n, horizon + sums), and quantiles, (n, horizon + sums, levels), of whole targets, from 0 up to LIMIT."""
        n, k = lengths.shape
        asked = np.ones((n, max(-(-k // SUMS), 1) * SUMS), np.int64)
        asked[:, :k] = lengths
        inputs = rows.encoder_inputs(self.spec, features, step, self.artefact.profiles)
        scale = rows.scales(self.spec, features)
        wanted = targets.decoder_inputs(self.spec, features, step, self.horizon, asked, self.artefact.profiles, ahead=ahead)
        mean, quantiles = (values[:, : self.horizon + k] for values in self.decode(inputs, state, wanted, scale, factors))
        most = LIMIT * np.maximum(rows.largest(self.spec, features), 1)
        np.minimum(mean, most[:, None], out=mean)
        np.clip(quantiles, 0, most[:, None, None], out=quantiles)
        mean[:, self.horizon :] *= lengths
        quantiles[:, self.horizon :] *= lengths[..., None]
        return mean, quantiles if factors is None else np.maximum.accumulate(quantiles, axis=-1, out=quantiles)

    def decode(self, inputs: F32, state: F32, wanted: F32, scale: F32, factors: F32 | None = None) -> tuple[F32, F32]:
        """Mean, (n, rows), and quantiles, (n, rows, levels), per step of each target, of ready-made inputs: what `read_out` is made of.

        `inputs`: (n, encoder inputs); `wanted`: (n, horizon + a multiple of SUMS, decoder inputs); `scale`: (n,); `factors`: as in `read_out`.
        """
        n, targets_ = wanted.shape[:2]
        on_quantiles = np.ones((n, len(self.levels)), np.float32) if factors is None else factors
        mean = np.empty((n, targets_), np.float32)
        quantiles = np.empty((n, targets_, len(self.levels)), np.float32)
        for part, size in _batches(n):
            batch = (_padded(array[part], size) for array in (inputs, state, wanted, scale, on_quantiles))
            some_mean, some_quantiles = self._decode(*batch)
            mean[part], quantiles[part] = some_mean[: part.stop - part.start], some_quantiles[: part.stop - part.start]
        return mean, quantiles

    def _check(self, n: int, *, features: F32, state: F32, demand: F32) -> None:
        for name, array, width in (
            ("features", features, self.feature_size),
            ("state", state, self.state_size),
            ("demand", demand, 1 + len(self.spec.streams)),
        ):
            if array.shape != (n, width) or array.dtype != np.float32:
                raise ValueError(f"{name} must be float32 {(n, width)}, not {array.dtype} {array.shape}")


def _batches(n: int) -> Iterator[tuple[slice, int]]:
    """Cuts of 0 .. n with the batch size that each is padded to: the largest that at least half fills.

    >>> [(part.start, part.stop, size) for part, size in _batches(5400)]
    [(0, 4096, 4096), (4096, 5120, 1024), (5120, 5376, 256), (5376, 5400, 64)]
    """
    start = 0
    while start < n:
        rest = n - start
        size = next((size for size in reversed(BATCHES) if rest >= size // 2), BATCHES[0])
        yield slice(start, min(start + size, n)), size
        start += size


def _padded(array: F32, size: int) -> F32:
    """`array` with rows of zeros up to `size`."""
    if len(array) == size:
        return array
    out = np.zeros((size, *array.shape[1:]), np.float32)
    out[: len(array)] = array
    return out
