"""Kafka and Redis left running for other programs: `trendcast up`, `down` and `status`."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulator.embedded.jars import Progress
from simulator.embedded.kafka import Kafka
from simulator.embedded.processes import Port, Server
from simulator.embedded.redis import Redis
from streaming.errors import UserError

NAMES: Final = ("kafka", "redis")
# Where programs look that were told nothing; taken by another program, any free port will do.
USUAL_PORTS: Final = {"kafka": 9092, "redis": 6379}


@dataclass(frozen=True, slots=True)
class Standing:
    """One of the two servers as `up` left it."""

    name: str
    address: str  # host:port, or redis://…
    server: Server | None  # None: not running


def up(directory: Path, *, ports: dict[str, int], progress: Progress = lambda _: None) -> list[Standing]:
    """Start whichever does not run, detached, with the data of the last time. `ports`: those to insist on, by name. Raises UserError."""
    with _exclusively(directory):
        running = [standing.name for standing in _running(directory)]
        # Chosen before the first is started, so that a port that is taken leaves nothing half done.
        chosen = {name: _choose_port(directory, name, ports.get(name)) for name in NAMES if name not in running}
        for name, port in chosen.items():
            progress(f"starting {name}")
            _start(directory, name, port, progress)
        return _running(directory)


def down(directory: Path) -> list[Standing]:
    """Stop what runs; returns what that was. Data stay."""
    if not directory.exists():
        return []
    with _exclusively(directory):
        stopped = _running(directory)
        for standing in stopped:
            if standing.server is not None:
                standing.server.stop()
        return stopped


def status(directory: Path) -> list[Standing]:
    """Both servers, as far as `up` ever started them here."""
    known = [(name, _read(directory, name)) for name in NAMES]
    return [Standing(name, state["address"], Server.find(state, _log(directory, name))) for name, state in known if state is not None]


def _running(directory: Path) -> list[Standing]:
    return [standing for standing in status(directory) if standing.server is not None]


def _start(directory: Path, name: str, port: int, progress: Progress) -> None:
    if name == "kafka":
        kafka = Kafka(directory / name, port, detached=True, progress=progress).start()
        address, server = kafka.address, kafka.server
    else:
        redis = Redis(directory / name, port, persistence=True, detached=True).start()
        address, server = redis.url, redis.server
    assert server is not None
    _state_file(directory, name).write_text(json.dumps({"address": address, "port": port, **server.identity}), encoding="utf-8")


def _choose_port(directory: Path, name: str, wanted: int | None) -> int:
    """The wanted one (raises UserError if it is taken), or the first free one of: the last, the usual, any."""
    if wanted is not None:
        return _free(wanted)
    for port in ((_read(directory, name) or {}).get("port"), USUAL_PORTS[name]):
        with contextlib.suppress(UserError):
            if port is not None:
                return _free(port)
    return _free(0)


def _free(port: int) -> int:
    reserved = Port(port)
    reserved.release()  # for the server object, which reserves it again at once
    return reserved.number


def _state_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.json"


def _log(directory: Path, name: str) -> Path:
    return directory / name / f"{name}.log"


def _read(directory: Path, name: str) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(_state_file(directory, name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        file = _state_file(directory, name)
        raise UserError(f"{file} is damaged ({error}); stop the server by hand if it runs, then delete this file") from error
    return state


@contextlib.contextmanager
def _exclusively(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
