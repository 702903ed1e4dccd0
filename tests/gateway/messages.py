"""Good messages of a small shop, to feed a view with: every part may be changed."""

from typing import Any

from streaming.contracts import (
    AlertFeedback,
    Cumulative,
    Driver,
    Expected,
    Forecast,
    ModelName,
    ProductFacts,
    Recent,
    Running,
    Trend,
    TrendAlert,
    Window,
)

HOUR_MS = 3_600_000
LEVELS = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
FACTORS = [0.4, 0.5, 0.75, 1.0, 1.3, 1.7, 2.0]
NOW_MS = 1_760_000_000_000
STEP_MS = NOW_MS // HOUR_MS * HOUR_MS  # start of the running step


def expected(mean: float) -> Expected:
    """A quantity whose quantiles are fixed multiples of its mean."""
    return Expected(mean=mean, quantiles=[mean * factor for factor in FACTORS])


def forecast(
    product: str = "p1",
    *,
    sequence: int = 1,
    mean: float = 10.0,
    observed: float = 4.0,
    elapsed_ms: int = HOUR_MS // 2,
    step_ms: int = STEP_MS,
    lead: int = 48,
    **changes: Any,
) -> Forecast:
    """A nowcast of a day, half an hour into the step; `mean` units an hour."""
    parts: dict[str, Any] = {
        "product_id": product,
        "revision": (step_ms // HOUR_MS - 1, sequence),
        "kind": "nowcast",
        "as_of": step_ms + elapsed_ms,
        "complete_through": step_ms,
        "issued_at": step_ms + elapsed_ms,
        "valid_until": step_ms + elapsed_ms + 2 * HOUR_MS,
        "step_ms": HOUR_MS,
        "first_step": step_ms,
        "horizon": 24,
        "mean": [mean] * 24,
        "levels": LEVELS,
        "quantiles": [[mean * factor] * 24 for factor in FACTORS],
        "cumulative": [
            Cumulative(steps=steps, mean=mean * steps, quantiles=[mean * steps * (1 + (factor - 1) / 5) for factor in FACTORS])
            for steps in sorted({168, 336, lead})
        ],
        "running": Running(
            elapsed_ms=elapsed_ms, observed=observed, expected_by_now=expected(mean * elapsed_ms / HOUR_MS), expected_step=expected(mean)
        ),
        "recent": Recent(first_step=step_ms - 72 * HOUR_MS, demand=[mean] * 72),
        "trend": Trend(direction="flat", strength=0.0, drivers=[]),
        "model": ModelName(name="lstm", version="1"),
        "quality": "ok",
        "oldest_input_at": None,
    }
    return Forecast(**(parts | changes))


def of_category(name: str, *, mean: float = 100.0, step_ms: int = STEP_MS, **changes: Any) -> Forecast:
    """A category's forecast after a step."""
    parts = {"level": "category", "category": name, "running": None, "kind": "close", **changes}
    return forecast(f"level/category/{name}", mean=mean, step_ms=step_ms, elapsed_ms=0, **parts)


def alert(product: str = "p1", *, number: int = 1, sequence: int = 1, status: str = "firing", **changes: Any) -> TrendAlert:
    """A spike: 30 units where 10 were expected."""
    parts: dict[str, Any] = {
        "alert_id": f"{product}-{number}",
        "fingerprint": f"f-{product}",
        "sequence": sequence,
        "status": status,
        "kind": "spike",
        "severity": "critical",
        "title": f"{product}: three times what was expected",
        "product_id": product,
        "starts_at": NOW_MS - 600_000,
        "updated_at": NOW_MS,
        "ends_at": NOW_MS if status == "resolved" else None,
        "reason": "recovered" if status == "resolved" else None,
        "window": Window(start=NOW_MS - 600_000, end=NOW_MS),
        "observed": 30.0,
        "levels": LEVELS,
        "expected": expected(10.0),
        "score": 7.5,
        "drivers": [Driver(name="traffic", effect=26.0), Driver(name="cart_rate", effect=-6.0)],
        "valid_until": NOW_MS + 6 * HOUR_MS,
        "model": ModelName(name="lstm", version="1"),
        "replay": False,
        "runbook": "docs/alerts.md",
    }
    return TrendAlert(**(parts | changes))


def facts(product: str = "p1", **changes: Any) -> ProductFacts:
    """A product with 100 pieces and two days of lead time."""
    parts: dict[str, Any] = {
        "product_id": product,
        "title": f"Product {product}",
        "category": "garden",
        "unit_price": 5.0,
        "stock": 100.0,
        "stock_at": NOW_MS,
        "lead_time_steps": 48,
    }
    return ProductFacts(**(parts | changes))


def feedback(alert_id: str = "p1-1", at: int | None = NOW_MS, by: str | None = None) -> AlertFeedback:
    """Somebody takes care."""
    return AlertFeedback(alert_id=alert_id, acknowledged_at=at, acknowledged_by=by)
