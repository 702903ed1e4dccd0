"""The worker processes of the demo: started, watched, asked for their metrics, stopped."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from simulator.embedded.processes import Port, Server
from streaming.errors import UserError

POLL_S: Final = 0.1
# TensorFlow takes about ten seconds to import on a slow disk, and the model some seconds to compile.
READY_S: Final = 180.0
LOG_LINES: Final = 15

Samples = dict[str, float]  # metric name and labels as exposed → value


@dataclass(frozen=True, slots=True)
class Worker:
    """One running `trendcast ingest`, `forecast` or `gateway`."""

    name: str
    server: Server
    port: Port
    log: Path

    @classmethod
    def start(cls, kind: str, name: str, directory: Path, environment: Mapping[str, str], port: Port | None = None) -> Self:
        """Start it; its output goes to a log file in `directory`. It answers on any free port, unless one is given."""
        port = port or Port()
        log = directory / f"{name}.log"
        command = [sys.executable, "-m", "streaming.cli", kind]
        # The gateway serves metrics and health beside its page.
        env = {**environment, **dict.fromkeys(("TRENDCAST_METRICS_PORT", "TRENDCAST_GATEWAY_PORT"), str(port.number))}
        return cls(name, Server.start(command, log, env=env), port, log)

    def wait_until_ready(self) -> None:
        """Returns when `/readyz` says so. Raises UserError with the log's last lines where the process ends instead."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self.check()
            try:
                with urlopen(f"http://127.0.0.1:{self.port.number}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                pass
            time.sleep(POLL_S)
        raise UserError(f"{self.name} was not ready within {READY_S:g} s; its log is {self.log}")

    def check(self) -> None:
        """Raises UserError where the process has ended."""
        if not self.server.alive():
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            raise UserError("\n".join([f"{self.name} has ended; the last lines of {self.log}:", *lines]))

    def metrics(self) -> Samples:
        """Its current metrics; empty while it does not answer."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port.number}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except (URLError, OSError):
            return {}
        return {
            f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}"
            if sample.labels
            else sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def stop(self) -> None:
        """SIGTERM, and its port back."""
        self.server.stop()
        self.port.release()


def total(samples: list[Samples], prefix: str) -> float:
    """Sum over processes of the series whose name begins with `prefix`.

    >>> total([{"a_total{x=1}": 2.0, "b": 1.0}, {"a_total{x=2}": 3.0}], "a_total")
    5.0
    """
    return sum(value for process in samples for name, value in process.items() if name.startswith(prefix))
