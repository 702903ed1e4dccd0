"""A product's row against loops over its whole history; results never depend on batch-mates or on how steps were cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models import features
from models.features import F32, FeatureSpec, layout
from models.seasons import DAY_MS, HOUR_MS
from tests.models.model_oracles import ewma, profile, since_last_sale

HOURLY = FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts"))
DAILY = FeatureSpec.for_step(DAY_MS, ("orders",))
SPECS = st.sampled_from([HOURLY, DAILY])
FIRST = 350_000


def histories(spec: FeatureSpec, steps: int = 80, products: int = 1) -> st.SearchStrategy[F32]:
    """(steps, products, 1 + streams) demands, mostly small whole numbers, many zeros."""
    numbers = st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.25, 40.0, 5_000.0])
    shape = st.tuples(st.integers(1, steps), st.just(products), st.just(1 + len(spec.streams)))
    return npst.arrays(np.float32, shape, elements=numbers)


def lived(spec: FeatureSpec, history: F32, first: int = FIRST) -> F32:
    """Rows after a history, (steps, products, 1 + streams)."""
    rows = features.fresh(spec, history.shape[1])
    for i, demand in enumerate(history):
        rows = features.advance(spec, rows, demand, np.full(len(rows), first + i))
    return rows


def profiles(spec: FeatureSpec) -> list[F32]:
    return [np.linspace(0.5, 1.5, period, dtype=np.float32) for period in spec.periods]


@given(data=st.data(), spec=SPECS)
def test_a_row_equals_its_definition(data: st.DataObject, spec: FeatureSpec) -> None:
    history = data.draw(histories(spec))
    row = lived(spec, history)
    where = layout(spec)
    units = history[:, 0, 0].tolist()
    levels, streams = features._means(spec, row[:, where.head].T.copy())
    assert np.allclose(levels[:, 0], [ewma(units, half_life) for half_life in spec.half_lives], rtol=2e-4, atol=1e-4)
    for s, means in enumerate(streams):
        values = history[:, 0, 1 + s].tolist()
        assert np.allclose(means[:, 0], [ewma(values, half_life) for half_life in spec.stream_half_lives], rtol=2e-4, atol=1e-4)
    assert row[0, where.since] == since_last_sale(units)
    assert row[0, where.age] == len(units)
    step_of_monday = FIRST if spec is HOURLY else FIRST + 3 - 72
    for period, span in zip(spec.periods, where.profiles, strict=True):
        floor = 0.12 if period <= 24 else 0.2
        assert np.allclose(row[0, span], profile(units, step_of_monday, period, floor), rtol=1e-4, atol=1e-4)
    newest = features.recent(spec, row, np.array([FIRST + len(units) - 1]))[0]
    padded = [np.nan] * 72 + units
    assert np.array_equal(newest, np.array(padded[-72:], np.float32), equal_nan=True)


@settings(max_examples=30)
@given(data=st.data(), spec=SPECS, batch=st.integers(1, 9))
def test_batch_mates_do_not_matter(data: st.DataObject, spec: FeatureSpec, batch: int) -> None:
    history = data.draw(histories(spec, steps=20, products=batch))
    step = np.full(batch, FIRST + len(history) - 1)
    together = lived(spec, history)
    seen = features.encoder_inputs(spec, together, step, profiles(spec))
    for i in range(batch):
        alone = lived(spec, history[:, i : i + 1])
        assert np.array_equal(alone[0], together[i], equal_nan=True)
        assert np.array_equal(features.encoder_inputs(spec, alone, step[:1], profiles(spec))[0], seen[i])


@pytest.mark.parametrize("spec", [HOURLY, DAILY])
@pytest.mark.parametrize("n", [1, 3, 16, 17, 255, 1024, 1500])
def test_position_and_size_of_a_batch_do_not_matter(spec: FeatureSpec, n: int) -> None:
    rng = np.random.default_rng(n)
    history = rng.gamma(0.3, 5.0, (40, 1500, 1 + len(spec.streams))).astype(np.float32)
    step = np.full(1500, FIRST + 39)
    whole = lived(spec, history)
    part = lived(spec, np.ascontiguousarray(history[:, -n:]))
    assert np.array_equal(whole[-n:], part, equal_nan=True)
    seen = features.encoder_inputs(spec, whole, step, profiles(spec))
    assert np.array_equal(seen[-n:], features.encoder_inputs(spec, part, step[-n:], profiles(spec)))
    assert np.array_equal(features.scales(spec, whole)[-n:], features.scales(spec, part))


@given(data=st.data(), spec=SPECS)
def test_products_at_different_steps_are_advanced_together(data: st.DataObject, spec: FeatureSpec) -> None:
    rows = lived(spec, data.draw(histories(spec, steps=5, products=4)))
    demand = data.draw(histories(spec, steps=1, products=4))[0]
    step = FIRST + 5 + np.array([0, 3, 0, 50])
    together = features.advance(spec, rows, demand, step)
    for i in range(4):
        alone = features.advance(spec, rows[i : i + 1], demand[i : i + 1], step[i : i + 1])
        assert np.array_equal(together[i], alone[0], equal_nan=True)


def test_broken_neighbours_do_not_matter() -> None:
    rows = lived(HOURLY, np.ones((5, 3, 4), np.float32))
    broken = rows.copy()
    broken[1] = np.nan
    step = np.full(3, FIRST + 5)
    demand = np.full((3, 4), 2, np.float32)
    good, bad = (features.advance(HOURLY, before, demand, step) for before in (rows, broken))
    assert np.array_equal(good[[0, 2]], bad[[0, 2]], equal_nan=True)
    seen = [features.encoder_inputs(HOURLY, after, step, profiles(HOURLY)) for after in (good, bad)]
    assert np.array_equal(seen[0][[0, 2]], seen[1][[0, 2]])


def test_in_place_is_the_same() -> None:
    rows = lived(HOURLY, np.ones((3, 2, 4), np.float32))
    before = rows.copy()
    step, demand = np.full(2, FIRST + 3), np.full((2, 4), 3, np.float32)
    fresh = features.advance(HOURLY, rows, demand, step)
    assert np.array_equal(rows, before, equal_nan=True)
    assert features.advance(HOURLY, rows, demand, step, out=rows) is rows
    assert np.array_equal(rows, fresh, equal_nan=True)


def test_a_gap_ages_nothing_and_is_remembered_as_one() -> None:
    rows = lived(DAILY, np.ones((3, 1, 2), np.float32))
    gap = features.advance(DAILY, rows, np.array([[np.nan, 7]], np.float32), np.array([FIRST + 3]))
    where = layout(DAILY)
    ring = where.recent.start + (FIRST + 3) % DAILY.recent
    assert np.isnan(gap[0, ring])
    same = np.ones(DAILY.size, bool)
    same[ring] = False
    assert np.array_equal(gap[0, same], rows[0, same], equal_nan=True)
    observed = features.encoder_inputs(DAILY, gap, np.array([FIRST + 3]), profiles(DAILY))
    assert np.isfinite(observed).all()


def test_corrections_below_zero_count_as_no_demand() -> None:
    rows = features.fresh(DAILY, 1)
    step = np.array([FIRST])
    below = features.advance(DAILY, rows, np.array([[-3, -1]], np.float32), step)
    assert np.array_equal(below, features.advance(DAILY, rows, np.zeros((1, 2), np.float32), step), equal_nan=True)


@given(data=st.data(), spec=SPECS)
def test_what_the_network_sees_is_finite(data: st.DataObject, spec: FeatureSpec) -> None:
    history = data.draw(histories(spec, steps=30))
    step = np.array([FIRST + len(history) - 1])
    assert np.isfinite(features.encoder_inputs(spec, lived(spec, history), step, profiles(spec))).all()
    assert np.isfinite(features.encoder_inputs(spec, features.fresh(spec, 1), step, profiles(spec))).all()


def test_the_hash_names_every_field() -> None:
    other = {
        "step_ms": DAY_MS,
        "streams": ["orders"],
        "half_lives": [1, 2, 3, 4, 5],
        "stream_half_lives": [1, 2, 3],
        "periods": [7],
        "timezone": "Asia/Tokyo",
        "recent": 10,
    }
    base = HOURLY.to_json()
    assert FeatureSpec.from_json(base) == HOURLY
    assert len({FeatureSpec.from_json(base | {name: value}).hash for name, value in other.items()} | {HOURLY.hash}) == 1 + len(other)


def test_features_and_state_fit_into_two_kilobytes() -> None:
    assert 4 * (HOURLY.size + 2 * 64) <= 2048


@given(values=st.lists(st.sampled_from([1.0, 2.0, 5.0, float("nan")]), min_size=1, max_size=40))
def test_a_covariate_is_known_by_its_usual_and_its_newest_value(values: list[float]) -> None:
    spec = FeatureSpec.for_step(DAY_MS, (), covariates=("price",))
    row = features.fresh(spec, 1)
    for i, value in enumerate(values):
        row = features.advance(spec, row, np.zeros((1, 1), np.float32), np.array([FIRST + i]), covariates=np.array([[value]], np.float32))
    known = [0.0]
    for value in values:
        known.append(known[-1] if np.isnan(value) else value)
    usual, now = features.covariates(spec, row)
    assert now[0, 0] == known[-1]
    assert usual[0, 0] == pytest.approx(ewma(known[1:], spec.stream_half_lives[2]), rel=1e-4, abs=1e-5)
