"""Batches and a short training: deterministic, blind to the future, and better than nothing."""

from dataclasses import replace

import numpy as np
import pytest

from models import batches, dataset, train
from models.batches import Recipe
from models.dataset import Encoded, Panel, UnusableData
from models.features import FeatureSpec
from models.seasons import DAY_MS
from models.train import Progress

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
