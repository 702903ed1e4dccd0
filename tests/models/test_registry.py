"""Who may serve is decided by stored backtests on the same bench, and can be taken back; nothing of it is in the way of a training."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from feature_store.store import FeatureStore
from models import artefact as artefacts
from models import registry
from models.artefact import Artefact
from models.backtest import unfit
from models.contenders import BASELINES
from models.features import FeatureSpec
from models.registry import Measured, Move, NoRegistry, NotPromoted, Registry, Version, judge, stack
from models.seasons import DAY_MS
from streaming.cli import build
from streaming.errors import UserError
from streaming.settings import Settings
from tests.models.benches import daily_bench, untrained, write_bench

SIMPLE = list(BASELINES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests of this file: tests use models of names of their own."""
    return registry.local_uri(tmp_path_factory.mktemp("store") / "mlruns")


@pytest.fixture
def opened(store: str) -> Registry:
    return registry.open_registry(store)


@pytest.fixture
def recording(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TRENDCAST_MLFLOW_URI", store)
    return store


def model(name: str, seed: float = 1.0) -> Artefact:
    made = replace(untrained(FeatureSpec.for_step(DAY_MS, ("hist_orders",))), name=name)
    curve = [{"iteration": 10, "loss": 0.5, "held_out_loss": 0.6, "kept": True}]
    return replace(
        made, weights={**made.weights, "norm.gain": np.full(64, seed, np.float32)}, training={"recipe": {"batch": 8}, "curve": curve}
    )


def measured(name: str, mwql: float, rivals: float = 0.9) -> Measured:
    return Measured("shop", {name: {"MWQL": mwql, "P(y<=q90)": 0.9}, **{rival: {"MWQL": rivals} for rival in SIMPLE}})


def registered(opened: Registry, artefact: Artefact, **backtests: Measured) -> Version:
    return opened.add_backtests(opened.register(artefact, opened.record("train", artefact, backtests)), backtests)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(build(), list(arguments), env={"COLUMNS": "250"})


@pytest.mark.parametrize(
    ("own", "rivals", "serving", "says"),
    [
        ({"f": 0.7}, 0.9, None, []),
        ({"f": 0.7}, 0.9, {"f": 0.8}, []),
        ({"f": 0.7, "g": 0.85}, 0.9, {"f": 0.8}, []),
        ({"f": 0.95}, 0.9, None, ["28-day mean has MWQL 0.9000 and lstm/2 0.9500", "seasonal naive has MWQL 0.9000"]),
        ({"f": 0.8}, 0.9, {"f": 0.8}, ["lstm/1 has MWQL 0.8000"]),
        ({"f": float("nan")}, 0.9, None, ["28-day mean", "seasonal naive"]),
        ({"f": 0.7}, 0.9, {"g": 0.8}, ["not measured on the same bench"]),
        ({"f": 0.7}, 0.9, {}, ["not measured on the same bench"]),
        ({}, 0.9, None, ["has no backtest"]),
    ],
)
def test_the_verdict(own: dict[str, float], rivals: float, serving: dict[str, float] | None, says: list[str]) -> None:
    candidate = Version("lstm", 2, "b", {bench: measured("lstm", mwql, rivals) for bench, mwql in own.items()})
    rival = None if serving is None else Version("lstm", 1, "a", {bench: measured("lstm", mwql) for bench, mwql in serving.items()})
    objections = judge(candidate, rival, SIMPLE).objections
    assert len(objections) == len(says)
    assert all(part in line for part, line in zip(says, objections, strict=True))


def test_a_backtest_without_the_simple_forecasts_is_not_enough() -> None:
    candidate = Version("lstm", 2, "b", {"f": Measured("shop", {"lstm": {"MWQL": 0.1}})})
    assert "was not measured on shop: backtest again" in judge(candidate, None, SIMPLE).objections[0]


def test_a_rollback_goes_back_one_promotion_at_a_time() -> None:
    moves = [Move(1, 1, False), Move(2, 2, False), Move(3, 3, False), Move(4, 2, True), Move(5, 1, True)]
    assert [stack(moves[:n]) for n in range(6)] == [[], [1], [1, 2], [1, 2, 3], [1, 2], [1]]


def test_runs_and_versions_hold_what_was_trained(opened: Registry, store: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    version = registered(opened, model("held"), f=measured("held", 0.7))
    assert registered(opened, model("held"), g=measured("held", 0.6)).number == version.number == 1
    (found,) = opened.versions("held")
    assert {bench: one.mwql("held") for bench, one in found.backtests.items()} == {"f": 0.7, "g": 0.6}
    assert artefacts.read(opened.files(found)).version == model("held").version
    assert registered(opened, model("held", seed=2)).number == 2
    run = MlflowClient(store).get_run(version.run_id)
    assert run.data.params["recipe.batch"] == "8"
    assert run.data.metrics["held_out_loss"] == 0.6
    assert run.data.metrics["shop/held/P y at most q90"] == 0.9
    assert run.info.status == "FINISHED"


def test_promotion_and_rollback_move_the_alias(opened: Registry) -> None:
    versions = [registered(opened, model("moved", seed), f=measured("moved", 1 / (seed + 1))) for seed in (1, 2, 3)]
    assert opened.serving("moved") is None
    for version in versions:
        assert not opened.promote(version, SIMPLE).objections
        assert opened.serving("moved") == replace(version, serving=True, run_id=version.run_id)
    assert opened.promote(versions[0], SIMPLE).objections
    with pytest.raises(NotPromoted, match="serves already"):
        opened.promote(versions[2], SIMPLE)
    assert [opened.rollback("moved").number, opened.rollback("moved").number] == [2, 1]
    with pytest.raises(NotPromoted, match="before the present one"):
        opened.rollback("moved")
    assert [(move.version, move.back) for move in opened.history("moved")] == [(1, False), (2, False), (3, False), (2, True), (1, True)]


def test_the_commands_promote_and_roll_back(
    opened: Registry, recording: str, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a directory, by label and by digits; the list shows what serves; a worse one is refused with the table."""
    steps = {"STEP_MS": DAY_MS, "TILE_RETENTION_MS": 2 * DAY_MS, "REDIS_URL": redis_url, "NAMESPACE": "told"}
    for setting, value in steps.items():
        monkeypatch.setenv(f"TRENDCAST_{setting}", str(value))

    async def make_namespace() -> None:
        await (await FeatureStore.open(Settings())).close()

    asyncio.run(make_namespace())
    names = {"benches": {"shop": "f"}}
    for i, mwql in enumerate((0.8, 0.7, 0.75)):
        one = replace(model("told", i), backtest={"shop": measured("told", mwql).rows})
        artefacts.write(replace(one, training={**one.training, **names}), tmp_path / str(i))
        if i:
            registered(opened, one, f=measured("told", mwql))
    first = invoke("models", "promote", str(tmp_path / "0"))
    assert first.exit_code == 0, first.output
    assert "told/3" in first.output
    assert invoke("models", "promote", "told/1").exit_code == 0
    refused = invoke("models", "promote", model("told", 2).version)
    assert isinstance(refused.exception, UserError)
    assert "told/1 has MWQL 0.7000 and told/2 0.7500" in str(refused.exception)
    assert "0.7500" in refused.output
    listed = invoke("models", "list", str(tmp_path))
    assert listed.exit_code == 0, listed.output
    lines = [line for line in listed.output.splitlines() if "told/1" in line]
    assert [("serving" in line, "0.700 (0.900)" in line) for line in lines] == [(False, True), (True, True)]
    back = invoke("models", "rollback", "told")
    assert "told/3" in back.output
    assert "instead of told/1" in back.output
    assert isinstance(invoke("models", "rollback", "told").exception, UserError)
    for unknown in ("told/9", "told", "0000000"):
        assert "neither a model's directory" in str(invoke("models", "promote", unknown).exception)


def test_a_backtest_of_a_model_makes_it_fit_to_be_judged(opened: Registry, recording: str, tmp_path: Path) -> None:
    bench = write_bench(tmp_path / "bench")
    artefacts.write(model("again"), tmp_path / "model")
    assert "has no backtest" in str(invoke("models", "promote", str(tmp_path / "model")).exception)
    report = tmp_path / "report.html"
    options = ["--out", str(tmp_path / "forecasts.parquet"), "--report", str(report)]
    done = invoke("backtest", str(bench), "--model", str(tmp_path / "model"), *options)
    assert done.exit_code == 0, done.output
    assert "recorded as a backtest of again/1" in done.output
    (version,) = opened.versions("again")
    assert [set(one.rows) for one in version.backtests.values()] == [{"again", *SIMPLE}]
    runs = opened._client.search_runs([opened._experiment], filter_string="tags.`trendcast.kind` = 'backtest'")
    [run] = [run for run in runs if run.data.params["artefact"] == version.artefact]
    kept = opened._client.download_artifacts(run.info.run_id, report.name, str(tmp_path))
    assert Path(kept).read_text() == report.read_text()
    assert "is not promoted" in str(invoke("models", "promote", "again/1").exception)


def test_a_model_is_not_measured_on_what_it_learned() -> None:
    bench = daily_bench(np.ones((3, 100)), 14, cutoffs=(50, 60))
    fit = model("any")
    first = bench.panel.first_step
    for begin, steps, says in ((0, 51, None), (0, 52, "learned"), (74, 10, "learned"), (75, 10, None)):
        taught = replace(fit, training={"panels": [{"first_step": first + begin, "steps": steps}]})
        assert (unfit(bench, taught) or "none").find(says or "none") >= 0
    assert "no streams" in (unfit(bench, replace(fit, spec=replace(fit.spec, streams=()))) or "")
    assert "price ahead, the bench nothing" in (unfit(bench, replace(fit, spec=replace(fit.spec, covariates=("price",)))) or "")
    assert "reaches 7" in (unfit(bench, replace(fit, horizon=7)) or "")


def test_a_training_is_recorded_beside_the_one_that_serves(recording: str, opened: Registry, tmp_path: Path) -> None:
    """The model that serves is measured on the new model's test too, so that promotion needs no further backtest."""
    options = ["--simulate", "6", "--products", "12", "--held-back", "1", "--name", "twice", "--curves", str(tmp_path / "curve.svg")]
    first = invoke("train", *options, "--iterations", "2", "--out", str(tmp_path / "1"))
    assert first.exit_code == 0, first.output
    assert "recorded as twice/1" in first.output
    opened._move("twice", Move(1, 1, back=False))  # whether or not two iterations beat anything
    report = ["--report", str(tmp_path / "pages")]
    second = invoke("train", *options[:-2], *report, "--iterations", "3", "--out", str(tmp_path / "2"))
    assert second.exit_code == 0, second.output
    assert ", serves" in second.output
    assert not (tmp_path / "1" / ".checkpoint").exists()
    assert (tmp_path / "curve.svg").exists()
    of_bench = [json.loads((tmp_path / out / "model.json").read_text())["training"]["benches"]["simulated"] for out in ("1", "2")]
    assert of_bench[0] == of_bench[1]
    candidate, serving = opened.versions("twice")
    assert (candidate.number, serving.number, serving.serving) == (2, 1, True)
    recorded = [{path.name for path in opened.files(version).parent.iterdir()} for version in (serving, candidate)]
    assert recorded == [{"model", "curve.svg"}, {"model", "curve.svg", "simulated.html"}]
    page = (opened.files(candidate).parent / "simulated.html").read_text()
    assert f"{serving.name} {serving.artefact}, serves" in page
    assert set(judge(candidate, serving, SIMPLE).table[f"simulated ({of_bench[0]})"]) == {"twice/2", "twice/1", *SIMPLE}


def test_without_mlflow_training_works_and_promotion_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, store: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRENDCAST_MLFLOW_URI", store)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    artefacts.write(model("bare"), tmp_path / "model")
    out = str(tmp_path / "forecasts.parquet")
    done = invoke("backtest", str(write_bench(tmp_path / "bench")), "--model", str(tmp_path / "model"), "--out", out)
    assert done.exit_code == 0, done.output
    assert "not recorded: MLflow is not installed" in done.output
    assert "pip install 'trendcast[training]'" in str(invoke("models", "promote", "bare/1").exception)


def test_a_store_that_does_not_work_is_named_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    with pytest.raises(NoRegistry, match="does not work"):
        registry.open_registry(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(NoRegistry) as refused:
        registry.open_registry("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(refused.value)


def test_recording_says_nothing_and_touches_nothing_else(tmp_path: Path) -> None:
    """In a process of its own: MLflow is loaded by the registry alone, and leaves neither noise nor folders behind."""
    program = (
        "import sys; from models import registry; assert 'mlflow' not in sys.modules;"
        "registry.open_registry(registry.local_uri(__import__('pathlib').Path('record'))); assert 'mlflow' in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["record"]
