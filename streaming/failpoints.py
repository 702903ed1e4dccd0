"""Places between two steps of a worker at which a test can have it killed, to prove that nothing is lost or counted twice there.

`TRENDCAST_FAILPOINT=ingest.applied:3` kills the process with SIGKILL the third time that it gets there; `ingest.applied:3:stop` freezes it with
SIGSTOP instead, once. The file that `TRENDCAST_FAILPOINT_FILE` names is written just before, so that the test knows that the place was hit. Without
the variable, nothing happens.
"""

import os
import signal
from pathlib import Path
from typing import Final

# Every place, in the order in which a worker passes it.
NAMES: Final = {
    "ingest.registered": "the sources are registered, the read positions not yet known",
    "ingest.positioned": "the read positions are known, nothing is read",
    "ingest.received": "a cycle's records are taken, nothing is decoded",
    "ingest.decoded": "decoded, judged and folded, nothing is dead-lettered",
    "ingest.dead_lettered": "rejected records are confirmed by the broker, nothing of the cycle is counted",
    "ingest.round_applied": "one round of calls is counted, further rounds of the same records may follow",
    "ingest.applied": "every record is counted, no doorbell has rung",
    "ingest.rung": "the doorbells rang, nothing is acknowledged",
    "ingest.acknowledged": "acknowledged to Faust, Kafka's committed offset lags behind",
    "ingest.idle_advanced": "idle sources were moved by the clock",
    "forecast.claimed": "shards are owned, the outbox is not yet sent",
    "forecast.rebuilt": "some products' states under the model that serves are rebuilt and stored, nothing follows from them yet",
    "forecast.gathered": "dirty products and their records are read, nothing is computed",
    "forecast.decided": "computed, nothing is committed",
    "forecast.committed": "states, alerts and outbox are stored, nothing is sent",
    "forecast.outbox_sent": "alerts and tombstones are confirmed by the broker, still in the outbox",
    "forecast.published": "forecasts and outbox are confirmed by the broker, not settled",
    "forecast.settled": "dirty marks and outbox are cleared",
    "forecast.step_closed": "a shard's step is marked as closed",
    "forecast.added_up": "what a shard's products are forecast after a step is added up and stored, nothing of it is published",
    "forecast.levels_published": "forecasts of categories and of the shop are confirmed by the broker",
    "forecast.evicted": "a product is forgotten, its tombstone is in the outbox",
}


_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def parse(value: str) -> tuple[str, int, signal.Signals]:
    """Name, count and signal of a failpoint setting. ValueError where there is no such place or action.

    >>> [(name, count, action.name) for name, count, action in (parse("ingest.applied"), parse("ingest.applied:3:stop"))]
    [('ingest.applied', 1, 'SIGKILL'), ('ingest.applied', 3, 'SIGSTOP')]
    """
    name, _, rest = value.partition(":")
    count, _, action = rest.partition(":")
    if name not in NAMES:
        raise ValueError(f"no failpoint {name!r}; there are: {', '.join(NAMES)}")
    if (action or "kill") not in _SIGNALS:
        raise ValueError(f"no action {action!r} at a failpoint; there are: {', '.join(_SIGNALS)}")
    return name, int(count or 1), _SIGNALS[action or "kill"]


_armed, _left, _signal = parse(os.environ["TRENDCAST_FAILPOINT"]) if "TRENDCAST_FAILPOINT" in os.environ else (None, 0, signal.SIGKILL)


def failpoint(name: str) -> None:
    """Dies or freezes here, if a test asked for it."""
    global _left
    if _armed is None or name != _armed:
        return
    _left -= 1
    if _left == 0:
        marker = os.environ.get("TRENDCAST_FAILPOINT_FILE")
        if marker:
            Path(marker).write_text(name, encoding="utf-8")
        os.kill(os.getpid(), _signal)
