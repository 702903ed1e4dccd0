"""Kafka's jars: named with their SHA-256 sums in `kafka.lock.toml`, fetched once from Maven Central into the cache.

`python -m simulator.embedded.jars` resolves ENDPOINT anew and rewrites the lock file.
"""

import fcntl
import hashlib
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streaming.errors import UserError

# kafka-clients is named as well because jgo's own choice is an old one, with which the broker dies of a missing method.
ENDPOINT: Final = "org.apache.kafka:kafka_2.13:4.3.1+org.apache.kafka:kafka-clients:4.3.1+org.apache.logging.log4j:log4j-slf4j-impl:2.25.2"
LOCK: Final = Path(__file__).with_name("kafka.lock.toml")

# Small files from one server: more connections at once gain nothing.
DOWNLOADS_AT_ONCE: Final = 6

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked dependency."""

    group: str
    artifact: str
    version: str
    sha256: str

    def path(self, repository: Path) -> Path:
        """Where it lies in a Maven repository folder."""
        return repository / Path(*self.group.split(".")) / self.artifact / self.version / f"{self.artifact}-{self.version}.jar"


def locked() -> list[Jar]:
    """The jars of the lock file, in the order of the class path.

    >>> "kafka-clients" in [jar.artifact for jar in locked()]
    True
    """
    rows = tomllib.loads(LOCK.read_text(encoding="utf-8"))["dependencies"]
    return [Jar(row["groupId"], row["artifactId"], row["version"], row["sha256"]) for row in rows]


def class_path(cache: Path, progress: Progress = lambda _: None) -> str:
    """Java's class path of all jars, fetching and checking what the cache lacks; safe in several processes at once."""
    repository = cache / "maven"
    jars = locked()
    # Only complete, checked downloads are moved to their place, so that presence is enough at every later start.
    if any(not jar.path(repository).exists() for jar in jars):
        with _locked_folder(repository):
            missing = [jar for jar in jars if not jar.path(repository).exists()]
            _fetch_all(missing, repository, progress)
    return ":".join(str(jar.path(repository)) for jar in jars)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch_all(jars: list[Jar], repository: Path, progress: Progress) -> None:
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for done, jar in enumerate(pool.map(lambda jar: _fetch(jar, repository), jars), start=1):
            progress(f"Kafka: {done}/{len(jars)} {jar.artifact}-{jar.version}.jar")


def _fetch(jar: Jar, repository: Path) -> Jar:
    arrivals = repository / ".arriving"
    arrived = jar.path(arrivals)
    arrived.unlink(missing_ok=True)  # the rest of an interrupted download
    try:
        context = _maven(arrivals)
        context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except Exception as error:  # jgo and requests raise many kinds; all of them mean the same to the reader
        raise UserError(
            f"cannot fetch {jar.artifact}-{jar.version}.jar from Maven Central: {error}\n"
            "Kafka's jars are downloaded once, at the first start; check the connection (or the proxy settings) and start again."
        ) from error
    found = hashlib.sha256(arrived.read_bytes()).hexdigest()
    if found != jar.sha256:
        arrived.unlink()
        raise UserError(f"{jar.artifact}-{jar.version}.jar is not the file that {LOCK.name} names: SHA-256 {found}, expected {jar.sha256}")
    target = jar.path(repository)
    target.parent.mkdir(parents=True, exist_ok=True)
    arrived.replace(target)
    return jar


def _maven(repository: Path) -> Any:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise UserError("the embedded Kafka needs the package jgo: pip install 'trendcast[embedded]'") from error
    return MavenContext(repo_cache=repository, timeout=30)


def _relock() -> None:
    import tempfile

    from jgo.env import EnvironmentBuilder, LockFile
    from jgo.parse import Endpoint

    with tempfile.TemporaryDirectory() as folder:
        builder = EnvironmentBuilder(context=_maven(Path(folder) / "maven"), cache_dir=Path(folder))
        wanted = builder._coordinates_to_dependencies(Endpoint.parse(ENDPOINT).coordinates)  # jgo.build would fetch a JDK of its own too
        direct, transitive = builder.context.resolver.resolve(wanted)
        LockFile.from_resolved_dependencies([*direct, *transitive], environment_name="kafka").save(LOCK)
    print(f"{LOCK.name}: {len(locked())} jars")


if __name__ == "__main__":
    _relock()
