"""Every Redis key, in one place. All keys of a shard carry one hash tag, so that a script over them is atomic on Redis Cluster too."""

from dataclasses import dataclass

# Small sets of integers stay in Redis' compact encoding (8 bytes an id instead of 57; `set-max-intset-entries` says how small); each costs a call, though:
# 16 an hour hold a shop of 100 orders a second in 32 shards within 700 ids each.
SEEN_SETS_PER_HOUR = 16


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys of one namespace.

    >>> Keys("shop").offsets(17)
    'trendcast:shop:{s017}:offsets'
    >>> Keys("shop").tiles(17, "p1")
    'trendcast:shop:{s017}:tiles:p1'
    """

    namespace: str

    @property
    def prefix(self) -> str:
        return f"trendcast:{self.namespace}:"

    @property
    def meta(self) -> str:
        return f"{self.prefix}meta"

    @property
    def sources(self) -> str:
        return f"{self.prefix}sources"

    @property
    def gaps(self) -> str:
        return f"{self.prefix}gaps"

    def shard(self, shard: int) -> str:
        """What the names of all keys of a shard begin with; the scripts build the rest."""
        return f"{self.prefix}{{s{shard:03d}}}:"

    def offsets(self, shard: int) -> str:
        return f"{self.shard(shard)}offsets"

    def watermarks(self, shard: int) -> str:
        return f"{self.shard(shard)}watermarks"

    def idle(self, shard: int) -> str:
        return f"{self.shard(shard)}idle"

    def closed(self, shard: int) -> str:
        return f"{self.shard(shard)}closed"

    def live(self, shard: int) -> str:
        return f"{self.shard(shard)}live"

    def dirty(self, shard: int) -> str:
        return f"{self.shard(shard)}dirty"

    def outbox(self, shard: int) -> str:
        return f"{self.shard(shard)}outbox"

    def levels(self, shard: int) -> str:
        return f"{self.shard(shard)}levels"

    def owner(self, shard: int) -> str:
        return f"{self.shard(shard)}owner"

    def running(self, shard: int, product: str) -> str:
        return f"{self.shard(shard)}running:{product}"

    def tiles(self, shard: int, product: str) -> str:
        return f"{self.shard(shard)}tiles:{product}"

    def steps(self, shard: int, product: str) -> str:
        return f"{self.shard(shard)}steps:{product}"

    def state(self, shard: int, product: str) -> str:
        return f"{self.shard(shard)}state:{product}"

    def scores(self, shard: int, product: str) -> str:
        return f"{self.shard(shard)}scores:{product}"

    def calibration(self, shard: int) -> str:
        return f"{self.shard(shard)}calibration"

    def launches(self, shard: int) -> str:
        return f"{self.shard(shard)}launches"

    def facts(self, shard: int) -> str:
        return f"{self.shard(shard)}facts"

    def context(self, shard: int) -> str:
        return f"{self.shard(shard)}context"
