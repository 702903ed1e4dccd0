"""Tuning looks only at what lies before the test, goes on where it was, and writes a recipe that training takes."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models import backtest, recipes, train, tune
from models import bench as benches
from models.artefact import Artefact
from models.batches import Recipe
from models.bench import Bench
from models.features import FeatureSpec
from models.seasons import DAY_MS, HOUR_MS
from models.train import Progress
from models.tune import Tuning, Watch, Whole
from streaming.cli import build
from streaming.errors import UserError
from tests.models.benches import untrained, write_bench

BASE = Recipe.for_spec(FeatureSpec.for_step(DAY_MS, ()), iterations=4, seed=1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return benches.load(write_bench(tmp_path / "bench"))


@pytest.fixture
def untaught(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Trainings that look twice at a loss that grows with the learning rate, and teach nothing; the recipes that they were given.

    They are scored by their learning rate.
    """
    recipes: list[Recipe] = []

    def stand_in(_: object, spec: FeatureSpec, recipe: Recipe, *, progress: Callable[[Progress], None], **__: object) -> Artefact:
        recipes.append(recipe)
        for iteration in (1000, 2000):
            progress(Progress(iteration, 2000, recipe.learning_rate, recipe.learning_rate, True))
        return untrained(spec)

    monkeypatch.setattr(train, "train", stand_in)
    monkeypatch.setattr(backtest, "stream", lambda *_: None)
    monkeypatch.setattr(tune, "score", lambda *_: {"MWQL": recipes[-1].learning_rate})
    return recipes


@pytest.mark.parametrize(
    "base", [BASE, replace(BASE, iterations=1000), Recipe.for_spec(FeatureSpec.for_step(HOUR_MS, ()), iterations=800, seed=1)]
)
@pytest.mark.parametrize("longest", [30, 230, 1000])
def test_the_space_holds_the_default_and_nothing_impossible(base: Recipe, longest: int) -> None:
    base = replace(base, segment=min(base.segment, longest), burn_in=min(base.burn_in, longest // 4), forks=20)
    searched = tune.space(base, longest)
    for name, where in searched.items():
        assert where.low <= getattr(base, name) <= where.high
        assert len(where.grid()) == len(set(where.grid()))
        if isinstance(where, Whole):
            assert (where.high - where.low) % where.step == (getattr(base, name) - where.low) % where.step == 0
            for end in (where.low, where.high):
                recipes.from_fields({name: end}, replace(base, burn_in=0))
    segment, forks = searched["segment"], searched["forks"]
    assert segment.high <= longest
    assert segment.low - min(base.burn_in, segment.low // 4) >= forks.high


@pytest.mark.parametrize("sampler", ["grid", "random", "bayesian"])
def test_a_search_goes_on_and_never_repeats_itself(sampler: tune.Sampler, bench: Bench, tmp_path: Path, untaught: list[Recipe]) -> None:
    def tuning() -> Tuning:
        return Tuning(bench, BASE, tmp_path / "study.db", sampler, ["learning_rate", "dropout"])

    first = tuning()
    first.run(3)
    assert first.trials()[0].default
    assert first.trials()[0].recipe == first.base
    assert first.recipe(first.trials()[0]) == BASE
    again = tuning()
    again.run(3)
    assert len(untaught) == 3
    again.run(5)
    assert len(again.trials()) == len(untaught) == 5
    if sampler != "grid":
        assert len({(recipe.learning_rate, recipe.dropout) for recipe in untaught}) == 5
    assert {replace(recipe, learning_rate=0.1, dropout=0.1) for recipe in untaught} == {replace(first.base, learning_rate=0.1)}
    found = tune.best(again.trials())
    assert found is not None
    assert found.mwql == found.recipe.learning_rate == min(recipe.learning_rate for recipe in untaught)
    finished = [trial.outcome for trial in again.trials()].count("finished")
    assert sum(again.importance().values()) == pytest.approx(1 if finished >= 4 else 0)


def test_hopeless_trials_are_pruned(bench: Bench, tmp_path: Path, untaught: list[Recipe]) -> None:
    tuning = Tuning(bench, BASE, tmp_path / "study.db", "random", ["learning_rate"])
    tuning.run(9)
    outcomes = [trial.outcome for trial in tuning.trials()]
    assert set(outcomes[4:]) == {"finished", "pruned"}
    assert set(outcomes[:4]) == {"finished"}
    pruned = [trial.recipe.learning_rate for trial in tuning.trials() if trial.outcome == "pruned"]
    assert min(pruned) > min(recipe.learning_rate for recipe in untaught)


def test_an_interrupted_trial_is_tried_again(bench: Bench, tmp_path: Path, untaught: list[Recipe]) -> None:
    tuning = Tuning(bench, BASE, tmp_path / "study.db", "bayesian")

    def interrupt(*_: int) -> None:
        if len(untaught) in (1, 3):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tuning.run(3, watch=Watch(iteration=interrupt))
    assert [(trial.outcome, trial.default) for trial in tuning.trials()] == [
        ("interrupted", True),
        ("finished", True),
        ("interrupted", False),
    ]
    tuning.run(3)
    assert [trial.outcome for trial in tuning.trials()].count("finished") == 3


@pytest.mark.parametrize(
    ("base", "parameters", "says"),
    [(replace(BASE, seed=2), [], "another base"), (BASE, ["dropout"], "another parameters"), (BASE, ["speed"], "no parameter speed")],
)
def test_another_search_does_not_go_on_with_this_one(base: Recipe, parameters: list[str], says: str, bench: Bench, tmp_path: Path) -> None:
    Tuning(bench, BASE, tmp_path / "study.db", "random")
    with pytest.raises(tune.UnusableStudy, match=says):
        Tuning(bench, base, tmp_path / "study.db", "random", parameters)


def test_a_file_that_is_no_study_says_so(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("what is this " * 100)
    with pytest.raises(tune.UnusableStudy, match="cannot be used"):
        Tuning(bench, BASE, tmp_path / "study.db", "random")


def test_the_command_writes_a_recipe_that_a_backtest_takes(tmp_path: Path) -> None:
    directory = write_bench(tmp_path / "bench")
    out, plot = tmp_path / "recipe.json", tmp_path / "plots" / "importance.svg"
    options = ["--trials", "2", "--iterations", "3", "--parameters", "learning_rate,forks", "--plot", str(plot)]
    done = CliRunner().invoke(build(), ["tune", str(directory), "--out", str(out), *options], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "0 (default)" in done.output
    assert plot.read_text().startswith("<?xml")
    document = json.loads(out.read_text())
    assert document["step_ms"] == DAY_MS
    assert document["origin"]["trials"] == 2
    assert set(document["recipe"]) == set(asdict(BASE))
    forecasts = ["--out", str(tmp_path / "forecasts.parquet")]
    taken = CliRunner().invoke(build(), ["backtest", str(directory), "--recipe", str(out), *forecasts], env={"COLUMNS": "200"})
    assert taken.exit_code == 0, taken.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no file"),
        ("{", "as JSON"),
        ("[]", "holds no"),
        ('{"recipe": {"dropout": "much", "speed": 1}}', "no field speed; dropout must be a number from 0 to 0.95, not 'much'"),
        ('{"recipe": {"segment": 30, "forks": 24}}', "room for forks"),
        ('{"recipe": {}, "step_ms": 60000}', "steps of 60000 ms"),
    ],
)
def test_a_wrong_recipe_is_explained(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    if text is not None:
        path.write_text(text)
    bench = write_bench(tmp_path / "bench")
    done = CliRunner().invoke(build(), ["backtest", str(bench), "--recipe", str(path), "--out", str(tmp_path / "x.parquet")])
    assert isinstance(done.exception, UserError)
    assert says in str(done.exception)


def test_a_recipe_comes_back_as_it_was_written(tmp_path: Path) -> None:
    recipe = replace(BASE, learning_rate=0.0123, seed=7)
    recipes.write(tmp_path / "recipe.json", recipe, DAY_MS)
    assert recipes.read(tmp_path / "recipe.json", Recipe(), DAY_MS) == recipe
