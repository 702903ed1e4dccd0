"""Ensembles: several models' forecasts in one. What their weights are is learnt from earlier cut-offs only (`models.bench.earlier`).

At these the members are trained and asked as they will be in the test, on a panel that ends at the test's first cut-off.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from models.bench import BacktestForecasts, Bench, Contender, Floats, Progress, earlier, no_progress
from models.contenders.libraries import library
from models.dataset import UnusableData
from models.metrics import LEVELS

T = TypeVar("T")
Answers = Mapping[str, BacktestForecasts]  # by member

_SEED: Final = 1
# Rows that weights are learnt from; a few thousand settle a handful of weights.
_ROWS: Final = 3_000


@dataclass(frozen=True, slots=True)
class Past:
    """What the members forecast for steps whose demand is known, equally many rows for all."""

    demand: Floats  # (rows,)
    mean: Floats  # (rows, members)
    quantiles: dict[float, Floats]  # by level: (rows, members)
    scale: Floats  # (rows,) of the product; rows count by 1 / sqrt(scale), or large sellers alone would decide


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the members, none negative."""

    mean: Floats  # (members,)
    quantiles: dict[float, Floats]  # by level: (members,)


Learn = Callable[[Past], Weights]


def remembered(function: Callable[[Bench, Progress], T]) -> Callable[[Bench, Progress], T]:
    """The function, asked only once for the same bench: a member's forecasts serve its own row of a table and all ensembles."""
    answers: WeakKeyDictionary[Bench, Any] = WeakKeyDictionary()

    def answer(bench: Bench, progress: Progress) -> T:
        if bench not in answers:
            answers[bench] = function(bench, progress)
        found: T = answers[bench]
        return found

    return answer


def ensembles(members: Mapping[str, Contender]) -> dict[str, Contender]:
    """Average, stacking and blending of the members, by name.

    average: the mean of the members' means and of their quantiles.
    stacking: weights of their own for the mean (least squares) and for each quantile (least pinball loss), from up to three earlier cut-offs.
    blending: one set of weights for the mean and all quantiles, from the newest of the earlier cut-offs.
    Weights always sum to 1: of any sum they take the growth between the earlier cut-offs for a law.
    """
    past = remembered(lambda bench, progress: _asked_earlier(bench, progress, members))
    return {
        "average": lambda bench, progress: _weighed(bench, progress, members, equal(len(members))),
        "stacking": lambda bench, progress: _learnt(bench, progress, members, past, stacked, 3),
        "blending": lambda bench, progress: _learnt(bench, progress, members, past, blended, 1),
    }


def equal(members: int) -> Weights:
    """The same weight for all."""
    share = np.full(members, 1 / members)
    return Weights(share, dict.fromkeys(LEVELS, share))


def stacked(past: Past) -> Weights:
    """Weights for the mean by least squares, for each quantile by least pinball loss."""
    row = 1 / np.sqrt(past.scale)
    quantiles = {level: least_pinball(values, past.demand, row, level) for level, values in past.quantiles.items()}
    return Weights(least_squares(past.mean, past.demand, row), quantiles)


def blended(past: Past) -> Weights:
    """One set of weights: those of the least pinball loss over all levels together."""
    levels = list(past.quantiles)
    forecasts = np.concatenate([past.quantiles[level] for level in levels])
    demand, row = np.tile(past.demand, len(levels)), np.tile(1 / np.sqrt(past.scale), len(levels))
    level = np.repeat(levels, len(past.demand))
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(demand))[:_ROWS])
    weights = least_pinball(forecasts[rows], demand[rows], row[rows], level[rows])
    return Weights(weights, dict.fromkeys(LEVELS, weights))


def least_squares(forecasts: Floats, demand: Floats, row: Floats) -> Floats:
    """Non-negative weights of the columns of `forecasts`, (rows, members), that sum to 1, with the least squares, rows counted by `row`."""
    # One more row asks for the sum, so loudly that no other is heard against it.
    loud = 1e4 * max(float(np.abs(forecasts * row[:, None]).sum()), 1.0)
    left, right = np.vstack([forecasts * row[:, None], np.full(forecasts.shape[1], loud)]), np.append(demand * row, loud)
    weights, _ = library("scipy.optimize").nnls(left, right)
    return np.asarray(weights / weights.sum(), np.float64)


def least_pinball(forecasts: Floats, demand: Floats, row: Floats, level: float | Floats) -> Floats:
    """Non-negative weights of the columns of `forecasts`, (rows, members), that sum to 1, with the least pinball loss, rows counted by `row`.

    A linear program: demand is the weighted forecasts plus what lies above minus what lies below, which cost `level` and `1 - level`.
    """
    sparse: Any = library("scipy.sparse")
    n, members = forecasts.shape
    above = row * level
    cost = np.concatenate([np.zeros(members), above, row - above])
    sums = sparse.hstack([sparse.csr_array(forecasts), sparse.eye_array(n), -sparse.eye_array(n)])
    one = sparse.csr_array(np.concatenate([np.ones(members), np.zeros(2 * n)])[None])
    equations, right = sparse.vstack([sums, one], format="csr"), np.append(demand, 1.0)
    solved = library("scipy.optimize").linprog(cost, A_eq=equations, b_eq=right, bounds=(0, None), method="highs")
    if not solved.success:
        return np.full(members, 1 / members)
    return np.asarray(np.maximum(solved.x[:members], 0), np.float64)


def earlier_forecasts(before: Bench, answers: Answers, newest: int, limit: int = _ROWS) -> Past:
    """Rows of the `newest` cut-offs of an earlier bench, at most `limit`, drawn at random."""
    chosen = range(len(before.cutoffs))[-newest:]
    horizon, demand = before.horizon, before.panel.demand[..., 0].astype(np.float64)
    alive = [before.alive(before.cutoffs[k]) for k in chosen]
    outcome = np.concatenate(
        [demand[:n, before.cutoffs[k] + 1 : before.cutoffs[k] + 1 + horizon].ravel() for k, n in zip(chosen, alive, strict=True)]
    )
    known = (np.nanmean(before.history(before.cutoffs[k])[:, -4 * horizon :], axis=1) for k in chosen)
    scale = np.concatenate([np.repeat(mean.astype(np.float64) + 0.1, horizon) for mean in known])
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(outcome))[:limit])

    def side_by_side(forecasts: list[Floats]) -> Floats:
        columns = [np.concatenate([one[k, :n].ravel() for k, n in zip(chosen, alive, strict=True)]) for one in forecasts]
        return np.stack(columns, axis=1)[rows]

    quantiles = {level: side_by_side([answer.quantiles[level] for answer in answers.values()]) for level in LEVELS}
    return Past(outcome[rows], side_by_side([answer.mean for answer in answers.values()]), quantiles, scale[rows])


def _asked_earlier(bench: Bench, progress: Progress, members: Mapping[str, Contender]) -> tuple[Bench, Answers] | None:
    try:
        before = earlier(bench)
    except UnusableData:
        return None
    answers = {}
    for done, (name, member) in enumerate(members.items()):
        answers[name] = member(before, no_progress)
        progress(done + 1, 2 * len(members))
    return before, answers


def _learnt(
    bench: Bench,
    progress: Progress,
    members: Mapping[str, Contender],
    past: Callable[[Bench, Progress], tuple[Bench, Answers] | None],
    learn: Learn,
    newest: int,
) -> BacktestForecasts:
    """Weights from earlier cut-offs; equal ones where there are none."""
    found = past(bench, progress)
    weights = learn(earlier_forecasts(*found, newest)) if found else equal(len(members))
    return _weighed(bench, progress, members, weights)


def _weighed(bench: Bench, progress: Progress, members: Mapping[str, Contender], weights: Weights) -> BacktestForecasts:
    answers = []
    for done, member in enumerate(members.values()):
        answers.append(member(bench, no_progress))
        progress(len(members) + done + 1, 2 * len(members))
    mean = np.tensordot(weights.mean, np.stack([answer.mean for answer in answers]), axes=1)
    quantiles = [
        np.tensordot(weights.quantiles[level], np.stack([answer.quantiles[level] for answer in answers]), axes=1) for level in LEVELS
    ]
    # Weights differ from level to level: a lower quantile may have come out above a higher one.
    return BacktestForecasts(mean, dict(zip(LEVELS, np.sort(quantiles, axis=0), strict=True)))
