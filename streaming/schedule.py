"""When a shard may close and how far its time has come: pure decisions on what `take` read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from feature_store.calls import NO_WATERMARK


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
