"""What goes to and comes from the store: calls, outcomes, records, and the errors that say what their catcher must do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from feature_store.facts import ContextChange, FactChange, context_field
from feature_store.keys import SEEN_SETS_PER_HOUR
from feature_store.measures import N_MEASURES

HOUR_MS: Final = 3_600_000
NO_WATERMARK: Final = int(np.iinfo(np.int64).min)
HEADER_BYTES: Final = 16  # of features, state, scores and trial: an int64 position and eight bytes that say whose numbers follow

_encode = msgspec.msgpack.Encoder().encode


class StoreUnusable(Exception):
    """Redis can't serve this namespace as it is; the message says what to change."""


class StoreRolledBack(Exception):
    """Redis forgot what it had acknowledged; end the process, the next assignment rewinds to what Redis still knows."""

    def __init__(self, shard: int, source: str, expected: int | None, found: int) -> None:
        self.shard, self.source, self.expected, self.found = shard, source, expected, found
        super().__init__(
            f"shard {shard}, source {source}: expected next offset {expected}, Redis says {found if found >= 0 else 'nothing'}"
        )


class OwnerLost(Exception):
    """Another forecast worker owns the shard; drop everything that was computed for it."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        super().__init__(f"shard {shard} has another owner")


class ShardRolledBack(Exception):
    """Redis holds less of the shard than it did; forget what was derived from it, and claim it anew."""

    def __init__(self, shard: int, known: int, found: int) -> None:
        self.shard = shard
        super().__init__(f"shard {shard}: Redis had counted {known} records, and now says {found}")


class StoreSettings(Protocol):
    """What of the settings fixes a namespace."""

    @property
    def redis(self) -> str: ...
    @property
    def redis_address(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def shards(self) -> int: ...
    @property
    def tile_ms(self) -> int: ...
    @property
    def step_ms(self) -> int: ...
    @property
    def timezone(self) -> str: ...
    @property
    def currency(self) -> str | None: ...
    @property
    def tile_retention_ms(self) -> int: ...
    @property
    def step_retention_ms(self) -> int: ...
    @property
    def dedup_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a call brings one source in its shard."""

    source: str
    expected: int | None  # next offset that Redis should hold; None: nothing was ever counted
    next_offset: int
    watermark_ms: int  # the source's, after the last of these records; NO_WATERMARK: none yet


@dataclass(frozen=True, slots=True)
class ApplyCall:
    """The next records of some sources, folded for one shard: what one atomic call counts."""

    shard: int
    sources: Sequence[Advance]  # each once
    products: list[str] = field(default_factory=list)  # (p,) touched
    oldest_sent_at_ms: list[int] = field(default_factory=list)  # (p,)
    newest_event_ms: list[int] = field(default_factory=list)  # (p,)
    cell_product: npt.NDArray[np.int64] | None = None  # (k,) index into products; a product's cells, each of another tile, stand together
    cell_tile: npt.NDArray[np.int64] | None = None  # (k,)
    deltas: npt.NDArray[np.float64] | None = None  # (k, N_MEASURES) integers
    event_hash: npt.NDArray[np.int64] | None = None  # (e,) distinct
    event_hour: npt.NDArray[np.int64] | None = None  # (e,) of event time
    facts: Sequence[FactChange] = ()  # in the order of their log
    context: Sequence[ContextChange] = ()  # likewise

    @property
    def cells(self) -> int:
        """How many (product, tile) it changes: what it costs Redis."""
        return 0 if self.cell_tile is None else len(self.cell_tile)

    def pack(self, tile_ms: int) -> bytes:
        """The call as `apply.lua` reads it; only measures that occur travel."""
        columns: list[int] = []
        values: list[int] = []
        tiles: list[int] = []
        if self.cell_tile is not None and self.deltas is not None and len(self.cell_tile):
            occurring = np.flatnonzero(self.deltas.any(axis=0))
            columns = (occurring + 1).tolist()  # Lua counts from 1
            values = self.deltas[:, occurring].astype(np.int64).ravel().tolist()
            tiles = self.cell_tile.tolist()
        ahead: dict[str, object] = {}  # most calls have neither
        if self.facts:
            ahead["facts"] = [[f.product, f.sent_at_ms, f.version.price, f.version] for f in self.facts]
        if self.context:
            ahead["context"] = [[context_field(c.series, c.scope), c.entry] for c in self.context]
        return _encode(
            {
                **ahead,
                "sources": [a.source for a in self.sources],
                "expected": [-1 if a.expected is None else a.expected for a in self.sources],
                "next_offset": [a.next_offset for a in self.sources],
                "watermark": [False if a.watermark_ms == NO_WATERMARK else a.watermark_ms for a in self.sources],
                "products": self.products,
                "oldest_sent": self.oldest_sent_at_ms,
                "newest_event": self.newest_event_ms,
                "cell_product": [] if self.cell_product is None else (self.cell_product + 1).tolist(),
                "cell_tile": tiles,
                "columns": columns,
                "values": values,
                "hashes": self._seen_groups(),
                "first_hour": min(tiles) * tile_ms // HOUR_MS if tiles else 0,
            }
        )

    def _seen_groups(self) -> list[list[int | str]]:
        """`[hour, set, hash, hash, …]` per set of remembered event ids; the hashes as text, which Redis takes as it is."""
        if self.event_hash is None or self.event_hour is None or not len(self.event_hash):
            return []
        sets = self.event_hash % SEEN_SETS_PER_HOUR
        order = np.lexsort((self.event_hash, sets, self.event_hour))
        hours, sets, hashes = self.event_hour[order], sets[order], self.event_hash[order]
        starts = np.flatnonzero(np.r_[True, (hours[1:] != hours[:-1]) | (sets[1:] != sets[:-1])])
        bounds = [*starts.tolist(), len(hashes)]
        ids, of_hour, of_set = list(map(str, hashes.tolist())), hours[starts].tolist(), sets[starts].tolist()
        return [[of_hour[i], of_set[i], *ids[bounds[i] : bounds[i + 1]]] for i in range(len(starts))]


@dataclass(frozen=True, slots=True)
class Applied:
    sequence: int
    corrected: int  # cells that came too late for the forecaster; the sums are right


@dataclass(frozen=True, slots=True)
class Seen:
    event_hashes: list[int]  # fold again without them


@dataclass(frozen=True, slots=True)
class Ahead:
    next_offsets: list[int]  # by source: somebody counted up to here (-1: nothing); drop the records below, fold the rest


@dataclass(frozen=True, slots=True)
class RolledBack:
    place: int  # of the source among the call's
    found: int  # next offset that Redis holds; -1: nothing


Outcome = Applied | Seen | Ahead | RolledBack


@dataclass(frozen=True, slots=True)
class Position:
    """How far a shard has counted a source."""

    next_offset: int | None
    watermark_ms: int


@dataclass(frozen=True, slots=True)
class ShardView:
    """What `take` says of an owned shard; times in epoch ms."""

    shard: int
    sequence: int
    closed_step: int | None
    watermarks: dict[str, int]
    idle: dict[str, int]
    dirty: list[tuple[str, int]]  # product, sequence of its last change; oldest change first
    serving_since: list[int | None]  # per dirty product: real time at which its oldest unserved event was sent
    live: int
    outbox: int


@dataclass(frozen=True, slots=True)
class ProductRecord:
    """What is stored of a product for forecasting; empty bytes where nothing is."""

    features: bytes
    state: bytes
    scores: bytes
    trial: bytes
    running: bytes  # `RunningSums`; empty while history is caught up with, too


def parted(both: bytes) -> tuple[bytes, bytes]:
    """The two records that share a key; the last four bytes say how long the first one is (little-endian, see `commit.lua`).

    >>> parted(b"first, second" + bytes([5, 0, 0, 0])), parted(b"")
    ((b'first', b', second'), (b'', b''))
    """
    end = int.from_bytes(both[-4:], "little")
    return both[:end], both[end:-4]


class ModelPointer(msgspec.Struct, frozen=True):
    """Which model is to serve the namespace: what promotion moves and workers follow."""

    name: str
    version: str  # the artefact's
    label: str  # the registered version's, for people
    files: str  # URI of the artefact's directory: file:///…, or runs:/…, which the MLflow store of the workers' settings knows


class RunningSums(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Integer sums, one a measure, of the newest step that a product was heard of in, and of the step before."""

    step: int
    newest: list[float]
    before: list[float]

    def of(self, step: int) -> list[float] | None:
        """Sums of a step; None: too old to be known here."""
        if step > self.step:
            return [0.0] * N_MEASURES
        return self.newest if step == self.step else self.before if step == self.step - 1 else None


decode_running = msgspec.msgpack.Decoder(RunningSums).decode


@dataclass(frozen=True, slots=True)
class ProductCommit:
    """What the forecaster decided for one product. `last_step` < `first_step`: no step closes, features and state stay."""

    product: str
    expected_features: bytes  # header as read, b"" where there was none
    expected_scores: bytes
    first_step: int
    last_step: int
    features: bytes
    state: bytes
    scores: bytes
    dirty_since_ms: int | None  # real time; None: nothing to publish
    trial: bytes = b""  # empty: the one that is stored stays


@dataclass(frozen=True, slots=True)
class RebuiltState:
    """A product's state under the model that serves, at the step at which its features stand."""

    product: str
    expected_features: bytes  # header as read
    state: bytes


@dataclass(frozen=True, slots=True)
class DaySums:
    """Integers below 2**53 to be added to what the shard holds of a model and a day."""

    model: str  # eight characters
    by_day: Mapping[int, Sequence[int]]
    keep_days: int  # sums of days further back than this before the newest are forgotten


NO_SUMS: Final = DaySums("", {}, 0)


@dataclass(frozen=True, slots=True)
class LivedSums:
    """Integers below 2**53 to be added to what the shard holds of a day and a category."""

    by_day: Mapping[int, Mapping[str, Sequence[int]]]
    keep_days: int  # sums of days further back than this before the newest are forgotten


NO_LIVED: Final = LivedSums({}, 0)


@dataclass(frozen=True, slots=True)
class Stale:
    """The commit wrote nothing: these products' records are not those that were read."""

    products: list[str]
