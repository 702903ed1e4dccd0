"""Server processes: start, wait until ready, stop, kill, find again; and the ports that they listen on."""

import contextlib
import fcntl
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import psutil

from streaming.errors import UserError

# Below Linux's and macOS's ephemeral ranges: no outgoing connection takes such a port while its server restarts.
PORTS: Final = range(20_000, 32_000)
POLL_S: Final = 0.02


class Port:
    """A free TCP port of 127.0.0.1, reserved among all processes of this machine that ask here, until released or the process ends."""

    def __init__(self, wanted: int = 0) -> None:
        """Reserve `wanted`, or any free port where it is 0. Raises UserError if it is taken."""
        for number in [wanted] if wanted else random.sample(PORTS, len(PORTS)):
            lock = _reserve(number)
            if lock is None:
                continue
            if _free(number):
                self.number, self._lock = number, lock
                return
            os.close(lock)
        raise UserError(
            f"port {wanted} of 127.0.0.1 is in use by another program; stop it or choose another port"
            if wanted
            else f"no free port of 127.0.0.1 between {PORTS.start} and {PORTS.stop}"
        )

    def release(self) -> None:
        """Let others have it."""
        os.close(self._lock)


def _reserve(number: int) -> int | None:
    folder = Path(tempfile.gettempdir()) / "trendcast-ports"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user made it, and did this
        folder.chmod(0o1777)  # every user of the machine reserves here
    try:
        handle = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        return None  # reserved once by another user: take the next
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _free(number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a server just stopped do not count
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Server:
    """One server process, its output in a log file.

    Unless it is detached it ends with us, even when we are killed: a shell reads a pipe that only we hold,
    and kills the server when it closes.
    """

    def __init__(self, process: psutil.Process, log: Path, *, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self._process, self._child, self._log = process, child, log
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, command: Sequence[str], log: Path, *, detached: bool = False, env: dict[str, str] | None = None) -> Self:
        """Start a program. Raises UserError if it cannot be executed."""
        try:
            with log.open("ab") as out:
                child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=env, cwd=log.parent
                )
        except OSError as error:
            raise UserError(f"cannot start {command[0]}: {error.strerror}") from error
        server = cls(psutil.Process(child.pid), log, child=child)
        if not detached:
            guard = ["sh", "-c", 'trap "" INT HUP TERM; read -r _; kill -9 "$1"', "guard", str(child.pid)]
            server._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        return server

    @classmethod
    def find(cls, identity: dict[str, Any], log: Path) -> Self | None:
        """The process that `identity` described, if it still runs."""
        try:
            process = psutil.Process(identity["pid"])
            # The system's idea of when it booted, and with it of this time, moves a little as its clock is set.
            same = abs(process.create_time() - identity["created"]) < 2.0
        except psutil.NoSuchProcess:
            return None
        server = cls(process, log)
        return server if same and server.alive() else None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def identity(self) -> dict[str, Any]:
        """What finds it again, from another process too; a process id alone might be another program's by then."""
        return {"pid": self.pid, "created": self._process.create_time()}

    def alive(self) -> bool:
        """Whether it runs."""
        if self._child is not None:
            return self._child.poll() is None
        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, then SIGKILL if it has not ended in time."""
        self._signal(self._process.terminate)
        if not self._wait(timeout_s):
            self._signal(self._process.kill)
            self._wait(timeout_s)
        self._dismiss_guard()

    def kill(self) -> None:
        """SIGKILL: no chance to flush or say goodbye."""
        self._signal(self._process.kill)
        self._wait(10.0)
        self._dismiss_guard()

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Return when `ready()`; stop it and raise UserError, with the end of its log, if it dies or does not get ready in time."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            died = not self.alive()
            if died or time.monotonic() > deadline:
                self.kill()
                state = "ended" if died else f"is not ready after {timeout_s:.0f} s"
                raise UserError(f"{what} {state}; the end of {self._log}:\n{_tail(self._log)}")
            time.sleep(POLL_S)

    def _signal(self, send: Callable[[], None]) -> None:
        if self.alive():
            try:
                send()
            except psutil.NoSuchProcess:
                return  # it ended by itself meanwhile, as wanted

    def _wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive():  # not psutil's wait: where nobody reaps orphans, a process that ended stays a zombie for ever
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _dismiss_guard(self) -> None:
        if self._guard is not None and not self.alive():
            self._guard.kill()
            self._guard.communicate()
            self._guard = None


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]) or "(empty)"
