"""One namespace with its own topics, worker processes that are restarted when they die, and what came of it at the end.

A test feeds the shop's log (`shop_log`) in parts, does harm in between, waits until everything is counted, closed and published, and compares the
outcome with that of a run without faults. Waiting is always for a condition; it tends the workers meanwhile, as a supervisor would.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from feature_store.keys import Keys
from feature_store.store import FeatureStore
from streaming import topics
from streaming.export import export_features
from streaming.settings import Settings
from tests.faults.shop_log import END_MS, HOUR_MS, Sent

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SHARDS: Final = 4
# Ghosts are evicted after a day; every other product sells more often.
EVICT_AFTER_MS: Final = 24 * HOUR_MS
# Long enough for a machine that does ten other things; a test that works waits for as long as it takes.
WAIT_S: Final = 300.0
POLL_S: Final = 0.1
# A supervisor that restarts a worker so often is not helping.
MAX_RESTARTS: Final = 30

OWN_TOPICS: Final = ("orders", "clickstream", "forecasts", "alerts", "scores", "dead_letters")
# What differs from run to run, because it tells real time.
_REAL_TIME: Final = ("issued_at", "valid_until", "oldest_input_at")

Message = dict[str, Any]


@dataclass(eq=False)
class Worker:
    """A worker and its successors. With a name, Kafka gives a successor its partitions without waiting for the end of a session."""

    scenario: "Scenario"
    kind: str
    name: str | None  # static membership of its group
    program: str  # module that stands for `trendcast`
    arguments: tuple[str, ...] = ()
    restarts: int = 0
    statuses: list[int] = field(default_factory=list)  # how its processes ended
    logs: list[Path] = field(default_factory=list)
    supervised: bool = True
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self, failpoint: str | None = None, **settings: Any) -> "Worker":
        """A new process; `settings` beside, or instead of, the scenario's."""
        s = self.scenario
        log = s.directory / f"{self.kind}-{len(s.workers)}-{len(self.logs)}-{uuid.uuid4().hex[:4]}.log"
        self.logs.append(log)
        environment = s.environment(instance_id=self.name, **settings)
        if failpoint is not None:
            environment |= {"TRENDCAST_FAILPOINT": failpoint, "TRENDCAST_FAILPOINT_FILE": str(self.marker)}
            self.marker.unlink(missing_ok=True)
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.program, self.kind, *self.arguments], env=environment, stderr=stderr, cwd=REPOSITORY
            )
        return self

    @property
    def marker(self) -> Path:
        """Written by a failpoint that was hit."""
        return self.scenario.directory / f"hit-{id(self)}"

    def ended(self) -> bool:
        return self.process.poll() is not None

    def tend(self) -> None:
        """Restart it if it has ended by itself, without the failpoint that may have ended it."""
        if self.supervised and self.ended():
            self.statuses.append(self.process.returncode)
            self.restarts += 1
            assert self.restarts <= MAX_RESTARTS, f"{self.kind} was restarted {self.restarts} times\n{self.tail()}"
            self.start()

    def tail(self, lines: int = 15) -> str:
        """The end of what it said."""
        said = "".join(log.read_text(errors="replace") for log in self.logs[-2:]).splitlines()[-lines:]
        return "\n".join([f"--- {self.kind}, ended with {self.statuses}:", *said])

    def said(self) -> str:
        """Everything that its last process said."""
        return self.logs[-1].read_text(errors="replace")

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.supervised = False
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        """SIGKILL, for good."""
        self.supervised = False
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Outcome:
    """What readers find at the end."""

    sums: dict[tuple[str, int, bool], tuple[float, ...]]  # product, start, closed → measures
    forecasts: dict[str, Message]  # product → last message; evicted products have none
    levels: dict[str, Message]  # the same of categories and of the shop, by key
    alerts: dict[tuple[str, int, str], Message]  # id, sequence, status
    outcomes: dict[tuple[int, str], list[int]]  # shard, model and day → sums over what came of forecasts
    launches: dict[tuple[int, str], list[int]]  # shard, day and category → sums over what products lived through
    scores: dict[tuple[int, int], Message]  # shard, start of the day

    def differences(self, other: "Outcome", *, without: Sequence[str] = ()) -> list[str]:
        """Where it differs from another; `without`: fields of messages that may."""
        found: list[str] = []
        pairs: list[tuple[str, Mapping[Any, Any], Mapping[Any, Any]]] = [
            ("sums", self.sums, other.sums),
            ("forecast", self.forecasts, other.forecasts),
            ("level", self.levels, other.levels),
            ("alert", self.alerts, other.alerts),
            ("outcomes", self.outcomes, other.outcomes),
            ("launches", self.launches, other.launches),
            ("scores", self.scores, other.scores),
        ]
        for what, mine, theirs in pairs:
            for key in sorted(mine.keys() | theirs.keys(), key=str):
                a, b = (_without(side.get(key), without) for side in (mine, theirs))
                if a != b:
                    found.append(f"{what} {key}: {_first_difference(a, b)}")
        return found


def _without(value: Any, fields: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {name: part for name, part in value.items() if name not in fields}
    return value


def _first_difference(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        return ", ".join(f"{name} {a.get(name)} ≠ {b.get(name)}" for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name))[
            :300
        ]
    return f"{a} ≠ {b}"[:300]


class Scenario:
    """Topics and a namespace of its own on a broker and a Redis that may be shared; ends its processes when it is left."""

    def __init__(self, directory: Path, kafka: str, redis_url: str, model: Path, **changes: Any) -> None:
        name = f"f{uuid.uuid4().hex[:8]}"
        own = {f"{topic}_topic": f"{name}-{topic}".replace("_", "-") for topic in OWN_TOPICS}
        defaults: dict[str, Any] = {
            "kafka_bootstrap": kafka,
            "redis_url": redis_url,
            "namespace": name,
            "shards": SHARDS,
            "clock": "log",
            "model_dir": model,
            "evict_after_ms": EVICT_AFTER_MS,
            # Static members that come back need no new session; a busy machine needs patience.
            "session_timeout_ms": 20_000,
            "heartbeat_interval_ms": 1_000,
        }
        self.settings = Settings(**(defaults | own | changes))
        self.directory = directory
        self.workers: list[Worker] = []
        self.keys = Keys(name)
        self.redis: Any = redis.Redis.from_url(redis_url)  # replies are bytes, which its types cannot say
        topics.create(self.settings)

    def __enter__(self) -> "Scenario":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if not worker.ended():
                worker.kill()
        self.redis.close()
        with topics.connected(self.settings.kafka_bootstrap) as admin:
            admin.delete_topics([*map(self.topic, OWN_TOPICS), *self.settings.ahead_topics, self.settings.updates_topic])

    def topic(self, name: str) -> str:
        return str(getattr(self.settings, f"{name}_topic"))

    def environment(self, **changes: Any) -> dict[str, str]:
        named = self.settings.model_dump(mode="json", exclude={"redis_url"}, exclude_none=True) | changes
        own = {f"TRENDCAST_{name.upper()}": str(value) for name, value in named.items() if value is not None}
        return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "TRENDCAST_REDIS_URL": self.settings.redis} | own

    # -- workers

    def worker(
        self,
        kind: str,
        *arguments: str,
        static: bool = True,
        program: str = "streaming.cli",
        failpoint: str | None = None,
        **settings: Any,
    ) -> Worker:
        """Start one more `ingest`, `forecast` or `shadow`."""
        worker = Worker(self, kind, f"{kind}-{len(self.workers)}" if static else None, program, arguments)
        self.workers.append(worker)
        return worker.start(failpoint, **settings)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of `trendcast` with this namespace's settings."""
        done = subprocess.run(
            [sys.executable, "-m", "streaming.cli", *command], env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def tend(self) -> None:
        for worker in self.workers:
            worker.tend()

    # -- input

    def feed(self, records: Iterable[Sent], **options: Any) -> None:
        """Send records in their order; returns when the broker has them all."""
        producer = KafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap, linger_ms=20, **options)
        for record in records:
            self.send(producer, record)
        producer.flush()
        producer.close()

    def send(self, producer: KafkaProducer, record: Sent) -> None:
        headers = [] if record.watermark_ms is None else [("watermark", b"%d" % record.watermark_ms)]
        headers.append(("sent_at", b"%d" % (time.time() * 1000)))
        name = self.topic(("orders", "clickstream", "facts", "context")[record.topic])
        producer.send(name, record.value, key=record.key, partition=record.partition, timestamp_ms=record.time_ms, headers=headers)

    # -- waiting

    def wait(self, holds: Callable[[], bool], what: str, *, tend: bool = True) -> None:
        """Until the condition holds; restarts workers that end meanwhile."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError("\n".join([f"not within {WAIT_S:.0f} s: {what}", self.state(), *(w.tail() for w in self.workers)]))
            if tend:
                self.tend()
            time.sleep(POLL_S)

    def wait_hit(self, worker: Worker) -> None:
        """Until the failpoint was hit."""
        self.wait(lambda: worker.marker.exists() or worker.ended(), f"{worker.kind} hits its failpoint", tend=False)
        assert worker.marker.exists(), f"ended without hitting its failpoint\n{worker.tail()}"

    def ends(self) -> dict[str, int]:
        """`topic/partition` of the input → end of its log."""
        inputs = (self.topic("orders"), self.topic("clickstream"), *self.settings.ahead_topics)
        found = topics.offsets(self.settings.kafka_bootstrap, inputs, "latest")
        return {f"{topic}/{partition}": end for (topic, partition), end in found.items()}

    def has_counted(self, ends: dict[str, int]) -> bool:
        """Whether every shard has counted every source up to these ends."""
        names = {source.decode(): name.decode() for source, name in self.redis.hgetall(self.keys.sources).items()}
        if set(names.values()) != set(ends):
            return False
        offsets = (self.redis.hmget(self.keys.offsets(shard), list(names)) for shard in range(SHARDS))
        wanted = [ends[name] for name in names.values()]
        return all([-1 if offset is None else int(offset) for offset in found] == wanted for found in offsets)

    def is_published(self, through_ms: int) -> bool:
        """Whether every shard has closed its steps up to then, and nothing waits to be sent."""
        for shard in range(SHARDS):
            closed = self.redis.hget(self.keys.closed(shard), "step")
            if closed is None or (int(closed) + 1) * HOUR_MS < through_ms:
                return False
            if self.redis.zcard(self.keys.dirty(shard)) or self.redis.hlen(self.keys.outbox(shard)):
                return False
        return True

    def shop_is_forecast(self, through_ms: int) -> bool:
        """Whether the steps after then are, of the shop as a whole."""
        said = (msgspec.json.decode(value) for key, value in self.read("forecasts") if key == "level/shop" and value is not None)
        return any(message["first_step"] >= through_ms for message in said)

    def owners(self) -> int:
        """How many forecast workers own shards."""
        tokens = {self.redis.get(self.keys.owner(shard)) for shard in range(SHARDS)}
        return len(tokens - {None})

    def state(self) -> str:
        """Where things stand, for people."""
        lines = [f"log ends: {self.ends()}"]
        for shard in range(SHARDS):
            offsets = {k.decode()[-2:]: int(v) for k, v in self.redis.hgetall(self.keys.offsets(shard)).items()}
            closed, dirty = self.redis.hgetall(self.keys.closed(shard)), self.redis.zcard(self.keys.dirty(shard))
            lines.append(
                f"shard {shard}: offsets {offsets}, closed {closed}, dirty {dirty}, outbox {self.redis.hlen(self.keys.outbox(shard))}"
            )
        return "\n".join(lines)

    def wait_counted(self) -> None:
        ends = self.ends()
        self.wait(lambda: self._quietly(lambda: self.has_counted(ends)), "everything counted")

    def wait_settled(self, through_ms: int = END_MS) -> None:
        """Until everything is counted, closed up to then, and published."""
        ends = self.ends()
        self.wait(
            lambda: self._quietly(lambda: self.has_counted(ends) and self.is_published(through_ms)),
            "everything counted, closed and published",
        )

    @staticmethod
    def _quietly(holds: Callable[[], bool]) -> bool:
        """A Redis that is away, or that loads its data, has nothing to say."""
        try:
            return holds()
        except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    # -- the end

    def finish(self, *, through_ms: int = END_MS) -> Outcome:
        """Wait for the end of all work, end the workers (so that nothing is on its way any more), and read what there is."""
        self.wait_settled(through_ms)
        self.wait(lambda: self.shop_is_forecast(through_ms), "the shop's own forecast")
        for worker in self.workers:
            if not worker.ended():
                assert worker.stop() == 0, worker.tail()
        last = self._forecasts()
        products = {key: message for key, message in last.items() if message["level"] == "product"}
        levels = {key: message for key, message in last.items() if message["level"] != "product"}
        outcomes, launches = self._day_sums(self.keys.calibration), self._day_sums(self.keys.launches)
        return Outcome(asyncio.run(self._sums()), products, levels, self._alerts(), outcomes, launches, self._scores())

    async def _sums(self) -> dict[tuple[str, int, bool], tuple[float, ...]]:
        import pandas as pd

        path = self.directory / f"{self.settings.namespace}.parquet"
        store = await FeatureStore.open(self.settings)
        await export_features(store, self.settings, path)
        await store.close()
        frame = pd.read_parquet(path)
        measures = frame.columns[4:]
        keys = zip(frame["product_id"], frame["start_ms"].tolist(), frame["closed"].tolist(), strict=True)
        return dict(zip(keys, map(tuple, frame[measures].to_numpy().tolist()), strict=True))

    def _forecasts(self) -> dict[str, Message]:
        """Product → last message. The last must be the greatest revision: compaction keeps nothing else."""
        last: dict[str, Message | None] = {}
        greatest: dict[str, list[int]] = {}
        for key, value in self.read("forecasts"):
            last[key] = message = None if value is None else _decoded(value)
            if message is not None:
                greatest[key] = max(greatest.get(key, [0, 0]), message["revision"])
        older = [key for key, message in last.items() if message is not None and message["revision"] < greatest[key]]
        assert not older, f"older revisions stand last in the topic: {older}"
        return {key: message for key, message in last.items() if message is not None}

    def _alerts(self) -> dict[tuple[str, int, str], Message]:
        """Alerts by id, sequence and status; repeated ones must say the same."""
        found: dict[tuple[str, int, str], Message] = {}
        for _, value in self.read("alerts"):
            assert value is not None
            message = _decoded(value)
            identity = message["alert_id"], message["sequence"], message["status"]
            assert found.setdefault(identity, message) == message, f"an alert was repeated with another content: {identity}"
        return found

    def _day_sums(self, key: Callable[[int], str]) -> dict[tuple[int, str], list[int]]:
        return {
            (shard, field.decode()): msgspec.msgpack.decode(value)
            for shard in range(SHARDS)
            for field, value in self.redis.hgetall(key(shard)).items()
        }

    def _scores(self) -> dict[tuple[int, int], Message]:
        """A day's scores of the serving model by shard; repeated ones must say the same."""
        found: dict[tuple[int, int], Message] = {}
        for _, value in self.read("scores"):
            assert value is not None
            message = _decoded(value)
            if message["shadow"]:
                continue
            identity = message["shard"], message["start"]
            assert found.setdefault(identity, message) == message, f"scores were repeated with another content: {identity}"
        return found

    def read(self, name: str) -> list[tuple[str, bytes | None]]:
        """All of a topic, read afresh: keys and values."""
        topic = self.topic(name)
        consumer = KafkaConsumer(bootstrap_servers=self.settings.kafka_bootstrap, enable_auto_commit=False)
        ends = topics.offsets(self.settings.kafka_bootstrap, [topic], "latest")
        places = {TopicPartition(*place): end for place, end in ends.items()}
        consumer.assign(list(places))
        consumer.seek_to_beginning()
        found: list[tuple[str, bytes | None]] = []
        while any(consumer.position(place) < end for place, end in places.items()):
            for records in consumer.poll(timeout_ms=500).values():
                found += [((record.key or b"").decode(errors="replace"), record.value) for record in records]
        consumer.close()
        return found


def _decoded(value: bytes) -> Message:
    message: Message = msgspec.json.decode(value)
    return {name: part for name, part in message.items() if name not in _REAL_TIME}
