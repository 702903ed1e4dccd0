"""Alert messages, scores and tombstones: stored with the state that they follow from, sent until the broker has confirmed them."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client import Counter

from feature_store.store import FeatureStore
from models.alert_messages import Alert
from models.alerts import Action
from streaming import metrics
from streaming.contracts import ForecastScores, ModelName, alert_headers, encode, scores_headers
from streaming.failpoints import failpoint
from streaming.messages import trend_alert
from streaming.settings import Settings
from streaming.transport import Outgoing

# A firing alert is re-sent within an hour of its tiles; one that was not is orphaned.
VALID_UPDATES: Final = 2

SCORES: Final = "scores"
_STATUS: Final = {Action.FIRE: "firing", Action.UPDATE: "updated", Action.RESOLVE: "resolved"}

Send = Callable[[Iterable[Outgoing]], Awaitable[None]]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One message as it lies in the outbox."""

    order: int  # tile index: messages of a product leave in this order
    topic: str
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]
    labels: tuple[str, str]  # of the metric: kind (or SCORES) and status


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class Outbox:
    """Of all shards of one process."""

    def __init__(self, settings: Settings, store: FeatureStore, model: ModelName, send: Send) -> None:
        self._settings, self._store, self._model, self._send = settings, store, model, send
        self._source = f"/trendcast/{settings.namespace}"

    def of_alerts(self, alerts: Sequence[Alert], levels: Sequence[float], update_tiles: int, now_ms: int | None) -> dict[str, bytes]:
        """Entries by id: alert, sequence and status, the same whenever they are made again."""
        valid_for_ms = VALID_UPDATES * update_tiles * self._settings.tile_ms
        entries = {}
        for alert in alerts:
            message = trend_alert(alert, levels, self._model, now_ms=now_ms, valid_for_ms=valid_for_ms)
            labels = (alert.kind.value, _STATUS[alert.action])
            entries[f"{message.alert_id}/{message.sequence}/{message.status}"] = _encode(
                Entry(
                    alert.sequence,
                    self._settings.alerts_topic,
                    message.product_id.encode(),
                    encode(message),
                    alert_headers(message, self._source),
                    labels,
                )
            )
        return entries

    def tombstone(self, product: str, order: int) -> dict[str, bytes]:
        """The entry that tells readers of forecasts that the product is forgotten."""
        entry = Entry(order, self._settings.forecasts_topic, product.encode(), None, [], ("tombstone", ""))
        return {f"tombstone/{product}/{order}": _encode(entry)}

    def of_scores(self, scores: Sequence[ForecastScores]) -> dict[str, bytes]:
        """Entries by id: shard, day and model."""
        return {
            f"scores/{s.shard}/{s.start}/{s.model.version}": _encode(
                Entry(
                    s.end // self._settings.tile_ms,
                    self._settings.scores_topic,
                    str(s.shard).encode(),
                    encode(s),
                    scores_headers(s, self._source),
                    (SCORES, ""),
                )
            )
            for s in scores
        }

    async def flush(self, shard: int, token: str) -> None:
        """Send what the store says is owed, and settle it."""
        await self.send(shard, token, await self._store.outbox(shard))

    async def send(self, shard: int, token: str, entries: Mapping[str, bytes]) -> None:
        """Send these entries in order, and settle them once the broker has confirmed them all."""
        if not entries:
            return
        decoded = sorted((_decode(value) for value in entries.values()), key=lambda entry: entry.order)
        await self._send(Outgoing(e.topic, e.key, e.value, headers=tuple(e.headers)) for e in decoded)
        failpoint("forecast.outbox_sent")
        counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        for entry in decoded:
            counts[entry.labels] += 1
        for labels, n in counts.items():
            _counter(*labels).inc(n)
        await self._store.settle(shard, token, (), entries)


def _counter(kind: str, status: str) -> Counter:
    if kind == SCORES:
        return metrics.FORECAST_SCORES
    return metrics.FORECAST_ALERTS.labels(kind, status) if status else metrics.FORECAST_PUBLISHED.labels(kind)
