"""`make setup` says in plain words what is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

NOT_A_PYTHON = "#!/bin/sh\necho 'Python 3.9.2'; exit 1\n"
WITHOUT_VENV = '#!/bin/sh\ncase "$2" in *version_info*) exit 0;; *) exit 1;; esac\n'


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(repository / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("program", "complaint", "remedy"),
    [
        (NOT_A_PYTHON, "needs Python 3.11, 3.12 or 3.13", "make setup PYTHON=/path/to/python3.12"),
        (WITHOUT_VENV, "cannot make virtual environments", "apt-get install python3-venv"),
    ],
)
def test_a_python_that_does_not_fit(checkout: Path, program: str, complaint: str, remedy: str) -> None:
    python = checkout / "python"
    python.write_text(program)
    python.chmod(0o755)
    told = make(checkout, "setup", f"PYTHON={python}")
    assert told.returncode != 0
    assert complaint in told.stderr
    assert remedy in told.stderr
    assert not (checkout / ".venv").exists()


def test_make_alone_names_every_target(repository: Path) -> None:
    told = make(repository).stdout
    for target in ("setup", "demo", "test", "test-system", "lint", "bench-NAME"):
        assert f"make {target} " in told


def test_demo_passes_its_options_on(repository: Path) -> None:
    said = make(repository, "--dry-run", "demo", "MINUTES=3", "SPEED=960", "DATA=a b.csv").stdout
    assert '.venv/bin/trendcast demo --minutes 3 --speed 960 --data "a b.csv"' in said
