"""Where downloads are kept: in the checkout where there is one, else in the user's cache."""

import os
from pathlib import Path


def state_dir() -> Path:
    """`.trendcast/` of the checkout that this code runs from, else of the working directory: data of `trendcast up`."""
    checkout = Path(__file__).resolve().parents[2]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / ".trendcast"


def cache_dir() -> Path:
    """Downloads, shared by everything that starts from one checkout, or by all of a user's installed copies."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():
        return checkout / ".trendcast" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trendcast"
