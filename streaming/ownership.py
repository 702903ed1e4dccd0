"""The shards that this process forecasts: how far each of them is, and whether they are still ours."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from feature_store.calls import NO_WATERMARK
from models.calibration import Memory
from models.levels import Adding
from streaming.schedule import ShardTime

# Time that moved by more than a step at once is history being caught up with; when it has not for so long, forecasts are worth sending again.
HISTORY_PAUSE_S: Final = 1.0

NO_STEP: Final = -(2**62)  # before all others

Product = tuple[int, str]  # shard, product id


class FrozenWorker(Exception):
    """Too long between the last proof of ownership and sending: others may own the shards by now. End the process, send nothing."""


@dataclass(slots=True)
class OwnedShard:
    """What this process remembers of a shard that it owns."""

    tiles_per_step: int
    memory: Memory  # of outcomes of its forecasts
    time: ShardTime = field(default_factory=lambda: ShardTime(NO_WATERMARK, late_source=False))
    target: int = -1  # tiles before this one are to be judged, and their whole steps consumed; -1: nothing yet
    pending: list[tuple[int, str]] = field(
        default_factory=list
    )  # heap of products that have yet to reach the target, by the tile they stand at
    listed: int = 0  # products when the sweep began
    hurried_at: float = -HISTORY_PAUSE_S  # monotonic time at which the target last moved by more than a step
    closed_step: int | None = None
    sequence: int = 0
    summed_step: int = NO_STEP  # its products' forecasts after steps up to this one are added up and stored
    adding: Adding | None = None  # those after its closed step, while that goes on: until then it stays where it is
    to_add: list[str] = field(default_factory=list)  # products that wait for it
    known_day: int | None = None  # outcomes of the days before it are whole, and in `memory`; None: not read yet

    @property
    def last_step(self) -> int:
        """Last step that the target lets be closed."""
        return self.target // self.tiles_per_step - 1

    @property
    def catching_up(self) -> bool:
        """More than one step waits to be closed, or did a moment ago: forecasts in between would be history when they arrive."""
        hurried = time.monotonic() - self.hurried_at < HISTORY_PAUSE_S
        return hurried or self.closed_step is None or self.last_step - self.closed_step > 1


Owned = Mapping[int, OwnedShard]  # by number


class Ownership:
    """Which shards are ours, and the token that Redis knows us by."""

    def __init__(self, session_timeout_ms: int) -> None:
        self.shards: dict[int, OwnedShard] = {}
        self.token = ""
        # Kafka may give the shards away once we were silent for a session; half of it is ours for sure.
        self._sure_s = session_timeout_ms / 2000
        self._until = 0.0

    def renew(self) -> str:
        """Own nothing, under a new token."""
        self.shards, self.token = {}, secrets.token_hex(16)
        return self.token

    def prove(self) -> None:
        """Redis has just accepted our token."""
        self._until = time.monotonic() + self._sure_s

    def check(self) -> None:
        """Raises FrozenWorker where the last proof is too old for anything to be sent."""
        if time.monotonic() > self._until:
            raise FrozenWorker(f"more than {self._sure_s:g} s passed since the shards were known to be ours; nothing was sent")
