"""`trendcast models promote` and `rollback` on a real Redis: the pointer moves with the alias, or they say what was and was not moved."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from feature_store.calls import ModelPointer
from feature_store.store import FeatureStore
from models import artefact as artefacts
from models.artefact import Artefact
from models.contenders import BASELINES
from models.registry import local_uri, open_registry
from streaming.cli import build
from streaming.errors import UserError
from streaming.settings import Settings
from tests.models.another import another

NAMESPACE = "promotion"


@pytest.fixture
def mlflow(tmp_path: Path) -> str:
    return local_uri(tmp_path / "mlruns")


@pytest.fixture
def invoke(redis_url: str, mlflow: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def run(*arguments: str, **changes: str) -> Result:
        settings = {"TRENDCAST_REDIS_URL": redis_url, "TRENDCAST_NAMESPACE": NAMESPACE, "TRENDCAST_MLFLOW_URI": mlflow, **changes}
        with ThreadPoolExecutor(1) as aside:  # where no event loop runs
            return aside.submit(CliRunner().invoke, build(), ["models", *arguments], env={"COLUMNS": "250", **settings}).result()

    return run


async def opened(redis_url: str, **changes: Any) -> FeatureStore:
    return await FeatureStore.open(Settings(redis_url=redis_url, namespace=NAMESPACE, **changes))


def written(directory: Path, factor: float, mwql: float, **changes: Any) -> Artefact:
    made = replace(another(factor), **changes)
    rows = {made.name: {"MWQL": mwql}, **{name: {"MWQL": 0.9} for name in BASELINES}}
    artefacts.write(replace(made, backtest={"shop": rows}, training={"benches": {"shop": "b"}}), directory)
    return made


def refused(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


async def test_the_pointer_follows_promotions_and_rollbacks(
    redis_url: str, tmp_path: Path, invoke: Callable[..., Result], mlflow: str
) -> None:
    first, second = written(tmp_path / "1", 1.01, 0.8), written(tmp_path / "2", 1.02, 0.7)
    store = await opened(redis_url)
    await store.use_features(first.spec.hash)
    assert await store.model() is None
    found: list[ModelPointer | None] = []
    for command in (("promote", str(tmp_path / "1")), ("promote", str(tmp_path / "2")), ("rollback", first.name)):
        done = invoke(*command)
        assert done.exit_code == 0, done.output
        assert "take it over" in done.output
        found.append(await store.model())
    assert [each and (each.version, each.label) for each in found] == [
        (first.version, f"{first.name}/1"),
        (second.version, f"{first.name}/2"),
        (first.version, f"{first.name}/1"),
    ]
    assert found[0] is not None
    assert found[0].files.startswith("file:///")
    assert "serves already" in refused(invoke("promote", f"{first.name}/1"))
    await store.close()


async def test_another_namespace_gets_the_pointer_alone(redis_url: str, tmp_path: Path, invoke: Callable[..., Result], mlflow: str) -> None:
    made = written(tmp_path / "1", 1.01, 0.8)
    await (await opened(redis_url)).close()
    assert invoke("promote", str(tmp_path / "1")).exit_code == 0
    other = await FeatureStore.open(Settings(redis_url=redis_url, namespace="other"))
    assert invoke("promote", f"{made.name}/1", TRENDCAST_NAMESPACE="other").exit_code == 0
    pointer = await other.model()
    assert pointer is not None
    assert pointer.version == made.version
    assert len(open_registry(mlflow).history(made.name)) == 1
    await other.close()


async def test_without_the_namespace_or_redis_the_alias_moves_alone_and_it_says_so(
    redis_url: str, tmp_path: Path, invoke: Callable[..., Result], mlflow: str, unused_tcp_port: int
) -> None:
    made = written(tmp_path / "1", 1.01, 0.8)
    for changes, reason in (
        ({}, "there is no namespace"),
        ({"TRENDCAST_REDIS_URL": f"redis://127.0.0.1:{unused_tcp_port}/0"}, "does not answer"),
    ):
        said = refused(invoke("promote", str(tmp_path / "1"), **changes))
        assert reason in said
        assert f"alias has moved to {made.name}/1, the workers' pointer has not" in said
        assert f"`trendcast models promote {made.name}/1`" in said
    serving = open_registry(mlflow).serving(made.name)
    assert serving is not None
    assert serving.artefact == made.version
    store = await opened(redis_url)
    assert invoke("promote", f"{made.name}/1").exit_code == 0
    assert (await store.model()) is not None
    await store.close()


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
async def test_a_model_of_other_features_moves_nothing(
    redis_url: str, tmp_path: Path, invoke: Callable[..., Result], mlflow: str, timezone: str
) -> None:
    """The specification counts as it is in the shop's time zone, whatever zone the model was trained in."""
    spec = another().spec
    fits = written(tmp_path / "fits", 1.01, 0.8, spec=replace(spec, timezone="Asia/Tokyo"))
    written(tmp_path / "other", 1.02, 0.7, spec=replace(spec, half_lives=(3.0, 12.0, 48.0, 168.0, 500.0)))
    store = await opened(redis_url, timezone=timezone)
    await store.use_features(replace(spec, timezone=timezone).hash)
    done = invoke("promote", str(tmp_path / "fits"), TRENDCAST_TIMEZONE=timezone)
    assert done.exit_code == 0, done.output
    said = refused(invoke("promote", str(tmp_path / "other"), TRENDCAST_TIMEZONE=timezone))
    assert "Nothing was moved" in said
    assert "another TRENDCAST_NAMESPACE" in said
    pointer, serving = await store.model(), open_registry(mlflow).serving(fits.name)
    assert pointer is not None
    assert serving is not None
    assert pointer.version == serving.artefact == fits.version
    await store.close()
