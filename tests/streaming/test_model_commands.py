"""`trendcast train` and `trendcast models list`, as a user meets them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.artefact import read
from streaming.cli import build
from streaming.errors import UserError

WIDE = {"COLUMNS": "250"}


def test_a_simulated_shop_trains_a_model_that_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "models" / "tiny"
    options = ["--simulate", "6", "--products", "20", "--held-back", "1", "--iterations", "2", "--name", "tiny", "--out", str(out)]
    done = CliRunner().invoke(build(), ["train", *options], env=WIDE)
    assert done.exit_code == 0, done.output
    model = read(out)
    assert (model.name, model.horizon, model.spec.streams) == ("tiny", 24, ("orders", "views", "carts"))
    assert model.training["sources"] == ["simulated"]
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
        ([], "nothing to learn from"),
        (["--simulate", "3", "--streams", "clicks"], "no stream clicks"),
        (["--log", "nowhere.parquet"], "no file nowhere.parquet"),
        (["--export", "nowhere.parquet"], "cannot be read"),
        (["--simulate", "1", "--products", "5"], "cannot train"),
    ],
)
def test_what_cannot_be_trained_says_why(options: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["train", "--out", str(tmp_path / "model"), *options])
    assert isinstance(done.exception, UserError)
    assert says in str(done.exception)


def test_a_place_without_models_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["models", "list", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "trendcast train" in str(done.exception)
