"""What people say of alerts, kept where every gateway reads it: the compacted topic of alert feedback."""

from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from streaming.contracts import AlertFeedback, encode, feedback_headers
from streaming.settings import Settings
from streaming.topics import no_broker


class NotKept(Exception):
    """Kafka has not confirmed the message; say it again later."""


class Feedback:
    """A producer (`async with`, which raises UserError where no broker answers)."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.feedback_topic
        self._source = f"/trendcast/{settings.namespace}/gateway"
        self._bootstrap = settings.kafka_bootstrap
        self._kafka: Any = None

    async def __aenter__(self) -> Self:
        self._kafka = AIOKafkaProducer(bootstrap_servers=self._bootstrap, enable_idempotence=True, request_timeout_ms=5_000)
        try:
            await self._kafka.start()
        except KafkaConnectionError as error:
            await self._kafka.stop()
            raise no_broker(self._bootstrap, error) from error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._kafka.stop()

    async def say(self, said: AlertFeedback, now_ms: int) -> None:
        """Returns when the broker has it. Raises NotKept."""
        try:
            await self._kafka.send_and_wait(
                self._topic, key=said.alert_id.encode(), value=encode(said), headers=feedback_headers(said, self._source, now_ms)
            )
        except KafkaError as error:
            raise NotKept(type(error).__name__) from error
