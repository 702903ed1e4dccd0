"""States rebuilt from the last steps against those of a model that saw all of them; rows wound back against the rows of then."""

from pathlib import Path

import numpy as np
import pytest

from feature_store.facts import Facts, Version, encode
from models import features as rows
from models.features import F32, I64, FeatureSpec, layout
from models.forecaster import Forecaster
from models.known_future import KnownFuture, Place
from models.rebuild import STEPS, rebuilt_state
from models.rewind import before, steps_lived
from models.seasons import DAY_MS, HOUR_MS
from models.timeline import consume
from tests.models.test_forecaster import untrained

FIRST = 490_008
HOURLY = FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts"), "Europe/Berlin")
DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))


@pytest.fixture(scope="module")
def shipped(repository: Path) -> Forecaster:
    return Forecaster.load(repository / "models" / "default")


class Lives:
    """Products of all paces, born at different times, and what each step of their lives left: demand is NaN in gaps, and 0 before birth."""

    def __init__(self, spec: FeatureSpec, n: int, steps: int, seed: int, *, gaps: bool = False) -> None:
        rng = np.random.default_rng(seed)
        rates = np.geomspace(0.02, 20, n)[:, None] * (1 + 0.8 * np.sin(np.arange(steps) * 2 * np.pi / 24))
        self.demand: F32 = np.repeat(rng.poisson(rates)[..., None], 1 + len(spec.streams), axis=2).astype(np.float32)
        self.demand[..., 2:] *= 5
        self.born = rng.integers(0, steps // 2, n)
        self.born[: n // 3] = steps - rng.integers(1, 250, n // 3)
        self.born = np.clip(self.born, 0, steps - 1)
        if gaps:  # in the newest days: as far back as rows remember them
            self.demand[rng.random((n, steps)) < 0.1] = 0
            missing = rng.random((n, steps)) < 0.2
            missing[:, : steps - 60] = False
            missing[np.arange(n), self.born] = False
            self.demand[missing, 0], self.demand[missing, 1:] = np.nan, 0
        self.demand[np.arange(steps) < self.born[:, None]] = 0
        self.spec, self.steps = spec, steps

    def rows(self, until: int) -> F32:
        """Feature rows after the first `until` steps."""
        found = rows.fresh(self.spec, len(self.born))
        for column in range(until):
            due = np.flatnonzero(self.born <= column)
            found[due] = rows.advance(self.spec, found[due], self.demand[due, column], np.full(len(due), FIRST + column))
        return found

    def states(self, model: Forecaster) -> F32:
        """States after all steps, by a run through all of them."""
        found, states = model.fresh(len(self.born))
        for column in range(self.steps):
            due = np.flatnonzero(self.born <= column)
            step = np.full(len(due), FIRST + column)
            found[due], states[due] = model.advance(found[due], states[due], self.demand[due, column], step)
        return states

    def stored(self, k: int) -> F32:
        """What is stored of the last `k` steps: nothing where nothing is known."""
        return np.nan_to_num(self.demand[:, -k:])

    @property
    def last(self) -> I64:
        return np.full(len(self.born), FIRST + self.steps - 1)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(("spec", "k"), [(HOURLY, 192), (HOURLY, 30), (DAILY, 8), (DAILY, 60)])
def test_rows_are_wound_back_to_what_they_were(spec: FeatureSpec, k: int, gaps: bool) -> None:
    lives = Lives(spec, 30, 800, seed=k, gaps=gaps)
    found, demand = lives.rows(lives.steps), lives.stored(k)
    lived = steps_lived(spec, found, lives.last, k)
    assert lived.tolist() == np.minimum(lives.steps - lives.born, k).tolist()
    demand[np.isnan(lives.demand[:, -k:, 0]), 0] = np.nan
    back, then, where = before(spec, found, lives.last, demand, lived), lives.rows(lives.steps - k), layout(spec)
    np.testing.assert_array_equal(back[:, where.age], then[:, where.age])
    for span, period in zip(where.profiles, spec.periods, strict=True):
        # Before a product has lived through a period, a phase that comes round twice because of gaps forgets what it was.
        sure = np.flatnonzero((then[:, where.age] >= period) | (not gaps))
        np.testing.assert_allclose(back[sure, span], then[sure, span], rtol=1e-3, atol=1e-3)
    slow = 0.5 ** (-k / np.array([*spec.half_lives, *spec.stream_half_lives * len(spec.streams)])) < 256
    columns = np.r_[where.levels, where.streams][slow]
    assert slow.any()
    np.testing.assert_allclose(back[:, columns], then[:, columns], rtol=1e-3, atol=2e-3)
    born_within = lives.born >= lives.steps - k
    np.testing.assert_array_equal(back[born_within], rows.fresh(spec, int(born_within.sum())))


def test_a_product_all_of_whose_steps_are_stored_has_the_very_state_of_a_whole_run(shipped: Forecaster) -> None:
    lives = Lives(shipped.spec, 40, 230, seed=2, gaps=True)
    young = lives.born >= lives.steps - STEPS
    rebuilt = rebuilt_state(shipped, lives.rows(lives.steps), lives.last, lives.stored(STEPS))
    whole = lives.states(shipped)
    assert young.sum() > 10
    assert (~young).any()
    np.testing.assert_array_equal(rebuilt[young], whole[young])


def test_an_old_product_s_state_is_nearly_that_of_a_whole_run(shipped: Forecaster) -> None:
    lives = Lives(shipped.spec, 60, 900, seed=3)
    whole = lives.states(shipped)
    rebuilt = rebuilt_state(shipped, lives.rows(lives.steps), lives.last, lives.stored(STEPS))
    hidden = shipped.artefact.hidden
    off = np.linalg.norm((rebuilt - whole)[:, :hidden], axis=1) / np.linalg.norm(whole[:, :hidden], axis=1)
    assert np.median(off) < 0.02
    assert off.max() < 0.2


def test_neither_order_nor_batch_changes_a_bit(shipped: Forecaster) -> None:
    lives = Lives(shipped.spec, 90, 300, seed=4)
    found, last, demand = lives.rows(lives.steps), lives.last, lives.stored(STEPS)
    whole = rebuilt_state(shipped, found, last, demand)
    order = np.random.default_rng(0).permutation(90)
    for some in (order, order[:1], order[:7], order[20:85]):
        np.testing.assert_array_equal(rebuilt_state(shipped, found[some], last[some], demand[some]), whole[some])


def test_products_stand_at_different_steps(shipped: Forecaster) -> None:
    """While history is caught up with, one may be days ahead of another."""
    lives = Lives(shipped.spec, 6, 400, seed=5)
    ends = 400 - np.arange(6)
    each = [lives.rows(end)[i] for i, end in enumerate(ends.tolist())]
    demand = np.stack([lives.demand[i, end - STEPS : end] for i, end in enumerate(ends.tolist())])
    together = rebuilt_state(shipped, np.stack(each), FIRST + ends - 1, demand)
    for i in range(6):
        np.testing.assert_array_equal(
            together[i : i + 1], rebuilt_state(shipped, each[i][None], FIRST + ends[i : i + 1] - 1, demand[i][None])
        )


def test_a_broken_row_does_not_disturb_its_neighbours() -> None:
    model = Forecaster(untrained(HOURLY, 24))
    lives = Lives(HOURLY, 5, 250, seed=6)
    found, demand = lives.rows(lives.steps), lives.stored(STEPS)
    whole = rebuilt_state(model, found, lives.last, demand)
    found[2] = np.nan
    broken = rebuilt_state(model, found, lives.last, demand)
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(broken[others], whole[others])


def test_what_the_shop_knew_ahead_is_heard_again() -> None:
    spec = FeatureSpec.for_step(HOUR_MS, ("orders",), covariates=("price", "discount"))
    model, rng, n, steps = Forecaster(untrained(spec, 24)), np.random.default_rng(6), 12, 150
    versions = [
        [Version(FIRST + int(at), int(rng.integers(50, 200)), stock=int(rng.integers(2))) for at in range(0, steps + 9, 7)]
        for _ in range(n)
    ]
    shop = KnownFuture.of(spec.covariates, HOUR_MS, Place("UTC"), [encode(Facts(100, some)) for some in versions])
    demand = rng.poisson(0.8, (n, steps, 2)).astype(np.float32)
    demand[:, 0, 0] = 1
    found, states = model.fresh(n)
    for column in range(steps):
        found, states = consume(model, found, states, demand[:, column], np.full(n, FIRST + column), shop, np.arange(n))
    last = np.full(n, FIRST + steps - 1)
    assert (np.isnan(rows.recent(spec, found, last)).sum(axis=1) > 3).sum() > n // 2  # out of stock
    np.testing.assert_array_equal(rebuilt_state(model, found, last, demand, shop), states)
    assert not np.array_equal(rebuilt_state(model, found, last, demand), states)
