"""A day of inputs is shown when it was seen as a whole; what leaves home and returns is told once."""

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from models.features import FeatureSpec
from models.input_groups import groups
from models.input_shift import InputSums
from streaming import metrics
from streaming.input_watch import InputWatch
from streaming.settings import HOUR_MS

SPEC = FeatureSpec.for_step(HOUR_MS, ("orders",))
DAY = 20_000
LEVEL = groups(SPEC)["level of sales"].encoder[0]


def a_day(watch: InputWatch, day: int, shift: float, hours: int = 24) -> list[str]:
    """Live so many hours of a day, and end it; returns what was logged."""
    with capture_logs() as logged:
        for hour in range(hours):
            seen = np.random.default_rng(hour).normal(0, 1, (50, SPEC.n_encoder_inputs)).astype(np.float32)
            seen[:, LEVEL] += shift
            watch.add({day: InputSums.of(seen)}, np.full(50, day * 24 + hour))
        watch.day_ended(day)
    return [f"{line['event']} {line['group']}" for line in logged]


def shown() -> dict[str, float]:
    families = text_string_to_metric_families(metrics.render()[0].decode())
    [shift] = [family for family in families if family.name == "trendcast_forecast_input_shift_ratio"]
    return {sample.labels["group"]: sample.value for sample in shift.samples}


def test_leaving_home_and_returning_is_told_once() -> None:
    watch = InputWatch(SPEC)
    assert a_day(watch, DAY, 0) == []
    assert abs(shown()["level of sales"]) < 0.2
    assert a_day(watch, DAY + 1, 2) == ["inputs.drift_begins level of sales"]
    assert 1.8 < shown()["level of sales"] < 2.2
    assert a_day(watch, DAY + 2, 2) == a_day(watch, DAY + 3, 0.9) == []
    assert a_day(watch, DAY + 4, 0) == ["inputs.drift_ends level of sales"]


def test_part_of_a_day_says_nothing() -> None:
    watch = InputWatch(SPEC)
    metrics.show_inputs({})
    assert a_day(watch, DAY, 5, hours=20) == []
    assert shown() == {}
