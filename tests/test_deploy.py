"""Deployment files say the same as the program: its settings, its commands, its ports, and the servers that the tests really run on."""

import re
import subprocess
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import typer.main
import yaml
from kafka.admin import ConfigResource, ConfigResourceType

from simulator.embedded import Redis, jars
from simulator.embedded import kafka as embedded_kafka
from simulator.embedded import redis as embedded_redis
from streaming import topics
from streaming.cli import build
from streaming.settings import Settings

OURS = ("topics", "ingest", "forecast", "gateway")
# What depends on the machine's addresses and folders.
NODE_ONLY = {"node.id", "process.roles", "listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path(__file__).parents[1].joinpath("docker-compose.yml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def broker_settings(compose: dict[str, Any]) -> dict[str, str]:
    environment = compose["services"]["kafka"]["environment"]
    return {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in environment.items()}


@pytest.fixture(scope="module")
def redis_settings(compose: dict[str, Any]) -> dict[str, str]:
    program, *words = compose["services"]["redis"]["command"]
    assert program == "redis-server"
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


def test_every_variable_is_a_setting_with_a_valid_value(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"TRENDCAST_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        environment = compose["services"][name]["environment"]
        assert set(environment) <= known
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        settings = Settings()
        assert settings.kafka_bootstrap == "kafka:9092"
        assert urlsplit(settings.redis).hostname == "redis"


def test_every_command_exists(compose: dict[str, Any]) -> None:
    command_line: Any = typer.main.get_command(build())
    for name in OURS:
        command = command_line
        for word in compose["services"][name]["command"]:
            command = command.commands[word]


def test_the_broker_is_set_as_the_embedded_one(broker_settings: dict[str, str]) -> None:
    protocols = set(broker_settings.pop("listener.security.protocol.map").split(","))
    assert protocols == {*embedded_kafka.SETTINGS["listener.security.protocol.map"].split(","), "HOST:PLAINTEXT"}
    same = {name: value for name, value in embedded_kafka.SETTINGS.items() if name != "listener.security.protocol.map"}
    assert {name: broker_settings.get(name) for name in same} == same
    assert set(broker_settings) - set(same) <= NODE_ONLY


def test_the_embedded_broker_really_runs_so(kafka: str, broker_settings: dict[str, str]) -> None:
    with topics.connected(kafka) as admin:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")], config_filter="all")
    running = {name: entry["value"] for name, entry in described["broker"]["1"].items()}
    compared = {name: value for name, value in broker_settings.items() if name not in {*NODE_ONLY, "listener.security.protocol.map"}}
    assert {name: running.get(name) for name in compared} == compared


def test_the_broker_is_of_the_embedded_version(compose: dict[str, Any]) -> None:
    versions = {jar.artifact: jar.version for jar in jars.locked()}
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{versions['kafka-clients']}"


def test_redis_runs_with_the_settings_of_the_embedded_one(redis_settings: dict[str, str], tmp_path: Path) -> None:
    with Redis(tmp_path, persistence=True) as server, redis.Redis(port=server.port, decode_responses=True) as client:
        running = {name: value for wanted in redis_settings for name, value in client.config_get(wanted).items()}
    assert running == redis_settings
    assert redis_settings.items() >= embedded_redis.SETTINGS.items()


def test_only_this_machine_is_published(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_what_runs_for_long_is_watched_and_restarted(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "topics":
            assert "healthcheck" in service, name
            assert service["restart"] == "unless-stopped", name


def test_prometheus_asks_the_workers_where_they_answer(compose: dict[str, Any], repository: Path) -> None:
    jobs = yaml.safe_load((repository / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    asked = {name: lookup["port"] for job in jobs for lookup in job["dns_sd_configs"] for name in lookup["names"]}
    workers = {name: compose["services"][name]["environment"] for name in OURS if name != "topics"}
    port = {name: "TRENDCAST_GATEWAY_PORT" if name == "gateway" else "TRENDCAST_METRICS_PORT" for name in workers}
    assert asked == {name: int(environment[port[name]]) for name, environment in workers.items()}


def test_prometheus_finds_its_rules_where_they_are_mounted(compose: dict[str, Any], repository: Path) -> None:
    read = yaml.safe_load((repository / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))["rule_files"]
    mounted = dict(volume.split(":")[:2] for volume in compose["services"]["prometheus"]["volumes"] if volume.startswith("./"))
    assert {f"./deploy/{name}": f"/etc/prometheus/{name}" for name in ("prometheus.yml", *read)} == mounted
    assert all((repository / path).exists() for path in mounted)


def test_the_image_holds_the_tested_versions_of_every_dependency(repository: Path) -> None:
    tested, shipped = (_pinned(repository / path) for path in ("requirements.txt", "deploy/requirements.txt"))
    assert shipped <= tested
    needed = {_normal(re.split(r"[<>=~!; ]", line)[0]) for line in requires("trendcast") or [] if "extra ==" not in line}
    assert needed <= {name for name, _ in shipped}


def test_the_image_runs_without_root_and_copies_what_exists(repository: Path) -> None:
    lines = (repository / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 10001" in lines[-4:]
    copied = {word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]}
    assert {path for path in copied if not (repository / path).exists()} == set()
    allowed = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {path for path in copied if f"!{path.split('/')[0]}" not in allowed and f"!{path}" not in allowed} == set()


@pytest.mark.system
def test_debians_docker_compose_accepts_the_file(repository: Path) -> None:
    told = subprocess.run(
        ["docker-compose", "-f", "docker-compose.yml", "config"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert set(yaml.safe_load(told.stdout)["services"]) >= {"kafka", "redis", *OURS, "prometheus"}


@pytest.mark.system
def test_the_stack_runs_on_debians_redis(tmp_path: Path) -> None:
    debians = Path("/usr/bin/redis-server")
    assert embedded_redis.version_of(debians), f"no usable {debians}; `make test-system` installs it"
    with Redis(tmp_path, executable=debians, persistence=True) as server:
        with redis.Redis(port=server.port) as client:
            client.set("name", "value")
            major, minor = (int(part) for part in client.info("server")["redis_version"].split(".")[:2])
            assert (major, minor) == embedded_redis.version_of(debians)
        server.restart()
        with redis.Redis(port=server.port) as client:
            assert client.get("name") == b"value"


def _pinned(path: Path) -> set[tuple[str, str]]:
    """Name and version, with its marker, of every requirement of a compiled file."""
    found = re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\\\n]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {(_normal(name), version.strip()) for name, version in found}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
