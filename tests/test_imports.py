"""Imports go one way, only the store talks to Redis, and pure modules touch no clock, environment, network or global randomness."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# Who may import whom, beside itself. Commands may start what is beside the program: the simulator, the embedded servers.
ALLOWED = {
    "feature_store": set(),
    "models": {"feature_store"},
    "streaming": {"models", "feature_store"},
    "streaming/commands": {"streaming", "models", "feature_store", "simulator", "gateway"},
    "streaming/training_log.py": {"streaming", "models", "feature_store", "simulator"},
    "simulator": {"streaming"},
    "gateway": {"streaming"},
}
OURS = {"feature_store", "models", "streaming", "simulator", "gateway", "tests", "benchmarks"}
OF_STREAMING = {"streaming.contracts", "streaming.topics", "streaming.errors", "streaming.settings"}
# What these packages may know of streaming: contracts and topics, and nothing deeper. The gateway tells the shop's time too, and counts in the one list of
# metrics.
KNOWN_OF_STREAMING = {"simulator": OF_STREAMING, "gateway": {*OF_STREAMING, "streaming.clock", "streaming.metrics"}}
# `check` looks at a Redis that may not be usable as a store; the embedded server is asked whether it is ready. Errors may be caught by name anywhere.
REDIS_USERS = ("feature_store/store/", "streaming/commands/check.py", "simulator/embedded/redis.py")
IMPURE = {"time", "os", "random", "socket", "asyncio", "subprocess", "redis", "aiokafka", "kafka", "faust", "threading"}
PURE = [
    *(
        f"feature_store/{name}.py"
        for name in ("calls", "events", "facts", "keys", "measures", "rolling", "sharding", "tiles", "watermarks", "windows")
    ),
    *(f"models/{name}.py" for name in ("accuracy", "alerts", "alert_evidence", "alert_messages", "alert_policy", "calendar")),
    *(f"models/{name}.py" for name in ("calibration", "cleaning", "drivers", "features", "known_arrays", "known_future", "live", "rewind")),
    *(f"models/contenders/{name}.py" for name in ("simple", "spread", "table")),
    *(
        f"models/{name}.py"
        for name in ("metrics", "nowcast", "pace", "rebuild", "records", "seasons", "shadow", "targets", "thinning", "timeline")
    ),
    *(f"streaming/{name}.py" for name in ("columns", "contracts", "decode", "deadletters", "ingest_plan", "messages", "schedule")),
    *(f"simulator/{name}.py" for name in ("compare", "demand", "dirt", "encode", "events", "faults", "feed", "shop", "truth")),
    "simulator/demo/check.py",
    "simulator/demo/screen.py",
    *(f"gateway/{name}.py" for name in ("access", "cover", "frames", "hub", "listing", "movers", "rows", "view")),
]


def sources(repository: Path) -> Iterator[tuple[str, Path]]:
    for package in ("feature_store", "models", "streaming", "simulator", "gateway"):
        for path in sorted((repository / package).rglob("*.py")):
            yield str(path.relative_to(repository)), path


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rule(name: str) -> set[str]:
    """The longest prefix of the file's name that has a rule, and the file's own package."""
    longest = max((prefix for prefix in ALLOWED if name.startswith(prefix)), key=len)
    return ALLOWED[longest] | {name.split("/")[0]}


def test_imports_go_one_way(repository: Path) -> None:
    wrong = [
        f"{name} imports {module}"
        for name, path in sources(repository)
        for module in imported(path)
        if module.split(".")[0] in OURS - rule(name)
    ]
    assert not wrong


@pytest.mark.parametrize("package", KNOWN_OF_STREAMING)
def test_who_knows_contracts_and_topics_knows_nothing_deeper(repository: Path, package: str) -> None:
    wrong = [
        f"{name} imports {module}"
        for name, path in sources(repository)
        if name.startswith(f"{package}/")
        for module in imported(path)
        if module.startswith("streaming.")
        and not any(module == known or module.startswith(f"{known}.") for known in KNOWN_OF_STREAMING[package])
    ]
    assert not wrong


def test_only_the_store_talks_to_redis(repository: Path) -> None:
    users = {
        name
        for name, path in sources(repository)
        if any(module.split(".")[0] == "redis" and not module.startswith("redis.exceptions") for module in imported(path))
    }
    assert not {name for name in users if not name.startswith(REDIS_USERS)}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_stay_pure(repository: Path, name: str) -> None:
    impure = {module for module in imported(repository / name) if module.split(".")[0] in IMPURE or module.startswith("numpy.random.")}
    assert not impure
