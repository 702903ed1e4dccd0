"""A shop on the session's Kafka whose forecasts, alerts and facts a test says itself, and real gateway processes that follow it."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from kafka import KafkaProducer

from simulator.embedded.processes import Port, Server
from streaming import topics
from streaming.contracts import AlertFeedback, Forecast, ProductFacts, TrendAlert, encode
from streaming.settings import Settings

WAIT_S: Final = 30.0
Said = Forecast | TrendAlert | ProductFacts | AlertFeedback


def until(what: Callable[[], Any], why: str, wait_s: float = WAIT_S) -> Any:
    """Returns the first true answer."""
    deadline = time.monotonic() + wait_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {wait_s:g} s: {why}"
        time.sleep(0.02)
    return found


class Shop:
    """Topics of its own, and a producer to them."""

    def __init__(self, bootstrap: str) -> None:
        name = uuid4().hex[:8]
        self.settings = Settings(
            kafka_bootstrap=bootstrap,
            namespace=f"gw-{name}",
            orders_topic=f"orders-{name}",
            clickstream_topic=f"clicks-{name}",
            facts_topic=f"facts-{name}",
            forecasts_topic=f"forecasts-{name}",
            alerts_topic=f"alerts-{name}",
            scores_topic=f"scores-{name}",
            dead_letters_topic=f"dead-{name}",
            feedback_topic=f"feedback-{name}",
            shards=1,
        )
        topics.create(self.settings)
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=1)
        self._products: set[str] = set()
        self._firing: dict[str, TrendAlert] = {}

    def say(self, *messages: Said) -> None:
        """Returns when the broker has them."""
        s = self.settings
        for message in messages:
            match message:
                case Forecast():
                    self._products.add(message.product_id)
                    self._send(s.forecasts_topic, message.product_id, encode(message))
                case TrendAlert():
                    self._firing[message.alert_id] = message
                    if message.status == "resolved":
                        del self._firing[message.alert_id]
                    self._send(s.alerts_topic, message.product_id, encode(message))
                case ProductFacts():
                    self._send(s.facts_topic or "", message.product_id, encode(message))
                case AlertFeedback():
                    self._send(s.feedback_topic, message.alert_id, encode(message))
        self._producer.flush()

    def forget(self, product: str) -> None:
        """A tombstone on forecasts."""
        self._products.discard(product)
        self._send(self.settings.forecasts_topic, product, None)
        self._producer.flush()

    def clear(self) -> None:
        """Resolves and forgets everything that was said."""
        import msgspec

        for one in list(self._firing.values()):
            self.say(
                msgspec.structs.replace(
                    one, status="resolved", sequence=one.sequence + 1_000_000, ends_at=one.updated_at, reason="recovered"
                )
            )
        for product in list(self._products):
            self.say(ProductFacts(product_id=product))
            self.forget(product)

    def _send(self, topic: str, key: str, value: bytes | None) -> None:
        self._producer.send(topic, key=key.encode(), value=value)

    def close(self) -> None:
        self._producer.close()


class Gateway:
    """A `trendcast gateway` process."""

    def __init__(self, shop: Shop, folder: Path, **settings: object) -> None:
        self.port = Port()
        chosen = {**shop.settings.model_dump(exclude_defaults=True), "gateway_port": self.port.number, **settings}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRENDCAST_")}
        self._environment = {**inherited, **{f"TRENDCAST_{name.upper()}": str(value) for name, value in chosen.items()}}
        self._environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), inherited.get("PYTHONPATH", "")])
        self.log = folder / f"gateway-{self.port.number}.log"
        self.url = f"http://127.0.0.1:{self.port.number}"
        self.start()

    def start(self) -> None:
        """Returns when it is ready."""
        self.server = Server.start([sys.executable, "-m", "streaming.cli", "gateway"], self.log, env=self._environment)
        self.server.wait_ready(lambda: self.status("/readyz") == 200, 60.0, "gateway")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.port.release()

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.server.pid, signal.SIGCONT)

    def status(self, path: str) -> int | None:
        """None: it does not answer."""
        try:
            return self.ask("GET", path)[0]
        except OSError:
            return None

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (None: no content), headers."""
        with self.connected() as connection:
            content = None if body is None else json.dumps(body)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, content, {"content-type": "application/json", **named} if content else named)
            answer = connection.getresponse()
            text = answer.read()
            kind = answer.headers.get_content_type()
            return (
                answer.status,
                json.loads(text) if text and kind.endswith("json") else text or None,
                {k.lower(): v for k, v in answer.getheaders()},
            )

    def get(self, path: str) -> Any:
        """JSON of a snapshot."""
        status, found, _ = self.ask("GET", f"/api/v1{path}")
        assert status == 200, found
        return found

    @contextmanager
    def connected(self) -> Iterator[HTTPConnection]:
        connection = HTTPConnection("127.0.0.1", self.port.number, timeout=WAIT_S)
        try:
            yield connection
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Sum of a metric's series."""
        with self.connected() as connection:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))


class Stream:
    """One reader of `/api/v1/stream`; frames as they come."""

    def __init__(self, gateway: Gateway, query: str = "", since: str | None = None) -> None:
        self._connection = HTTPConnection("127.0.0.1", gateway.port.number, timeout=WAIT_S)
        self._connection.request("GET", f"/api/v1/stream{query}", headers={} if since is None else {"last-event-id": since})
        self._answer: HTTPResponse = self._connection.getresponse()
        assert self._answer.status == 200

    def event(self) -> dict[str, Any]:
        """The next event: its name, id and data."""
        fields: dict[str, Any] = {}
        while True:
            text = self._answer.readline().decode()
            assert text, "the stream has ended"
            if text == "\n":
                if "data" in fields:
                    return fields
                fields = {}
                continue
            name, _, value = text.rstrip("\n").partition(": ")
            fields[name] = json.loads(value) if name == "data" else value

    def until(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first frame's data that is wanted."""
        while True:
            data: dict[str, Any] = self.event()["data"]
            if wanted(data):
                return data

    def close(self) -> None:
        self._answer.close()
        self._connection.close()
