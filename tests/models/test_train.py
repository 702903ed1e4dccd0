"""Batches and a short training: deterministic, blind to the future, and better than nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import batches, dataset, train
from models.artefact import Artefact
from models.batches import Recipe
from models.checkpoints import Checkpoint, Checkpoints
from models.dataset import Encoded, Panel, Parts, UnusableData
from models.features import FeatureSpec
from models.nowcast import NowcastRule
from models.pace import even
from models.seasons import DAY_MS
from models.train import Progress
from models.weights import Sizes, initial

DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))
QUICK = Recipe(iterations=40, batch=8, forks=6, segment=40, burn_in=6, youngest=5, check_every=10, patience=9, held_out=0.2)


def weekly_panel(products: int = 30, columns: int = 120, seed: int = 0) -> Panel:
    """Demand with a strong week, of products of any size."""
    rng = np.random.default_rng(seed)
    week = np.array([4, 1, 1, 1, 1, 1, 0.2])
    first = 14_600
    rate = rng.gamma(1, 6, (products, 1)) * week[(first + np.arange(columns) + 3) % 7]
    units = rng.poisson(rate)
    demand = np.stack([units, np.minimum(units, 1 + units // 3)], axis=2).astype(np.float32)
    born = np.sort(rng.integers(0, columns // 4, products))
    demand[np.arange(columns) < born[:, None]] = 0
    return Panel(tuple(f"p{i}" for i in range(products)), first, born, demand, "UTC")


def encoded(panel: Panel) -> Encoded:
    return dataset.encode(panel, DAILY, dataset.shop_profiles(panel, DAILY), longest=28)


def test_a_batch_asks_for_what_really_happened() -> None:
    one = encoded(weekly_panel())
    batch = batches.draw([one], QUICK, 14, 28, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    rng.choice(1, p=[1.0])
    chosen = rng.choice(30, QUICK.batch, replace=False)
    first = rng.integers(0, 120 - 14 - QUICK.segment + 1, QUICK.batch)
    assert batch.inputs.shape == (QUICK.batch, QUICK.segment, DAILY.n_encoder_inputs)
    for p in range(QUICK.batch):
        for f, at in enumerate(batch.at):
            row, column = p * QUICK.forks + f, int(first[p] + at)
            units = one.panel.demand[chosen[p], :, 0]
            assert np.array_equal(batch.demand[row, :14], units[column + 1 : column + 15])
            for k, length in enumerate((7, 14)):
                target = units[column + 1 : column + 1 + length]
                assert batch.known[row, 14 + k] == (one.age[chosen[p], column] >= QUICK.youngest and column + length < 120)
                assert not batch.known[row, 14 + k] or batch.demand[row, 14 + k] == pytest.approx(target.mean())
            assert batch.scale[row] == one.scale[chosen[p], column]


def test_young_products_and_the_panels_end_do_not_count() -> None:
    one = encoded(weekly_panel())
    everything = [batches.draw([one], QUICK, 14, 28, np.random.default_rng(i)) for i in range(20)]
    known = np.concatenate([batch.known for batch in everything])
    assert 0.5 < known[:, :14].mean() < 1
    assert known[:, 16].mean() < known[:, 15].mean() == known[:, 0].mean()


def test_training_learns_the_week_and_repeats_itself() -> None:
    looks: list[Progress] = []
    panel = weekly_panel()
    first = train.train([panel], DAILY, QUICK, name="test", progress=looks.append)
    again = train.train([panel], DAILY, QUICK, name="test")
    assert first.version == again.version
    assert [look.iteration for look in looks] == [10, 20, 30, 40]
    assert looks[-1].held_out_loss < looks[0].held_out_loss
    assert (first.horizon, first.longest_sum) == (14, 28)
    assert first.training["panels"][0]["fingerprint"] == panel.fingerprint
    assert train.train([panel], DAILY, replace(QUICK, seed=2), name="test").version != first.version


def test_a_shop_whose_times_are_known_teaches_its_hours_and_the_nowcasts_rule() -> None:
    """All is sold between noon and six."""
    panel = weekly_panel()
    rng = np.random.default_rng(1)
    product, column = np.nonzero(panel.demand[..., 0])
    units = rng.multinomial(panel.demand[product, column, 0].astype(int), np.full(6, 1 / 6))
    row, hour = np.nonzero(units)
    part = (panel.first_step + column[row]) * 24 + 12 + hour
    model = train.train(
        [replace(panel, parts=Parts(24, product[row], part, units[row, hour].astype(np.float32)))],
        DAILY,
        replace(QUICK, iterations=10),
        name="hours",
    )
    assert model.pace.reshape(7, 24)[:, 12:18].sum() > 0.9 * model.pace.sum()
    assert model.nowcast != NowcastRule()
    without = train.train([panel], DAILY, replace(QUICK, iterations=10), name="hours")
    assert (without.pace.tolist(), without.nowcast) == (even().tolist(), NowcastRule())


def test_several_shops_are_learned_together() -> None:
    short = weekly_panel(columns=70, seed=1)
    model = train.train([weekly_panel(), replace(short, timezone="Asia/Tokyo")], DAILY, replace(QUICK, iterations=4), name="two")
    assert [shop["steps"] for shop in model.training["panels"]] == [120, 70]
    assert model.training["recipe"]["segment"] == QUICK.segment


def test_training_stops_when_the_held_out_products_get_no_better() -> None:
    looks: list[Progress] = []
    stuck = replace(QUICK, iterations=400, learning_rate=0.0, patience=2)
    train.train([weekly_panel()], DAILY, stuck, name="test", progress=looks.append)
    assert len(looks) < 10


@pytest.mark.parametrize(("columns", "products", "says"), [(19, 20, "too few to train on"), (120, 1, "one product")])
def test_too_little_data_says_so(columns: int, products: int, says: str) -> None:
    with pytest.raises(UnusableData, match=says):
        train.train([weekly_panel(products, columns)], DAILY, QUICK, name="test")


class Killed(Exception):
    """A training that ends in the middle."""


def test_a_killed_training_goes_on_to_the_same_model(tmp_path: Path) -> None:
    panel = weekly_panel()
    whole = train.train([panel], DAILY, QUICK, name="test")
    said: list[str] = []
    looks: list[Progress] = []

    def train_until(last: int | None) -> Artefact:
        def look(seen: Progress) -> None:
            looks.append(seen)
            if len(looks) == last:
                raise Killed

        return train.train([panel], DAILY, QUICK, name="test", progress=look, checkpoints=Checkpoints(tmp_path / "kept", said.append))

    with pytest.raises(Killed):
        train_until(2)
    resumed = train_until(None)
    assert [look.iteration for look in looks] == [10, 20, 30, 40]
    assert (resumed.version, resumed.training) == (whole.version, whole.training)
    assert all(np.array_equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)
    assert said == [f"going on from {tmp_path}/kept/checkpoint.npz, after iteration 20"]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_learner_restored_is_the_learner_that_was(dropout: float) -> None:
    """The next step of both does the same: weights, moments, averages and dropout."""
    sizes = Sizes(DAILY.n_encoder_inputs, DAILY.n_decoder_inputs, len(train.LEVELS), 4, 8)
    weights = initial(sizes, np.random.default_rng(1))
    there, again = (train.Learner(weights, replace(QUICK, dropout=dropout), 14, 1) for _ in range(2))
    state = {name: np.asarray(value + 1).astype(value.dtype) for name, value in there.state().items()}
    there.restore(state)
    again.restore(there.state())
    assert all(np.array_equal(again.state()[name], value) for name, value in state.items())
    moments_and_average = 3 * (len(weights) - 4)  # of all that is trained, which the normalisations are not
    assert len(state) == len(weights) + moments_and_average + len(["iteration"]) + (dropout > 0)


def test_another_training_starts_anew_and_says_so(tmp_path: Path) -> None:
    panel, weights = weekly_panel(), {"x": np.zeros(1, np.float32)}
    others = [
        train._identity([panel], DAILY, replace(QUICK, seed=2), 14, 28, weights),
        train._identity([weekly_panel(seed=1)], DAILY, QUICK, 14, 28, weights),
        train._identity([panel], replace(DAILY, recent=71), QUICK, 14, 28, weights),
        train._identity([panel], DAILY, QUICK, 14, 28, {"x": np.ones(1, np.float32)}),
    ]
    said: list[str] = []
    kept = Checkpoints(tmp_path / "kept", said.append)
    own = train._identity([panel], DAILY, QUICK, 14, 28, weights)
    assert kept.newest(own) is None
    assert not said
    kept.save(own, Checkpoint({"x": np.arange(3)}, {"iteration": 1}))
    assert not any(kept.newest(other) for other in others)
    assert ["starting anew" in line for line in said] == [True] * len(others)
    (tmp_path / "kept" / "checkpoint.npz").write_bytes(b"PK half a file")
    assert kept.newest(own) is None
    assert "cannot be read" in said[-1]


def test_a_cleared_checkpoint_takes_nothing_else_along(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept")
    kept.save("a", Checkpoint({"x": np.arange(3)}, {"iteration": 1}))
    found = kept.newest("a")
    assert found is not None
    assert (found.facts, found.arrays["x"].tolist()) == ({"iteration": 1}, [0, 1, 2])
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    kept.clear()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine.txt"]
    (tmp_path / "kept" / "mine.txt").unlink()
    kept.clear()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(("gap", "part", "whole"), [(False, 0.0, True), (True, 0.0, True), (True, 0.5, False)])
def test_whole_units_are_recognised_beside_gaps(gap: bool, part: float, whole: bool) -> None:
    panel = weekly_panel()
    if gap:
        panel.demand[:, 50:53, 0] = np.nan
    panel.demand[3, 100, 0] += part
    artefact = train.train([panel], DAILY, replace(QUICK, iterations=2), name="test")
    assert artefact.whole_units is whole
