"""A product's forecasting records as bytes: a header that says how far and whose numbers, then the numbers.

`features` and `state` carry the last consumed step; `scores` the last judged tile; `trial` the step after which its forecast was made. The second
half of the header binds features to the feature specification, the others to the model: numbers of another are not read.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_store.calls import HEADER_BYTES, ProductCommit, ProductRecord, RebuiltState, RunningSums, decode_running
from models.calibration import NO_TRIAL, Trials
from models.features import FeatureSpec
from models.features import fresh as fresh_features
from models.timeline import COARSE_SCORES, EXPECTED, SCORE_COLUMNS, Advanced, Timelines, fresh_scores

_HEADER: Final = struct.Struct("<q8s")
# A product's scores behind their header: 228 bytes.
SCORES: Final = np.dtype([("fine", "<f8", (COARSE_SCORES,)), ("coarse", "<f4", (SCORE_COLUMNS - COARSE_SCORES,))])


def header(position: int, owner: bytes) -> bytes:
    """Sixteen bytes: the position as a little-endian int64 (which the store's scripts read too), and eight bytes of whose numbers follow."""
    return _HEADER.pack(position, owner)


@dataclass(frozen=True, slots=True)
class Rows:
    """Unpacked records: row i belongs to the i-th product; where `known` is false the row is whatever `fallback` was."""

    known: npt.NDArray[np.bool_]  # (n,) there is a record, of the right size and owner
    foreign: npt.NDArray[np.bool_]  # (n,) of the right size, but another owner's; position and values are that record's
    position: npt.NDArray[np.int64]  # (n,)
    values: npt.NDArray[Any]  # (n, width)


def unpack(blobs: Sequence[bytes], owner: bytes, fallback: npt.NDArray[Any]) -> Rows:
    """Rows of `fallback`'s type and width, (n, width), from records; `fallback`'s own row where there is no record, or one of another size.

    >>> rows = unpack([pack([7], b"spec-one", np.ones((1, 2), np.float32))[0], b""], b"spec-one", np.zeros((2, 2), np.float32))
    >>> rows.known.tolist(), rows.position.tolist(), rows.values.tolist()
    ([True, False], [7, 0], [[1.0, 1.0], [0.0, 0.0]])
    """
    size = HEADER_BYTES + fallback.shape[1] * fallback.itemsize
    whole = np.array([len(blob) == size for blob in blobs], dtype=np.bool_)
    own = np.array([blob[8:HEADER_BYTES] == owner for blob in blobs], dtype=np.bool_)
    position = np.zeros(len(blobs), np.int64)
    values = fallback.copy()
    if whole.any():
        joined = np.frombuffer(b"".join(blob for blob, good in zip(blobs, whole, strict=True) if good), np.uint8).reshape(-1, size)
        position[whole] = np.ascontiguousarray(joined[:, :8]).view("<i8")[:, 0]
        values[whole] = np.ascontiguousarray(joined[:, HEADER_BYTES:]).view(fallback.dtype)
    return Rows(whole & own, whole & ~own, position, values)


def pack(positions: Sequence[int] | npt.NDArray[np.int64], owner: bytes, values: npt.NDArray[Any]) -> list[bytes]:
    """Records of rows (n, width)."""
    rows = np.ascontiguousarray(values)
    return [header(int(position), owner) + row.tobytes() for position, row in zip(positions, rows, strict=True)]


def trial_fields(horizon: int, levels: int) -> np.dtype[np.void]:
    """A forecast on trial behind its header: 417 bytes for 24 steps and seven levels."""
    quantiles = ("quantiles", "<f2", (horizon, levels))
    return np.dtype([("peak", "<f4"), ("factors", "<f4", (levels,)), ("mean", "<f2", (horizon,)), quantiles, ("group", "u1")])


@dataclass(frozen=True, slots=True)
class Gathered:
    """Products as read from the store; row i of everything belongs to product i."""

    lines: Timelines
    feature_headers: list[bytes]  # as read: a commit is refused when they are others by then
    score_headers: list[bytes]
    cold: npt.NDArray[np.bool_]  # (n,) their state is another model's, or lost: to be rebuilt before it is used
    other_model: npt.NDArray[np.bool_]  # (n,) judged by another model: its expectation, and alerts that rest on it, end here
    running: list[RunningSums | None]  # None: not at hand, tiles tell

    def __len__(self) -> int:
        return len(self.feature_headers)

    def at(self, rows: npt.NDArray[np.intp]) -> "Gathered":
        return Gathered(
            lines=self.lines.at(rows),
            feature_headers=[self.feature_headers[i] for i in rows],
            score_headers=[self.score_headers[i] for i in rows],
            cold=self.cold[rows],
            other_model=self.other_model[rows],
            running=[self.running[i] for i in rows],
        )


@dataclass(frozen=True, slots=True)
class Codec:
    """Whose records are read and written: those of one feature specification and one model."""

    spec: FeatureSpec
    state_size: int
    feature_owner: bytes
    model_owner: bytes
    tiles_per_step: int
    trial: np.dtype[np.void]  # see `trial_fields`

    @classmethod
    def of(cls, spec: FeatureSpec, state_size: int, version: str, tiles_per_step: int, horizon: int, levels: int) -> "Codec":
        fields = trial_fields(horizon, levels)
        return cls(spec, state_size, spec.hash[:8].encode(), version[:8].encode(), tiles_per_step, fields)

    @property
    def record_bytes(self) -> int:
        """What a product's four records hold, without Redis' own overhead."""
        return 4 * HEADER_BYTES + 4 * (self.spec.size + self.state_size) + SCORES.itemsize + self.trial.itemsize

    @property
    def features_bytes(self) -> int:
        """Of a product's features with their header: a state follows."""
        return HEADER_BYTES + 4 * self.spec.size

    def read(self, stored: Sequence[ProductRecord], first_tiles: Sequence[int | None]) -> Gathered:
        """Timelines from records. A product without features begins with the step of its first tile (`first_tiles`, None where it has features)."""
        n = len(stored)
        features = unpack([r.features for r in stored], self.feature_owner, fresh_features(self.spec, n))
        state = unpack([r.state for r in stored], self.model_owner, np.zeros((n, self.state_size), np.float32))
        scores = unpack([r.scores for r in stored], self.model_owner, np.zeros((n, 1), SCORES))
        begins = np.array([0 if tile is None else tile // self.tiles_per_step for tile in first_tiles], np.int64) - 1
        step = np.where(features.known, features.position, begins)
        judged = (scores.known | scores.foreign) & features.known
        tile = np.where(judged, scores.position, (step + 1) * self.tiles_per_step - 1)
        in_step = state.known & features.known & (state.position == step)
        held = scores.values[:, 0]
        score_rows = np.where(judged[:, None], np.hstack((held["fine"], held["coarse"])), fresh_scores(n))
        score_rows[scores.foreign, EXPECTED] = np.nan
        lines = Timelines(
            step=step,
            tile=tile,
            features=np.where(features.known[:, None], features.values, fresh_features(self.spec, n)),
            state=np.where(in_step[:, None], state.values, np.float32(0)),
            scores=score_rows,
            trials=self._trials(stored, features.known),
        )
        return Gathered(
            lines=lines,
            feature_headers=[r.features[:HEADER_BYTES] for r in stored],
            score_headers=[r.scores[:HEADER_BYTES] for r in stored],
            cold=features.known & ~in_step,
            other_model=scores.foreign & features.known,
            running=[decode_running(r.running) if r.running else None for r in stored],
        )

    def _trials(self, stored: Sequence[ProductRecord], born: npt.NDArray[np.bool_]) -> Trials:
        rows = unpack([r.trial for r in stored], self.model_owner, np.zeros((len(stored), 1), self.trial))
        held, there = rows.values[:, 0], rows.known & born
        return Trials(
            step=np.where(there, rows.position, NO_TRIAL),
            group=held["group"].astype(np.int64),
            factors=np.where(there[:, None], held["factors"], np.float32(1)),
            peak=held["peak"].astype(np.float32),
            mean=held["mean"].astype(np.float16),
            quantiles=held["quantiles"].astype(np.float16),
        )

    def _pack_trials(self, trials: Trials) -> list[bytes]:
        held = np.zeros((len(trials.step), 1), self.trial)
        held["group"][:, 0], held["factors"][:, 0], held["peak"][:, 0] = trials.group, trials.factors, trials.peak
        held["mean"][:, 0], held["quantiles"][:, 0] = trials.mean, trials.quantiles
        return pack(trials.step, self.model_owner, held)

    def born(self, gathered: Gathered) -> npt.NDArray[np.bool_]:
        """(n,) which of the products have consumed a step."""
        return np.array([head[8:] == self.feature_owner for head in gathered.feature_headers], np.bool_)

    def unborn(self, stored: Sequence[ProductRecord]) -> list[int]:
        """Which of the products have no features of this specification yet."""
        return [i for i, r in enumerate(stored) if r.features[8:HEADER_BYTES] != self.feature_owner]

    def cold(self, headers: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Which products, by the headers of their features and state, have features of this specification and no state of this model to go with them."""
        return [features[8:] == self.feature_owner and state != features[:8] + self.model_owner for features, state in headers]

    def rebuilt(self, products: Sequence[str], gathered: Gathered) -> list[RebuiltState]:
        """States as they are stored, of products that stand where they were gathered."""
        states = pack(gathered.lines.step, self.model_owner, gathered.lines.state)
        return [RebuiltState(*each) for each in zip(products, gathered.feature_headers, states, strict=True)]

    def write(self, products: Sequence[str], before: Gathered, advanced: Advanced, now_ms: int) -> list[ProductCommit]:
        """Commits that bring `products` from `before` to where they advanced; those to be published become dirty at the real time `now_ms`."""
        after, tried = advanced.timelines, np.flatnonzero(advanced.tried)
        trials = dict(zip(tried.tolist(), self._pack_trials(after.trials.at(tried)), strict=True))
        packed = zip(
            pack(after.step, self.feature_owner, after.features),
            pack(after.step, self.model_owner, after.state),
            pack(after.tile, self.model_owner, _stored_scores(after.scores)),
            strict=True,
        )
        return [
            ProductCommit(
                product=product,
                expected_features=before.feature_headers[i],
                expected_scores=before.score_headers[i],
                first_step=int(before.lines.step[i]) + 1,
                last_step=int(after.step[i]),
                features=features,
                state=state,
                scores=scores,
                dirty_since_ms=now_ms if advanced.publish[i] else None,
                trial=trials.get(i, b""),
            )
            for i, (product, (features, state, scores)) in enumerate(zip(products, packed, strict=True))
        ]


def _stored_scores(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.void]:
    """(n, 1) of SCORES. Nothing is lost: coarse columns hold values of float32."""
    held = np.zeros((len(rows), 1), SCORES)
    held["fine"][:, 0], held["coarse"][:, 0] = rows[:, :COARSE_SCORES], rows[:, COARSE_SCORES:]
    return held
