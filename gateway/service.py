"""What all requests of one process share: the view, who listens, the shop's clock, and what was computed once for everybody."""

import time
from collections import deque
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from gateway.hub import Hub
from gateway.movers import Board, Moved
from gateway.view import View
from streaming.clock import ShopClock
from streaming.settings import Settings

BOARD_S: Final = 2.0
BOARD_ROWS: Final = 10
# Freshness is shown of the last minute, and of at most so many forecasts.
FRESH_MS: Final = 60_000
FRESH_MESSAGES: Final = 8_192
# Without an answer of any broker for so long, what is shown may be old.
KAFKA_SILENCE_MS: Final = 8_000

_encode: Final = msgspec.json.Encoder().encode


class Mover(Struct, frozen=True, kw_only=True):
    """A line of a leaderboard; `change` and `confidence` as in `gateway.movers`."""

    id: str
    title: str
    category: str | None
    change: float
    confidence: float
    observed: float
    expected: float
    spark: Raw


class Service:
    """One process's state. `clock` and all `now_ms` are real epoch ms unless they say otherwise."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.view = View()
        self.hub = Hub(self.view)
        self.epoch = f"{time.time_ns():x}"  # another one in every process, and after every start
        self.clock = ShopClock.of(settings)
        self.complete = False  # everything that was there at the start is in the view
        self.heard_ms = 0  # when a broker last answered
        self.closing = False
        self._fresh: deque[tuple[float, float]] = deque(maxlen=FRESH_MESSAGES)  # (received, age)
        self._boards: dict[str | None, bytes] = {}
        self._boards_until = 0.0

    def shop_ms(self, now_ms: int) -> int:
        """The shop's time: its clock's, or, where it has none, the newest that forecasts know."""
        shop = self.clock.now_ms(now_ms)
        return self.view.as_of if shop is None else shop

    def about(self) -> bytes:
        """JSON members that say how things stand: in every snapshot and every frame."""
        now_ms = int(time.time() * 1000)
        speed = 0.0 if self.clock.now_ms(now_ms) is None else self.clock.speed
        known = {
            "now": self.shop_ms(now_ms),  # shop time
            "speed": speed,  # of the shop's time
            "sent": now_ms,  # real time
            "valid_until": self.view.valid_until,  # shop time; past it every forecast is stale
            "silent_ms": self.silent_ms(now_ms),  # since Kafka was last heard
        }
        return _encode(known)[1:-1]

    def silent_ms(self, now_ms: int) -> int:
        """How long no broker has answered; 0 while that is nothing unusual."""
        silent = now_ms - self.heard_ms
        return silent if silent > KAFKA_SILENCE_MS else 0

    def ready(self) -> dict[str, str]:
        """Every condition of readiness: "ok", or why it does not hold."""
        silent = self.silent_ms(int(time.time() * 1000))
        return {
            "view": "ok" if self.complete else "still reading the topics",
            "kafka": f"no broker has answered for {silent / 1000:.0f} s"
            if silent and self.heard_ms
            else "ok"
            if self.heard_ms
            else "not yet",
        }

    def note_freshness(self, now_ms: float, oldest_input_at: int | None) -> None:
        """A forecast came, now; its oldest news is of `oldest_input_at`."""
        if oldest_input_at is not None and self.complete:
            self._fresh.append((now_ms, max(now_ms - oldest_input_at, 0.0)))

    def board(self, category: str | None) -> bytes:
        """JSON of the leaderboards, new every two seconds, for all readers of a category (None: of all) the same."""
        now = time.monotonic()
        if now >= self._boards_until:
            self._boards.clear()
            self._boards_until = now + BOARD_S
        if (known := self._boards.get(category)) is None:
            known = self._boards[category] = _encode(self._board(category))
        return known

    def _board(self, category: str | None) -> dict[str, Any]:
        view = self.view
        products = view.movers.products(view.as_of, BOARD_ROWS, category)
        categories = view.movers.categories(view.as_of, BOARD_ROWS)
        of_category = {level.category: level.spark for level in view.levels.values()}

        def told(moved: Moved) -> Mover:
            row = view.products[moved.name].row
            return _mover(moved, row.title, row.category, row.spark)

        return {
            "rising": [told(moved) for moved in products.rising],
            "falling": [told(moved) for moved in products.falling],
            "categories": _both(categories, of_category),
            "freshness": self._freshness(),
            "products": len(view.products),
        }

    def _freshness(self) -> dict[str, float] | None:
        """Sent → received, ms, of the last minute; None: nothing new came."""
        since = time.time() * 1000 - FRESH_MS
        while self._fresh and self._fresh[0][0] < since:
            self._fresh.popleft()
        ages = sorted(age for _, age in self._fresh)
        return {"p50": round(ages[len(ages) // 2]), "p99": round(ages[int(len(ages) * 0.99)])} if ages else None


def _mover(moved: Moved, title: str, category: str | None, spark: Raw) -> Mover:
    return Mover(
        id=moved.name,
        title=title,
        category=category,
        change=moved.change,
        confidence=moved.confidence,
        observed=moved.observed,
        expected=moved.expected,
        spark=spark,
    )


def _both(board: Board, sparks: dict[str | None, Raw]) -> dict[str, list[Mover]]:
    return {
        side: [_mover(moved, moved.name, moved.name, sparks[moved.name]) for moved in getattr(board, side)]
        for side in ("rising", "falling")
    }
