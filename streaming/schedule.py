"""When a shard may close and how far its time has come: pure decisions on what `take` read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from feature_store.calls import NO_WATERMARK
from models import calibration


@dataclass(frozen=True, slots=True)
class ShardTime:
    """A shard's place in event time, epoch ms."""

    watermark_ms: int  # everything on time before it has been counted; NO_WATERMARK: a source was never heard
    late_source: bool  # a source far behind the others was left out


def shard_time(sources: Iterable[str], watermarks: Mapping[str, int], idle: Mapping[str, int], *, lagging_ms: int | None) -> ShardTime:
    """The least of all expected sources, each the greater of what its records and its owner's clock say.

    `lagging_ms`: a source that has been heard but is further behind the foremost than this is left out; None: none ever is.

    >>> shard_time(["a", "b"], {"a": 100, "b": 40}, {"b": 90}, lagging_ms=None)
    ShardTime(watermark_ms=90, late_source=False)
    >>> shard_time(["a", "b"], {"a": 100, "b": 40}, {}, lagging_ms=50)
    ShardTime(watermark_ms=100, late_source=True)
    >>> shard_time(["a", "b"], {"a": 100}, {}, lagging_ms=50).watermark_ms == NO_WATERMARK
    True
    """
    reached = [max(watermarks.get(source, NO_WATERMARK), idle.get(source, NO_WATERMARK)) for source in sources]
    if not reached or min(reached) == NO_WATERMARK:
        return ShardTime(NO_WATERMARK, late_source=False)
    in_time = reached if lagging_ms is None else [at for at in reached if at >= max(reached) - lagging_ms]
    return ShardTime(min(in_time), late_source=len(in_time) < len(reached))


def reachable(reached: int, closed_step: int, tiles_per_step: int, step_ms: int, keep_steps: int) -> tuple[int, int]:
    """The step that a shard counts as closed, and the tile before which its products may be judged now; `reached`: the tile of its watermark.

    Steps whose factors rest on what is not closed yet have to wait, else factors would depend on which product came first. An ancient event, which no
    product lives through (`readout.gather`), does not make the shard crawl from there in portions.

    >>> reachable(30 * 12, closed_step=28, tiles_per_step=12, step_ms=3_600_000, keep_steps=192)
    (28, 360)
    >>> reachable(300 * 12, closed_step=47, tiles_per_step=12, step_ms=3_600_000, keep_steps=192)
    (107, 1728)
    """
    closed = max(closed_step, reached // tiles_per_step - 1 - keep_steps)
    return closed, min(reached, (calibration.known_through(closed, step_ms) + 1) * tiles_per_step)
