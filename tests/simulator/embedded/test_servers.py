"""The embedded servers: they come up, keep or lose their data as promised, end with their program, and say what is wrong."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis
from kafka import KafkaAdminClient

from simulator.embedded import Kafka, Redis, jars
from simulator.embedded.cache import cache_dir
from simulator.embedded.processes import Port, Server
from streaming.errors import UserError


def cluster_id(address: str) -> str:
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        return str(admin.describe_cluster()["cluster_id"])
    finally:
        admin.close()


def test_kafka_keeps_its_identity_and_port_over_a_kill_and_a_new_object(tmp_path: Path) -> None:
    with Kafka(tmp_path) as kafka:
        address, identity = kafka.address, cluster_id(kafka.address)
        kafka.kill()
        kafka.start()
        assert (kafka.address, cluster_id(kafka.address)) == (address, identity)
    with Kafka(tmp_path) as again:
        assert cluster_id(again.address) == identity


def test_several_redis_at_once_one_following_the_other(tmp_path: Path) -> None:
    with Redis(tmp_path / "a") as first, Redis(tmp_path / "b", replica_of=first.port) as second:
        assert first.port != second.port
        with redis.Redis(port=first.port) as writer, redis.Redis(port=second.port) as reader:
            writer.set("name", "value")
            while reader.info("replication")["master_link_status"] != "up":
                pass
            writer.wait(1, 10_000)
            assert reader.get("name") == b"value"


@pytest.mark.parametrize("persistence", [False, True])
def test_redis_keeps_its_data_only_where_wanted(tmp_path: Path, persistence: bool) -> None:
    with Redis(tmp_path, persistence=persistence) as server:
        with redis.Redis(port=server.port) as client:
            client.set("name", "value")
        server.restart()
        with redis.Redis(port=server.port) as client:
            assert client.get("name") == (b"value" if persistence else None)


def test_redis_starts_from_an_older_snapshot(tmp_path: Path) -> None:
    with Redis(tmp_path / "server") as server:
        with redis.Redis(port=server.port) as client:
            client.set("name", "old")
            client.save()
            (tmp_path / "server" / "dump.rdb").rename(tmp_path / "backup.rdb")
            client.set("name", "new")
        server.kill()
        server.rdb = tmp_path / "backup.rdb"
        server.start()
        with redis.Redis(port=server.port) as client:
            assert client.get("name") == b"old"
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_servers_end_with_their_killed_program(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from simulator.embedded import Redis;"
        "server = Redis(pathlib.Path(sys.argv[1])).start().server; print(server.pid, flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        server = psutil.Process(int(child.stdout.readline()))
        os.kill(child.pid, signal.SIGKILL)
    server.wait(20)  # raises TimeoutExpired if it lives on


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with Redis(tmp_path / "a") as first, pytest.raises(UserError, match=f"port {first.port} .* in use"):
        Redis(tmp_path / "b", first.port).start()


def test_a_server_that_dies_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Redis ended; the end of .*redis\.log:\n(.*\n)*.*no-such-setting"):
        Redis(tmp_path, settings={"no-such-setting": "1"}).start()


def test_a_process_that_is_another_program_by_now_is_not_found(tmp_path: Path) -> None:
    with Redis(tmp_path) as running:
        assert running.server is not None
        identity = running.server.identity
        assert Server.find(identity, tmp_path / "redis.log") is not None
        assert Server.find({**identity, "created": identity["created"] - 60}, tmp_path / "redis.log") is None
    assert Server.find(identity, tmp_path / "redis.log") is None


def test_ports_are_reserved_until_released() -> None:
    first = Port()
    with pytest.raises(UserError, match="in use"):
        Port(first.number)
    first.release()
    Port(first.number).release()


def test_every_jar_of_the_lock_file_is_checked(tmp_path: Path) -> None:
    jars.class_path(cache_dir())
    for jar in jars.locked():
        assert hashlib.sha256(jar.path(cache_dir() / "maven").read_bytes()).hexdigest() == jar.sha256


def test_a_jar_with_another_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = next(jar for jar in jars.locked() if jar.artifact == "jspecify")
    monkeypatch.setattr(jars, "locked", lambda: [jars.Jar(smallest.group, smallest.artifact, smallest.version, "0" * 64)])
    with pytest.raises(UserError, match="not the file that kafka"):
        jars.class_path(tmp_path)
    assert not list(tmp_path.rglob("*.jar"))
