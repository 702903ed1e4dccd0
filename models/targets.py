"""What the decoder is asked: one row of inputs for each target interval, of a step or of a sum of steps.

A target is the steps `start + 1 .. end` after the last consumed one. Step targets are the horizon's single steps, sum targets begin at 0.
Their rows hold the product's and the shop's seasonal profile over the target, its place and length, the calendar, and the known-future covariates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.features import F32, I64, FeatureSpec, ages, covariates, distinct, held, layout, scales
from models.seasons import Season

# A profile never says "impossible": a small share of the scale is added before the logarithm.
_PROFILE_SHARE: Final = np.float32(0.05)
_TINY: Final = np.float32(0.01)
# Places beyond this many horizons look alike to the network.
_FARTHEST: Final = 16


@dataclass(frozen=True, slots=True)
class Upcoming:
    """What `rows` needs to know about the steps after the last consumed one; a leading axis of 1 is shared by all products."""

    own: tuple[F32, ...]  # (n, period) for each period: the product's profile, in the order of the coming steps
    shop: tuple[F32, ...]  # (n or 1, period): the shop's profile, likewise
    waves: F32  # (n or 1, horizon, waves)
    sum_waves: F32  # (n, sums, waves) mean over each sum's steps
    covariates: F32  # (n, span, covariates) of the coming steps, as far as the horizon and the longest sum
    usual: F32  # (n, covariates)
    now: F32  # (n, covariates)


def rows(horizon: int, asked: int, lengths: I64, upcoming: Upcoming, scale: F32, age: F32) -> F32:
    """Decoder inputs, (n, asked + sums, n_decoder_inputs), of the first `asked` steps of the horizon and of sums of `lengths`, (n, sums), in steps.

    `scale` and `age`, (n,), are the products'.
    """
    n, sums = lengths.shape
    n_profiles = len(upcoming.own)
    n_waves, k = upcoming.waves.shape[-1], upcoming.now.shape[-1]
    out = np.empty((n, asked + sums, 2 * n_profiles + 3 + n_waves + 3 * k), np.float32)
    column = scale[:, None]
    for p, (own, shop) in enumerate(zip(upcoming.own, upcoming.shop, strict=True)):
        filled = _fill(own, shop, scale, age)
        ratio = (_over(filled, asked, lengths) + _PROFILE_SHARE * column + _TINY) / (column + _TINY)
        out[:, :, p] = np.log(ratio)
        out[:, :, n_profiles + p] = np.log(_over(shop, asked, lengths) + np.float32(0.05))
    places, spans = _places(asked, lengths)
    out[:, :, 2 * n_profiles] = np.log(places / np.float32(horizon) + np.float32(0.1))
    out[:, :, 2 * n_profiles + 1] = np.minimum(places / np.float32(horizon), _FARTHEST)
    out[:, :, 2 * n_profiles + 2] = np.log(spans)
    calendar = slice(2 * n_profiles + 3, 2 * n_profiles + 3 + n_waves)
    out[:, :asked, calendar] = upcoming.waves[:, :asked]
    out[:, asked:, calendar] = upcoming.sum_waves
    if k:
        expected = _expected(asked, lengths, upcoming.covariates)
        parts = (expected, expected - upcoming.usual[:, None], expected - upcoming.now[:, None])
        np.concatenate(parts, axis=-1, out=out[:, :, calendar.stop :])
    return out


def _expected(asked: int, lengths: I64, ahead: F32) -> F32:
    """Mean of each covariate over each target, (n, asked + sums, covariates)."""
    before = np.cumsum(ahead, axis=1, dtype=np.float64)
    sums = np.take_along_axis(before, lengths[..., None] - 1, axis=1) / lengths[..., None]
    return np.concatenate([ahead[:, :asked], sums.astype(np.float32)], axis=1)


def _fill(own: F32, shop: F32, scale: F32, age: F32) -> F32:
    """A phase that the product has not lived through yet is expected to be like the shop's."""
    period = own.shape[1]
    if (age >= period).all():
        return own
    visited = age[:, None] + np.arange(period) >= period
    return np.where(visited, own, shop * scale[:, None])


def _over(ordered: F32, horizon: int, lengths: I64) -> F32:
    """Mean of a profile over each target, (n, horizon + sums); `ordered`, (n or 1, period), begins with the first coming step."""
    period = ordered.shape[1]
    steps = np.broadcast_to(ordered[:, np.arange(horizon) % period], (len(lengths), horizon))
    if not lengths.shape[1]:
        return steps
    before = np.zeros((len(ordered), period + 1), np.float32)
    np.cumsum(ordered, axis=1, out=before[:, 1:])
    turns, rest = np.divmod(lengths, period)
    partial = before[0][rest] if len(ordered) == 1 else np.take_along_axis(before, rest, axis=1)
    sums = (turns.astype(np.float32) * before[:, -1:] + partial) / lengths.astype(np.float32)
    return np.concatenate([steps, sums], axis=1)


def _places(horizon: int, lengths: I64) -> tuple[F32, F32]:
    """Middle, (n, horizon + sums), counted so that the first step's is 1, and length of each target."""
    n = len(lengths)
    steps = np.broadcast_to(np.arange(1, horizon + 1, dtype=np.float32), (n, horizon))
    spans = lengths.astype(np.float32)
    return np.concatenate([steps, (spans + 1) / 2], axis=1), np.concatenate([np.ones((n, horizon), np.float32), spans], axis=1)


def decoder_inputs(
    spec: FeatureSpec,
    features: F32,
    step: I64,
    horizon: int,
    lengths: I64,
    profiles: Sequence[F32],
    asked: int | None = None,
    ahead: F32 | None = None,
) -> F32:
    """Decoder inputs, (n, asked + sums, n_decoder_inputs), of feature rows that have consumed `step`, (n,); `lengths`, (n, sums).

    `asked`: how many of the horizon's steps, all by default. `ahead`, (n, span, covariates): the covariates of the coming steps, at least as far
    as the horizon and the longest sum; NaN: as the step before. Without them those of now go on.
    """
    asked = horizon if asked is None else asked
    scale, age = scales(spec, features), ages(spec, features)
    out = np.empty((len(features), asked + lengths.shape[1], spec.n_decoder_inputs), np.float32)
    span = max(horizon, *spec.periods, 1 << (max(1, int(lengths.max(initial=1))) - 1).bit_length())
    steps, inverse = distinct(step)
    for i, last in enumerate(steps):
        group = slice(None) if len(steps) == 1 else np.flatnonzero(inverse == i)
        coming = None if ahead is None else ahead[group]
        upcoming = _upcoming(spec, features[group], spec.season(int(last) + 1, span), horizon, lengths[group], profiles, coming)
        out[group] = rows(horizon, asked, lengths[group], upcoming, scale[group], age[group])
    return out


def _upcoming(
    spec: FeatureSpec, features: F32, season: Season, horizon: int, lengths: I64, profiles: Sequence[F32], ahead: F32 | None
) -> Upcoming:
    where = layout(spec)
    orders = [season.phases[p][:period] for p, period in enumerate(spec.periods)]
    usual, now = covariates(spec, features)
    if ahead is None:
        ahead = np.broadcast_to(now[:, None], (len(now), max(horizon, int(lengths.max(initial=1))), now.shape[1]))
    return Upcoming(
        own=tuple(features[:, span.start + order] for span, order in zip(where.profiles, orders, strict=True)),
        shop=tuple(profile[order][None] for profile, order in zip(profiles, orders, strict=True)),
        waves=season.waves[None, :horizon],
        sum_waves=(season.waves_before[lengths] / lengths[..., None]).astype(np.float32),
        covariates=held(ahead, now),
        usual=usual,
        now=now,
    )
