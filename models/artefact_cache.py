"""Copies of promoted models on the machine that serves them, by version: a worker that restarts needs neither the registry nor its files."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import unquote, urlsplit

from models.artefact import FILES, UnusableArtefact, read

Download = Callable[[str, Path], Path]  # what a URI names, into a directory; where it lies then

_VERSION: Final = re.compile(r"[0-9a-f]{12}")


def fetch(version: str, files: str, cache: Path, download: Download) -> Path:
    """Directory of the model of this version: in `cache`, or else copied there from the URI `files`.

    Raises UnusableArtefact, also where another version lies there.
    Any number of processes may do this at once: a copy appears whole or not at all.
    """
    kept = cache / version
    if not _VERSION.fullmatch(version):
        raise UnusableArtefact(kept, f"{version!r} is no version")
    if _holds(kept, version):
        return kept
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, prefix=".") as scratch:
            copy = _copied(files, Path(scratch), download)
            try:
                found = read(copy).version
            except UnusableArtefact as error:
                raise UnusableArtefact(kept, f"of {files}, {error.reason}") from error
            if found != version:
                raise UnusableArtefact(kept, f"{files} holds version {found}, not {version}, which was promoted")
            if kept.exists():  # damaged since
                kept.replace(Path(scratch) / "damaged")
            copy.replace(kept)
    except OSError as error:
        if not _holds(kept, version):  # else another process was quicker
            raise UnusableArtefact(kept, f"{files} cannot be copied ({error})") from error
    return kept


def _holds(directory: Path, version: str) -> bool:
    try:
        return read(directory).version == version
    except UnusableArtefact:
        return False


def _copied(files: str, scratch: Path, download: Download) -> Path:
    """The two files of a model, in a directory within `scratch`."""
    parts = urlsplit(files)
    source = Path(unquote(parts.path)) if parts.scheme == "file" else download(files, scratch)
    copy = scratch / "model"
    copy.mkdir(exist_ok=True)
    for name in FILES:
        if source != copy:
            shutil.copyfile(source / name, copy / name)
    return copy
