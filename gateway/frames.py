"""Server-sent events: what a frame holds, and where a stream may go on. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.view import Key, View

_encode: Final = msgspec.json.Encoder().encode
# Readers come back after a second, each with a delay of its own.
RETRY_MS: Final = 1_000


def name(epoch: str, position: int) -> str:
    """A position as readers know it. The epoch is the process's: positions of another one say nothing here.

    >>> name("1f", 7)
    '1f-7'
    """
    return f"{epoch}-{position}"


def resume(text: str | None, epoch: str, view: View) -> int | None:
    """The position from which a stream may go on without a hole; None: it needs a new snapshot.

    >>> view = View()
    >>> resume("1f-0", "1f", view), resume("1f-1", "1f", view), resume("2e-0", "1f", view), resume("1f-x", "1f", view)
    (0, None, None, None)
    """
    before, dash, number = (text or "").rpartition("-")
    if not dash or before != epoch or not (number.isascii() and number.isdecimal()) or len(number) > 18:
        return None
    position = int(number)
    return position if view.holds(position) else None


def event(kind: str, event_id: str, data: bytes) -> bytes:
    """One event; `data` is one line.

    >>> event("frame", "1f-7", b"{}")
    b'id: 1f-7\\nevent: frame\\ndata: {}\\n\\n'
    """
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), kind.encode(), data)


def frame(view: View, keys: Iterable[Key], product: str | None, *, about: bytes, board: bytes | None) -> bytes:
    """Data of a frame: the newest values of the changed keys. `about`: JSON members that every frame begins with."""
    rows, alerts, detail = [], [], False
    for key in keys:
        if key.kind == "alert":
            alert = view.alerts.get(key.id)
            if alert is not None:
                alerts.append(_encode(view.alert(alert)))
                detail |= alert.product_id == product
        else:
            known = view.products.get(key.id)
            rows.append(b'{"id":%s,"gone":true}' % _encode(key.id) if known is None else known.encoded)
            detail |= key.id == product
    parts = [b"{", about, b',"rows":[', b",".join(rows), b'],"alerts":[', b",".join(alerts), b"]"]
    if detail and product is not None and (body := view.detail(product)) is not None:
        parts += [b',"product":', body]
    if board is not None:
        parts += [b',"board":', board]
    return b"".join([*parts, b"}"])
