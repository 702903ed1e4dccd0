"""The command line as its users meet it: a process, its output, its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from simulator.embedded import Redis, Stack

# What every command that starts quickly must not have loaded by then.
HEAVY = ("faust", "kafka", "keras", "matplotlib", "mlflow", "numpy", "optuna", "pandas", "redis", "tensorflow")


def trendcast(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRENDCAST_")}
    program = [sys.executable, "-m", "streaming.cli"]
    return subprocess.run([*program, *arguments], capture_output=True, text=True, check=False, env={**environment, **settings})


def test_help_names_every_command() -> None:
    told = trendcast("--help")
    assert told.returncode == 0
    for command in ("up", "down", "status", "topics", "check", "gateway", "schemas", "train", "bench", "backtest", "tune", "models"):
        assert f" {command} " in told.stdout


def test_help_loads_nothing_heavy() -> None:
    program = f"import sys; from streaming.cli import build; build(); print([name for name in {HEAVY} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["no-such-command"], ["up", "--kafka-port", "none"], ["topics", "create", "surplus"]])
def test_wrong_use_ends_with_2(arguments: list[str]) -> None:
    told = trendcast(*arguments)
    assert told.returncode == 2
    assert "Usage: trendcast" in told.stderr


def test_wrong_settings_are_named_without_their_values() -> None:
    told = trendcast("check", TRENDCAST_SHARDS="many", TRENDCAST_TIMEZONE="Mars/Olympus")
    assert told.returncode == 1
    assert told.stderr.splitlines() == [
        "error: wrong settings:",
        "  TRENDCAST_SHARDS: Input should be a valid integer, unable to parse string as an integer",
        "  TRENDCAST_TIMEZONE: unknown time zone 'Mars/Olympus'; use an IANA name such as Europe/Berlin",
    ]


def test_up_status_down_and_up_again_with_the_same_data(tmp_path: Path) -> None:
    place = ["--directory", str(tmp_path)]
    assert trendcast("status", *place).returncode == 1
    try:
        addresses = json.loads(trendcast("up", *place, "--json").stdout)
        with redis.Redis.from_url(addresses["redis"]) as client:
            client.set("name", "value")
        assert json.loads(trendcast("up", *place, "--json").stdout) == addresses
        told = trendcast("status", *place, "--json")
        assert (told.returncode, json.loads(told.stdout)) == (0, addresses)
        settings = {"TRENDCAST_KAFKA_BOOTSTRAP": addresses["kafka"], "TRENDCAST_REDIS_URL": addresses["redis"]}
        assert trendcast("topics", "create", **settings).returncode == 0

        assert trendcast("down", *place).stdout == "stopped kafka and redis\n"
        assert json.loads(trendcast("status", *place, "--json").stdout) == {"kafka": None, "redis": None}
        assert trendcast("down", *place).stdout == "nothing was running\n"

        assert json.loads(trendcast("up", *place, "--json").stdout) == addresses
        with redis.Redis.from_url(addresses["redis"]) as client:
            assert client.get("name") == b"value"
        assert "orders: exists" in trendcast("topics", "create", **settings).stdout
    finally:
        trendcast("down", *place)


def test_up_says_which_port_is_taken(tmp_path: Path) -> None:
    with Redis(tmp_path / "other") as other:
        told = trendcast("up", "--directory", str(tmp_path / "ours"), "--redis-port", str(other.port))
        assert f"port {other.port} of 127.0.0.1 is in use" in told.stderr
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert trendcast("down", "--directory", str(tmp_path / "ours")).stdout == "nothing was running\n"


def test_check_says_all_is_well_or_what_is_wrong(stack: Stack, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    settings = {
        "TRENDCAST_KAFKA_BOOTSTRAP": stack.kafka.address,
        "TRENDCAST_REDIS_URL": redis_url,
        "TRENDCAST_NAMESPACE": "checked",
        "TRENDCAST_MODEL_DIR": str(tmp_path / "model"),
    }
    missing = trendcast("check", **settings)
    assert missing.returncode == 1
    assert "checked-product-updates: does not exist" in missing.stdout
    assert trendcast("topics", "create", **settings).returncode == 0
    well = trendcast("check", **settings)
    assert well.returncode == 0
    assert [line.split()[0] for line in well.stdout.splitlines()] == ["ok"] * 5

    no_model = trendcast("check", **{**settings, "TRENDCAST_MODEL_DIR": str(tmp_path / "none")})
    assert no_model.returncode == 1
    assert "set TRENDCAST_MODEL_DIR" in no_model.stdout


def test_check_refuses_a_redis_that_evicts_or_is_away(stack: Stack, tmp_path: Path) -> None:
    settings = {"TRENDCAST_KAFKA_BOOTSTRAP": stack.kafka.address}
    with Redis(tmp_path, settings={"maxmemory-policy": "allkeys-lru"}) as evicting:
        told = trendcast("check", **settings, TRENDCAST_REDIS_URL=evicting.url)
        assert "set maxmemory-policy noeviction" in told.stdout
        url = evicting.url
    told = trendcast("check", **settings, TRENDCAST_REDIS_URL=url)
    assert "it does not answer" in told.stdout
    assert told.returncode == 1


def test_check_tells_a_refused_password_without_repeating_it(stack: Stack, tmp_path: Path) -> None:
    with Redis(tmp_path) as server:
        with redis.Redis(port=server.port) as client:
            client.acl_setuser("worker", enabled=True, passwords=["+right"], categories=["+@all"], keys=["other:*"])
        url = f"redis://worker:{{}}@127.0.0.1:{server.port}/0"
        wrong = trendcast("check", TRENDCAST_KAFKA_BOOTSTRAP=stack.kafka.address, TRENDCAST_REDIS_URL=url.format("geheim"))
        assert "refuses the user or password" in wrong.stdout
        assert "geheim" not in wrong.stdout + wrong.stderr
        right = trendcast("check", TRENDCAST_KAFKA_BOOTSTRAP=stack.kafka.address, TRENDCAST_REDIS_URL=url.format("right"))
        assert "does not let us run a script that writes keys trendcast:*" in right.stdout
