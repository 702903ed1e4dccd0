"""Pages of products and alerts, by keyset cursors: a page begins behind the last row of the one before, whatever changed meanwhile. Pure."""

import base64
import binascii
import heapq
import json
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from gateway.rows import Row
from gateway.view import AlertItem

T = TypeVar("T")
Place = tuple[Any, ...]  # where a row stands in its order; the last part is its id

ProductOrder = Literal["-risk", "-trend", "trend", "cover", "-ahead", "title", "id"]


class UnknownCursor(ValueError):
    """A cursor that was not made by this order; begin without one."""


class Page(msgspec.Struct, Generic[T]):
    """Some rows, and where the next ones begin; None: there are no more."""

    items: list[T]
    next: str | None


def _falling(value: float | None) -> Place:
    return (value is None, -(value or 0.0))


def _rising(value: float | None) -> Place:
    return (value is None, value or 0.0)


_PRODUCTS: Final[dict[ProductOrder, Callable[[Row], Place]]] = {
    "-risk": lambda row: (*_falling(row.risk), row.id),
    "-trend": lambda row: (*_falling(row.trend), row.id),
    "trend": lambda row: (*_rising(row.trend), row.id),
    "cover": lambda row: (*_rising(row.cover_steps), row.id),
    "-ahead": lambda row: (*_falling(row.ahead), row.id),
    "title": lambda row: (row.title.casefold(), row.id),
    "id": lambda row: (row.id,),
}


def products(rows: Iterable[Row], order: ProductOrder, limit: int, cursor: str | None) -> Page[Row]:
    """A page of rows. Raises UnknownCursor."""
    return _page(rows, _PRODUCTS[order], order, limit, cursor)


def urgency(item: AlertItem, risk: float | None) -> Place:
    """Not acknowledged first, then critical, then the value at risk, then the newest."""
    return (item.acknowledged_at is not None, item.severity != "critical", -(risk or 0.0), -item.starts_at, item.alert_id)


def alerts(items: Iterable[AlertItem], place: Callable[[AlertItem], Place], limit: int, cursor: str | None) -> Page[AlertItem]:
    """A page of alerts. Raises UnknownCursor."""
    return _page(items, place, "alerts", limit, cursor)


def matches(row: Row, text: str) -> bool:
    """Whether a search for the text finds the row, by title or id, whatever the case."""
    wanted = text.casefold()
    return wanted in row.title.casefold() or wanted in row.id.casefold()


def _page(rows: Iterable[T], place: Callable[[T], Place], order: str, limit: int, cursor: str | None) -> Page[T]:
    behind = None if cursor is None else _read(cursor, order)
    try:
        found = heapq.nsmallest(limit + 1, (row for row in rows if behind is None or place(row) > behind), key=place)
    except TypeError:
        raise UnknownCursor("the cursor is of another order") from None
    more = len(found) > limit
    return Page(found[:limit], _write(order, place(found[limit - 1])) if more else None)


def _write(order: str, place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps([order, *place]).encode()).decode().rstrip("=")


def _read(cursor: str, order: str) -> Place:
    try:
        made_for, *place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise UnknownCursor("the cursor cannot be read") from None
    if made_for != order:
        raise UnknownCursor("the cursor is of another order")
    return tuple(place)
