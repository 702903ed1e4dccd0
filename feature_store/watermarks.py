"""How far a source's event time has come, and what that says of each record: on time, late, expired or from the future.

Every judgement uses only the record, the records before it in its source, and Kafka's timestamps: a replay repeats it exactly.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from feature_store.events import EventBatch

# Minus infinity: nothing has been heard of the source.
NO_WATERMARK: Final = int(np.iinfo(np.int64).min)

Rejection = Literal["future", "expired"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the watermark says of each of `n` records of one source, in offset order."""

    before_ms: npt.NDArray[np.int64]  # (n,) the source's watermark that the record was judged against
    watermark_ms: npt.NDArray[np.int64]  # (n,) the source's watermark after the record
    accepted: npt.NDArray[np.bool_]  # (n,) to be counted; heartbeats always are
    late: npt.NDArray[np.bool_]  # (n,) accepted events behind the watermark
    rejections: list[tuple[int, Rejection]]  # record index and why, in order


def judge(
    batch: EventBatch, start_watermark_ms: int | None, *, lateness_ms: int, future_ms: int, step_ms: int, step_retention_ms: int
) -> Judged:
    """Judge the records of one source that follow those which left it at `start_watermark_ms` (None or NO_WATERMARK: none did).

    A source's watermark is the greatest, over its accepted records, of `min(event time, Kafka timestamp) - lateness_ms`, and over its
    heartbeats of `min(declared, Kafka timestamp)`. Against the watermark *before* it, a record is

    - future, and rejected, if its event time is more than `future_ms` after its Kafka timestamp (a shop's clock is wrong);
    - expired, and rejected, if the step of its event time ended `step_retention_ms` or longer ago (nothing is kept that it could correct);
    - late, but counted, if its event time is earlier.

    Times must lie within ±2**61 ms, as the contracts guarantee.
    """
    start = NO_WATERMARK if start_watermark_ms is None else start_watermark_ms
    event = ~batch.heartbeat
    future = event & (batch.event_time_ms > batch.timestamp_ms + future_ms)

    # An expired record lies behind the watermark and can't raise it, so one pass suffices: only the future ones must be left out.
    raises_to = np.minimum(batch.event_time_ms, batch.timestamp_ms) - np.where(event, lateness_ms, 0)
    raises_to[future] = NO_WATERMARK
    watermark = np.maximum(np.maximum.accumulate(raises_to), start)
    before = np.concatenate((np.array([start], dtype=np.int64), watermark[:-1]))[: len(batch)]

    step_end = (batch.event_time_ms // step_ms + 1) * step_ms
    expired = event & ~future & (step_end + step_retention_ms <= before)  # the sum is on this side: NO_WATERMARK minus anything overflows
    rejected = future | expired
    return Judged(
        before_ms=before,
        watermark_ms=watermark,
        accepted=~rejected,
        late=event & ~rejected & (batch.event_time_ms < before),
        rejections=[(i, "future" if future[i] else "expired") for i in np.flatnonzero(rejected).tolist()],
    )


def judge_states(batch: EventBatch, start_watermark_ms: int | None) -> tuple[Judged, npt.NDArray[np.int64]]:
    """Judge the records of a source whose records say what holds from their time on, and when each takes effect, (n,), epoch ms.

    Such a record has no time but its Kafka timestamp, and none is rejected: one that stands behind a later one of its source takes effect with
    that. So the source's watermark is the time of its newest record, or what a heartbeat declared, capped by its timestamp; nothing that comes
    after it takes effect before it.
    """
    start = NO_WATERMARK if start_watermark_ms is None else start_watermark_ms
    watermark = np.maximum(np.maximum.accumulate(np.minimum(batch.event_time_ms, batch.timestamp_ms)), start)
    before = np.concatenate((np.array([start], dtype=np.int64), watermark[:-1]))[: len(batch)]
    everything = np.ones(len(batch), np.bool_)
    return Judged(before, watermark, everything, ~everything, []), np.maximum(batch.timestamp_ms, before)
