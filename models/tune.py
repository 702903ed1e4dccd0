"""Search for a recipe with Optuna: each trial trains on a bench's past, and is scored on rolling origins that end before its test begins."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from models import batches
from models.batches import Recipe
from models.bench import Bench, earlier, score
from models.dataset import UnusableData

Sampler = Literal["grid", "random", "bayesian"]
Outcome = Literal["finished", "pruned", "interrupted"]
# Trials that must have finished before any is pruned, and looks that each trial has for certain: the first looks say little.
_UNPRUNED_TRIALS: Final = 4
_UNPRUNED_LOOKS: Final = 2
_STUDY: Final = "recipe"
_DEFAULT: Final = "default"  # attribute of the trial of the default recipe


class UnusableStudy(Exception):
    """The storage cannot be gone on with; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Whole numbers from low to high in steps."""

    low: int
    high: int
    step: int

    def grid(self) -> list[float]:
        return sorted({self.low, self.low + (self.high - self.low) // self.step // 2 * self.step, self.high})


@dataclass(frozen=True, slots=True)
class Real:
    """Real numbers from low to high, by their logarithm if that suits better; `grid_values` where a grid is searched."""

    low: float
    high: float
    log: bool
    grid_values: tuple[float, ...]

    def grid(self) -> list[float]:
        return list(self.grid_values)


Space = Mapping[str, Whole | Real]


def space(base: Recipe, longest_segment: int) -> Space:
    """Where each parameter is searched: around the recipe that training would use, which lies within.

    >>> space(Recipe(), 1000)["segment"]
    Whole(low=112, high=336, step=56)
    >>> space(Recipe(), 230)["segment"]
    Whole(low=112, high=224, step=56)
    """
    segment = _around(base.segment, 4, 2, 2, longest_segment)
    room = segment.low - min(base.burn_in, segment.low // 4)
    if room < base.forks:
        segment, room = replace(segment, low=base.segment), base.segment - base.burn_in
    rate, decay = base.learning_rate, base.weight_decay
    return {
        "learning_rate": Real(rate / 8, rate * 4, True, (rate / 2, rate, rate * 2)),
        "weight_decay": Real(decay / 100, decay * 100, True, (decay / 10, decay, decay * 10)),
        "dropout": Real(0.0, 0.4, False, (0.0, 0.1, 0.3)),
        "average": Real(0.97, 0.999, False, (0.98, 0.995, 0.999)),
        "iterations": _around(base.iterations, 4, 2, 4),
        "batch": _around(base.batch, 2, 1, 2),
        "segment": segment,
        "forks": _around(base.forks, 4, 2, 4, room),
        "hidden": _around(base.hidden, 2, 1, 2),
        "width": _around(base.width, 2, 1, 2),
    }


def _around(value: int, parts: int, below: int, above: int, limit: int | None = None) -> Whole:
    """So many steps of a part of the value to either side of it, within 1 and the limit."""
    step = max(value // parts, 1)
    below = min(below, (value - 1) // step)
    if limit is not None:
        above = min(above, max(limit - value, 0) // step)
    return Whole(value - below * step, value + above * step, step)


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe and what it came to."""

    number: int
    outcome: Outcome
    mwql: float | None  # of a finished trial
    recipe: Recipe  # as it was trained: shortened to the data
    default: bool


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks at the search: all are called in this thread."""

    iteration: Callable[[int, int], None] = lambda done, of: None
    trial: Callable[[Trial], None] = lambda trial: None


class Tuning:
    """A study of one bench in an sqlite file; the same arguments go on with it."""

    def __init__(self, bench: Bench, base: Recipe, storage: Path, sampler: Sampler, parameters: Sequence[str] = ()) -> None:
        """Raises UnusableData, and UnusableStudy where the file is of another bench, recipe or choice of parameters."""
        import optuna

        # Its own lines and bars would break ours, and each trial's end is shown.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.bench = earlier(bench)
        self._known = self.bench.panel.until(self.bench.cutoffs[0] + 1)
        self._default = base
        self.base = batches.shortened(base, [self._known.columns], bench.horizon)
        whole = space(self.base, self._known.columns - bench.horizon)
        unknown = sorted(set(parameters) - whole.keys())
        if unknown:
            raise UnusableStudy(f"there is no parameter {', '.join(unknown)}; choose from {', '.join(whole)}")
        chosen = {name: where for name, where in whole.items() if not parameters or name in parameters}
        self._space = {name: where for name, where in chosen.items() if where.low < where.high}
        if not self._space:
            raise UnusableStudy("the data leave nothing to choose for these parameters")
        self._study = self._opened(storage, sampler)

    def _opened(self, storage: Path, sampler: Sampler) -> Any:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        facts = {"bench": self.bench.fingerprint, "base": asdict(self.base), "parameters": sorted(self._space)}
        storage.parent.mkdir(parents=True, exist_ok=True)
        pruner = optuna.pruners.MedianPruner(_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_LOOKS * self.base.check_every)
        try:
            study = optuna.create_study(storage=f"sqlite:///{storage}", study_name=_STUDY, pruner=pruner, load_if_exists=True)
        except (SQLAlchemyError, RuntimeError) as error:
            raise UnusableStudy(f"{storage} cannot be used as a study: {error}") from error
        for name, value in facts.items():
            if study.user_attrs.setdefault(name, value) != value:
                raise UnusableStudy(f"{storage} holds the search of another {name}; give another --storage, or remove it")
            study.set_user_attr(name, value)
        # A sampler with the same seed would draw again what it drew before the interruption.
        seed = self.base.seed + len(study.trials)
        samplers: dict[Sampler, Callable[[], Any]] = {
            "grid": lambda: optuna.samplers.GridSampler({name: where.grid() for name, where in self._space.items()}, seed=self.base.seed),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "bayesian": lambda: optuna.samplers.TPESampler(seed=seed),
        }
        study.sampler = samplers[sampler]()
        return study

    def run(self, trials: int, timeout_s: float | None = None, watch: Watch | None = None) -> None:
        """Trials until so many have come to an end over all runs, the default recipe first; none begins after the time-out."""
        from optuna.trial import TrialState

        watch = watch or Watch()
        states = {trial.state for trial in self._study.trials if trial.user_attrs.get(_DEFAULT)}
        if not states & {TrialState.COMPLETE, TrialState.WAITING}:
            values = {name: getattr(self.base, name) for name in self._space}
            self._study.enqueue_trial(values, user_attrs={_DEFAULT: True})
        missing = trials - sum(trial.outcome != "interrupted" for trial in self.trials())
        if missing > 0:
            self._study.optimize(
                lambda trial: self._objective(trial, watch),
                n_trials=missing,
                timeout=timeout_s,
                gc_after_trial=True,
                callbacks=[lambda _, frozen: watch.trial(self._trial(frozen))],
            )

    def _objective(self, trial: Any, watch: Watch) -> float:
        """MWQL of the recipe that the trial suggests; looks worse than the median of earlier trials end it."""
        import keras
        import optuna

        from models import train
        from models.backtest import stream

        suggested: dict[str, Any] = {name: self._suggested(trial, name) for name in self._space}
        recipe = replace(self.base, **suggested)

        def look(seen: train.Progress) -> None:
            watch.iteration(seen.iteration, seen.iterations)
            trial.report(seen.held_out_loss, seen.iteration)
            if not trial.user_attrs.get(_DEFAULT) and trial.should_prune():
                raise optuna.TrialPruned

        keras.utils.clear_session()  # each trial would leave its graphs behind
        try:
            artefact = train.train([self._known], self.bench.spec, recipe, name="trial", horizon=self.bench.horizon, progress=look)
        except UnusableData as error:
            raise optuna.TrialPruned from error
        return score(self.bench, stream(self.bench, artefact))["MWQL"]

    def _suggested(self, trial: Any, name: str) -> float:
        match self._space[name]:
            case Whole(low, high, step):
                value: float = trial.suggest_int(name, low, high, step=step)
            case Real(low, high, log, _):
                value = trial.suggest_float(name, low, high, log=log)
        return value

    def trials(self) -> list[Trial]:
        """All that have begun, in their order."""
        from optuna.trial import TrialState

        return [self._trial(frozen) for frozen in self._study.trials if frozen.state != TrialState.WAITING]

    def _trial(self, frozen: Any) -> Trial:
        outcomes: dict[str, Outcome] = {"COMPLETE": "finished", "PRUNED": "pruned"}
        recipe = replace(self.base, **frozen.params)
        outcome = outcomes.get(frozen.state.name, "interrupted")
        return Trial(frozen.number, outcome, frozen.value if outcome == "finished" else None, recipe, bool(frozen.user_attrs.get(_DEFAULT)))

    def recipe(self, trial: Trial) -> Recipe:
        """What the trial changed of the default recipe, and the rest as it is for data of any length."""
        changed: dict[str, Any] = {name: getattr(trial.recipe, name) for name in self._space}
        return replace(self._default, **{name: value for name, value in changed.items() if value != getattr(self.base, name)})

    @property
    def searched(self) -> tuple[str, ...]:
        return tuple(self._space)

    def importance(self) -> dict[str, float]:
        """Share of each parameter in the differences between finished trials, by PED-ANOVA; empty where they are too few to tell."""
        from optuna.importance import get_param_importances

        finished = [trial for trial in self.trials() if trial.outcome == "finished"]
        varied = [name for name in self._space if len({getattr(trial.recipe, name) for trial in finished}) > 1]
        if len(finished) < _UNPRUNED_TRIALS or not varied:
            return {}
        return {name: float(value) for name, value in get_param_importances(self._study, params=varied).items()}


def best(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial of the least MWQL, of equals the first."""
    finished = [trial for trial in trials if trial.mwql is not None]
    return min(finished, key=lambda trial: (trial.mwql, trial.number), default=None)
