"""What is remembered of a product between two steps, and what the network sees of it: one code for training, backtest and stream.

A product's memory is one float32 row: exponentially weighted means (EWMAs) of demand and of the other streams, seasonal profiles,
times since things happened, and its recent demand. `advance` consumes one step; `encoder_inputs` and `models.targets` read the row.
All of it is NumPy, element by element: the same events give the same bits in training and in the stream, in a batch of any size.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from models.seasons import DAY_MS, HOUR_MS, Season, n_encoder_waves, n_waves, season

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

# Steps since the last sale of a product that never sold, and the cap: beyond, silence tells nothing new.
NEVER_SOLD: Final = 200
LONGEST_SILENCE: Final = 500
# Ages from which an EWMA's weights sum to 1 in float32 (2**-24 is 24 half-lives away), at most this many rows in the table.
_WEIGHT_TABLE_ROWS: Final = 1 << 14
_DAILY_HALF_LIVES: Final = (2.0, 5.0, 14.0, 42.0, 120.0)
_HOURLY_HALF_LIVES: Final = (3.0, 12.0, 48.0, 168.0, 504.0)
# Profiles longer than a week of half hours would not fit beside the state in 2 KB, nor fill in a year.
_LONGEST_PERIOD: Final = 336
# A profile's slot follows its newest visit by at least this share; short periods are visited more often.
_SHORT_PERIOD: Final = 24
_SHORT_PERIOD_RATE: Final = np.float32(0.12)
_LONG_PERIOD_RATE: Final = np.float32(0.2)


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Which features are kept. Rows of two specifications never mix: `hash` is part of what they are stored under."""

    step_ms: int
    streams: tuple[str, ...]  # measures beside units: orders, views, carts
    half_lives: tuple[float, ...]  # of the demand's EWMAs, in steps, rising; the scale is made of the second and third longest
    stream_half_lives: tuple[float, float, float]  # of each stream's EWMAs, in steps, rising
    periods: tuple[int, ...]  # of the seasonal profiles, in steps
    timezone: str  # the shop's, for hours and weekdays
    recent: int = 72  # newest demands kept as they were
    covariates: tuple[str, ...] = ()  # whose future is known: prices, promotions, opening days

    @classmethod
    def for_step(cls, step_ms: int, streams: Sequence[str], timezone: str = "UTC", covariates: Sequence[str] = ()) -> Self:
        """The specification that suits a step of this length.

        >>> FeatureSpec.for_step(HOUR_MS, ("orders",)).periods
        (24, 168)
        >>> FeatureSpec.for_step(DAY_MS, ("orders",)).periods
        (7,)
        """
        if step_ms < DAY_MS:
            half_lives = tuple(max(hours * HOUR_MS / step_ms, 1.0) for hours in _HOURLY_HALF_LIVES)
        else:
            half_lives = tuple(max(days * DAY_MS / step_ms, 1.0 + i) for i, days in enumerate(_DAILY_HALF_LIVES))
        candidates = (DAY_MS / step_ms, 7 * DAY_MS / step_ms)
        periods = tuple(int(p) for p in candidates if p.is_integer() and 1 < p <= _LONGEST_PERIOD)
        short = half_lives[1:4]
        return cls(step_ms, tuple(streams), half_lives, (short[0], short[1], short[2]), periods, timezone, covariates=tuple(covariates))

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on anything else."""
        a, b, c = fields["stream_half_lives"]
        return cls(
            step_ms=int(fields["step_ms"]),
            streams=tuple(map(str, fields["streams"])),
            half_lives=tuple(map(float, fields["half_lives"])),
            stream_half_lives=(float(a), float(b), float(c)),
            periods=tuple(map(int, fields["periods"])),
            timezone=str(fields["timezone"]),
            recent=int(fields["recent"]),
            covariates=tuple(map(str, fields["covariates"])),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any field."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Number of float32 in a product's row."""
        return layout(self).size

    @property
    def n_encoder_inputs(self) -> int:
        return 11 + 2 * len(self.periods) + 4 * len(self.streams) + n_encoder_waves(self.step_ms) + 2 * len(self.covariates)

    @property
    def n_decoder_inputs(self) -> int:
        return 2 * len(self.periods) + 3 + n_waves(self.step_ms) + 3 * len(self.covariates)

    def season(self, first: int, n: int) -> Season:
        """Phases and waves of the steps `first .. first + n - 1`; short spans are remembered."""
        return _remembered_season(self, first, n)


@lru_cache(maxsize=512)
def _remembered_season(spec: FeatureSpec, first: int, n: int) -> Season:
    return season(first, n, step_ms=spec.step_ms, periods=spec.periods, timezone=spec.timezone)


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of a product's row. `head` are those that every step changes."""

    levels: slice  # (half_lives,) EWMAs of demand, not yet divided by the sum of their weights
    streams: slice  # (streams x 3) EWMAs of the streams, likewise; a stream's three lie together
    last: slice  # (streams,) their newest values
    usual: slice  # (covariates,) EWMAs by the streams' longest half-life, likewise
    now: slice  # (covariates,) their newest values
    since: int  # steps since the last sale
    age: int  # observed steps; the sums of weights and the visits of a profile's slots follow from it
    head: slice
    profiles: tuple[slice, ...]  # (period,) adaptive mean demand by phase
    recent: slice  # (recent,) ring of demands by step index; NaN: gap
    size: int


@lru_cache(maxsize=64)
def layout(spec: FeatureSpec) -> Layout:
    """Where things lie in a row of `spec`."""
    s, k = len(spec.streams), len(spec.covariates)
    starts = np.cumsum([0, len(spec.half_lives), 3 * s, s, k, k, 1, 1, *spec.periods, spec.recent]).tolist()
    spans = [slice(a, b) for a, b in itertools.pairwise(starts)]
    levels, streams, last, usual, now, since, age, *profiles, recent = spans
    return Layout(levels, streams, last, usual, now, since.start, age.start, slice(0, age.stop), tuple(profiles), recent, starts[-1])


@lru_cache(maxsize=64)
def weights(spec: FeatureSpec) -> tuple[F32, F32]:
    """Of the EWMAs: weights of the newest value, (levels + 3, 1), and sums of all weights by age, (levels + 3, ages); age 0 counts as 1."""
    half_lives = np.array([*spec.half_lives, *spec.stream_half_lives])
    newest = 1 - 0.5 ** (1 / half_lives)
    ages = np.maximum(np.arange(_WEIGHT_TABLE_ROWS), 1)
    return newest[:, None].astype(np.float32), -np.expm1(ages * np.log1p(-newest)[:, None]).astype(np.float32)


def fresh(spec: FeatureSpec, n: int) -> F32:
    """Rows, (n, size), of products that nothing is known of yet."""
    where = layout(spec)
    rows = np.zeros((n, where.size), np.float32)
    rows[:, where.since] = NEVER_SOLD
    rows[:, where.recent] = np.nan
    return rows


def advance(spec: FeatureSpec, rows: F32, demand: F32, step: I64, out: F32 | None = None, covariates: F32 | None = None) -> F32:
    """Rows, (n, size), after each product consumed step `step[i]`: written to `out`, which may be `rows`, else to a new array.

    `demand`, (n, 1 + streams), are the step's units and streams in natural units. Units of NaN mean that nothing is known of
    the step (a gap): the product does not age. Negative units (corrections) count as none. `covariates`, (n, covariates), are the
    step's; where they are NaN, or not given, those of the step before still hold.
    """
    where = layout(spec)
    n_levels = len(spec.half_lives)
    newest, _ = weights(spec)
    observed = np.isfinite(demand[:, 0])
    units, *streams = np.where(observed[:, None], np.maximum(demand, 0), 0).T
    head = rows[:, where.head].T.copy()  # columns first: each operation runs along the products
    gate = newest * observed
    head[where.levels] += gate[:n_levels] * (units - head[where.levels])
    for s, values in enumerate(streams):
        means = head[where.streams][3 * s : 3 * s + 3]
        means += gate[n_levels:] * (values - means)
        head[where.last][s] = np.where(observed, values, head[where.last][s])
    if covariates is not None:
        head[where.now] = np.where(np.isfinite(covariates.T), covariates.T, head[where.now])
    head[where.usual] += gate[-1] * (head[where.now] - head[where.usual])
    visits = head[where.age].copy()
    silent = np.minimum(head[where.since] + observed, LONGEST_SILENCE)
    head[where.since] = np.where(units > 0, 0, silent)
    head[where.age] += observed

    if out is None:
        out = rows.copy()
    elif out is not rows:
        np.copyto(out, rows)
    out[:, where.head] = head.T
    each = np.arange(len(rows))
    for period, span, phase in zip(spec.periods, where.profiles, phases(spec, step), strict=True):
        slot = span.start + phase
        rate = profile_rate(period, visits)
        before = out[each, slot]
        out[each, slot] = np.where(observed, before + rate * (units - before), before)
    out[each, where.recent.start + step % spec.recent] = np.where(observed, units, np.float32(np.nan))
    return out


def profile_rate(period: int, visits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """How far a slot of a profile moves to the newest demand, (n,), of products that had lived through `visits` steps before it."""
    floor = _SHORT_PERIOD_RATE if period <= _SHORT_PERIOD else _LONG_PERIOD_RATE
    return np.asarray(np.maximum(1 / (np.floor(visits / np.float32(period)) + 1), floor))


def phases(spec: FeatureSpec, step: I64) -> tuple[I64, ...]:
    """Phase of each step, (n,), for each period. Nearly always all products are at the same step."""
    steps, inverse = distinct(step)
    found = [spec.season(int(s), 1).phases for s in steps]
    return tuple(np.array([each[p][0] for each in found], np.int64)[inverse] for p in range(len(spec.periods)))


def distinct(step: I64) -> tuple[I64, I64]:
    """`np.unique` with its inverse, quick where all are the same.

    >>> [part.tolist() for part in distinct(np.array([7, 7, 5]))]
    [[5, 7], [1, 1, 0]]
    """
    if len(step) and (step == step[0]).all():
        return step[:1], np.zeros(len(step), np.int64)
    steps, inverse = np.unique(step, return_inverse=True)
    return steps, inverse.astype(np.int64)


def _means(spec: FeatureSpec, head: F32) -> tuple[F32, list[F32]]:
    """EWMAs of demand, (half_lives, n), and of each stream, (3, n), divided by the sums of their weights."""
    where = layout(spec)
    _, sums = weights(spec)
    # fmax and fmin take the number where one is NaN: a product's broken row must not stop its neighbours.
    age = np.fmin(np.fmax(head[where.age], 0), _WEIGHT_TABLE_ROWS - 1).astype(np.int64)
    total = sums[:, age]
    n_levels = len(spec.half_lives)
    streams = head[where.streams]
    return head[where.levels] / total[:n_levels], [streams[3 * s : 3 * s + 3] / total[n_levels:] for s in range(len(spec.streams))]


def covariates(spec: FeatureSpec, rows: F32) -> tuple[F32, F32]:
    """Each covariate's usual value (an EWMA) and its newest one, (n, covariates) each."""
    where = layout(spec)
    _, sums = weights(spec)
    age = np.fmin(np.fmax(rows[:, where.age], 0), _WEIGHT_TABLE_ROWS - 1).astype(np.int64)
    return rows[:, where.usual] / sums[-1, age][:, None], rows[:, where.now]


def held(values: F32, before: F32) -> F32:
    """Covariates of consecutive steps, (n, steps, covariates), where NaN means "as the step before"; `before`, (n, covariates), are the first one's.

    >>> held(np.float32([[[np.nan], [2], [np.nan]]]), np.float32([[1]])).ravel().tolist()
    [1.0, 2.0, 2.0]
    """
    whole = np.concatenate([before[:, None], values], axis=1)
    newest = np.where(np.isfinite(whole), np.arange(whole.shape[1])[:, None], 0)
    np.maximum.accumulate(newest, axis=1, out=newest)
    return np.take_along_axis(whole, newest, axis=1)[:, 1:]


def long_run(spec: FeatureSpec, rows: F32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Slowest mean of demand, (n,), and of each stream, (n, streams), per step."""
    levels, streams = _means(spec, rows[:, layout(spec).head].T.copy())
    return levels[-1].astype(np.float64), np.array([means[-1] for means in streams], np.float64).reshape(len(streams), len(rows)).T


def slowest(spec: FeatureSpec, rows: F32) -> F32:
    """Slowest mean of demand per step, (n,): while a product is younger than its half-life, about the mean of all its steps."""
    where = layout(spec)
    age = np.fmin(np.fmax(rows[:, where.age], 0), _WEIGHT_TABLE_ROWS - 1).astype(np.int64)
    slow: F32 = rows[:, where.levels.stop - 1] / weights(spec)[1][len(spec.half_lives) - 1, age]
    return slow


def active(spec: FeatureSpec, rows: F32) -> I64:
    """How many of the newest `recent` steps had any demand, (n,)."""
    return np.asarray((rows[:, layout(spec).recent] > 0).sum(axis=1), np.int64)


def _scale(levels: F32) -> F32:
    # An adaptive mean, mostly slow, never 0; a new product's first sale moves all levels, so it adapts at once.
    scale: F32 = levels[-2] * np.float32(0.7) + levels[-3] * np.float32(0.3) + np.float32(0.02)
    return scale


def seasonal_naive(spec: FeatureSpec, rows: F32, step: I64) -> F32:
    """Demand of the step that lies the shortest season (a day of hours, a week of days, else a step) before `step`, (n,), which the rows have yet to consume.

    0 where it is a gap, or before the product's time.
    """
    lag = min(spec.periods[0] if spec.periods else 1, spec.recent)
    before = rows[np.arange(len(rows)), layout(spec).recent.start + (step - lag) % spec.recent]
    return np.where(np.isfinite(before), before, np.float32(0))


def scales(spec: FeatureSpec, rows: F32) -> F32:
    """A product's typical demand per step, (n,), by which the network's inputs and outputs are divided; always positive."""
    return _scale(_means(spec, rows[:, layout(spec).head].T.copy())[0])


def ages(spec: FeatureSpec, rows: F32) -> F32:
    """Observed steps of each product, (n,)."""
    return rows[:, layout(spec).age]


def largest(spec: FeatureSpec, rows: F32) -> F32:
    """The most that a row remembers of a step's demand, (n,): of the newest steps, and of the means by phase of the day and week."""
    where = layout(spec)
    remembered = np.fmax.reduce(rows[:, where.recent], axis=1, initial=0)
    for span in where.profiles:
        remembered = np.fmax(remembered, np.fmax.reduce(rows[:, span], axis=1))
    return np.asarray(remembered)


def encoder_inputs(spec: FeatureSpec, rows: F32, step: I64, profiles: Sequence[F32]) -> F32:
    """What the LSTM sees, (n, n_encoder_inputs), of rows that have consumed `step`; `profiles` are the shop's, one (period,) each."""
    where = layout(spec)
    head = rows[:, where.head].T.copy()
    levels, streams = _means(spec, head)
    scale = _scale(levels)
    each = np.arange(len(rows))
    newest = rows[each, where.recent.start + step % spec.recent]
    observed = np.isfinite(newest)
    units = np.where(observed, newest, np.float32(0))
    small, tiny = np.float32(0.02), np.float32(0.01)
    ratios = [1 + units / scale, *((levels + tiny) / (scale + tiny)), scale, 1 + head[where.since], 1 + head[where.age]]
    for span, phase, profile in zip(where.profiles, phases(spec, step), profiles, strict=True):
        ratios += [(rows[each, span.start + phase] + small) / (scale + small), profile[phase] + np.float32(0.05)]
    for last, means in zip(head[where.last], streams, strict=True):
        slow = means[2]
        floor = slow + np.float32(0.1)
        ratios += [(1 + last) / (1 + slow), (means[0] + np.float32(0.1)) / floor, (means[1] + np.float32(0.1)) / floor]
        ratios += [(scale + small) / (slow + np.float32(0.2))]
    columns = np.empty((spec.n_encoder_inputs, len(rows)), np.float32)
    n_ratios = len(ratios)
    np.stack(ratios, out=columns[:n_ratios])
    np.log(columns[:n_ratios], out=columns[:n_ratios])
    columns[n_ratios] = np.minimum(units, 5) / np.float32(5)
    columns[n_ratios + 1] = observed
    steps, inverse = distinct(step)
    n_waves_seen = n_encoder_waves(spec.step_ms)
    waves = np.array([spec.season(int(s), 1).waves[0, :n_waves_seen] for s in steps], np.float32).reshape(-1, n_waves_seen)
    end = n_ratios + 2 + n_waves_seen
    columns[n_ratios + 2 : end] = waves.T[:, inverse]
    usual, now = covariates(spec, rows)
    columns[end : end + now.shape[1]] = now.T
    columns[end + now.shape[1] :] = (now - usual).T
    return np.ascontiguousarray(columns.T)


def recent(spec: FeatureSpec, rows: F32, step: I64) -> F32:
    """The newest `spec.recent` demands, (n, recent), oldest first, ending with `step`; NaN: gap, or before the product's time."""
    ring = rows[:, layout(spec).recent]
    order = (step[:, None] + 1 + np.arange(spec.recent)) % spec.recent
    return np.take_along_axis(ring, order, axis=1)
