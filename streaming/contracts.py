"""What goes over each topic: one struct a message, with its limits in the types, and how it is encoded.

Values are JSON in UTF-8; readers ignore fields that they do not know, and a breaking change gets a new `schema` number. Times that we send
are epoch milliseconds, UTC; times that we read may also be RFC 3339 with an offset. Not-a-number and infinity never leave (`encode`).
JSON Schemas are made from these structs (`streaming.schemas`).
"""

import functools
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

Headers = list[tuple[str, bytes]]

# --- limits ---
MAX_ID_BYTES: Final = 128
MIN_QUANTITY: Final = 1.0
MAX_QUANTITY: Final = 1e6
MAX_PRICE: Final = 1e9
# Sums of money are exact below 2**53 ten-thousandths (9e11 of the currency): no single line may take more than a ninth of that.
MAX_LINE_AMOUNT: Final = 1e11
# An order is one atomic call per shard of at most about 2,000 cells, and is never cut.
MAX_ITEMS: Final = 1000
# Promotions under way and planned; a shop that plans more of one product at once is mistaken.
MAX_PROMOTIONS: Final = 64
MAX_LEAD_STEPS: Final = 10_000
# Below lie epoch seconds, sent by mistake (1e10 s is the year 2286); above the years that RFC 3339 can't write.
MIN_TIME_MS: Final = 10_000_000_000
MAX_TIME_MS: Final = 253_402_300_799_999

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)

# --- types of fields ---
# Control characters (Unicode's Cc), found anywhere; without `$`, which in Python also matches before a final line feed.
NO_CONTROL_CHARACTERS: Final = r"^(?![\s\S]*[\u0000-\u001f\u007f-\u009f])"
Id = Annotated[
    str,
    # At most 128 bytes of UTF-8 are at most 128 characters; the bytes are counted by the readers.
    Meta(
        min_length=1,
        max_length=MAX_ID_BYTES,
        pattern=NO_CONTROL_CHARACTERS,
        description="1 to 128 bytes of UTF-8 without control characters",
    ),
]
EpochMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS, description="epoch milliseconds, UTC")]
# A time that we read. `epoch_ms` makes one kind of both.
TimeIn = (
    Annotated[int, Meta(ge=MIN_TIME_MS, le=MAX_TIME_MS, description="epoch milliseconds, UTC")]
    | Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset")]
)
Quantity = Annotated[float, Meta(ge=MIN_QUANTITY, le=MAX_QUANTITY, description="units; three decimals are kept, half to even")]
Price = Annotated[float, Meta(ge=0, le=MAX_PRICE, description="of one unit, in the order's currency")]
Currency = Annotated[str, Meta(min_length=3, max_length=3, pattern="^[A-Z]{3}", description="ISO 4217")]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Level = Annotated[float, Meta(gt=0, lt=1)]
Text = Annotated[str, Meta(max_length=1000)]

OrderStatus = Literal["placed", "cancelled", "returned"]
ClickType = Literal["view", "add_to_cart", "remove_from_cart", "wishlist"]
ForecastKind = Literal["close", "nowcast"]
ForecastLevel = Literal["product", "category", "shop"]
Quality = Literal["ok", "gap", "late", "cold_start"]
Direction = Literal["rising", "flat", "falling"]
AlertStatus = Literal["firing", "resolved"]
AlertKind = Literal["spike", "drop"]
Volume = Literal["slow", "medium", "fast", "all"]
Drifted = Literal["loss", "bias", "coverage"]
Severity = Literal["warning", "critical"]
ResolveReason = Literal["recovered", "silence", "stock_out", "evicted", "model_changed"]


# --- read: what the shop sends ---
class OrderItem(Struct, frozen=True, kw_only=True):
    """One line of an order. A line may be worth at most 10¹¹ of its currency."""

    product_id: Id
    quantity: Quantity
    unit_price: Price


class Order(Struct, frozen=True, kw_only=True):
    """What happened to (a part of) an order: a fact, not a snapshot. The same `event_id` counts once within the deduplication window."""

    event_id: Id
    order_id: Id
    event_time: TimeIn
    status: OrderStatus
    items: Annotated[list[OrderItem], Meta(min_length=1, max_length=MAX_ITEMS)]
    placed_at: TimeIn | None = None  # of a cancellation: when the order had been placed
    customer_id: Id | None = None  # personal data: never stored, logged or published
    currency: Currency | None = None  # None: the namespace's


class Click(Struct, frozen=True, kw_only=True):
    """What a visitor did with a product. Not deduplicated."""

    event_time: TimeIn
    type: ClickType
    product_id: Id
    event_id: Id | None = None
    session_id: Id | None = None  # personal data: not read at all
    customer_id: Id | None = None  # personal data: not read at all


class Promotion(Struct, frozen=True, kw_only=True):
    """A price cut in `[start, end)`, known ahead."""

    start: TimeIn
    end: TimeIn
    discount: Annotated[float, Meta(ge=0, le=1, description="fraction of the price")]


class ProductFacts(Struct, frozen=True, kw_only=True):
    """What the shop knows of a product; key = product. It holds from the record's Kafka timestamp on, until the next one replaces all of it."""

    product_id: Id
    title: Text | None = None
    category: Id | None = None
    unit_price: Annotated[Price, Meta(description="of one unit before any promotion")] | None = None
    promotions: Annotated[list[Promotion], Meta(max_length=MAX_PROMOTIONS)] = []
    stock: Annotated[float, Meta(ge=0, description="units at hand")] | None = None
    stock_at: TimeIn | None = None
    lead_time_steps: Annotated[int, Meta(ge=1, le=MAX_LEAD_STEPS)] | None = None


class Context(Struct, frozen=True, kw_only=True):
    """A value in `[start, end)` of a named series that is no product's: weather, advertising, a market index; key = series."""

    series: Id
    start: TimeIn
    end: TimeIn
    value: float
    known_future: bool
    scope: Id | None = None  # a shop or a category; None: everything


class AlertFeedback(Struct, frozen=True, kw_only=True):
    """What people say of an alert; key = alert_id. The newest message is all that is said; who changes a part repeats the others."""

    alert_id: Id
    acknowledged_by: Id | None = None  # a name; acknowledged or not is told by the time
    acknowledged_at: TimeIn | None = None  # real time; None: nobody takes care of it
    verdict: bool | None = None  # whether the alert was right
    note: Text | None = None


# --- sent: what trendcast says ---
class Doorbell(Struct, frozen=True, kw_only=True):
    """Something changed in a shard (the partition is the shard); carries no data, so losing one costs at most a second."""

    shard: Count
    sequence: Count  # the shard's newest: the sum of its counted offsets
    oldest_sent_at: EpochMs  # real time at which the oldest event behind this doorbell was sent
    schema: Literal[1] = 1


class Driver(Struct, frozen=True, kw_only=True):
    """One reason for an alert or a forecast: how many units more (or fewer) there are because of it."""

    name: Text  # traffic, cart_rate, …: docs/alerts.md
    effect: float


class Expected(Struct, frozen=True, kw_only=True):
    """A predicted quantity; `quantiles[i]` belongs to the message's `levels[i]`."""

    mean: float
    quantiles: list[float]


class Cumulative(Struct, frozen=True, kw_only=True):
    """Demand summed over the `steps` steps from `first_step` on, predicted as a sum: its quantiles are not sums of the marginal ones."""

    steps: Positive
    mean: float
    quantiles: list[float]


class Running(Struct, frozen=True, kw_only=True):
    """The step that is under way at `as_of`: the one that starts at `first_step`."""

    elapsed_ms: Count
    observed: float  # units so far
    expected_by_now: Expected
    expected_step: Expected  # of the whole step, given what was observed


class Recent(Struct, frozen=True, kw_only=True):
    """Units of past steps, oldest first, beginning with the step that starts at `first_step`; null: not known (a gap), never zero."""

    first_step: EpochMs
    demand: list[float | None]


class Trend(Struct, frozen=True, kw_only=True):
    """Where demand is going: `strength` is the relative change, 0.5 for half as much again."""

    direction: Direction
    strength: float
    drivers: list[Driver]  # empty: told on demand (`trendcast explain`), as they cost some hundred forecasts


class ModelName(Struct, frozen=True, kw_only=True):
    """Which model spoke."""

    name: Text
    version: Text


class Forecast(Struct, frozen=True, kw_only=True):
    """Demand of one product, in units; key = product. An empty value (a tombstone) says that the product is forgotten.

    Where `level` is not product: demand of a category or of the whole shop after a closed step; key = `product_id` = `level/shop`, or `level/category/`
    and the category. Its means are the sums of its products' after that step, its quantiles its own.

    Readers keep the message with the greatest `revision`, of equals the later one. Step `h` of `horizon` covers
    `[first_step + h·step_ms, first_step + (h + 1)·step_ms)`.
    """

    product_id: Id
    revision: tuple[int, int]  # (step index, shard sequence)
    kind: ForecastKind
    as_of: EpochMs  # event time up to which events are in it
    complete_through: EpochMs  # end of the last closed step: nothing before it is awaited
    issued_at: EpochMs  # the clock's time when it was made
    valid_until: EpochMs  # past it the forecast is stale, whatever the reason
    step_ms: Positive
    first_step: EpochMs  # start of the first predicted step: the one under way, where one is; mean[0] is its whole expected demand then
    horizon: Positive
    mean: list[float]  # (horizon,)
    levels: list[Level]
    quantiles: list[list[float]]  # (levels, horizon)
    cumulative: list[Cumulative]
    running: Running | None  # None: no step is under way
    recent: Recent
    trend: Trend
    model: ModelName
    quality: Quality
    oldest_input_at: EpochMs | None  # real time at which its oldest new event was sent; None: no new event is in it
    level: ForecastLevel = "product"
    category: Text | None = None  # of the level category: its name
    schema: Literal[1] = 1


class Window(Struct, frozen=True, kw_only=True):
    """`[start, end)` in event time."""

    start: EpochMs
    end: EpochMs


class TrendAlert(Struct, frozen=True, kw_only=True):
    """One state of an alert; key = product.

    `alert_id` names one alert from its first message to its resolution; of two messages of it, the one with the greater `sequence` is the
    newer. While it fires it is sent again before `valid_until`, past which a reader may take it for dead. A `replay` never pages anybody.
    """

    alert_id: Id  # hash of fingerprint and starts_at
    fingerprint: Id  # hash of kind and product: the same trouble, whenever it comes
    sequence: Count  # tile index
    status: AlertStatus
    kind: AlertKind
    severity: Severity
    title: Text
    product_id: Id
    starts_at: EpochMs
    updated_at: EpochMs
    ends_at: EpochMs | None = None  # resolved
    reason: ResolveReason | None = None  # resolved
    window: Window
    observed: float  # units placed in the window, cancelled since or not
    levels: list[Level]
    expected: Expected  # units in the window
    score: float
    drivers: list[Driver]  # greatest effect first; they add up to observed minus the expected mean
    valid_until: EpochMs
    model: ModelName
    replay: bool  # decided more than 15 minutes after its window
    runbook: Text
    schema: Literal[1] = 1


class VolumeScores(Struct, frozen=True, kw_only=True):
    """How good forecasts were of the products of one volume class, as published."""

    volume: Volume  # typical demand per step when it was forecast; all: of every class
    outcomes: Positive  # steps of products that a forecast on trial had spoken of
    demand: float  # units in them
    mwql: float | None  # weighted quantile loss, mean over the levels .1, .5 and .9; null: nothing was sold
    bias: float | None  # mean error relative to demand, negative: too low; null: nothing was sold
    below: list[float]  # by level: share of outcomes below the quantile
    at_most: list[float]  # by level: share at or below it; a level is met where it lies between the two
    naive_mwql: float | None = None  # the same of the naive forecast: what was sold a day (of daily steps: a week) before
    drift: list[Drifted] = []  # what has left its usual course of the last four weeks by the end of the day
    alerts_held: bool = (
        False  # no alert begins on the day after this one: forecasts lost too much against the naive one; all: in some class
    )


class ForecastScores(Struct, frozen=True, kw_only=True):
    """What came, in one day, of the forecasts of one shard's products; key = shard. Sent once its last step has closed.

    With `shadow`: of forecasts that a challenger made beside the model that serves, and that nobody else has seen; key = shard/version.
    """

    shard: Count
    start: EpochMs  # of the day, UTC
    end: EpochMs
    model: ModelName
    levels: list[Level]
    volumes: list[VolumeScores]  # those with outcomes
    shadow: bool = False
    schema: Literal[1] = 1


Message = Order | Click | ProductFacts | Context | AlertFeedback | Doorbell | Forecast | TrendAlert | ForecastScores

# CloudEvents' `type`; its version is the message's `schema`.
CE_TYPES: Final[dict[type[Struct], str]] = {
    Order: "trendcast.order.v1",
    Click: "trendcast.click.v1",
    ProductFacts: "trendcast.product-facts.v1",
    Context: "trendcast.context.v1",
    AlertFeedback: "trendcast.alert-feedback.v1",
    Doorbell: "trendcast.product-update.v1",
    Forecast: "trendcast.forecast.v1",
    TrendAlert: "trendcast.trend-alert.v1",
    ForecastScores: "trendcast.forecast-scores.v1",
}
CE_DEAD_LETTER: Final = "trendcast.dead-letter.v1"

# --- headers that we read ---
SENT_AT: Final = "sent_at"  # real time of sending, ASCII decimal epoch ms; without it the Kafka timestamp
WATERMARK: Final = "watermark"  # on an empty value, a heartbeat: every event before this time (ASCII decimal epoch ms) has been sent

CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_encoder: Final = msgspec.json.Encoder()


class UnencodableValue(ValueError):
    """A message that must not be sent: it holds a number that is not finite, or something that JSON can't hold. Names the field, not the value."""


def epoch_ms(time: int | datetime) -> int:
    """Epoch milliseconds, rounded down.

    >>> epoch_ms(datetime.fromisoformat("2025-10-09T10:53:20.0019+02:00")), epoch_ms(1_760_000_000_001)
    (1760000000001, 1760000000001)
    """
    return time if isinstance(time, int) else (time - _EPOCH) // _MS


def valid_id(text: str) -> bool:
    """Whether the text may be an id: 1 to 128 bytes of UTF-8, no control characters.

    >>> valid_id("SKU-1"), valid_id(""), valid_id("ä" * 64), valid_id("ä" * 65), valid_id("a\\n")
    (True, False, True, False, False)
    """
    return 0 < len(text) <= MAX_ID_BYTES and (text.isascii() or _utf8_length(text) <= MAX_ID_BYTES) and not CONTROL.search(text)


def valid_currency(text: str | None) -> bool:
    """Whether the text, if there is one, looks like a currency of ISO 4217.

    >>> valid_currency("EUR"), valid_currency(None), valid_currency("eur"), valid_currency("ÄÖÜ")
    (True, True, False, False)
    """
    return text is None or (len(text) == 3 and text.isascii() and text.isalpha() and text.isupper())


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair: no UTF-8 says it
        return MAX_ID_BYTES + 1


def encode(message: Message, *, finite: bool = False) -> bytes:
    """The message's value. `finite`: the caller knows that all its numbers are. Raises UnencodableValue.

    >>> encode(Doorbell(shard=3, sequence=10, oldest_sent_at=5))
    b'{"shard":3,"sequence":10,"oldest_sent_at":5,"schema":1}'
    """
    try:
        value = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnencodableValue(f"{type(message).__name__} holds something that JSON can't ({type(error).__name__})") from None
    # msgspec writes a float that is not finite as null: where there is none, there is nothing to look for.
    if not finite and b"null" in value and (path := next(_not_finite(message, type(message).__name__), None)):
        raise UnencodableValue(f"{path} is not a finite number")
    return value


def _not_finite(value: object, path: str) -> Iterator[str]:
    """Paths of the floats that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, list | tuple):
        for i, element in enumerate(value):
            yield from _not_finite(element, f"{path}[{i}]")
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _not_finite(getattr(value, name), f"{path}.{name}")


def cloud_event(kind: type[Struct] | str, *, id: str, source: str, time_ms: int) -> Headers:  # noqa: A002 - CloudEvents' own word
    """Headers of a CloudEvent in Kafka's binary mode: `id` is unique within `source`, and the same when the message is repeated.

    >>> dict(cloud_event(Doorbell, id="7/42", source="/trendcast/shop", time_ms=1_760_000_000_001))["ce_time"]
    b'2025-10-09T08:53:20.001Z'
    """
    return [("ce_id", _utf8(id)), *_shared_headers(kind, source, time_ms)]


@functools.lru_cache(maxsize=128)  # the messages of one batch share their time
def _shared_headers(kind: type[Struct] | str, source: str, time_ms: int) -> tuple[tuple[str, bytes], ...]:
    """All but the id."""
    name = kind if isinstance(kind, str) else CE_TYPES[kind]
    headers = {"ce_specversion": "1.0", "ce_type": name, "ce_source": source, "ce_time": rfc3339(time_ms)}
    if not isinstance(kind, str):
        headers["content-type"] = "application/json"
    return tuple((key, _utf8(value)) for key, value in headers.items())


def rfc3339(time_ms: int) -> str:
    """UTC with milliseconds. Times that RFC 3339 can't write (Kafka timestamps may be anything) become the nearest that it can.

    >>> rfc3339(0), rfc3339(10**18), rfc3339(-1)
    ('1970-01-01T00:00:00.000Z', '9999-12-31T23:59:59.999Z', '1970-01-01T00:00:00.000Z')
    """
    time = _EPOCH + timedelta(milliseconds=min(max(time_ms, 0), MAX_TIME_MS))
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def forecast_headers(forecast: Forecast, source: str) -> Headers:
    """CloudEvents headers of a forecast; its id is the product and the revision."""
    step, sequence = forecast.revision
    return cloud_event(Forecast, id=f"{forecast.product_id}/{step}/{sequence}/{forecast.kind}", source=source, time_ms=forecast.issued_at)


def alert_headers(alert: TrendAlert, source: str) -> Headers:
    """CloudEvents headers of an alert's message; its id is the alert, its sequence and its status."""
    return cloud_event(TrendAlert, id=f"{alert.alert_id}/{alert.sequence}/{alert.status}", source=source, time_ms=alert.updated_at)


def scores_headers(scores: ForecastScores, source: str) -> Headers:
    """CloudEvents headers of a day's scores; its id is the shard, the day and the model, and whether that was in shadow."""
    name = f"{scores.shard}/{scores.start}/{scores.model.version}{'/shadow' if scores.shadow else ''}"
    return cloud_event(ForecastScores, id=name, source=source, time_ms=scores.end)


def feedback_headers(feedback: AlertFeedback, source: str, time_ms: int) -> Headers:
    """CloudEvents headers of what somebody said of an alert at `time_ms`, real time; its id is the alert and that time."""
    return cloud_event(AlertFeedback, id=f"{feedback.alert_id}/{time_ms}", source=source, time_ms=time_ms)


def doorbell_headers(doorbell: Doorbell, source: str) -> Headers:
    """CloudEvents headers of a doorbell; its id is the shard and its sequence."""
    return cloud_event(Doorbell, id=f"{doorbell.shard}/{doorbell.sequence}", source=source, time_ms=doorbell.oldest_sent_at)


def _utf8(value: object) -> bytes:
    return str(value).encode("utf-8", "backslashreplace")
