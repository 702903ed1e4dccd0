"""Training of the network on encoded panels. Needs TensorFlow as the Keras backend; inference does not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from models import batches, losses
from models.artefact import Artefact, digest
from models.batches import Batch, Recipe, draw
from models.checkpoints import Arrays, Checkpoint, Checkpoints
from models.dataset import Encoded, Panel, UnusableData, encode, shop_profiles
from models.features import F32, FeatureSpec
from models.fit_nowcast import fit_nowcast, fit_pace
from models.network import decode, normalised
from models.nowcast import NowcastRule
from models.seasons import DAY_MS
from models.weights import Sizes, initial

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
# Held-out forecasts per look: enough that its noise is below what 100 iterations gain.
_HELD_OUT_BATCHES = 6
# Later weights are kept unless they are clearly worse: the loss of few held-out products wavers by so much, and the rate still falls.
_NOISE = 0.03
# Weight of the sums' loss beside that of the steps: sums are fewer, smoother and easier.
_SUM_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the training."""

    iteration: int
    iterations: int
    loss: float
    held_out_loss: float
    kept: bool  # the weights, for the time being


def horizon_of(spec: FeatureSpec) -> int:
    """A day of steps below a day, two weeks of days."""
    return 24 if spec.step_ms < DAY_MS else 14


def longest_sum_of(spec: FeatureSpec) -> int:
    """Four weeks, at least the horizon."""
    return max(28 * DAY_MS // spec.step_ms, horizon_of(spec))


def train(
    panels: Sequence[Panel],
    spec: FeatureSpec,
    recipe: Recipe,
    *,
    name: str,
    horizon: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    checkpoints: Checkpoints | None = None,
) -> Artefact:
    """A model trained on all steps of `panels`. Raises UnusableData where they are too small.

    With `checkpoints`, the same call goes on where an interrupted one last looked, to the same result; `progress` then hears of the new
    looks only. The checkpoint stays until the caller clears it.
    """
    horizon = horizon or horizon_of(spec)
    longest = max(longest_sum_of(spec), horizon)
    recipe = batches.shortened(recipe, [panel.columns for panel in panels], horizon)
    rng = np.random.default_rng(recipe.seed)
    profiles = _common_profiles(panels, spec)
    learning, held_out = [], []
    for panel in panels:
        start = max(panel.columns - recipe.history, 0)
        kept, out = _split(panel, recipe, rng)
        learning.append(encode(kept, spec, profiles, longest, start))
        held_out.append(encode(out, spec, profiles, longest, start))
    sizes = Sizes(spec.n_encoder_inputs, spec.n_decoder_inputs, len(LEVELS), recipe.hidden, recipe.width, len(spec.covariates))
    weights = {**initial(sizes, rng), **_normalisation(learning), **_covariate_normalisation(learning)}
    for one in (*learning, *held_out):
        _fill_unborn(one, weights["input.mean"])
    learner = Learner(weights, recipe, horizon, len(spec.periods))
    checks = [draw(held_out, recipe, horizon, longest, rng) for _ in range(_HELD_OUT_BATCHES)]
    keeping = _Keeping(checkpoints, _identity(panels, spec, recipe, horizon, longest, weights)) if checkpoints else None
    best, history = _loop(learner, learning, checks, recipe, horizon, longest, rng, progress, keeping)
    whole = all(_in_whole_units(panel) for panel in panels)
    untuned = Artefact(
        name, spec, horizon, longest, LEVELS, sizes.hidden, sizes.width, NowcastRule(), _volume_limits(learning), whole, profiles, best
    )
    untuned = replace(untuned, pace=fit_pace(panels, spec.step_ms))
    rule = fit_nowcast(untuned, panels)
    training = {
        "recipe": asdict(recipe),
        "curve": [asdict(look) for look in history],
        "panels": [
            {
                "products": len(p.product_ids),
                "first_step": p.first_step,
                "steps": p.columns,
                "timezone": p.timezone,
                "fingerprint": p.fingerprint,
            }
            for p in panels
        ],
    }
    return replace(untuned, nowcast=rule, training=training)


def _common_profiles(panels: Sequence[Panel], spec: FeatureSpec) -> tuple[F32, ...]:
    """Geometric mean of the shops' profiles."""
    logs = [[np.log(profile) for profile in shop_profiles(panel, spec)] for panel in panels]
    return tuple(np.exp(np.mean(same, axis=0)).astype(np.float32) for same in zip(*logs, strict=True))


def _in_whole_units(panel: Panel) -> bool:
    """Whether nothing was ever sold in parts of a unit; gaps say nothing."""
    units = panel.demand[..., 0]
    known = units[np.isfinite(units)]
    return bool((known == np.rint(known)).all())


def _volume_limits(data: Sequence[Encoded]) -> tuple[float, float]:
    """Terciles of what products sell per step at the end of the panels."""
    slow, fast = np.quantile(np.concatenate([one.scale[:, -1] for one in data]), [1 / 3, 2 / 3])
    return float(slow), float(fast)


def _split(panel: Panel, recipe: Recipe, rng: np.random.Generator) -> tuple[Panel, Panel]:
    """Products to learn from, and products to look at: whole products, for the newest steps are worth most to learn from."""
    n = len(panel.product_ids)
    if n < 2:
        raise UnusableData("one product is too few to train on")
    order = rng.permutation(n)
    held_out = max(round(n * recipe.held_out), 1)
    return panel.only(order[held_out:]), panel.only(order[:held_out])


def _normalisation(data: Sequence[Encoded]) -> dict[str, F32]:
    """Mean and deviation of the encoder's inputs, each over all panels."""
    values = np.concatenate([one.inputs.reshape(-1, one.inputs.shape[-1]) for one in data])
    values = values[np.isfinite(values[:, 0])]
    mean = values.mean(axis=0, dtype=np.float64)
    deviation = values.std(axis=0, dtype=np.float64) + 1e-3
    return {"input.mean": mean.astype(np.float32), "input.deviation": deviation.astype(np.float32)}


def _covariate_normalisation(data: Sequence[Encoded]) -> dict[str, F32]:
    """Mean and deviation of the covariates at targets, of their distance from the usual, and from now; the latter two are centred as they come."""
    k = data[0].covariates.shape[-1]
    values = np.concatenate([one.covariates.reshape(-1, k) for one in data]) if k else np.zeros((1, 0))
    mean, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64) + 1e-3
    return {
        "covariate.mean": np.concatenate([mean, 0 * mean, 0 * mean]).astype(np.float32),
        "covariate.deviation": np.tile(deviation, 3).astype(np.float32),
    }


def _fill_unborn(one: Encoded, mean: F32) -> None:
    """Inputs before a product's birth become the mean, in place: the LSTM then sees nothing but zeros."""
    unborn = np.isnan(one.inputs[..., 0])
    one.inputs[unborn] = mean


class Learner:
    """The network as trainable variables, and its compiled steps."""

    def __init__(self, weights: Mapping[str, F32], recipe: Recipe, horizon: int, n_profiles: int) -> None:
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError("training needs TensorFlow; unset KERAS_BACKEND or set it to tensorflow")
        import tensorflow as tf

        self._horizon, self._n_profiles = horizon, n_profiles
        hidden = weights["lstm.recurrent"].shape[0]
        self._lstm = layers.LSTM(hidden, return_sequences=True, unit_forget_bias=False)
        self._lstm.build((None, None, weights["lstm.kernel"].shape[0]))
        cell = self._lstm.cell
        lstm = {"lstm.kernel": cell.kernel, "lstm.recurrent": cell.recurrent_kernel, "lstm.bias": cell.bias}
        others = {name: value for name, value in weights.items() if name not in lstm}
        self._variables = lstm | {
            name: keras.Variable(value, trainable=name.split(".")[0] not in ("input", "covariate"), name=name.replace(".", "_"))
            for name, value in others.items()
        }
        self.assign(weights)
        self._trainable = [variable for variable in self._variables.values() if variable.trainable]
        self._dropout = layers.Dropout(recipe.dropout, seed=recipe.seed)
        self._optimizer = _optimizer(recipe)
        self._optimizer.build(self._trainable)
        self.step = tf.function(self._step, autograph=False)
        self.evaluate = tf.function(lambda *arrays: self._loss(arrays, training=False), autograph=False)

    def assign(self, weights: Mapping[str, F32]) -> None:
        for name, variable in self._variables.items():
            variable.assign(weights[name])

    def weights(self) -> dict[str, F32]:
        return {name: np.asarray(variable) for name, variable in self._variables.items()}

    def averaged(self) -> dict[str, F32]:
        """The moving average of the weights; the raw ones stay in place."""
        raw = self.weights()
        self._optimizer.finalize_variable_values(self._trainable)
        averaged = self.weights()
        self.assign(raw)
        return averaged

    def state(self) -> dict[str, Any]:
        """All arrays that the next step depends on beside its batch: weights, the optimizer's moments and averages, dropout's generator."""
        return {name: np.asarray(variable) for name, variable in self._stateful().items()}

    def restore(self, arrays: Arrays) -> None:
        """The inverse of `state`."""
        for name, variable in self._stateful().items():
            variable.assign(arrays[name])

    def _stateful(self) -> dict[str, Any]:
        optimizer = {f"optimizer.{i}": variable for i, variable in enumerate(self._optimizer.variables)}
        dropout = {"dropout": self._dropout.seed_generator.state} if self._dropout.rate else {}  # without a rate Keras makes none
        return {**self._variables, **optimizer, **dropout}

    def held_out_loss(self, weights: Mapping[str, F32], checks: Sequence[Batch]) -> float:
        raw = self.weights()
        self.assign(weights)
        found = [float(self.evaluate(*batch.arrays())) for batch in checks]
        self.assign(raw)
        return float(np.mean(found))

    def _step(self, *arrays: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self._loss(arrays, training=True)
        self._optimizer.apply(tape.gradient(loss, self._trainable))
        return loss

    def _loss(self, arrays: Sequence[Any], *, training: bool) -> Any:
        inputs, at, targets, scale, demand, known = arrays
        held = {name: ops.convert_to_tensor(variable) for name, variable in self._variables.items()}
        seen = normalised(held, inputs)
        h = ops.take(self._lstm(seen, training=training), at, axis=1)
        flat = (-1, h.shape[-1])
        now = ops.reshape(ops.take(inputs, at, axis=1), (-1, inputs.shape[-1]))
        mean, quantiles = decode(
            held,
            now,
            ops.reshape(h, flat),
            targets,
            scale,
            horizon=self._horizon,
            n_profiles=self._n_profiles,
            drop=lambda x: self._dropout(x, training=training),
        )
        steps, sums = slice(None, self._horizon), slice(self._horizon, None)
        parts = [losses.loss(demand[:, p], known[:, p], scale, mean[:, p], quantiles[:, p], LEVELS) for p in (steps, sums)]
        return parts[0] + _SUM_SHARE * parts[1]


def _optimizer(recipe: Recipe) -> Any:
    warm_up = min(30, recipe.iterations // 4)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(recipe.iterations - warm_up, 1), alpha=0.01, warmup_target=recipe.learning_rate, warmup_steps=warm_up
    )
    return keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, global_clipnorm=1.0, use_ema=True, ema_momentum=recipe.average)


@dataclass
class _Standing:
    """How far a training has come."""

    best: dict[str, F32]  # averaged weights
    best_loss: float = np.inf
    iteration: int = 0
    since_best: int = 0  # looks
    looks: list[Progress] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Keeping:
    """Where checkpoints of this very training are kept."""

    checkpoints: Checkpoints
    identity: str

    def save(self, at: _Standing, learner: Learner, rng: np.random.Generator) -> None:
        arrays = {**learner.state(), **{f"best.{name}": value for name, value in at.best.items()}}
        facts = {**vars(at), "looks": [asdict(look) for look in at.looks], "rng": rng.bit_generator.state}
        del facts["best"]
        self.checkpoints.save(self.identity, Checkpoint(arrays, facts))

    def restored(self, learner: Learner, rng: np.random.Generator) -> _Standing | None:
        """The standing of the last look, with learner and generator put back to it; None without one."""
        found = self.checkpoints.newest(self.identity)
        if found is None:
            return None
        facts = dict(found.facts)
        rng.bit_generator.state = facts.pop("rng")
        learner.restore(found.arrays)
        best = {name.removeprefix("best."): value for name, value in found.arrays.items() if name.startswith("best.")}
        return _Standing(best, **{**facts, "looks": [Progress(**look) for look in facts["looks"]]})


def _identity(panels: Sequence[Panel], spec: FeatureSpec, recipe: Recipe, horizon: int, longest: int, weights: Mapping[str, F32]) -> str:
    """Digest of all that a training's result depends on; the untrained weights stand for the code that makes features and network."""
    facts = {
        "recipe": asdict(recipe),
        "features": spec.to_json(),
        "panels": [panel.fingerprint for panel in panels],
        "horizon": horizon,
        "longest": longest,
        "levels": LEVELS,
        "program": [version(name) for name in ("trendcast", "keras", "tensorflow", "numpy")],
    }
    return digest(facts, weights)


def _loop(
    learner: Learner,
    learning: Sequence[Encoded],
    checks: Sequence[Batch],
    recipe: Recipe,
    horizon: int,
    longest: int,
    rng: np.random.Generator,
    progress: Callable[[Progress], None],
    keeping: _Keeping | None,
) -> tuple[dict[str, F32], list[Progress]]:
    """Train until the end, or until the held-out products have not got better for a while; the newest averaged weights that were not clearly
    worse on them, and the curve.
    """
    at = (keeping and keeping.restored(learner, rng)) or _Standing(learner.averaged())
    recent = []
    while at.iteration < recipe.iterations and at.since_best < recipe.patience:
        at.iteration += 1
        recent.append(learner.step(*draw(learning, recipe, horizon, longest, rng).arrays()))
        if at.iteration % recipe.check_every and at.iteration != recipe.iterations:
            continue
        weights = learner.averaged()
        held_out = learner.held_out_loss(weights, checks)
        kept = held_out < at.best_loss * (1 + _NOISE)
        if kept:
            at.best = weights
        if held_out < at.best_loss:
            at.best_loss, at.since_best = held_out, 0
        else:
            at.since_best += 1
        loss = float(np.mean([float(x) for x in recent]))
        at.looks.append(Progress(at.iteration, recipe.iterations, loss, held_out, kept))
        recent = []
        if keeping:
            keeping.save(at, learner, rng)
        progress(at.looks[-1])
    return at.best, at.looks
