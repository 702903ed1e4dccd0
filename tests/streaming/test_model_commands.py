"""`trendcast train` and `trendcast models list`, as a user meets them."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from models.artefact import read
from models.seasons import HOUR_MS
from streaming.cli import build
from streaming.errors import UserError

WIDE = {"COLUMNS": "400"}


def test_a_simulated_shop_trains_a_model_that_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "models" / "tiny"
    options = ["--simulate", "6", "--products", "20", "--held-back", "1", "--iterations", "2", "--name", "tiny", "--out", str(out)]
    done = CliRunner().invoke(build(), ["train", *options], env=WIDE)
    assert done.exit_code == 0, done.output
    model = read(out)
    assert (model.name, model.horizon, model.spec.streams) == ("tiny", 24, ("orders", "views", "carts"))
    assert model.training["sources"] == ["simulated"]
    assert [(change["rule"], change["cells"]) for change in model.training["cleaning"]] == [
        ("adjustments", 0),
        ("stock-outs", 0),
        ("outages", 0),
    ]
    assert "cleaning of simulated" in done.output
    assert set(model.backtest["simulated"]) == {"tiny", "28-day mean", "seasonal naive"}

    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "model.json").write_text("{")
    monkeypatch.setenv("TRENDCAST_MODEL_DIR", str(out))
    listed = CliRunner().invoke(build(), ["models", "list"], env=WIDE)
    assert listed.exit_code == 0, listed.output
    lines = {line.split("│")[2].strip(): line for line in listed.output.splitlines() if line.startswith("│")}
    assert model.version in lines[str(out)]
    assert "serves" in lines[str(out)]
    assert "unusable" in lines[str(tmp_path / "models" / "broken")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to read"),
        (["--simulate", "3", "--streams", "clicks"], "no stream clicks"),
        (["--simulate", "3", "--skip-rule", "nights"], "no rule nights; choose from adjustments"),
        (["--simulate", "3", "--adjustment-ids", "("], "no regular expression"),
        (["--log", "nowhere.parquet"], "no file nowhere.parquet"),
        (["--export", "nowhere.parquet"], "cannot be read"),
        (["--simulate", "1", "--products", "5"], "cannot train"),
    ],
)
def test_what_cannot_be_trained_says_why(options: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["train", "--out", str(tmp_path / "model"), *options])
    assert isinstance(done.exception, UserError)
    assert says in str(done.exception)


def test_an_export_is_cleaned_of_repeated_rows_outages_and_stock_outs(tmp_path: Path) -> None:
    rows = [(f"p{i}", hour) for i in range(30) for hour in range(24 * 40) if not 500 <= hour < 700]
    frame = pd.DataFrame([*rows, ("p7", 12)], columns=["product_id", "hour"]).assign(units=2.0, closed=True, stock=9.0, orders=1.0)
    frame["start_ms"], frame["end_ms"] = frame["hour"] * HOUR_MS, (frame["hour"] + 1) * HOUR_MS
    frame.loc[(frame["product_id"] == "p3") & (frame["hour"] == 100), "stock"] = 0
    frame.to_parquet(tmp_path / "export.parquet")
    options = ["--export", str(tmp_path / "export.parquet"), "--streams", "orders", "--held-back", "0", "--iterations", "1"]
    for more in ([], ["--skip-rule", "outages"], ["--no-clean"]):
        done = CliRunner().invoke(build(), ["train", *options, *more, "--out", str(tmp_path / "model")], env=WIDE)
        assert done.exit_code == 0, done.output
        found = {change["rule"]: change["cells"] for change in read(tmp_path / "model").training["cleaning"]}
        expected = {"repeated rows": 1, "adjustments": 0, "stock-outs": 1, "outages": 30 * 200}
        if more:
            del expected["outages"]
        assert found == ({} if more == ["--no-clean"] else expected)


def test_a_model_learns_anew_what_a_running_step_says_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    shipped = repository / "models" / "default"
    options = ["--simulate", "12", "--products", "20", "--newest", "5", "--out", str(tmp_path / "again")]
    done = CliRunner().invoke(build(), ["fit-nowcast", str(shipped), *options], env=WIDE)
    assert done.exit_code == 0, done.output
    before, after = read(shipped), read(tmp_path / "again")
    assert after.nowcast != before.nowcast
    assert after.version != before.version
    assert replace(after, nowcast=before.nowcast).version == before.version
    assert (after.training, after.backtest) == (before.training, before.backtest)


@pytest.mark.parametrize(("options", "says"), [([], "nothing to read"), (["--export", "steps.parquet"], "nothing of times within a step")])
def test_a_nowcast_that_cannot_be_fitted_says_why(
    options: list[str], says: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"product_id": "a", "hour": range(50)}).assign(units=2.0, closed=True, orders=1.0, views=0.0, carts=0.0)
    frame["start_ms"], frame["end_ms"] = frame["hour"] * HOUR_MS, (frame["hour"] + 1) * HOUR_MS
    frame.to_parquet("steps.parquet")
    done = CliRunner().invoke(build(), ["fit-nowcast", str(repository / "models" / "default"), "--out", "again", *options], env=WIDE)
    assert isinstance(done.exception, UserError)
    assert says in str(done.exception)
    assert not (tmp_path / "again").exists()


def test_a_place_without_models_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["models", "list", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "trendcast train" in str(done.exception)
