"""Features against plain definitions, and none that sees beyond its origin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bench import Bench
from models.contenders import table
from models.contenders.table import Known, Reach
from models.features import FeatureSpec
from models.seasons import DAY_MS, HOUR_MS
from tests.models.benches import daily_bench, seasonal_shop, with_another_future


@pytest.mark.parametrize(
    ("step_ms", "season", "windows", "seasons"),
    [
        (DAY_MS, 7, (7, 28, 91), (7,)),
        (HOUR_MS, 24, (24, 168, 336), (24, 168)),
        (7 * DAY_MS, 1, (4, 12, 26), ()),
        (30 * DAY_MS, 12, (4, 12, 26), (12,)),
    ],
)
def test_reach_follows_the_step(step_ms: int, season: int, windows: tuple[int, ...], seasons: tuple[int, ...]) -> None:
    reach = Reach.of(seasonal_shop(step_ms, season))
    assert (reach.windows, reach.seasons) == (windows, seasons)
    assert set(range(8)) <= set(reach.lags)


@given(origin=st.integers(0, 105), ahead=st.integers(1, 14))
def test_no_feature_sees_beyond_its_origin(origin: int, ahead: int) -> None:
    bench = seasonal_shop()
    reach, other = Reach.of(bench), with_another_future(bench, origin)
    rows = [table.rows(one, reach, Known.at(one, origin), [ahead]) for one in (bench, other)]
    assert np.array_equal(rows[0], rows[1], equal_nan=True)
    assert len(rows[0]) == bench.alive(origin)


def test_samples_do_not_see_beyond_the_first_cutoff() -> None:
    bench = seasonal_shop()
    other = with_another_future(bench, bench.cutoffs[0])
    samples = [table.sample(one, Reach.of(one), 5_000, np.random.default_rng(2)) for one in (bench, other)]
    for field in ("features", "demand", "scale", "product"):
        assert np.array_equal(getattr(samples[0], field), getattr(samples[1], field), equal_nan=True)
    assert 1_000 < len(samples[0]) <= 7_000


def ramp() -> Bench:
    return daily_bench([np.arange(100.0), np.r_[np.full(98, np.nan), 3.0, 5.0]], 14)


def test_by_hand() -> None:
    bench = ramp()
    reach = Reach.of(bench)
    known = Known.at(bench, 99)
    scale = np.array([(np.arange(72, 100).mean() + np.arange(9, 100).mean()) / 2, 4.0]) + 0.05
    assert np.allclose(table.scales(known, reach), scale)
    same = table.at_origin(known, reach)
    assert np.allclose(same[0, :8] * scale[0], np.arange(99, 91, -1))
    assert np.allclose(same[1, :2] * scale[1], [5, 3])
    assert np.isnan(same[1, 2 : len(reach.lags)]).all()
    ahead = table.ahead_of_origin(known, reach, 9)
    # Step 108: the same weekdays that are known are 94, 87, …
    assert np.allclose(ahead[0] * scale[0], [9 * scale[0], np.mean(94 - 7 * np.arange(8)), 94, 87, 80, 73])
    assert np.isnan(ahead[1, 1:]).all()


def test_targets_are_what_came() -> None:
    bench = daily_bench([np.arange(100.0)], 3, cutoffs=(90,))
    rows = table.sample(bench, Reach.of(bench), 1_000, np.random.default_rng(1))
    newest, ahead = rows.features[:, 0] * rows.scale, rows.features[:, table.at_origin(Known.at(bench, 90), Reach.of(bench)).shape[1]]
    assert np.allclose(rows.demand, newest + ahead, atol=1e-3)
    assert rows.demand.max() <= 90


def test_waves_of_the_year_need_two_of_them() -> None:
    short, long = (daily_bench([np.ones(days)], 3) for days in (700, 740))
    at = np.array([5, 6])
    assert table.calendar(long, at).shape[1] == table.calendar(short, at).shape[1] + 2
    assert FeatureSpec.for_step(DAY_MS, ()).season(14_615, 2).waves.shape[1] == table.calendar(short, at).shape[1]


def test_products_are_held_out_whole() -> None:
    product = np.repeat(np.arange(10), 5)
    out = table.held_out(product, np.random.default_rng(1))
    assert out.reshape(10, 5).all(axis=1).sum() == out.reshape(10, 5).any(axis=1).sum() == 2
