"""The truth agrees with a naive reader of the bytes, with the program's own counting, and does not depend on how time is cut."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.measures import MEASURES as PROGRAM_MEASURES
from feature_store.measures import SCALES as PROGRAM_SCALES
from feature_store.tiles import Grid, roll_up, tile_events
from feature_store.watermarks import judge
from simulator.compare import differences
from simulator.demand import ShopConfig
from simulator.dirt import Dirt
from simulator.encode import Batch
from simulator.events import DAY_MS, HOUR_MS, MINUTE_MS, Topic
from simulator.faults import FAULTS
from simulator.feed import Chunk, Partitions
from simulator.shop import Shop
from simulator.truth import MEASURES, SCALES, Rules, Truth
from streaming.decode import decode_clicks, decode_orders
from streaming.settings import Settings

RULES = Rules()
FILTHY = Dirt(out_of_order=0.1, late=0.1, skewed=0.05, duplicated=0.2, malformed=0.1, future=0.05, expired=0.05)
CONFIG = ShopConfig(products=40, lines_per_hour=60, cancelled=0.3, returned=0.2, customers=50)
START_MS = CONFIG.opened_ms
# Long enough for cancellations after their step has closed, and for late records to arrive.
SPAN_MS = 2 * DAY_MS
SHOP_IDS = {f"p{i:05d}" for i in range(CONFIG.products)}

Sums = dict[tuple[str, int], Counter[str]]


def feed_truth(chunks: Iterable[Chunk], truth: Truth) -> list[Batch]:
    """All batches, their increments taken into the truth."""
    batches: list[Batch] = []
    for chunk in chunks:
        truth.add(chunk.increment)
        batches.extend(chunk.batches)
    return batches


def sources(batches: list[Batch]) -> Iterator[tuple[Topic, list[Any]]]:
    """Each partition's records in offset order, as a consumer would see them."""
    for (topic, _), parts in groupby(sorted(batches, key=lambda b: (b.topic, b.partition)), key=lambda b: (b.topic, b.partition)):
        records: list[Any] = []
        for batch in parts:
            for i, (key, value, timestamp) in enumerate(zip(batch.keys, batch.values, batch.timestamps_ms, strict=True)):
                headers = [("watermark", b"%d" % batch.heartbeats[i])] if i in batch.heartbeats else []
                names = {"topic": topic.name, "partition": batch.partition, "offset": len(records), "timestamp_type": 0}
                records.append(SimpleNamespace(timestamp=timestamp, key=key, value=value, headers=headers, **names))
        yield topic, records


def time_ms(value: int | str) -> int:
    return value if isinstance(value, int) else round(datetime.fromisoformat(value).timestamp() * 1000)


def step(ms: int) -> int:
    return ms // RULES.step_ms


def naive(topic: Topic, records: list[Any], known: set[str], malformed: set[bytes]) -> tuple[Sums, Counter[str]]:
    """Counts one source record by record; what is malformed it is told."""
    sums: Sums = defaultdict(Counter)
    counts: Counter[str] = Counter()
    watermark = -(10**18)
    for record in records:
        if record.headers:
            watermark = max(watermark, min(int(record.headers[0][1]), record.timestamp))
            continue
        if record.value in malformed or not record.value:
            counts["malformed"] += 1
            continue
        event = json.loads(record.value)
        at, before = time_ms(event["event_time"]), watermark
        if at > record.timestamp + RULES.future_ms:
            counts["future"] += 1
            continue
        if (step(at) + 1) * RULES.step_ms <= before - RULES.step_retention_ms:
            counts["expired"] += 1
            continue
        watermark = max(watermark, min(at, record.timestamp) - RULES.lateness_ms)
        if event.get("event_id") in known:
            continue
        if topic is Topic.CLICKSTREAM:
            measure = {"view": "views", "add_to_cart": "carts", "remove_from_cart": "uncarts", "wishlist": "favourites"}[event["type"]]
            sums[event["product_id"], step(at)][measure] += 1
            continue
        known.add(event["event_id"])
        nets = event["status"] == "cancelled" and "placed_at" in event and (step(event["placed_at"]) + 1) * RULES.step_ms > before
        for item in event["items"]:
            cell = sums[item["product_id"], step(event["placed_at"] if nets else at)]
            if event["status"] == "placed" or nets:
                sign = -1 if nets else 1
                cell["units"] += sign * round(item["quantity"] * 1000)
                cell["revenue"] += sign * round(item["quantity"] * item["unit_price"] * 10_000)
                cell["netted_units"] += nets * round(item["quantity"] * 1000)
            else:
                cell[f"{event['status']}_units"] += round(item["quantity"] * 1000)
        for product in {item["product_id"] for item in event["items"]} if event["status"] == "placed" or nets else ():
            sums[product, step(event["placed_at"] if nets else at)]["orders"] += -1 if nets else 1
            sums[product, step(event["placed_at"] if nets else at)]["netted_orders"] += nets
    return sums, counts


def as_cells(frame: pd.DataFrame) -> dict[tuple[str, int], tuple[float, ...]]:
    rows = zip(frame["product_id"], frame["start_ms"], frame[list(MEASURES)].itertuples(index=False, name=None), strict=True)
    return {(product, int(start)): values for product, start, values in rows}


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def spoilt(batches: list[Batch], topic: Topic) -> set[bytes]:
    """Values that no reader may accept, told by trying a strict parser and the contract's fields by hand."""
    good = set()
    for value in (value for batch in batches if batch.topic is topic for value in batch.values):
        try:
            event = json.loads(value, parse_constant=refuse)
            time_ms(event["event_time"])
            assert not isinstance(event["event_time"], bool)
            if topic is Topic.ORDERS:
                assert event["event_id"]
                assert event["status"] in ("placed", "cancelled", "returned")
                for item in event["items"]:
                    assert item["product_id"] in SHOP_IDS
                    assert not isinstance(item["quantity"], bool | str)
                    assert 1 <= item["quantity"] <= 10**6
                    assert isinstance(item["unit_price"], float | int)
                    assert item["unit_price"] >= 0
            else:
                assert event["product_id"] in SHOP_IDS
                assert event["type"] in ("view", "add_to_cart", "remove_from_cart", "wishlist")
        except (AssertionError, ValueError, KeyError, TypeError):
            continue
        good.add(value)
    return {value for batch in batches if batch.topic is topic for value in batch.values} - good


@pytest.fixture(scope="module", params=[0, 1])
def filthy(request: pytest.FixtureRequest) -> tuple[list[Batch], Truth]:
    shop = Shop(CONFIG, request.param, dirt=FILTHY)
    feed = shop.feed(START_MS, partitions=Partitions(3, 2))
    truth = feed.truth()
    return feed_truth(feed.chunks(START_MS + SPAN_MS), truth), truth


def test_truth_equals_a_naive_reader_of_the_bytes(filthy: tuple[list[Batch], Truth]) -> None:
    batches, truth = filthy
    known: set[str] = set()
    total: Sums = defaultdict(Counter)
    counts: Counter[str] = Counter()
    bad = {topic: spoilt(batches, topic) for topic in Topic}
    for topic, records in sources(batches):
        sums, rejected = naive(topic, records, known, bad[topic])
        counts.update(rejected)
        for cell, measures in sums.items():
            for measure, value in measures.items():
                total[cell][measure] += value
    expected = {
        (product, number * RULES.step_ms): tuple(measures[name] / int(scale) for name, scale in zip(MEASURES, SCALES, strict=True))
        for (product, number), measures in total.items()
    }
    assert as_cells(truth.by_step()) == expected
    assert counts == truth.rejected()
    assert min(counts.values()) > 20  # it was dirty enough to mean something
    assert truth.counts["orders.duplicates"] > 100
    assert truth.total("late") > 500


def test_truth_equals_the_programs_own_counting(filthy: tuple[list[Batch], Truth]) -> None:
    batches, truth = filthy
    grid = Grid(5 * MINUTE_MS, RULES.step_ms)
    cells: dict[tuple[str, int], np.ndarray[Any, Any]] = defaultdict(lambda: np.zeros(len(MEASURES)))
    rejected: Counter[str] = Counter()
    known: set[int] = set()
    for topic, records in sources(batches):
        batch, bad = decode_orders(records, currency=None) if topic is Topic.ORDERS else decode_clicks(records)
        limits = {name: getattr(RULES, name) for name in ("lateness_ms", "future_ms", "step_ms", "step_retention_ms")}
        judged = judge(batch, None, **limits)
        rejected["malformed"] += len(bad)
        rejected.update(reason for _, reason in judged.rejections)
        first = np.ones(len(batch), dtype=bool)
        for i in np.flatnonzero(judged.accepted & ~batch.heartbeat).tolist():
            event = int(batch.event_hash[i])
            if topic is Topic.ORDERS:
                first[i] = event not in known
                known.add(event)
        keep = judged.accepted & first
        kept = batch.where(keep)
        deltas = tile_events(kept, judged.before_ms[keep], grid)
        for product, number, sums in zip(*roll_up(deltas.product, deltas.tile, deltas.deltas, grid), strict=True):
            cells[kept.product_ids[product], int(number) * RULES.step_ms] += sums
    assert PROGRAM_MEASURES == MEASURES
    assert as_cells(truth.by_step()) == {cell: tuple((sums / PROGRAM_SCALES).tolist()) for cell, sums in cells.items()}
    assert rejected == truth.rejected()


def test_every_fault_occurs_and_is_rejected_alone() -> None:
    shop = Shop(CONFIG, 5, dirt=Dirt(0, 0, 0, 0, malformed=0.9, future=0, expired=0))
    feed = shop.feed(START_MS, partitions=Partitions(1, 1))
    truth = feed.truth()
    batches = feed_truth(feed.chunks(START_MS + DAY_MS), truth)
    named = {name for name in truth.counts if name.startswith("malformed.")}
    assert named == {f"malformed.{topic.name.lower()}.{name}" for topic, faults in FAULTS.items() for name, _ in faults}
    for topic, records in sources(batches):
        _, bad = decode_orders(records, currency=None) if topic is Topic.ORDERS else decode_clicks(records)
        assert {records[fault.index].value for fault in bad} == spoilt(batches, topic)
        assert all(fault.index not in {i for i, record in enumerate(records) if record.headers} for fault in bad)


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 8 * HOUR_MS - 1), max_size=12), seed=st.integers(0, 3))
def test_records_and_truth_do_not_depend_on_the_cuts(cuts: list[int], seed: int) -> None:
    shop = Shop(CONFIG, seed, dirt=FILTHY)
    end_ms = START_MS + 8 * HOUR_MS

    def run(times: list[int]) -> tuple[list[list[Any]], Truth]:
        feed = shop.feed(START_MS + 1234)
        truth = feed.truth()
        batches = feed_truth((feed.advance(until) for until in times), truth)
        return [[vars(record) for record in records] for _, records in sources(batches)], truth

    whole, truth = run([end_ms])
    parts, truth_of_parts = run([*sorted({START_MS + cut for cut in cuts if cut > 1234}), end_ms])
    assert parts == whole
    assert truth_of_parts.counts == truth.counts
    pd.testing.assert_frame_equal(truth_of_parts.by_step(), truth.by_step())


def test_heartbeats_reach_every_partition_and_never_lie() -> None:
    """A heartbeat promises that only late records are older; clean streams have none."""
    shop = Shop(CONFIG, 3, dirt=Dirt(out_of_order=0.5, late=0, skewed=0.2, duplicated=0, malformed=0, future=0, expired=0))
    feed = shop.feed(START_MS, partitions=Partitions(4, 7))
    truth = feed.truth()
    seen = list(sources(feed_truth(feed.chunks(START_MS + DAY_MS), truth)))
    assert len(seen) == 4 + 7
    for _, records in seen:
        beats = [record.timestamp for record in records if record.headers]
        assert beats[0] == START_MS
        assert records[0].headers
        assert np.diff(beats).max() <= 5 * MINUTE_MS
        assert [record.timestamp for record in records] == sorted(record.timestamp for record in records)
    assert truth.total("late") == 0


def test_truth_may_be_asked_for_the_steps_that_are_kept(filthy: tuple[list[Batch], Truth]) -> None:
    _, truth = filthy
    middle = START_MS + DAY_MS
    whole, before, after = truth.sums(), truth.sums(None, middle), truth.sums(middle, None)
    both = pd.concat([before, after]).groupby("product_id", as_index=False).sum()
    pd.testing.assert_frame_equal(both, whole)
    assert truth.by_step(middle, middle + HOUR_MS)["start_ms"].unique().tolist() == [middle]


def test_differences_are_found_wherever_they_are(filthy: tuple[list[Batch], Truth]) -> None:
    _, truth = filthy
    same = truth.by_step()
    assert differences(truth, same).empty
    tiles = pd.concat([same.assign(start_ms=same["start_ms"] + 300_000), same.assign(**dict.fromkeys(MEASURES, 0.0))])
    assert differences(truth, tiles).empty
    assert differences(truth, same.iloc[:0], START_MS, START_MS).empty
    wrong = same.iloc[1:].copy()
    wrong.loc[wrong.index[5], "revenue"] += 0.0001
    found = differences(truth, wrong)
    missing = same.iloc[0]
    assert {(row.product_id, row.start_ms) for row in found.itertuples()} == {
        tuple(same.loc[i, ["product_id", "start_ms"]]) for i in (0, wrong.index[5])
    }
    lost = found[(found["product_id"] == missing["product_id"]) & (found["start_ms"] == missing["start_ms"])]
    assert (lost["counted"] == 0).all()
    assert dict(zip(lost["measure"], lost["expected"], strict=True)) == {name: missing[name] for name in MEASURES if missing[name]}


def test_written_truth_can_be_read(filthy: tuple[list[Batch], Truth], tmp_path: Any) -> None:
    _, truth = filthy
    truth.notes["seed"] = 7
    truth.write(tmp_path / "truth")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "truth" / "products.parquet"), truth.sums(), check_dtype=False)
    summary = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert summary["seed"] == 7
    assert summary["counts"]["orders.counted"] == truth.counts["orders.counted"]


def test_orders_in_another_currency_have_no_revenue() -> None:
    shop = Shop(ShopConfig(products=5, lines_per_hour=50, currency="EUR"), rules=Rules(currency="GBP"))
    feed = shop.feed(START_MS)
    truth = feed.truth()
    feed_truth(feed.chunks(START_MS + HOUR_MS), truth)
    assert truth.sums()["revenue"].sum() == 0
    assert truth.sums()["units"].sum() > 0


def test_rules_are_the_programs_defaults() -> None:
    assert Rules.of(Settings()) == Rules()
