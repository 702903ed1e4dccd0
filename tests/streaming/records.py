"""Records as a consumer hands them out, good messages to start from, and batches as plain rows to compare."""

import json
from collections.abc import Iterable
from typing import Any

from aiokafka.structs import ConsumerRecord

from feature_store.events import EventBatch, Kind
from streaming.contracts import (
    AlertFeedback,
    Click,
    Context,
    Cumulative,
    Doorbell,
    Driver,
    Expected,
    Forecast,
    ForecastScores,
    Message,
    ModelName,
    Order,
    OrderItem,
    ProductFacts,
    Promotion,
    Recent,
    Running,
    Trend,
    TrendAlert,
    VolumeScores,
    Window,
)

NOW_MS = 1_760_000_000_000

Row = tuple[int, int, int, int, int, bool, tuple[tuple[str, Kind, float, float], ...]]


def record(
    value: bytes | None, offset: int = 0, *, timestamp_ms: int = NOW_MS, headers: Iterable[tuple[str, bytes]] = (), key: bytes | None = b"k"
) -> Any:
    """A record of `orders`, partition 3."""
    return ConsumerRecord("orders", 3, offset, timestamp_ms, 0, key, value, None, len(key or b""), len(value or b""), tuple(headers))


def records(values: Iterable[bytes | None]) -> list[Any]:
    """Records with offsets 100, 101, …"""
    return [record(value, 100 + i, timestamp_ms=NOW_MS + i) for i, value in enumerate(values)]


def order(**changes: Any) -> dict[str, Any]:
    """A good order."""
    item = {"product_id": "SKU-1", "quantity": 2, "unit_price": 9.99}
    good = {"event_id": "e-1", "order_id": "o-1", "event_time": NOW_MS, "status": "placed", "customer_id": "c-1", "items": [item]}
    return good | changes


def item(**changes: Any) -> dict[str, Any]:
    """A good line of an order."""
    return {"product_id": "SKU-2", "quantity": 1, "unit_price": 0.5} | changes


def click(**changes: Any) -> dict[str, Any]:
    """A good click."""
    return {"event_time": NOW_MS, "type": "view", "product_id": "SKU-1", "session_id": "s-1"} | changes


def dump(document: object) -> bytes:
    """JSON in UTF-8, NaN and infinity as JavaScript's words."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def rows(batch: EventBatch) -> list[Row]:
    """One row a record: offset, timestamp, sent at, event time, placed at, heartbeat, and its lines. Hashes have tests of their own."""
    lines: list[list[tuple[str, Kind, float, float]]] = [[] for _ in range(len(batch))]
    for i, product, kind, quantity, amount in zip(
        batch.record.tolist(), batch.product.tolist(), batch.kind.tolist(), batch.quantity.tolist(), batch.amount.tolist(), strict=True
    ):
        lines[i].append((batch.product_ids[product], Kind(kind), quantity, amount))
    columns = (batch.offset, batch.timestamp_ms, batch.sent_at_ms, batch.event_time_ms, batch.placed_at_ms, batch.heartbeat)
    return [(*row, tuple(lines[i])) for i, row in enumerate(zip(*(column.tolist() for column in columns), strict=True))]


def forecast() -> Forecast:
    """A nowcast of two steps and three levels."""
    hour_ms = 3_600_000
    step = NOW_MS // hour_ms
    expected = Expected(mean=2.0, quantiles=[1.0, 2.0, 3.0])
    return Forecast(
        product_id="SKU-ä",
        revision=(step - 1, 10),
        kind="nowcast",
        as_of=NOW_MS,
        complete_through=step * hour_ms,
        issued_at=NOW_MS + 1,
        valid_until=NOW_MS + 2 * hour_ms,
        step_ms=hour_ms,
        first_step=(step + 1) * hour_ms,
        horizon=2,
        mean=[2.5, 1.5],
        levels=[0.05, 0.5, 0.95],
        quantiles=[[0.0, 0.0], [2.0, 1.0], [6.0, 4.0]],
        cumulative=[Cumulative(steps=168, mean=300.0, quantiles=[200.0, 300.0, 400.0])],
        running=Running(elapsed_ms=600_000, observed=1.0, expected_by_now=expected, expected_step=expected),
        recent=Recent(first_step=(step - 2) * hour_ms, demand=[1.0, None]),
        trend=Trend(direction="rising", strength=0.25, drivers=[]),
        model=ModelName(name="lstm", version="1"),
        quality="ok",
        oldest_input_at=None,
    )


def alert() -> TrendAlert:
    """A spike that fires."""
    return TrendAlert(
        alert_id="a1",
        fingerprint="f1",
        sequence=NOW_MS // 300_000,
        status="firing",
        kind="spike",
        severity="critical",
        title="Demand of SKU-ä is three times what was expected",
        product_id="SKU-ä",
        starts_at=NOW_MS - 600_000,
        updated_at=NOW_MS,
        window=Window(start=NOW_MS - 600_000, end=NOW_MS),
        observed=30.0,
        levels=[0.05, 0.5, 0.95],
        expected=Expected(mean=10.0, quantiles=[5.0, 10.0, 16.0]),
        score=7.5,
        drivers=[Driver(name="traffic", effect=-0.5)],
        valid_until=NOW_MS + 600_000,
        model=ModelName(name="lstm", version="1"),
        replay=False,
        runbook="docs/alerts.md",
    )


def scores() -> ForecastScores:
    """A day of a shard in which one class sold nothing."""
    silent = VolumeScores(volume="slow", outcomes=24, demand=0.0, mwql=None, bias=None, below=[0.0, 0.0], at_most=[1.0, 1.0])
    fast = VolumeScores(volume="fast", outcomes=48, demand=90.5, mwql=0.4, bias=-0.1, below=[0.4, 0.8], at_most=[0.5, 0.95])
    day = 20_000 * 86_400_000
    return ForecastScores(
        shard=3, start=day, end=day + 86_400_000, model=ModelName(name="lstm", version="1"), levels=[0.5, 0.9], volumes=[silent, fast]
    )


# One message of every contract.
EXAMPLES: list[Message] = [
    Order(
        event_id="e-1",
        order_id="o-1",
        event_time=NOW_MS,
        status="placed",
        items=[OrderItem(product_id="SKU-ä", quantity=2.0, unit_price=9.99)],
        currency="EUR",
    ),
    Click(event_time=NOW_MS, type="view", product_id="SKU-ä"),
    ProductFacts(
        product_id="SKU-ä", title="Kettle", promotions=[Promotion(start=NOW_MS, end=NOW_MS + 1, discount=0.2)], stock=5.0, stock_at=NOW_MS
    ),
    Context(series="rain", start=NOW_MS, end=NOW_MS + 1, value=-1.5, known_future=True),
    AlertFeedback(alert_id="a1", acknowledged_by="kim", acknowledged_at=NOW_MS, verdict=True, note="a blogger"),
    Doorbell(shard=3, sequence=10, oldest_sent_at=NOW_MS),
    forecast(),
    alert(),
    scores(),
]
