"""Columns to the bytes of Kafka records."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import json

from simulator.events import ABSENT, Events, Kind, Names, Topic
from simulator.faults import spoil

STATUS: Final = {Kind.PLACED: b"placed", Kind.CANCELLED: b"cancelled", Kind.RETURNED: b"returned"}
CLICK: Final = {
    Kind.VIEW: b"view",
    Kind.ADD_TO_CART: b"add_to_cart",
    Kind.REMOVE_FROM_CART: b"remove_from_cart",
    Kind.WISHLIST: b"wishlist",
}

# Most orders carry epoch milliseconds; every so many-th a text with an offset, since shops send both.
RFC3339_EVERY: Final = 16
EAST: Final = timezone(timedelta(hours=5, minutes=30))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in sending order, ready to be sent."""

    topic: int  # Topic, FACTS or CONTEXT
    partition: int
    keys: list[bytes | None]
    values: list[bytes]
    timestamps_ms: list[int]
    heartbeats: Mapping[int, int]  # index → watermark that the heartbeat there declares (its value is empty)

    def __len__(self) -> int:
        return len(self.values)


def rfc3339(ms: int) -> bytes:
    """The moment as RFC 3339 text with milliseconds, in UTC or, every other one, with another offset.

    >>> rfc3339(1_760_000_000_000), rfc3339(1_760_000_000_001)
    (b'2025-10-09T08:53:20.000Z', b'2025-10-09T14:23:20.001+05:30')
    """
    moment = datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
    if ms % 2:
        return moment.astimezone(EAST).isoformat(timespec="milliseconds").encode()
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


class Encoder:
    """Encodes one source's events; keeps the quoted names."""

    def __init__(self, names: Names) -> None:
        self._products = [json.encode(product_id) for product_id in names.product_ids]
        self._order_ids = None if names.order_ids is None else [json.encode(order_id) for order_id in names.order_ids]
        self._currency = b"" if names.currency is None else b'"currency":"%b",' % names.currency.encode()
        self._sessions = names.sessions

    def batches(self, topic: Topic, events: Events, partition: npt.NDArray[np.int64]) -> list[Batch]:
        """Batches of records that are sorted by `partition`, shape (n,)."""
        values = self._orders(events) if topic is Topic.ORDERS else self._clicks(events)
        for record in np.flatnonzero(events.fault).tolist():
            values[record] = spoil(topic, int(events.fault[record]), values[record])
        beats = np.flatnonzero(events.kind == Kind.HEARTBEAT)
        keys: list[bytes | None] = [b"c%d" % key for key in events.key.tolist()]
        for record in beats.tolist():
            keys[record] = None
        sent = events.send_ms.tolist()
        sources, starts = np.unique(partition, return_index=True)
        batches = []
        edges = pairwise([*starts.tolist(), len(events)])
        for source, (start, end) in zip(sources.tolist(), edges, strict=True):
            mine = beats[(beats >= start) & (beats < end)]
            declared = dict(zip((mine - start).tolist(), events.event_ms[mine].tolist(), strict=True))
            batches.append(Batch(topic, source, keys[start:end], values[start:end], sent[start:end], declared))
        return batches

    def _clicks(self, events: Events) -> list[bytes]:
        silent = events.lines == 0  # heartbeats
        line = np.minimum(np.cumsum(events.lines) - events.lines, max(len(events.product) - 1, 0))
        products = [self._products[i] for i in (events.product[line] if len(events.product) else np.zeros(len(events), np.int64)).tolist()]
        kinds = [CLICK.get(kind, b"") for kind in map(Kind, range(len(Kind)))]
        rows = zip(events.event_ms.tolist(), [kinds[kind] for kind in events.kind.tolist()], products, events.key.tolist(), strict=True)
        if self._sessions:
            values = [b'{"event_time":%d,"type":"%b","product_id":%b,"session_id":"s%d"}' % row for row in rows]
        else:
            values = [b'{"event_time":%d,"type":"%b","product_id":%b}' % row[:3] for row in rows]
        for record in np.flatnonzero(silent).tolist():
            values[record] = b""
        return values

    def _orders(self, events: Events) -> list[bytes]:
        items = [
            b'{"product_id":%b,"quantity":%b,"unit_price":%b}' % row
            for row in zip(
                [self._products[i] for i in events.product.tolist()],
                [_quantity(thousandths) for thousandths in events.quantity.tolist()],
                [b"%a" % price for price in events.price.tolist()],
                strict=True,
            )
        ]
        ends = np.cumsum(events.lines).tolist()
        values: list[bytes] = []
        start = 0
        columns = (
            events.kind.tolist(),
            events.number.tolist(),
            events.event_ms.tolist(),
            events.placed_ms.tolist(),
            events.key.tolist(),
            ends,
        )
        for kind, number, event_ms, placed_ms, key, end in zip(*columns, strict=True):
            if kind == Kind.HEARTBEAT:
                values.append(b"")
                continue
            status = STATUS[kind]
            order_id = self._order_ids[number] if self._order_ids is not None else b'"o%d"' % number
            time = b"%d" % event_ms if number % RFC3339_EVERY else b'"%b"' % rfc3339(event_ms)
            placed = b"" if placed_ms == ABSENT else b'"placed_at":%d,' % placed_ms
            values.append(
                b'{"event_id":"%b%d","order_id":%b,"event_time":%b,%b"status":"%b","customer_id":"c%d",%b"items":[%b]}'
                % (status[:1], number, order_id, time, placed, status, key, self._currency, b",".join(items[start:end]))
            )
            start = end
        return values


def _quantity(thousandths: int) -> bytes:
    whole, rest = divmod(thousandths, 1000)
    return b"%d" % whole if not rest else b"%d.%03d" % (whole, rest)
