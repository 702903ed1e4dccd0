"""Apache Kafka: one KRaft node, broker and controller in one process, on 127.0.0.1."""

import base64
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from simulator.embedded import jars
from simulator.embedded.cache import cache_dir
from simulator.embedded.java import find_java
from simulator.embedded.processes import Port, Server, answers
from streaming.errors import UserError

# Two cores busy with other tests have been seen to take 15 s; the usual is 2 s.
START_TIMEOUT_S: Final = 90.0

# What any single node of ours runs with; docker-compose.yml repeats it, and a test compares the two.
SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        # a misspelt topic must fail, not appear
        "auto.create.topics.enable": "false",
        # one node holds the only copy of everything
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # a handful of consumer groups, not thousands
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "8",
        # the first worker starts at once; a second one costs a rebalance
        "group.initial.rebalance.delay.ms": "0",
        # tests let workers die and be noticed sooner than the usual 6 s
        "group.min.session.timeout.ms": "1000",
        # 128 MiB by default, a quarter of the heap, for topics of a few thousand keys
        "log.cleaner.dedupe.buffer.size": "16777216",
    }
)

_LOGGING: Final = """\
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
"""


class Kafka:
    """A broker whose data stay in `directory`; start it again there and everything is as it was.

    `settings` are server.properties beside, or instead of, SETTINGS. A detached broker outlives this process.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        settings: Mapping[str, str] = MappingProxyType({}),
        detached: bool = False,
        progress: jars.Progress = lambda _: None,
    ) -> None:
        self.directory = directory.resolve()
        self._settings, self._detached, self._progress = settings, detached, progress
        self._wanted_port = port
        self._ports: tuple[Port, Port] | None = None
        self.server: Server | None = None

    @property
    def port(self) -> int:
        """Its port, known from the first start on."""
        if self._ports is None:
            raise RuntimeError("not started yet")
        return self._ports[0].number

    @property
    def address(self) -> str:
        """Bootstrap address, `host:port`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it; returns when it answers. Raises UserError with what is wrong."""
        if self._ports is None:
            self._ports = (Port(self._wanted_port), Port())
        self.directory.mkdir(parents=True, exist_ok=True)
        java = find_java()
        class_path = jars.class_path(cache_dir(), self._progress)
        self._write_files()
        if not (self.directory / "data" / "meta.properties").exists():
            self._format(java, class_path)
        command = self._java(java, class_path, "kafka.Kafka", "server.properties", "-Xmx512m")
        self.server = Server.start(command, self.directory / "kafka.log", detached=self._detached)
        self.server.wait_ready(lambda: answers(self.port), START_TIMEOUT_S, "Kafka")
        return self

    def stop(self) -> None:
        """Shut it down in order, if it runs; its port stays reserved for a restart until `close`."""
        if self.server is not None:
            self.server.stop()

    def kill(self) -> None:
        """SIGKILL. The next start takes 9 s longer: the controller waits for the dead broker's session to end."""
        if self.server is not None:
            self.server.kill()

    def restart(self) -> Self:
        """Stop if running, start again: same port, same data."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop it and give its ports back."""
        self.stop()
        for port in self._ports or ():
            port.release()
        self._ports = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write_files(self) -> None:
        assert self._ports is not None
        client, controller = (f"127.0.0.1:{port.number}" for port in self._ports)
        properties = {
            **SETTINGS,
            "listeners": f"CLIENT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"CLIENT://{client}",
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": str(self.directory / "data"),
            **self._settings,
        }
        lines = "".join(f"{name}={value}\n" for name, value in properties.items())
        (self.directory / "server.properties").write_text(lines, encoding="utf-8")
        (self.directory / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")

    def _format(self, java: Path, class_path: str) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # "-t=ID" in one word: an id may begin with a dash
        arguments = ["format", f"--cluster-id={cluster_id}", "--config=server.properties", "--ignore-formatted"]
        command = [*self._java(java, class_path, "kafka.tools.StorageTool", *arguments, "-XX:TieredStopAtLevel=1")]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"cannot format Kafka's storage in {self.directory}:\n{done.stdout}{done.stderr}")

    @staticmethod
    def _java(java: Path, class_path: str, main_class: str, *arguments: str) -> list[str]:
        flags = [argument for argument in arguments if argument.startswith("-X")]
        rest = [argument for argument in arguments if not argument.startswith("-X")]
        return [str(java), *flags, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", class_path, main_class, *rest]
