"""The list of metrics: named by the rules, documented, bounded in series."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.accuracy import Accuracy
from streaming import metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
STAGES = ("worker", "ingest", "forecast", "deadletters", "gateway")
# Units and unitless endings that a name may have; `_total` is put behind a counter's thing.
ENDINGS = {
    "counter": ("_total",),
    "gauge": (
        "_seconds",
        "_bytes",
        "_records",
        "_products",
        "_messages",
        "_sources",
        "_shards",
        "_alerts",
        "_conditions",
        "_ratio",
        "_info",
        "_streams",
    ),
    "histogram": ("_seconds", "_records", "_products", "_cells"),
}
# Labels whose values are given by topics, partitions or enumerations, never by what a shop sells or to whom.
BOUNDED_LABELS = {"topic", "partition", "outcome", "error_class", "stage", "reason", "call", "kind", "status", "name", "version"} | {
    "volume",
    "level",
    "measure",
    "group",
    "role",
    "condition",
}


def test_the_document_holds_exactly_the_table_of_the_program() -> None:
    found = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert found == metrics.table().splitlines(), "docs/metrics.md differs; put in it what `python -m streaming.metrics` prints"


def test_names_follow_the_rules() -> None:
    for metric in metrics.described():
        assert re.fullmatch(rf"trendcast_({'|'.join(STAGES)})(_[a-z]+)+", metric.name), metric.name
        assert metric.name.endswith(ENDINGS[metric.type]), metric.name
        assert metric.help.endswith("."), metric.name


def test_no_label_can_grow_with_the_shop() -> None:
    assert {label for metric in metrics.described() for label in metric.labels} <= BOUNDED_LABELS


def test_everything_listed_is_scraped_and_nothing_else_of_ours() -> None:
    scraped = {family.name: family.type for family in text_string_to_metric_families(metrics.render()[0].decode())}
    ours = {name: kind for name, kind in scraped.items() if name.startswith("trendcast_") and not name.endswith("_created")}
    assert ours == {metric.name.removesuffix("_total"): metric.type for metric in metrics.described()}
    assert "process_resident_memory_bytes" in scraped


def test_known_label_values_stand_at_zero_before_the_first_event() -> None:
    body = metrics.render()[0].decode()
    assert 'trendcast_ingest_apply_calls_total{outcome="rolled_back"}' in body
    assert 'trendcast_forecast_batch_seconds_count{reason="catch_up"}' in body
    assert 'trendcast_forecast_alerts_published_total{kind="drop",status="resolved"}' in body


def test_expected_topics_exist_before_the_first_record() -> None:
    metrics.expect_topics(["topic-of-this-test"])
    body = metrics.render()[0].decode()
    assert 'trendcast_ingest_records_total{outcome="accepted",topic="topic-of-this-test"} 0.0' in body
    assert 'trendcast_ingest_duplicates_total{topic="topic-of-this-test"} 0.0' in body


def test_a_source_that_is_given_away_leaves_the_metrics() -> None:
    gauges = (metrics.INGEST_LAG_RECORDS, metrics.INGEST_LAG_SECONDS, metrics.INGEST_WATERMARK_LAG)
    for gauge in gauges:
        gauge.labels("given-away", "3").set(17)
        gauge.labels("given-away", "4").set(18)
    metrics.forget_source("given-away", 3)
    metrics.forget_source("given-away", 3)  # a second revocation is harmless
    body = metrics.render()[0].decode()
    assert 'topic="given-away"' in body
    assert not re.search(r'partition="3",topic="given-away"', body)


def test_a_process_without_shards_says_nothing_of_those_that_it_had() -> None:
    metrics.FORECAST_SHARDS.set(16)
    for gauge in (metrics.FORECAST_OLDEST_DIRTY, metrics.FORECAST_WATERMARK_LAG, metrics.FORECAST_GAP):
        gauge.set(7_200)
    metrics.show_drift({("all", "loss"): 5}, {"slow": 3})
    metrics.show_accuracy({"all": Accuracy(10, 100.0, 0.9, 0.8, 0.1, (0.4,), (0.6,))}, [0.5])
    metrics.own_nothing()
    samples = [sample for family in text_string_to_metric_families(metrics.render()[0].decode()) for sample in family.samples]
    told = {sample.name: sample.value for sample in samples if not sample.labels}
    for name in ("owned_shards", "oldest_dirty_seconds", "watermark_lag_seconds", "gap_shards"):
        assert told[f"trendcast_forecast_{name}"] == 0
    gone = ("quantile_loss_ratio", "naive_loss_ratio", "bias_ratio", "below_quantile_ratio")
    assert not {sample.name for sample in samples} & {f"trendcast_forecast_{name}" for name in gone}
    held = [sample for sample in samples if sample.name.endswith(("drifting_shards", "held_shards"))]
    assert held
    assert not any(sample.value for sample in held)


def test_only_the_model_that_serves_is_named() -> None:
    metrics.serve_model("lstm", "1")
    metrics.serve_model("lstm", "2")
    body = metrics.render()[0].decode()
    assert 'trendcast_forecast_model_info{name="lstm",role="serving",version="2"} 1.0' in body
    assert 'version="1"' not in body


@pytest.mark.parametrize(
    ("accept", "content_type"), [("", "text/plain"), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")]
)
def test_the_scraper_chooses_the_format(accept: str, content_type: str) -> None:
    body, found = metrics.render(accept)
    assert found.startswith(content_type)
    assert body.endswith(b"# EOF\n") == (content_type != "text/plain")
