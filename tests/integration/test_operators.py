"""The operators' commands as processes, on a real Kafka and Redis."""

import asyncio
import base64
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer, TopicPartition

from feature_store.calls import Advance, ApplyCall, ProductCommit
from feature_store.measures import MEASURES, N_MEASURES, ORDERS, REVENUE, UNITS, VIEWS, natural
from feature_store.rolling import FEATURES
from feature_store.sharding import shard_of
from feature_store.store import FeatureStore
from simulator.embedded import Stack
from streaming import topics
from streaming.deadletters import dead_letter
from streaming.export import CHUNK_PRODUCTS, export_features
from streaming.fetched import Record
from streaming.operators import opened
from streaming.rejections import ErrorClass, Rejected
from streaming.settings import Clock, Settings

SHARDS = 3
STEP = 490_008  # a step at midnight UTC
STEP_MS, TILE_MS = 3_600_000, 300_000
Cells = dict[str, dict[int, list[int]]]  # product → tile → integers


@pytest.fixture
def settings(stack: Stack, redis_url: str, request: pytest.FixtureRequest) -> Settings:
    """A namespace and topics of this test alone; workers read from sources that don't exist in Kafka unless the test creates them."""
    name = "o" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    return Settings(
        kafka_bootstrap=stack.kafka.address,
        redis_url=redis_url,
        namespace=name,
        shards=SHARDS,
        clock=Clock.LOG,
        orders_topic=f"{name}-orders",
        clickstream_topic=f"{name}-clickstream",
        dead_letters_topic=f"{name}-dead-letters",
    )


def trendcast(settings: Settings, *arguments: str, answer: str = "") -> "subprocess.CompletedProcess[str]":
    """The command, as a process with these settings; wide enough for its tables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRENDCAST_")}
    for name in ("kafka_bootstrap", "namespace", "shards", "clock", "orders_topic", "clickstream_topic", "dead_letters_topic"):
        environment[f"TRENDCAST_{name.upper()}"] = str(getattr(settings, name))
    environment |= {"TRENDCAST_REDIS_URL": settings.redis, "COLUMNS": "200"}
    program = [sys.executable, "-m", "streaming.cli", *arguments]
    told = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, input=answer)
    assert "Traceback" not in told.stderr
    return told


def sums(units: int = 0, views: int = 0) -> list[int]:
    """Integers of a tile: so many units, one an order, at 2.50 each."""
    row = [0] * N_MEASURES
    row[UNITS], row[ORDERS], row[REVENUE], row[VIEWS] = units * 1_000, units, units * 25_000, views
    return row


def files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def count(store: FeatureStore, cells: Cells, *, watermark_ms: int, source: str = "id/0", end: int = 10) -> None:
    """Counts the cells as the next records of a source, in every shard."""
    calls = []
    for shard in range(SHARDS):
        mine = sorted(product for product in cells if shard_of(product, SHARDS) == shard)
        rows = [(i, tile, row) for i, product in enumerate(mine) for tile, row in sorted(cells[product].items())]
        position = (await store.positions([shard], [source]))[shard, source]
        calls.append(
            ApplyCall(
                shard=shard,
                sources=(Advance(source, position.next_offset, end, watermark_ms),),
                products=mine,
                oldest_sent_at_ms=[1] * len(mine),
                newest_event_ms=[max(cells[product]) * TILE_MS for product in mine],
                cell_product=np.array([i for i, _, _ in rows], np.int64),
                cell_tile=np.array([tile for _, tile, _ in rows], np.int64),
                deltas=np.array([row for _, _, row in rows], np.float64).reshape(len(rows), N_MEASURES),
            )
        )
    await store.apply(calls)


async def close(store: FeatureStore, products: Iterable[str], first: int, last: int) -> None:
    """Consumes these steps, as the forecaster would."""

    def header(position: int) -> bytes:
        return struct.pack("<q8s", position, b"12345678")

    by_shard: dict[int, list[ProductCommit]] = {}
    for product in products:
        commit = ProductCommit(product, b"", b"", first, last, header(last) + b"f", header(last) + b"s", header(last * 12) + b"c", None)
        by_shard.setdefault(shard_of(product, SHARDS), []).append(commit)
    for shard, commits in by_shard.items():
        await store.claim([shard], "token")
        assert isinstance(await store.commit(shard, "token", commits, {}), int)


# ---- export


async def many_products(settings: Settings) -> tuple[Cells, set[str]]:
    """Enough products for several chunks a shard, half of which have consumed two of their four steps."""
    generator = np.random.default_rng(5)
    cells: Cells = {}
    for i in range(SHARDS * CHUNK_PRODUCTS * 2):
        tiles = generator.choice(np.arange(STEP * 12, STEP * 12 + 48), size=4, replace=False).tolist()
        cells[f"p{i:04}"] = {tile: sums(units=int(generator.integers(1, 9)), views=i % 7) for tile in tiles}
    closed = {product for i, product in enumerate(cells) if i % 2}
    store = await FeatureStore.open(settings)
    await store.register_sources({"id/0": "orders/0"})
    await count(store, cells, watermark_ms=(STEP + 2) * STEP_MS)
    await close(store, closed, STEP, STEP + 1)
    await store.close()
    return cells, closed


async def test_an_export_holds_every_product_s_sums_once(settings: Settings, tmp_path: Path) -> None:
    cells, closed = await many_products(settings)
    path = tmp_path / "features.parquet"
    told = await asyncio.to_thread(trendcast, settings, "export", "features", str(path), "--json")
    table = pq.read_table(path)
    assert table.column_names == ["product_id", "start_ms", "end_ms", "closed", *MEASURES]
    expected: dict[tuple[str, int, int, bool], list[int]] = {}
    for product, tiles in cells.items():
        for tile, row in tiles.items():
            step = tile // 12
            whole = product in closed and step < STEP + 2
            place = (step * STEP_MS, (step + 1) * STEP_MS) if whole else (tile * TILE_MS, (tile + 1) * TILE_MS)
            known = expected.setdefault((product, *place, whole), [0] * N_MEASURES)
            known[:] = np.add(known, row).tolist()
    columns = table.to_pydict()
    keys = list(zip(*(columns[name] for name in ("product_id", "start_ms", "end_ms", "closed")), strict=True))
    rows = zip(*(columns[name] for name in MEASURES), strict=True)
    assert dict(zip(keys, map(list, rows), strict=True)) == {key: natural(row).tolist() for key, row in expected.items()}
    assert keys == sorted(keys, key=lambda key: (shard_of(key[0], SHARDS), *key))
    said = json.loads(told.stdout)
    assert (said["products"], said["rows"], said["closed_steps"]) == (len(cells), len(expected), sum(key[3] for key in expected))
    assert said["totals"]["units"] == sum(columns["units"])
    assert files_in(tmp_path) == [path.name]


async def test_exports_of_the_same_store_are_the_same_file(settings: Settings, tmp_path: Path) -> None:
    await many_products(settings)
    async with opened(settings) as store:
        exported = [await export_features(store, settings, tmp_path / name) for name in ("a", "b")]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pq.read_schema(tmp_path / "a").metadata[b"trendcast.step_ms"] == b"3600000"
    assert (exported[0].sums == exported[1].sums).all()


async def test_an_export_that_fails_leaves_nothing_and_does_not_spoil_the_last_one(settings: Settings, tmp_path: Path) -> None:
    await many_products(settings)
    (tmp_path / "a").write_bytes(b"the last one")
    shares: list[float] = []

    def interrupt(share: float) -> None:
        shares.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    async with opened(settings) as store:
        with pytest.raises(KeyboardInterrupt):
            await export_features(store, settings, tmp_path / "a", interrupt)
    assert shares == sorted(shares)
    assert files_in(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"the last one"


async def test_an_empty_namespace_is_an_empty_file(settings: Settings, tmp_path: Path) -> None:
    await (await FeatureStore.open(settings)).close()
    told = await asyncio.to_thread(trendcast, settings, "export", "features", str(tmp_path / "none.parquet"))
    assert told.stdout.startswith("0 products: 0 closed steps and 0 open tiles")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


async def test_commands_that_look_make_no_namespace(settings: Settings, tmp_path: Path) -> None:
    for arguments in (["export", "features", str(tmp_path / "x")], ["features", "p"], ["accept-gap"]):
        told = await asyncio.to_thread(trendcast, settings, *arguments)
        assert told.returncode == 1
        assert f"there is no namespace '{settings.namespace}'" in told.stderr
    await (await FeatureStore.open(settings.model_copy(update={"shards": SHARDS + 1}))).close()  # nothing was fixed by looking
    told = await asyncio.to_thread(trendcast, settings, "features", "p")
    assert "was made with shards='4'" in told.stderr


def test_an_export_needs_a_folder(settings: Settings, tmp_path: Path) -> None:
    told = trendcast(settings, "export", "features", str(tmp_path / "no" / "x.parquet"))
    assert (told.returncode, told.stderr) == (1, f"error: there is no folder {tmp_path / 'no'}\n")


# ---- features


async def one_product(settings: Settings) -> None:
    """A product with a closed step, and another one at 02:10 of the shop's time: the watermark is ten minutes behind."""
    store = await FeatureStore.open(settings)
    await store.register_sources({"id/0": "orders/0"})
    cells = {"teapot": {STEP * 12: sums(units=3, views=6), (STEP + 2) * 12: sums(units=1)}, "kettle": {STEP * 12: sums(units=9)}}
    await count(store, cells, watermark_ms=(STEP + 2) * STEP_MS)
    await close(store, ["teapot"], STEP, STEP)
    await store.close()


async def test_features_are_those_of_the_shard_s_time(settings: Settings) -> None:
    await one_product(settings)
    told = await asyncio.to_thread(trendcast, settings, "features", "teapot", "--json")
    said = json.loads(told.stdout)
    assert said["as_of"] == (STEP + 2) * STEP_MS + settings.lateness_ms
    assert (said["product_id"], said["last_event"]) == ("teapot", (STEP + 2) * STEP_MS)
    assert said["complete_through"] == (STEP + 1) * STEP_MS
    assert list(said["features"]) == [feature.name for feature in FEATURES]
    features = said["features"]
    assert (features["units_24h"], features["units_1h"], features["units_5m"]) == (4, 1, 0)
    assert (features["mean_price_24h"], features["conversion_24h"], features["conversion_1h"]) == (2.5, 4 / 6, None)
    shown = await asyncio.to_thread(trendcast, settings, "features", "teapot")
    assert "teapot as of 2025-11-25T02:10:00Z" in shown.stdout
    assert "units_24h" in shown.stdout


async def test_features_as_of_another_moment(settings: Settings) -> None:
    await one_product(settings)
    later = await asyncio.to_thread(trendcast, settings, "features", "teapot", "--json", "--as-of", str((STEP + 25) * STEP_MS))
    assert json.loads(later.stdout)["features"]["units_24h"] == 1
    early = await asyncio.to_thread(trendcast, settings, "features", "teapot", "--as-of", "2025-11-25T00:30")
    assert early.returncode == 1
    assert "known tile by tile from 2025-11-25T01:00:00Z on" in early.stderr
    wrong = await asyncio.to_thread(trendcast, settings, "features", "teapot", "--as-of", "lately")
    assert (wrong.returncode, "is no moment" in wrong.stderr) == (1, True)


async def test_an_unknown_product_is_told_those_like_it(settings: Settings) -> None:
    await one_product(settings)
    told = await asyncio.to_thread(trendcast, settings, "features", "Teapots")
    assert told.returncode == 1
    assert "2 products are known; did you mean 'teapot'?" in told.stderr


# ---- dead letters

# Recent: the topic's retention deletes what is a week old, whenever the broker looks.
REJECTED_MS = int(time.time() * 1000) - 30 * 60_000
LETTERS = [
    ("orders", 0, ErrorClass.NOT_JSON, b"\x1b[2J\xff not json"),
    ("orders", 1, ErrorClass.FUTURE, b'{"order_id": "o1"}'),
    ("clickstream", 2, ErrorClass.NOT_JSON, None),
]


@pytest.fixture
def rejected(settings: Settings) -> Settings:
    """The topic of dead letters holds LETTERS, the first of them twice, and a record that is no dead letter."""
    topics.create(settings)
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    for at, (topic, offset, reason, value) in enumerate([*LETTERS, LETTERS[0]]):
        record = Record(topic, 3, offset, 1_000, 0, b"key", value, [("sent_at", b"17")])
        key, content, headers = dead_letter(record, Rejected(0, offset, 1_000, reason, "$.items", "is wrong"), "ingest")
        place = {"partition": offset, "timestamp_ms": REJECTED_MS + at}
        producer.send(settings.dead_letters_topic, content, key=key, headers=headers, **place).get(10)
    producer.send(settings.dead_letters_topic, b"?", partition=4).get(10)
    producer.close()
    return settings


@pytest.mark.parametrize(
    ("arguments", "counts", "listed"),
    [
        ([], {"not_json": 2, "future": 1}, ["clickstream/3/2", "orders/3/1", "orders/3/0"]),
        (["--limit", "1"], {"not_json": 2, "future": 1}, ["clickstream/3/2"]),
        (["--reason", "not_json", "--topic", "orders"], {"not_json": 1}, ["orders/3/0"]),
        (["--since", str(REJECTED_MS + 2)], {"not_json": 2}, ["orders/3/0", "clickstream/3/2"]),
        (["--since", "10m"], {}, []),
    ],
)
def test_dead_letters_are_listed_and_counted(rejected: Settings, arguments: list[str], counts: dict[str, int], listed: list[str]) -> None:
    said = json.loads(trendcast(rejected, "dead-letters", "list", "--json", *arguments).stdout)
    assert said["counts"] == counts
    assert [letter["source"] for letter in said["letters"]] == listed


def test_the_list_of_dead_letters_is_for_people_too(rejected: Settings) -> None:
    shown = trendcast(rejected, "dead-letters", "list").stdout
    assert "orders/3/1" in shown
    assert "$.items: is wrong" in shown
    assert "3 in all; 1 repetitions not counted" in shown
    assert "1 records of the topic are no dead letters" in shown


def test_one_dead_letter_is_shown_without_obeying_it(rejected: Settings) -> None:
    shown = trendcast(rejected, "dead-letters", "show", "orders/3/0")
    assert "value        \\x1b[2J\\xff not json" in shown.stdout
    assert "header       sent_at: 17" in shown.stdout
    said = json.loads(trendcast(rejected, "dead-letters", "show", "orders/3/0", "--json").stdout)
    assert base64.b64decode(said["value"]) == LETTERS[0][3]
    assert said["headers"] == [["sent_at", base64.b64encode(b"17").decode()]]
    assert trendcast(rejected, "dead-letters", "show", "orders/3/1", "--raw").stdout == '{"order_id": "o1"}'


def test_dead_letters_that_are_not_there(settings: Settings) -> None:
    missing = trendcast(settings, "dead-letters", "list")
    assert (missing.returncode, "`trendcast topics create`" in missing.stderr) == (1, True)
    topics.create(settings)
    assert trendcast(settings, "dead-letters", "list").stdout.split() == ["0", "in", "all"]
    unknown = trendcast(settings, "dead-letters", "show", "orders/3/0")
    assert (unknown.returncode, "there is no dead letter of orders/3/0" in unknown.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["list", "--reason", "whatever"], ["show", "orders"], ["show", "a/1/2", "--raw", "--json"]])
def test_wrong_use_of_dead_letters(settings: Settings, arguments: list[str]) -> None:
    assert trendcast(settings, "dead-letters", *arguments).returncode == 2


# ---- gaps


@dataclass
class Source:
    """Partition 0 of the orders, with ten records in it."""

    settings: Settings
    name: str

    async def counted(self, ends: list[int | None]) -> None:
        """Shards have counted up to these offsets."""
        store = await FeatureStore.open(self.settings)
        calls = [ApplyCall(shard, (Advance(self.name, None, end, 7_000),)) for shard, end in enumerate(ends) if end is not None]
        await store.apply(calls)
        await store.close()

    async def ends(self) -> list[int | None]:
        async with opened(self.settings) as store:
            found = await store.positions(range(SHARDS), [self.name])
            return [found[shard, self.name].next_offset for shard in range(SHARDS)]

    async def gaps(self) -> list[tuple[int, int]]:
        async with opened(self.settings) as store:
            return sorted((gap["first"], gap["end"]) for gap in await store.gaps())

    async def accept_gap(self, *arguments: str, answer: str = "") -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(trendcast, self.settings, "accept-gap", *arguments, answer=answer)


@pytest.fixture
def source(settings: Settings) -> Source:
    topics.create(settings)
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    for _ in range(10):
        producer.send(settings.orders_topic, b"x", partition=0)
    producer.close()
    topic_id, _ = topics.topic_ids(settings.kafka_bootstrap, [settings.orders_topic])[settings.orders_topic]
    return Source(settings, f"{topic_id}/0")


async def test_where_nothing_is_lost_there_is_nothing_to_do(source: Source) -> None:
    await source.counted([3, 10, 0])
    told = await source.accept_gap("--yes")
    assert (told.returncode, "nothing to do" in told.stdout) == (0, True)
    assert (await source.ends(), await source.gaps()) == ([3, 10, 0], [])


async def test_deleted_records_are_skipped_by_the_shards_that_lack_them(source: Source) -> None:
    await source.counted([3, 10, 0])
    with topics.connected(source.settings.kafka_bootstrap) as admin:
        admin.delete_records({TopicPartition(source.settings.orders_topic, 0): 6})
    declined = await source.accept_gap(answer="n\n")
    assert declined.returncode == 1
    assert "6 records (0 to 5) were deleted" in declined.stdout
    assert (await source.ends(), await source.gaps()) == ([3, 10, 0], [])
    told = await source.accept_gap(answer="y\n")
    assert (told.returncode, "accepted 1 gap;" in told.stdout) == (0, True)
    # What was lost may be as new as the first record that is left, whatever the watermark before it was.
    sent = datetime.now(UTC)
    until = datetime.fromisoformat(re.findall(r"quality: gap until (\S+) ", told.stdout)[0])
    assert sent - timedelta(minutes=10) < until - timedelta(milliseconds=source.settings.step_retention_ms) <= sent
    assert (await source.ends(), await source.gaps()) == ([6, 10, 6], [(0, 6)])
    assert "nothing to do" in (await source.accept_gap("--yes")).stdout


async def test_a_log_that_lost_its_end_is_counted_on_from_there(source: Source) -> None:
    await source.counted([15, 9, 12])
    told = await source.accept_gap("--yes")
    assert "the log ends at 10, but records up to 14 were counted" in told.stdout
    assert (await source.ends(), await source.gaps()) == ([10, 9, 10], [(10, 15)])
    assert "nothing to do" in (await source.accept_gap()).stdout


async def test_without_an_answer_nothing_is_accepted(source: Source) -> None:
    await source.counted([15, 15, 15])
    assert (await source.accept_gap()).returncode == 1
    assert await source.ends() == [15, 15, 15]


async def test_gaps_need_their_topics(settings: Settings) -> None:
    await (await FeatureStore.open(settings)).close()
    told = await asyncio.to_thread(trendcast, settings, "accept-gap")
    assert told.returncode == 1
    assert f"no topic {settings.orders_topic}, {settings.clickstream_topic}" in told.stderr
