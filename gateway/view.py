"""All that is known now, built from messages in the order of their topics; what changed since a position. Pure: times are arguments.

Every change gets the next position. `positions` remembers the newest one of each key, in order, so that a reader who was away is told each changed key
once, whatever happened to it meanwhile: values are read when they are sent. What was removed is remembered for a day (`forget`).
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct, ValidationError

from gateway import rows
from gateway.cover import cover
from gateway.movers import Movers
from gateway.rows import Row
from streaming.contracts import AlertFeedback, Driver, Forecast, ProductFacts, TrendAlert, epoch_ms

# A reader that was away for longer starts from a snapshot.
REMEMBERED_MS: Final = 24 * 3_600_000

Outcome = Literal["applied", "older", "unreadable"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("applied", "older", "unreadable")


class Key(NamedTuple):
    """What changed: a product, or an alert, by id."""

    kind: Literal["product", "alert"]
    id: str


class Known:
    """A product that has a forecast."""

    __slots__ = ("_encoded", "key", "raw", "revision", "row")

    def __init__(self, key: Key, revision: tuple[int, int], raw: bytes, row: Row) -> None:
        self.key, self.revision, self.raw, self.row = key, revision, raw, row
        self._encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The row as JSON, made once for all readers."""
        if self._encoded is None:
            self._encoded = _encode(self.row)
        return self._encoded


class Level(NamedTuple):
    """The newest forecast of a category, or of the shop."""

    revision: tuple[int, int]
    category: str | None
    spark: Raw


class AlertItem(Struct, frozen=True, kw_only=True):
    """An alert as readers get it: its newest message, what people said of it, and its product's row."""

    alert_id: str
    product_id: str
    status: str
    kind: str
    severity: str
    title: str
    sequence: int
    starts_at: int
    updated_at: int
    ends_at: int | None
    reason: str | None
    observed: float
    expected: float
    score: float
    drivers: list[Driver]
    valid_until: int
    replay: bool
    runbook: str
    acknowledged_at: int | None
    acknowledged_by: str | None
    row: Raw | None  # None: the product has no forecast


_encode: Final = msgspec.json.Encoder().encode
_forecast: Final = msgspec.json.Decoder(Forecast).decode
_alert: Final = msgspec.json.Decoder(TrendAlert).decode
_facts: Final = msgspec.json.Decoder(ProductFacts).decode
_feedback: Final = msgspec.json.Decoder(AlertFeedback).decode
# Not UTF-8, not JSON, or not the contract; a number too large to be one.
_UNREADABLE: Final = (ValidationError, msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError)


class View:
    """One process's view. Not thread-safe: one event loop writes and reads it."""

    def __init__(self) -> None:
        self.position = 0
        self.floor = 0  # changes up to here may have been forgotten
        self.products: dict[str, Known] = {}
        self.facts: dict[str, ProductFacts] = {}
        self.levels: dict[str, Level] = {}
        self.alerts: dict[str, TrendAlert] = {}  # resolved ones for as long as they are remembered
        self.firing: dict[str, dict[str, None]] = {}  # product → its alerts that fire
        self.feedback: dict[str, AlertFeedback] = {}
        self.movers = Movers()
        self.as_of = 0  # newest event time that any product's forecast knows
        self.oldest_input_at: int | None = None  # of the product's forecast that was applied last
        self.valid_until = 0  # of the forecast that is good for longest
        self.positions: dict[Key, int] = {}
        self._removed: dict[Key, int] = {}  # when, real time
        self._changed: list[Key] = []

    # ---- messages

    def apply_forecast(self, key: str, value: bytes | None, now_ms: int) -> Outcome:
        """A record of `forecasts`; without a value it ends what its key names. `now_ms`: real time."""
        if not value:
            return self._end_forecast(key, now_ms)
        try:
            forecast = _forecast(value)
        except _UNREADABLE:
            return "unreadable"
        if key != forecast.product_id or not _complete(forecast):
            return "unreadable"
        if forecast.level != "product":
            return self._apply_level(forecast)
        known = self.products.get(key)
        if known is not None and forecast.revision < known.revision:
            return "older"
        facts = self.facts.get(key)
        self.products[key] = Known(
            Key("product", key) if known is None else known.key, forecast.revision, one_line(value), rows.row(forecast, facts)
        )
        self.movers.put(forecast, None if facts is None else facts.category)
        self.as_of, self.valid_until = max(self.as_of, forecast.as_of), max(self.valid_until, forecast.valid_until)
        self.oldest_input_at = forecast.oldest_input_at
        self._change(self.products[key].key)
        return "applied"

    def apply_alert(self, value: bytes | None, now_ms: int) -> Outcome:
        """A record of `trend-alerts`."""
        try:
            alert = _alert(value or b"")
        except _UNREADABLE:
            return "unreadable"
        known = self.alerts.get(alert.alert_id)
        if known is not None and _age(alert) < _age(known):
            return "older"
        if alert.status == "resolved":
            self._resolve(alert, now_ms)
        else:
            self.firing.setdefault(alert.product_id, {})[alert.alert_id] = None
            self._removed.pop(Key("alert", alert.alert_id), None)
        self.alerts[alert.alert_id] = alert
        self._change(Key("alert", alert.alert_id))
        return "applied"

    def apply_facts(self, key: str, value: bytes | None) -> Outcome:
        """A record of `product-facts`; without a value nothing is known of the product any more. Heartbeats are not for here."""
        try:
            facts = _facts(value) if value else ProductFacts(product_id=key)
        except _UNREADABLE:
            return "unreadable"
        if facts.product_id != key:
            return "unreadable"
        self.facts[key] = facts
        if not value:
            del self.facts[key]
        known = self.products.get(key)
        if known is not None:
            forecast = _forecast(known.raw)
            self.products[key] = Known(known.key, known.revision, known.raw, rows.row(forecast, self.facts.get(key)))
            self.movers.put(forecast, facts.category)
            self._change(known.key)
        return "applied"

    def apply_feedback(self, key: str, value: bytes | None) -> Outcome:
        """A record of `alert-feedback`; without a value nobody has said anything of the alert."""
        try:
            said = _feedback(value) if value else AlertFeedback(alert_id=key)
        except _UNREADABLE:
            return "unreadable"
        if said.alert_id != key:
            return "unreadable"
        self.feedback[key] = said
        if key in self.alerts:
            self._change(Key("alert", key))
        return "applied"

    # ---- what readers get

    def detail(self, product_id: str) -> bytes | None:
        """JSON of one product: its row, its whole forecast, what the stock means, its alerts; None where it has no forecast."""
        known = self.products.get(product_id)
        if known is None:
            return None
        facts = self.facts.get(product_id)
        answer = _encode(cover(_forecast(known.raw), facts))
        stock_at = _encode(None if facts is None else _ms(facts.stock_at))
        alerts = b",".join(_encode(self.alert(self.alerts[one])) for one in self.firing.get(product_id, ()))
        parts = (
            b'{"row":',
            known.encoded,
            b',"forecast":',
            known.raw,
            b',"cover":',
            answer,
            b',"stock_at":',
            stock_at,
            b',"alerts":[',
            alerts,
            b"]}",
        )
        return b"".join(parts)

    def alert(self, alert: TrendAlert) -> AlertItem:
        """The alert with what belongs to it."""
        said, known = self.feedback.get(alert.alert_id), self.products.get(alert.product_id)
        return AlertItem(
            alert_id=alert.alert_id,
            product_id=alert.product_id,
            status=alert.status,
            kind=alert.kind,
            severity=alert.severity,
            title=alert.title,
            sequence=alert.sequence,
            starts_at=alert.starts_at,
            updated_at=alert.updated_at,
            ends_at=alert.ends_at,
            reason=alert.reason,
            observed=alert.observed,
            expected=alert.expected.mean,
            score=alert.score,
            drivers=alert.drivers,
            valid_until=alert.valid_until,
            replay=alert.replay,
            runbook=alert.runbook,
            acknowledged_at=None if said is None else _ms(said.acknowledged_at),
            acknowledged_by=None if said is None else said.acknowledged_by,
            row=None if known is None else Raw(known.encoded),
        )

    def open_alerts(self) -> Iterator[TrendAlert]:
        """Those that fire."""
        return (self.alerts[one] for ones in self.firing.values() for one in ones)

    def categories(self) -> list[str]:
        """Names that facts give to products with a forecast."""
        return sorted({facts.category for name, facts in self.facts.items() if facts.category and name in self.products})

    # ---- positions

    def changes(self) -> list[Key]:
        """Keys that changed since this was last asked, in order; a key may stand more than once."""
        changed, self._changed = self._changed, []
        return changed

    def since(self, position: int) -> Iterator[Key]:
        """Keys with a newer change, newest first. Only for positions from `floor` to the present one."""
        for key, at in reversed(self.positions.items()):
            if at <= position:
                return
            yield key

    def holds(self, position: int) -> bool:
        """Whether everything after the position is remembered."""
        return self.floor <= position <= self.position

    def forget(self, now_ms: int) -> None:
        """Ends alerts that nobody renewed, and forgets what was removed more than a day of real time ago. Some milliseconds; for every few seconds.

        An alert is dead when the forecasts' own time has passed its `valid_until`: where everything stands still, nothing dies.
        """
        for alert in [alert for alert in self.open_alerts() if alert.valid_until < self.as_of]:
            self._resolve(alert, now_ms)
            self.alerts[alert.alert_id] = msgspec.structs.replace(alert, status="resolved", ends_at=alert.valid_until)
            self._change(Key("alert", alert.alert_id))
        for key in [key for key, at in self._removed.items() if at < now_ms - REMEMBERED_MS]:
            del self._removed[key]
            self.floor = max(self.floor, self.positions.pop(key, 0))
            if key.kind == "alert":
                self.alerts.pop(key.id, None)

    # ---- inside

    def _end_forecast(self, key: str, now_ms: int) -> Outcome:
        self.oldest_input_at = None
        level = self.levels.pop(key, None)
        if level is not None and level.category is not None:
            self.movers.drop_category(level.category)
        known = self.products.pop(key, None)
        if known is not None:
            self.movers.drop(key)
            self._removed[known.key] = now_ms
            self._change(known.key)
        return "applied" if known or level else "older"

    def _apply_level(self, forecast: Forecast) -> Outcome:
        known = self.levels.get(forecast.product_id)
        if known is not None and forecast.revision < known.revision:
            return "older"
        self.oldest_input_at = None
        self.levels[forecast.product_id] = Level(forecast.revision, forecast.category, rows.spark(forecast))
        if forecast.category is not None:
            self.movers.put_category(forecast.category, forecast)
        return "applied"

    def _resolve(self, alert: TrendAlert, now_ms: int) -> None:
        of_product = self.firing.get(alert.product_id, {})
        of_product.pop(alert.alert_id, None)
        if not of_product:
            self.firing.pop(alert.product_id, None)
        self._removed[Key("alert", alert.alert_id)] = now_ms

    def _change(self, key: Key) -> None:
        self.position += 1
        self.positions.pop(key, None)  # to the end: the order of the dictionary is that of positions
        self.positions[key] = self.position
        if key.kind == "product" and key.id in self.products:
            self._removed.pop(key, None)
        self._changed.append(key)


def one_line(value: bytes) -> bytes:
    """JSON without line breaks, which would end a field of a server-sent event.

    >>> one_line(b'{"a":\\n [1]}'), one_line(b'{"a":1}')
    (b'{"a":[1]}', b'{"a":1}')
    """
    return msgspec.json.format(value, indent=-1) if b"\n" in value or b"\r" in value else value


def _complete(forecast: Forecast) -> bool:
    """Whether its parts have the shapes that the contract says."""
    n = len(forecast.levels)
    running = forecast.running
    of_running = [] if running is None else [running.expected_by_now.quantiles, running.expected_step.quantiles]
    return (
        n > 0
        and len(forecast.mean) == forecast.horizon
        and len(forecast.quantiles) == n
        and all(len(of_level) == forecast.horizon for of_level in forecast.quantiles)
        and all(len(of_sum.quantiles) == n for of_sum in forecast.cumulative)
        and all(len(quantiles) == n for quantiles in of_running)
    )


def _age(alert: TrendAlert) -> tuple[int, bool]:
    """Messages of one alert in their order: of equal sequences, the resolution comes last, however often a crash repeats the others."""
    return alert.sequence, alert.status == "resolved"


def _ms(at: int | datetime | None) -> int | None:
    return None if at is None else epoch_ms(at)
