import math
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.measures import MEASURES, N_MEASURES
from feature_store.rolling import FEATURES, HALF_LIVES, STATISTIC_STEPS, WINDOWS, features_page, rolling_features
from feature_store.tiles import tile_events
from feature_store.watermarks import judge
from feature_store.windows import History, Kept
from tests import oracles
from tests.feature_store.events_of import PRODUCT_IDS, batch_of, pieces, streams
from tests.feature_store.test_windows import GRID, HOUR_MS, KEPT, MINUTE_MS, N_PRODUCTS, Case, cases, history_of, hop_ms
from tests.oracles import Fact, Record

DOCS = Path(__file__).parents[2] / "docs"
ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu")
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def expected_features(facts: list[Fact], product: int, as_of_ms: int, kept: Kept, timezone: str) -> dict[str, float]:
    """Every feature of one product, from what happened."""
    found = oracles.cycle(as_of_ms, timezone)
    for window, length_ms in WINDOWS.items():
        if length_ms > max(kept.tile_retention_ms, kept.step_retention_ms):
            sums = dict.fromkeys(MEASURES, math.nan)
        else:
            start_ms, end_ms = oracles.window(as_of_ms, length_ms, hop_ms(kept, length_ms))
            sums = {measure: oracles.total(facts, product, measure, start_ms, end_ms) for measure in MEASURES}
        found |= {f"{measure}_{window}": value for measure, value in sums.items() if not measure.startswith("netted_")}
        found[f"conversion_{window}"] = oracles.ratio(sums["orders"], sums["views"])
        found[f"cart_rate_{window}"] = oracles.ratio(sums["carts"], sums["views"])
        found[f"mean_price_{window}"] = oracles.ratio(sums["revenue"], sums["units"])
        found[f"cancel_rate_{window}"] = oracles.ratio(sums["cancelled_units"], sums["units"])
    series = oracles.units_by_step(facts, product, as_of_ms, kept.steps, kept.grid.step_ms)
    for count in STATISTIC_STEPS:
        last = series[-count:] if count <= kept.steps else [math.nan]
        found |= {f"units_mean_{count}": oracles.mean(last), f"units_std_{count}": oracles.std(last)}
    found |= {f"units_ewma_{half_life}": oracles.ewma(series, half_life) for half_life in HALF_LIVES}
    tile_ms, retention_ms, step_ms = kept.grid.tile_ms, kept.tile_retention_ms, kept.grid.step_ms
    found["hours_since_sale"] = oracles.hours_since_sale(facts, product, as_of_ms, tile_ms, retention_ms, step_ms, kept.steps)
    return found


@given(cases(), st.sampled_from(ZONES))
def test_every_feature_equals_its_oracle(case: Case, timezone: str) -> None:
    matrix = rolling_features(history_of(case), case.as_of_ms, case.kept, timezone)
    for product in range(N_PRODUCTS):
        expected = expected_features(case.facts, product, case.as_of_ms, case.kept, timezone)
        assert set(matrix.names) == set(expected)
        np.testing.assert_allclose(matrix.values[product], [expected[name] for name in matrix.names], rtol=1e-9, atol=1e-9)


@given(cases())
def test_features_depend_on_no_neighbour_and_no_housekeeping(case: Case) -> None:
    """To the last bit: asked alone or among others, trimmed at once or later, rolled up or still in tiles."""
    together = rolling_features(history_of(case), case.as_of_ms, case.kept, "UTC").values
    fresh = case._replace(rolled=[None] * N_PRODUCTS)
    np.testing.assert_array_equal(rolling_features(history_of(fresh), case.as_of_ms, case.kept, "UTC").values, together)
    for product in range(N_PRODUCTS):
        alone = rolling_features(history_of(case, [product]), case.as_of_ms, case.kept, "UTC").values
        np.testing.assert_array_equal(alone[0], together[product])


@given(streams(span_minutes=3 * 24 * 60, start_ms=START_MS), st.lists(st.integers(0, 100)), st.integers(0, 80 * 60))
def test_features_of_raw_records_do_not_depend_on_the_cut(stream: list[Record], cuts: list[int], asked_minute: int) -> None:
    """The whole way: records in pieces, judged, folded, summed, queried; beside plain loops over the raw records."""
    rules = {"lateness_ms": 600_000, "future_ms": 300_000, "step_ms": GRID.step_ms, "step_retention_ms": KEPT.step_retention_ms}
    sums: dict[int, dict[int, np.ndarray]] = defaultdict(lambda: defaultdict(lambda: np.zeros(N_MEASURES)))
    watermark: int | None = None
    for piece in pieces(stream, cuts):
        batch = batch_of(piece)
        judged = judge(batch, watermark, **rules)
        watermark = int(judged.watermark_ms[-1])
        deltas = tile_events(batch.where(judged.accepted), judged.before_ms[judged.accepted], GRID)
        for product, tile, values in zip(deltas.product.tolist(), deltas.tile.tolist(), deltas.deltas, strict=True):
            sums[product][tile] += values
    history = History.of([(sums[product], {}, None) for product in range(len(PRODUCT_IDS))], GRID)
    as_of_ms = START_MS + asked_minute * MINUTE_MS
    matrix = rolling_features(history, as_of_ms, KEPT, "UTC")

    accepted = [
        (record, before)
        for record, (before, verdict) in zip(stream, oracles.judgements(stream, **rules), strict=True)
        if verdict in ("on time", "late")
    ]
    facts = oracles.facts([record for record, _ in accepted], [before for _, before in accepted], GRID.step_ms)
    for product in range(len(PRODUCT_IDS)):
        expected = expected_features(facts, product, as_of_ms, KEPT, "UTC")
        np.testing.assert_allclose(matrix.values[product], [expected[name] for name in matrix.names], rtol=1e-9, atol=1e-9)


def test_the_hour_is_the_shops() -> None:
    """22:00 in London is 23:00 in Berlin, and on the day when clocks change an hour later still a valid hour."""
    history = History.of([({}, {}, None)], GRID)
    before_change = int(datetime(2023, 3, 25, 22, tzinfo=ZoneInfo("Europe/London")).timestamp() * 1000)
    for ahead_h, hour, weekday in ((0, 23, 5), (2, 1, 6), (3, 3, 6)):  # Saturday night: 02:00 does not exist
        found = rolling_features(history, before_change + ahead_h * HOUR_MS, KEPT, "Europe/Berlin").of_product(0)
        assert found["hour_cos"] == pytest.approx(math.cos(math.tau * hour / 24))
        assert found["weekday_sin"] == pytest.approx(math.sin(math.tau * weekday / 7))


def test_undefined_features_are_none() -> None:
    found = rolling_features(History.of([({}, {}, None)], GRID), 0, KEPT, "UTC").of_product(0)
    assert found["conversion_1h"] is None
    assert found["hours_since_sale"] is None
    assert found["units_7d"] == 0.0


def test_feature_names_are_distinct() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)


def test_documentation_is_current() -> None:
    page = (DOCS / "features.md").read_text(encoding="utf-8")
    assert page == features_page(), "run: python -m feature_store.rolling > docs/features.md"
