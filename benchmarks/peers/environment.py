"""Environments of the peers: their libraries and ours do not agree on versions."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from benchmarks import rig


def peers_python(kind: str) -> Path:
    """The interpreter of a kind of peers; makes its environment where it is missing, or not what `KIND-requirements.txt` says."""
    home, requirements = rig.ROOT / ".trendcast" / f"peers-{kind}", Path(__file__).with_name(f"{kind}-requirements.txt")
    python, stamp = home / "bin" / "python", home / "requirements.sha256"
    wanted = sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    rig.progress(f"making the peers' environment in {home}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", str(requirements)]
    subprocess.run(pip, check=True)
    stamp.write_text(wanted)
    return python
