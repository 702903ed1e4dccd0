"""What the benchmarks share: the servers' environment, CPU accounts, tables, files of results."""

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from simulator.embedded import Stack
from streaming.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = Path(__file__).resolve().parent / "results"


def environment(stack: Stack, **settings: object) -> dict[str, str]:
    """Environment of a worker on these servers; settings by their names, without the prefix. Ours of the calling shell do not count."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRENDCAST_")}
    chosen = {"kafka_bootstrap": stack.kafka.address, "redis_url": stack.redis.url, "model_dir": ROOT / "models" / "default", **settings}
    return {**inherited, **{f"TRENDCAST_{name.upper()}": str(value) for name, value in chosen.items()}}


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that a worker with this environment has."""
    prefix = "TRENDCAST_"
    return Settings.model_validate(
        {name.removeprefix(prefix).lower(): value for name, value in environment.items() if name.startswith(prefix)}
    )


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken, all its threads."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(psutil.Process(pid).memory_info().rss)


def machine() -> dict[str, Any]:
    """Where it ran, and how busy that was."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def said(about: Mapping[str, Any]) -> str:
    """`machine()` in one line."""
    return f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB, Python {about['python']}, load before {about['load_before']}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("|" + "|".join(line) + "|" if line[0] == "---" else "| " + " | ".join(line) + " |" for line in lines)


def write(name: str, figures: Mapping[str, Any], path: Path | None = None) -> Path:
    """The figures as JSON, in `benchmarks/results` unless a path is given."""
    target = path or RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return target


def progress(text: str) -> None:
    """One line about what is going on, on the terminal."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
