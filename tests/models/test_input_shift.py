"""Inputs at home are at 0, 1 and 0; sums do not depend on cuts; the group that moved is the one that is named."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.features import FeatureSpec
from models.input_groups import groups
from models.input_shift import InputSums, shifts
from models.seasons import HOUR_MS

SPEC = FeatureSpec.for_step(HOUR_MS, ("orders", "views"))


def at_home(n: int = 4_000) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (n, SPEC.n_encoder_inputs)).astype(np.float32)


def test_at_home_nothing_has_moved() -> None:
    for shift in shifts(SPEC, InputSums.of(at_home())).values():
        assert abs(shift.mean) < 0.1
        assert abs(shift.spread - 1) < 0.1
        assert shift.clipped == 0


def test_what_moved_is_named_by_its_group() -> None:
    seen = at_home()
    level, views = groups(SPEC)["level of sales"].encoder[0], groups(SPEC)["views"].encoder[2]
    seen[:, level] += 2
    seen[:, views] *= 4
    found = shifts(SPEC, InputSums.of(seen))
    assert {name for name, shift in found.items() if abs(shift.mean) > 1} == {"level of sales"}
    assert 1.9 < found["level of sales"].mean < 2.1
    assert {name for name, shift in found.items() if shift.spread > 2} == {"views"}
    assert found["views"].clipped > 0.05
    assert set(found) == {name for name, group in groups(SPEC).items() if group.encoder}


@given(cut=st.integers(0, 50))
def test_sums_do_not_depend_on_cuts_and_broken_rows_say_nothing(cut: int) -> None:
    seen = at_home(50)
    seen[7] = np.nan
    whole, parts = InputSums.of(seen), InputSums.of(seen[:cut]) + InputSums.of(seen[cut:])
    assert whole.count == parts.count == 49
    np.testing.assert_allclose(whole.total, parts.total)
    np.testing.assert_allclose(whole.squares, parts.squares)
    assert shifts(SPEC, InputSums.of(seen[7:8])) == {}
