"""A subscriber like any other: reads forecasts and alerts from their topics, and keeps what the screen and the summary need."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict, deque
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer

from streaming.contracts import Forecast, TrendAlert

# Freshness is shown over the last messages, not over the whole run.
RECENT_MESSAGES: Final = 2_000


class Watcher:
    """Everything published since it started. `async with`; feeds itself in a task."""

    def __init__(self, bootstrap: str, forecasts_topic: str, alerts_topic: str) -> None:
        self._topics = forecasts_topic, alerts_topic
        self._consumer = AIOKafkaConsumer(
            *self._topics,
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        self._task: asyncio.Task[None] | None = None
        self.live_from_ms: int | None = None  # event time from which messages count as live
        self.last: dict[str, Forecast] = {}
        self.forecasts = 0
        self.alert_messages: Counter[str] = Counter()
        self.alerts: dict[str, list[TrendAlert]] = defaultdict(list)  # alert_id → its messages
        self.freshness_ms: list[float] = []  # of live messages
        self.recent_ms: deque[float] = deque(maxlen=RECENT_MESSAGES)
        self.issued: dict[str, list[tuple[int, int, list[float]]]] = defaultdict(list)  # live ones: (as_of, first_step, mean)

    async def __aenter__(self) -> "Watcher":
        await self._consumer.start()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._consumer.stop()

    def firing(self) -> list[TrendAlert]:
        """Newest message of each alert that has not ended, newest first."""
        open_ones = [messages[-1] for messages in self.alerts.values() if messages[-1].status == "firing"]
        return sorted(open_ones, key=lambda alert: alert.starts_at, reverse=True)

    def percentiles(self, values: "deque[float] | list[float]") -> tuple[float, float] | None:
        """p50 and p99, ms; None without values."""
        return None if not values else (float(np.percentile(list(values), 50)), float(np.percentile(list(values), 99)))

    async def drained(self, quiet_s: float = 2.0) -> None:
        """Returns when nothing new has come for a while."""
        before = -1
        while before != self.forecasts + sum(self.alert_messages.values()):
            before = self.forecasts + sum(self.alert_messages.values())
            await asyncio.sleep(quiet_s)

    async def _follow(self) -> None:
        forecast, alert = msgspec.json.Decoder(Forecast).decode, msgspec.json.Decoder(TrendAlert).decode
        while True:
            fetched = await self._consumer.getmany(timeout_ms=200, max_records=5_000)
            now_ms = time.time() * 1000
            for partition, records in fetched.items():
                for record in records:
                    if partition.topic == self._topics[0]:
                        self._heard(None if record.value is None else forecast(record.value), record, now_ms)
                    else:
                        self._alerted(alert(record.value))

    def _heard(self, message: Forecast | None, record: Any, now_ms: float) -> None:
        self.forecasts += 1
        if message is None:
            self.last.pop(record.key.decode(), None)
            return
        if message.level != "product":
            return
        self.last[message.product_id] = message
        if message.oldest_input_at is not None:
            self.recent_ms.append(now_ms - message.oldest_input_at)
        if self.live_from_ms is not None and message.as_of >= self.live_from_ms:
            self.issued[message.product_id].append((message.as_of, message.first_step, message.mean))
            if message.oldest_input_at is not None:
                self.freshness_ms.append(now_ms - message.oldest_input_at)

    def _alerted(self, message: TrendAlert) -> None:
        self.alert_messages[message.status] += 1
        known = self.alerts[message.alert_id]
        if not known or message.sequence >= known[-1].sequence:
            known.append(message)
