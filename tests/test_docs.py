"""The documentation names every setting and every Redis key that the program has, and no file that is not there."""

import re
from pathlib import Path

import pytest

from feature_store.keys import Keys
from streaming import settings

SHARED_KEYS = {"meta", "sources", "gaps"}


def test_the_settings_page_is_the_settings(repository: Path) -> None:
    assert settings.table() in (repository / "docs" / "settings.md").read_text(encoding="utf-8"), (
        "run `python -m streaming.settings` and put its table into docs/settings.md"
    )


def test_the_readme_names_every_redis_key(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    scripts = "".join(path.read_text(encoding="utf-8") for path in (repository / "feature_store" / "lua").glob("*.lua"))
    of_scripts = set(re.findall(r"prefix \.\. '([a-z_]+):?'", scripts))
    of_keys = {name for name in vars(Keys) if not name.startswith("_") and name not in {"namespace", "prefix", "shard"}}
    for name in of_keys | of_scripts:
        assert f"`{name}`" in readme or f"{{s…}}:{name}" in readme, f"README's table of Redis keys lacks {name}"


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/adr/README.md", "docs/faults.md", "docs/model.md", "docs/training.md", "docs/promoting.md"),
        *("docs/drift.md", "docs/retrain.md", "docs/operating.md", "docs/alerts.md", "docs/gateway.md", "benchmarks/README.md"),
    ],
)
def test_links_lead_somewhere(repository: Path, page: str) -> None:
    path = repository / page
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{page} links to {target}, which is not there"
