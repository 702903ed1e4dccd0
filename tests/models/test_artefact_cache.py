"""Promoted models are copied once, verified, and served from the copy; what is damaged or another's is refused."""

import shutil
from pathlib import Path

import pytest

from models import registry
from models.artefact import UnusableArtefact, read
from models.artefact_cache import fetch
from tests.models.another import another, written


def no_download(source: str, directory: Path) -> Path:
    raise AssertionError("nothing is to be downloaded")


def test_a_model_is_copied_once(tmp_path: Path) -> None:
    source, version = written(tmp_path / "a b")  # a URI spells the blank otherwise
    cache = tmp_path / "cache"
    kept = fetch(version, source.as_uri(), cache, no_download)
    assert kept == cache / version
    assert read(kept).version == version
    shutil.rmtree(source)
    assert fetch(version, source.as_uri(), cache, no_download) == kept
    assert [path.name for path in cache.iterdir()] == [version]


def test_a_damaged_copy_is_made_anew(tmp_path: Path) -> None:
    source, version = written(tmp_path / "model")
    kept = fetch(version, source.as_uri(), tmp_path / "cache", no_download)
    (kept / "weights.npz").write_bytes(b"half a file")
    assert read(fetch(version, source.as_uri(), tmp_path / "cache", no_download)).version == version


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda at: (at / "weights.npz").write_bytes((at / "weights.npz").read_bytes()[:5000]), "cannot be read"),
        (lambda at: (at / "model.json").unlink(), "cannot be copied"),
        (lambda at: written(at, 1.02), "not .*, which was promoted"),
    ],
)
def test_what_is_not_the_promoted_model_is_refused(tmp_path: Path, harm: object, says: str) -> None:
    source, version = written(tmp_path / "model")
    harm(source)  # type: ignore[operator]
    with pytest.raises(UnusableArtefact, match=says):
        fetch(version, source.as_uri(), tmp_path / "cache", no_download)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("version", ["../../etc", "", "0123456789AB"])
def test_a_version_is_not_any_name(tmp_path: Path, version: str) -> None:
    with pytest.raises(UnusableArtefact, match="no version"):
        fetch(version, "file:///", tmp_path, no_download)


def test_a_store_that_keeps_its_files_elsewhere_is_asked(tmp_path: Path) -> None:
    uri = registry.local_uri(tmp_path / "mlruns")
    record, model = registry.open_registry(uri), another()
    run = record.record("train", model, {})
    kept = fetch(model.version, f"runs:/{run}/model", tmp_path / "cache", lambda source, into: registry.download(uri, source, into))
    assert read(kept).version == model.version
    assert record.source(record.register(model, run)).startswith("file:///")
    with pytest.raises(registry.NoRegistry):
        fetch(another(1.02).version, "runs:/none/model", tmp_path / "cache", lambda source, into: registry.download(uri, source, into))
