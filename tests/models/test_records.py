"""Records hold what they were given, and are read by nobody else."""

from dataclasses import replace

import numpy as np
import pytest

from feature_store.calls import ProductRecord
from models.calibration import NO_TRIAL, Trials
from models.features import FeatureSpec
from models.features import fresh as fresh_features
from models.records import Codec
from models.seasons import HOUR_MS
from models.timeline import Advanced, Timelines, fresh_scores

N, HORIZON, LEVELS = 3, 24, 7
SPEC = FeatureSpec.for_step(HOUR_MS, ("orders",))
CODEC = Codec.of(SPEC, 8, "0123456789ab", 12, HORIZON, LEVELS)


def advanced() -> Advanced:
    """Three products after step 100; the third has no forecast on trial."""
    rng = np.random.default_rng(1)
    quantiles = np.sort(rng.gamma(1.0, 5.0, (N, HORIZON, LEVELS)), axis=2).astype(np.float32)
    trials = Trials.of(np.array([95, 100, NO_TRIAL]), np.arange(N), quantiles.mean(axis=2), quantiles, rng.random((N, LEVELS), np.float32))
    step, state = np.full(N, 100), rng.random((N, 8), np.float32)
    lines = Timelines(step, step * 12 + 11, fresh_features(SPEC, N), state, fresh_scores(N), trials)
    return Advanced(lines, [], [], np.zeros(N, np.bool_), np.ones(N, np.bool_), {}, {})


def stored(after: Advanced) -> list[ProductRecord]:
    before = CODEC.read([ProductRecord(b"", b"", b"", b"", b"")] * N, [0] * N)
    commits = CODEC.write(["a", "b", "c"], before, after, 0)
    return [ProductRecord(c.features, c.state, c.scores, c.trial, b"") for c in commits]


def test_timelines_are_read_as_they_were_written() -> None:
    lines = advanced().timelines
    found = CODEC.read(stored(advanced()), [None] * N).lines
    mine, theirs = (Timelines(t.step, t.tile, t.features, t.state, t.scores, t.trials.at(np.arange(2))) for t in (found, lines))
    for a, b in zip([mine.state, *mine.trials.parts()], [theirs.state, *theirs.trials.parts()], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert found.trials.step.tolist() == lines.trials.step.tolist()
    assert (found.step == lines.step).all()
    assert (found.tile == lines.tile).all()


def test_only_new_trials_are_written() -> None:
    after = replace(advanced(), tried=np.array([True, False, True]))
    assert [bool(record.trial) for record in stored(after)] == [True, False, True]


@pytest.mark.parametrize(
    "codec", [Codec.of(SPEC, 8, "another67890", 12, HORIZON, LEVELS), Codec.of(SPEC, 8, "0123456789ab", 12, 14, LEVELS)]
)
def test_another_model_s_trials_are_not_read(codec: Codec) -> None:
    assert (codec.read(stored(advanced()), [None] * N).lines.trials.step == NO_TRIAL).all()


def test_a_product_takes_no_more_than_was_promised() -> None:
    """3 KiB with Redis' own 620 bytes for five keys, and its places among the live and the changed."""
    codec = Codec.of(FeatureSpec.for_step(HOUR_MS, ("orders", "views", "carts")), 128, "0123456789ab", 12, HORIZON, LEVELS)
    assert codec.record_bytes < 2_400
