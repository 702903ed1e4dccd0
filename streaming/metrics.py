"""Every metric of the program, in one list. Import the constants and use prometheus-client's own methods on them.

Names are `trendcast_<stage>_<thing>_<unit>`; units are Prometheus's base units (seconds, bytes); counters end in `_total`. No metric has a
product, order or customer as a label: the number of series must not grow with the shop. Label values that are known beforehand exist from
the start with the value 0, so that `rate()` sees the first event too. `docs/metrics.md` holds the same list (`table`), and a test compares.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from models.accuracy import Accuracy
from models.calibration import Outcomes
from models.drift import CLASSES, MEASURES
from models.metrics import VOLUMES
from streaming.rejections import ErrorClass

if TYPE_CHECKING:
    from models.input_shift import Shift

# Not the library's global registry: nothing that some dependency registers there leaves with ours.
REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# What a batch of products was computed for. `catch_up`: many closed steps in a row, of which only the last is published.
# `rebuild`: states of another model, from the steps that are stored.
CLOSE: Final = "close"
NOWCAST: Final = "nowcast"
CATCH_UP: Final = "catch_up"
REBUILD: Final = "rebuild"
REASONS: Final = (CLOSE, NOWCAST, CATCH_UP, REBUILD)

# What became of a record of an input topic. `already_counted`: at or below the offset that every shard it touches has counted.
RECORD_OUTCOMES: Final = ("accepted", "rejected", "heartbeat", "already_counted")
# What the store answered to an atomic call; all but `applied` cost another round or the process.
APPLY_OUTCOMES: Final = ("applied", "seen", "ahead", "rolled_back")
# Whose forecasts are measured: those that readers get, or those of a model that `trendcast shadow` runs beside it.
SERVING: Final = "serving"
CHALLENGER: Final = "challenger"
ALERT_KINDS: Final = ("spike", "drop")
ALERT_STATUSES: Final = ("firing", "updated", "resolved")
FORECAST_KINDS: Final = (CLOSE, NOWCAST, "tombstone")
# Why a commit was refused: another owner's token, or a state that is at another step or of another model.
COMMIT_CONFLICTS: Final = ("owner", "step")

# Tight around the promised freshness (p50 150 ms, p99 500 ms), loose where only "far too slow" matters.
FRESHNESS_SECONDS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
# One call to Redis or one batch through the model: from a pipelined call to the longest chunk that a sweep may take, and beyond.
CALL_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# Sizes of batches and calls: powers of four, up to the largest padded batch (4,096) and beyond.
SIZES: Final = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)


@dataclass(frozen=True, slots=True)
class Described:
    """One metric as its documentation shows it; `name` is the name that is scraped, without a histogram's endings."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str

    def row(self) -> str:
        """Row of the table in the documentation."""
        return f"| `{self.name}` | {self.type} | {', '.join(f'`{label}`' for label in self.labels)} | {self.help} |"


_DESCRIBED: Final[list[Described]] = []
_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


def _known(metric: _Metric, described: Described, known: Sequence[Sequence[str]]) -> _Metric:
    """Lists the metric and makes the series of the label values in `known`."""
    _DESCRIBED.append(described)
    for values in known:
        metric.labels(*values)
    return metric


def _counter(name: str, help_text: str, labels: tuple[str, ...] = (), known: Sequence[Sequence[str]] = ()) -> Counter:
    return _known(Counter(name, help_text, labels, registry=REGISTRY), Described(name, "counter", labels, help_text), known)


def _gauge(name: str, help_text: str, labels: tuple[str, ...] = (), known: Sequence[Sequence[str]] = ()) -> Gauge:
    return _known(Gauge(name, help_text, labels, registry=REGISTRY), Described(name, "gauge", labels, help_text), known)


def _histogram(
    name: str, help_text: str, buckets: Sequence[float], labels: tuple[str, ...] = (), known: Sequence[Sequence[str]] = ()
) -> Histogram:
    metric = Histogram(name, help_text, labels, registry=REGISTRY, buckets=buckets)
    return _known(metric, Described(name, "histogram", labels, help_text), known)


def _each(values: Sequence[str]) -> list[tuple[str]]:
    return [(value,) for value in values]


# --- every worker ---
WORKER_CONDITIONS: Final = _gauge(
    "trendcast_worker_met_conditions",
    "1 while a condition of readiness holds, else 0: assignment, store, model (see /readyz).",
    ("condition",),
)
# --- ingest: input records ---
INGEST_RECORDS: Final = _counter(
    "trendcast_ingest_records_total",
    "Records read, by what became of them: accepted, rejected, heartbeat, already_counted.",
    ("topic", "outcome"),
)
INGEST_EVENTS: Final = _counter(
    "trendcast_ingest_events_total",
    "Lines of accepted records (items of orders, clicks) by topic; an order of three items is three.",
    ("topic",),
)
INGEST_REJECTED: Final = _counter(
    "trendcast_ingest_rejected_total", "Records rejected and dead-lettered, by error class.", ("topic", "error_class")
)
INGEST_DUPLICATES: Final = _counter(
    "trendcast_ingest_duplicates_total", "Orders not counted because their event_id was known, once per shard that knew it.", ("topic",)
)
INGEST_LATE: Final = _counter(
    "trendcast_ingest_late_total", "Accepted records behind their source's watermark; they still correct their tile.", ("topic",)
)
INGEST_LATE_AFTER_CLOSE: Final = _counter(
    "trendcast_ingest_late_after_close_total",
    "Cells that came too late for the model to see them for sure; the sums are right, the state is not recomputed.",
)
# --- ingest: position and time ---
INGEST_SOURCES: Final = _gauge("trendcast_ingest_owned_sources", "Input partitions assigned to this process.")
INGEST_PAUSED: Final = _gauge(
    "trendcast_ingest_paused_sources", "Assigned input partitions held back because they run too far ahead in event time."
)
INGEST_LAG_RECORDS: Final = _gauge(
    "trendcast_ingest_lag_records",
    "Records of the input partition that no shard has counted yet: end of the log minus read position.",
    ("topic", "partition"),
)
INGEST_LAG_SECONDS: Final = _gauge(
    "trendcast_ingest_lag_seconds",
    "Age, by the clock, of the newest counted record's Kafka timestamp; 0 at the end of the log.",
    ("topic", "partition"),
)
INGEST_WATERMARK_LAG: Final = _gauge(
    "trendcast_ingest_watermark_lag_seconds", "How far the source's watermark lies behind the clock.", ("topic", "partition")
)
# --- ingest: work ---
INGEST_BATCH_RECORDS: Final = _histogram("trendcast_ingest_batch_records", "Records of one fetch of one input partition.", SIZES)
INGEST_DECODE_SECONDS: Final = _histogram(
    "trendcast_ingest_decode_seconds", "Decoding and judging of one partition's next records.", CALL_SECONDS
)
INGEST_FOLD_SECONDS: Final = _histogram("trendcast_ingest_fold_seconds", "Tiling of all that one cycle took.", CALL_SECONDS)
INGEST_APPLY_SECONDS: Final = _histogram(
    "trendcast_ingest_apply_seconds", "One pipelined round of atomic calls to the store.", CALL_SECONDS
)
INGEST_APPLY_CALLS: Final = _counter(
    "trendcast_ingest_apply_calls_total",
    "Atomic calls to the store by answer: applied, seen (known event_ids), ahead (counted by somebody else), rolled_back.",
    ("outcome",),
    _each(APPLY_OUTCOMES),
)
INGEST_APPLY_CELLS: Final = _histogram("trendcast_ingest_apply_cells", "Cells (product and tile) of one atomic call.", SIZES)
INGEST_DOORBELLS: Final = _counter("trendcast_ingest_doorbells_total", "Doorbell messages sent to the forecast workers.")
# --- dead letters of every stage ---
DEAD_LETTERS: Final = _counter(
    "trendcast_deadletters_sent_total",
    "Dead letters confirmed by the broker, by the stage that gave up and the reason.",
    ("stage", "reason"),
    [("ingest", reason) for reason in ErrorClass],
)
# --- forecast: work ---
FORECAST_BATCH_PRODUCTS: Final = _histogram(
    "trendcast_forecast_batch_products",
    "Products of one batch through the model, by reason: close, nowcast, catch_up, rebuild.",
    SIZES,
    ("reason",),
    _each(REASONS),
)
FORECAST_BATCH_SECONDS: Final = _histogram(
    "trendcast_forecast_batch_seconds", "One batch through the model, by reason.", CALL_SECONDS, ("reason",), _each(REASONS)
)
FORECAST_STORE_SECONDS: Final = _histogram(
    "trendcast_forecast_store_seconds",
    "One pipelined round of the store, gathering or committing.",
    CALL_SECONDS,
    ("call",),
    _each(("gather", "commit")),
)
FORECAST_COMMIT_CONFLICTS: Final = _counter(
    "trendcast_forecast_commit_conflicts_total",
    "Commits that the store refused: another owner, or a state at another step or of another model.",
    ("reason",),
    _each(COMMIT_CONFLICTS),
)
FORECAST_STEPS_CLOSED: Final = _counter("trendcast_forecast_closed_steps_total", "Steps closed, once per shard.")
FORECAST_SWEEP_PROGRESS: Final = _gauge(
    "trendcast_forecast_sweep_progress_ratio", "Share of the live products that the running sweep has advanced; 1 where none runs."
)
# --- forecast: what leaves ---
FORECAST_FRESHNESS: Final = _histogram(
    "trendcast_forecast_freshness_seconds",
    "Per forecast: confirmed by the broker minus sent_at of the oldest input that it answers.",
    FRESHNESS_SECONDS,
)
FORECAST_PUBLISHED: Final = _counter(
    "trendcast_forecast_published_total",
    "Forecasts confirmed by the broker, by kind: close, nowcast, tombstone.",
    ("kind",),
    _each(FORECAST_KINDS),
)
FORECAST_ALERTS: Final = _counter(
    "trendcast_forecast_alerts_published_total",
    "Alert messages confirmed by the broker; updated: re-sent while firing.",
    ("kind", "status"),
    [(kind, status) for kind in ALERT_KINDS for status in ALERT_STATUSES],
)
FORECAST_ALERTS_HELD: Final = _counter(
    "trendcast_forecast_alerts_held_total",
    "Alerts that began but were not announced, because their shard's volume class was below the floor (TRENDCAST_ALERTS_FLOOR).",
    ("kind",),
    _each(ALERT_KINDS),
)
FORECAST_LEVELS: Final = _counter(
    "trendcast_forecast_levels_published_total",
    "Forecasts of categories and of the shop confirmed by the broker.",
    ("level",),
    _each(("category", "shop")),
)
FORECAST_LEVELS_BEHIND: Final = _gauge(
    "trendcast_forecast_levels_behind_shards",
    "Shards, anybody's, that have not added up the newest step that some shard has: they hold the forecasts of categories and of the shop back.",
)
FORECAST_OUTBOX: Final = _gauge("trendcast_forecast_outbox_messages", "Messages committed and not yet confirmed by the broker.")
FORECAST_SCORES: Final = _counter("trendcast_forecast_scores_published_total", "Days' scores confirmed by the broker, one a shard.")
# --- forecast: what came of it, by volume class (typical demand per step: slow, medium, fast; all of them together) and role (serving, challenger) ---
FORECAST_OUTCOMES: Final = _counter(
    "trendcast_forecast_outcomes_total",
    "Steps of products that a forecast on trial was compared with, by volume class.",
    ("volume",),
    _each(VOLUMES),
)
FORECAST_MWQL: Final = _gauge(
    "trendcast_forecast_quantile_loss_ratio",
    "MWQL, as published: weighted quantile loss, mean over the levels .1, .5 and .9; last seven full days of owned shards.",
    ("volume", "role"),
)
FORECAST_NAIVE: Final = _gauge(
    "trendcast_forecast_naive_loss_ratio",
    "MWQL of the naive forecast (as a day before) on the same steps; the model is worth what it lies below.",
    ("volume", "role"),
)
FORECAST_BIAS: Final = _gauge(
    "trendcast_forecast_bias_ratio",
    "Mean error of the forecast mean relative to demand, negative: too low; last seven full days of owned shards.",
    ("volume", "role"),
)
FORECAST_BELOW: Final = _gauge(
    "trendcast_forecast_below_quantile_ratio",
    "Share of outcomes below the published quantile of a level; last seven full days of owned shards.",
    ("volume", "level", "role"),
)
FORECAST_AT_MOST: Final = _gauge(
    "trendcast_forecast_at_most_quantile_ratio",
    "Share of outcomes at or below it: a level is met where it lies between the two.",
    ("volume", "level", "role"),
)
FORECAST_DRIFTING: Final = _gauge(
    "trendcast_forecast_drifting_shards",
    "Owned shards whose forecasts' loss, bias or coverage has left its usual course of four weeks, by volume class.",
    ("volume", "measure"),
    [(volume, measure) for volume in CLASSES for measure in MEASURES],
)
FORECAST_HELD: Final = _gauge(
    "trendcast_forecast_held_shards",
    "Owned shards in which no alert of a volume class begins, because its forecasts were below the floor for a week.",
    ("volume",),
    _each(VOLUMES),
)
FORECAST_GAP: Final = _gauge(
    "trendcast_forecast_gap_shards", "Owned shards whose forecasts say `quality: gap`: a stored step may lack records that were lost."
)
FORECAST_INPUT_SHIFT: Final = _gauge(
    "trendcast_forecast_input_shift_ratio",
    "Mean of the network's inputs in the training's standard deviations, 0 at home: the furthest of each group; last full day that this process saw.",
    ("group",),
)
FORECAST_INPUT_SPREAD: Final = _gauge(
    "trendcast_forecast_input_spread_ratio",
    "Spread of the inputs relative to the training's, 1 at home: the furthest of each group.",
    ("group",),
)
FORECAST_INPUT_CLIPPED: Final = _gauge(
    "trendcast_forecast_input_clipped_ratio", "Share of the inputs that the network sees cut off: the most of each group.", ("group",)
)
# --- forecast: what waits, what is held ---
FORECAST_DIRTY: Final = _gauge(
    "trendcast_forecast_dirty_products", "Products changed since their forecast was last published, on owned shards."
)
FORECAST_OLDEST_DIRTY: Final = _gauge(
    "trendcast_forecast_oldest_dirty_seconds", "Age of the oldest unserved change on owned shards; scale the forecast workers by this."
)
FORECAST_WATERMARK_LAG: Final = _gauge(
    "trendcast_forecast_watermark_lag_seconds", "How far the slowest owned shard's watermark lies behind the clock."
)
FORECAST_LIVE: Final = _gauge("trendcast_forecast_live_products", "Products with a state, on owned shards.")
FORECAST_UNUSABLE: Final = _counter(
    "trendcast_forecast_unusable_total", "Forecasts that were not published, because the model gave numbers that are not finite."
)
FORECAST_EVICTED: Final = _counter("trendcast_forecast_evicted_products_total", "Products forgotten after their long silence.")
FORECAST_STATE_BYTES: Final = _gauge(
    "trendcast_forecast_state_bytes",
    "Bytes of features, recurrent state, alert scores and forecasts on trial in the store, on owned shards.",
)
FORECAST_SHARDS: Final = _gauge("trendcast_forecast_owned_shards", "Shards assigned to this process.")
FORECAST_MODEL: Final = _gauge(
    "trendcast_forecast_model_info",
    "Always 1; the labels name the model, and whether it serves or is a challenger in shadow.",
    ("name", "version", "role"),
)
# --- forecast: another model takes over ---
FORECAST_TAKEOVER: Final = _gauge(
    "trendcast_forecast_takeover_progress_ratio",
    "Share of the products of owned shards that are known to have a state of the promoted model; 0 until it is loaded, 1: the takeover is done.",
)
FORECAST_TAKEOVER.set(1)  # of a process that serves no model
FORECAST_REBUILT: Final = _counter(
    "trendcast_forecast_rebuilt_states_total", "States rebuilt from stored steps, because those that were stored are another model's."
)
FORECAST_LOAD_FAILURES: Final = _counter(
    "trendcast_forecast_model_load_failures_total", "Attempts to load the promoted model that failed; the one before serves on."
)


# --- gateway ---
GATEWAY_RECORDS: Final = _counter(
    "trendcast_gateway_records_total",
    "Records that the view was fed, by what became of them: applied, older (than what is known; heartbeats), unreadable.",
    ("topic", "outcome"),
)
GATEWAY_APPLY_SECONDS: Final = _histogram(
    "trendcast_gateway_apply_seconds", "Records of one partition into the view, at most 200 at a time.", CALL_SECONDS
)
GATEWAY_PRODUCTS: Final = _gauge("trendcast_gateway_view_products", "Products that the view knows a forecast of.")
GATEWAY_ALERTS: Final = _gauge("trendcast_gateway_firing_alerts", "Alerts that fire.")
GATEWAY_STREAMS: Final = _gauge("trendcast_gateway_open_streams", "Readers with an open stream.")
GATEWAY_FRAMES: Final = _counter("trendcast_gateway_frames_total", "Frames handed to readers' connections, heartbeats included.")
GATEWAY_MERGED: Final = _counter(
    "trendcast_gateway_merged_changes_total",
    "Changes that a reader is told by a newer value, because the one before had not been sent yet.",
)
GATEWAY_RESETS: Final = _counter(
    "trendcast_gateway_resets_total",
    "Readers that were told to begin with a new snapshot: their position is another process's, or too old.",
)


def forget_source(topic: str, partition: int) -> None:
    """Ends the series of an input partition that this process no longer owns, so that a stale lag does not page anybody."""
    for gauge in (INGEST_LAG_RECORDS, INGEST_LAG_SECONDS, INGEST_WATERMARK_LAG):
        gauge.remove_by_labels({"topic": topic, "partition": str(partition)})


def expect_topics(topics: Sequence[str]) -> None:
    """Makes the series of the input topics, at 0, before the first record."""
    for topic in topics:
        for metric in (INGEST_EVENTS, INGEST_DUPLICATES, INGEST_LATE):
            metric.labels(topic)
        for outcome in RECORD_OUTCOMES:
            INGEST_RECORDS.labels(topic, outcome)


def own_nothing() -> None:
    """A process without shards tells nothing of those that it had: what waited there is another's by now."""
    for gauge in (
        *(FORECAST_SHARDS, FORECAST_DIRTY, FORECAST_OLDEST_DIRTY, FORECAST_WATERMARK_LAG, FORECAST_LIVE, FORECAST_OUTBOX),
        *(FORECAST_STATE_BYTES, FORECAST_LEVELS_BEHIND, FORECAST_GAP),
    ):
        gauge.set(0)
    FORECAST_SWEEP_PROGRESS.set(1)
    show_accuracy({}, ())
    show_drift({}, dict.fromkeys(VOLUMES, 0))


def serve_model(name: str, version: str, role: str = SERVING) -> None:
    """Says which model this process runs; the model before it leaves the metrics."""
    FORECAST_MODEL.clear()
    FORECAST_MODEL.labels(name, version, role).set(1)


def count_outcomes(found: Iterable[Outcomes]) -> None:
    """Outcomes that were stored."""
    for outcomes in found:
        for volume, count in zip(VOLUMES, outcomes.count.tolist(), strict=True):
            FORECAST_OUTCOMES.labels(volume).inc(count)


def show_accuracy(by_volume: Mapping[str, Accuracy], levels: Sequence[float], role: str = SERVING) -> None:
    """What is known now; series of what is not known any more end."""
    for gauge in (FORECAST_MWQL, FORECAST_NAIVE, FORECAST_BIAS, FORECAST_BELOW, FORECAST_AT_MOST):
        gauge.clear()
    for volume, accuracy in by_volume.items():
        if accuracy.demand:
            FORECAST_MWQL.labels(volume, role).set(accuracy.mwql)
            FORECAST_NAIVE.labels(volume, role).set(accuracy.naive)
            FORECAST_BIAS.labels(volume, role).set(accuracy.bias)
        for level, below, at_most in zip(levels, accuracy.below, accuracy.at_most, strict=True):
            FORECAST_BELOW.labels(volume, level, role).set(below)
            FORECAST_AT_MOST.labels(volume, level, role).set(at_most)


def show_drift(drifting: Mapping[tuple[str, str], int], held: Mapping[str, int]) -> None:
    """Numbers of owned shards: by volume and measure those that drift, by volume those whose alerts are held back."""
    for volume in CLASSES:
        for measure in MEASURES:
            FORECAST_DRIFTING.labels(volume, measure).set(drifting.get((volume, measure), 0))
    for volume, shards in held.items():
        FORECAST_HELD.labels(volume).set(shards)


def show_inputs(by_group: Mapping[str, "Shift"]) -> None:
    """How far the network's inputs have moved."""
    for gauge in (FORECAST_INPUT_SHIFT, FORECAST_INPUT_SPREAD, FORECAST_INPUT_CLIPPED):
        gauge.clear()
    for group, shift in by_group.items():
        FORECAST_INPUT_SHIFT.labels(group).set(shift.mean)
        FORECAST_INPUT_SPREAD.labels(group).set(shift.spread)
        FORECAST_INPUT_CLIPPED.labels(group).set(shift.clipped)


def render(accept: str = "") -> tuple[bytes, str]:
    """The current values, in the format that the request's `Accept` header asks for: (body, content type)."""
    encode, content_type = choose_encoder(accept)
    return encode(REGISTRY), content_type


def described() -> Iterator[Described]:
    """All metrics of the program, in the order of this file."""
    yield from _DESCRIBED


def table() -> str:
    """The table of `docs/metrics.md`.

    >>> print(table().splitlines()[0])
    | metric | type | labels | what it says |
    """
    return "\n".join(("| metric | type | labels | what it says |", "|---|---|---|---|", *(metric.row() for metric in described())))


if __name__ == "__main__":
    print(table())
