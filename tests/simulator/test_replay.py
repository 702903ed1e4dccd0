"""Real logs in their owners' formats: what is replayed, what is left out and why, and that sums agree with a group-by of the file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simulator.events import HOUR_MS, MINUTE_MS, Kind, Topic
from simulator.feed import Partitions
from simulator.replay import ClickRatios, Replay, load, recognise
from simulator.truth import MEASURES, Truth
from streaming.errors import UserError

HEADER_2 = ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country"]
ROWS: list[tuple[Any, ...]] = [
    ("489434", "85048", "LIGHTS", 12, "2010-03-26 07:45:00", 6.95, 13085, "United Kingdom"),
    ("489434", "79323P", "CHERRY", 5, "2010-03-26 07:45:00", 6.75, 13085, "United Kingdom"),
    ("489435", "85048", "LIGHTS", 2, "2010-03-26 07:45:00", 6.95, None, "France"),
    ("489434", "85048", "LIGHTS", 1, "2010-03-26 07:45:00", 6.95, 13085, "United Kingdom"),
    ("489434", "85048", "LIGHTS", 1, "2010-03-26 07:46:00", 6.95, 13085, "United Kingdom"),
    ("C489449", "85048", "LIGHTS", -3, "2010-03-26 10:33:00", 6.95, 13085, "Australia"),
    ("489464", "21733", "lost", -96, "2010-03-26 10:52:00", 0.0, None, "United Kingdom"),
    ("C489465", "21733", "odd", 1, "2010-03-26 10:52:00", 373.57, None, "United Kingdom"),
    ("A506401", "B", "Adjust bad debt", 1, "2010-03-27 13:36:00", -53594.36, None, "United Kingdom"),
    ("489470", "POST", "POSTAGE", 1, "2010-03-29 12:00:00", 18.0, 12345, "France"),
    ("489471", "SAMPLE £5 ", "gift", 1, "2010-03-29 12:59:00", 0.0, 12345, "France"),
]


def table(rows: list[tuple[Any, ...]] = ROWS) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=HEADER_2)


def truth_of(replay: Replay, partitions: Partitions = Partitions()) -> Truth:
    feed = replay.feed(partitions=partitions)
    truth = feed.truth()
    for chunk in replay.chunks(feed):
        truth.add(chunk.increment)
    return truth


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".xlsx":
        with pd.ExcelWriter(path) as writer:
            frame.to_excel(writer, sheet_name="Year 2009-2010", index=False)
            # The owners' two sheets overlap: the first invoices are there again.
            pd.concat([frame.iloc[:3], frame.iloc[:1].assign(Invoice="536365")]).to_excel(writer, sheet_name="Year 2010-2011", index=False)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False, encoding="latin-1" if "latin" in path.name else "utf-8")
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["online.csv", "latin.csv", "online.parquet", "online.xlsx"])
def test_the_owners_formats_are_read_alike(tmp_path: Path, name: str) -> None:
    frame = table()
    if not name.endswith(".csv"):
        frame["InvoiceDate"] = pd.to_datetime(frame["InvoiceDate"])
    replay = load(write(frame, tmp_path / name), click_scale=0)
    sums = truth_of(replay).sums().set_index("product_id")
    extra = 12 if name.endswith(".xlsx") else 0  # the invoice that only the second sheet has
    assert sums.loc["85048", "units"] == 16 + extra
    assert sums.loc["85048", "orders"] == 3 + bool(extra)  # invoice 489434 at 07:45, twice; at 07:46; invoice 489435
    assert sums.loc["85048", "cancelled_units"] == 3
    assert sums.loc["85048", "revenue"] == pytest.approx(6.95 * (16 + extra))
    assert sums.loc["SAMPLE £5 ", "units"] == 1  # ids are kept as they are written
    assert sums.loc["POST", "revenue"] == 18
    assert replay.log.skipped == {
        "quantity of zero or less (adjustment)": 1,
        "cancellation without a negative quantity": 1,
        "negative or absurd price": 1,
    }
    assert "clicks" in replay.notes()


def test_local_times_become_utc_in_winter_and_summer(tmp_path: Path) -> None:
    replay = load(write(table(), tmp_path / "a.csv"), click_scale=0)
    times = pd.to_datetime(replay.log.orders.event_ms, unit="ms").strftime("%m-%d %H:%M").tolist()
    assert times[0] == "03-26 07:45"
    assert times[-1] == "03-29 11:59"


@pytest.mark.parametrize("reading", ["%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%y %H:%M", "%Y-%m-%dT%H:%M:%S"])
def test_times_are_read_as_they_are_written(tmp_path: Path, reading: str) -> None:
    days = pd.date_range("2010-01-28", periods=20, freq="D")
    rows = [(f"5{i:05d}", "85048", "x", 1, day.strftime(reading), 1.0, 1, "UK") for i, day in enumerate(days)]
    replay = load(write(table(rows), tmp_path / "a.csv"), click_scale=0)
    assert pd.to_datetime(replay.log.orders.event_ms, unit="ms").normalize().tolist() == days.tolist()


def test_the_last_step_closes_and_every_partition_hears_of_it(tmp_path: Path) -> None:
    replay = load(write(table(), tmp_path / "a.csv"), click_scale=0)
    feed = replay.feed(partitions=Partitions(3, 2))
    last = list(replay.chunks(feed))[-1]
    declared = {(batch.topic, batch.partition): batch.heartbeats for batch in last.batches}
    assert len(declared) == 3 + 2
    for beats in declared.values():
        assert list(beats.values()) == [replay.last_step_end_ms + MINUTE_MS]
    assert replay.last_step_end_ms - HOUR_MS <= replay.last_event_ms < replay.last_step_end_ms


def test_only_the_chosen_days(tmp_path: Path) -> None:
    path = write(table(), tmp_path / "a.csv")
    start = pd.Timestamp("2010-03-28").value // 10**6
    replay = load(path, click_scale=0, start_ms=start)
    assert sorted(truth_of(replay).sums()["product_id"]) == ["POST", "SAMPLE £5 "]
    assert replay.log.skipped["outside the chosen days"] == 6
    with pytest.raises(UserError, match="nothing to replay"):
        load(path, start_ms=2 * start)


def test_synthetic_clicks_come_before_their_purchase_at_the_ratios(tmp_path: Path) -> None:
    rows = [(f"5{i:05d}", f"{i % 3}", "x", 1, "2010-01-28 12:30:00", 1.0, i, "UK") for i in range(400)]
    replay = load(write(table(rows), tmp_path / "a.csv"))
    orders, clicks = replay.period(int(replay.log.orders.event_ms[0]) // HOUR_MS)
    assert (clicks.event_ms < orders.event_ms[0]).all()
    assert (clicks.event_ms >= orders.event_ms[0] - 30 * MINUTE_MS).all()
    ratios = ClickRatios()
    for kind, ratio in ((Kind.VIEW, ratios.views), (Kind.ADD_TO_CART, ratios.carts), (Kind.WISHLIST, ratios.favourites)):
        assert (clicks.kind == kind).sum() / 400 == pytest.approx(ratio, rel=0.2)
    assert "SYNTHETIC" in replay.notes()["clicks"]
    truth = truth_of(replay)
    assert truth.counts["clickstream.counted"] == len(clicks)
    assert truth_of(replay).counts == truth.counts  # seeded


def test_an_invoice_with_more_lines_than_an_order_may_have_is_split(tmp_path: Path) -> None:
    rows = [("536031", f"{i:05d}", "x", 1, "2010-01-28 12:30:00", 1.0, 1, "UK") for i in range(2_500)]
    replay = load(write(table(rows), tmp_path / "a.csv"), click_scale=0)
    assert replay.log.orders.lines.tolist() == [1_000, 1_000, 500]
    assert len(truth_of(replay).sums()) == 2_500


@pytest.mark.parametrize("name", ["taobao.csv", "taobao.parquet"])
def test_taobao_is_read_in_its_formats(tmp_path: Path, name: str) -> None:
    columns = ["user_id", "item_id", "category_id", "behavior", "ts"]
    rows = [
        (7, 11, 1, "pv", 1_511_658_000),
        (7, 11, 1, "buy", 1_511_658_060),
        (8, 12, 1, "cart", 1_511_658_060),
        (8, 12, 1, "fav", 1_511_658_001),
    ]
    frame = pd.DataFrame([*rows, (9, 12, 1, "pv", 1_400_000_000)], columns=columns)
    path = tmp_path / name
    frame.to_csv(path, index=False, header=False) if name.endswith(".csv") else frame.to_parquet(path)
    replay = load(path)
    sums = truth_of(replay).sums().set_index("product_id")[list(MEASURES)]
    assert sums.loc["11"].to_dict() == {**dict.fromkeys(MEASURES, 0.0), "units": 1, "orders": 1, "views": 1}
    assert sums.loc["12"].to_dict() == {**dict.fromkeys(MEASURES, 0.0), "carts": 1, "favourites": 1}
    assert replay.log.skipped == {"outside the chosen days": 1}
    assert truth_of(load(path, by="category")).sums()["product_id"].tolist() == ["1"]
    assert (np.diff(replay.log.clicks.event_ms) >= 0).all()


def test_what_is_no_log_is_refused_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        recognise(tmp_path / "nowhere.csv")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"\.parquet, \.csv or \.xlsx"):
        recognise(tmp_path / "a.txt")
    (tmp_path / "b.csv").write_text("name,age\nx,1\n")
    with pytest.raises(UserError, match="its columns are name, age"):
        recognise(tmp_path / "b.csv")
    (tmp_path / "c.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="cannot be read"):
        recognise(tmp_path / "c.parquet")
    pd.DataFrame({"a": [1]}).to_excel(tmp_path / "d.xlsx")
    with pytest.raises(UserError, match="InvoiceNo or Invoice is missing"):
        load(tmp_path / "d.xlsx")


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Path:
    folder = Path(os.environ.get("TRENDCAST_DATA", request.config.rootpath.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real logs are not here: {folder} (set TRENDCAST_DATA)")
    return folder


def test_the_whole_year_of_online_retail_agrees_with_a_group_by_of_the_file(real: Path) -> None:
    path = real / "online_retail_2009-12_2010-11.parquet"
    frame = pd.read_parquet(path)
    truth = truth_of(load(path, click_scale=0), Partitions(6, 1))
    cancelled = frame["InvoiceNo"].str.startswith("C")
    sold = frame[~cancelled & (frame["Quantity"] > 0) & (frame["UnitPrice"] >= 0)]
    back = frame[cancelled & (frame["Quantity"] < 0)]
    sums = truth.sums().set_index("product_id")
    assert sums["units"][sums["units"] > 0].to_dict() == sold.groupby("StockCode")["Quantity"].sum().to_dict()
    assert sums["cancelled_units"][sums["cancelled_units"] > 0].to_dict() == (-back.groupby("StockCode")["Quantity"].sum()).to_dict()
    orders = sold.drop_duplicates(["InvoiceNo", "InvoiceDate", "StockCode"]).groupby("StockCode").size()
    assert sums["orders"][sums["orders"] > 0].to_dict() == orders.to_dict()
    revenue = (sold["Quantity"] * sold["UnitPrice"]).groupby(sold["StockCode"]).sum()
    assert sums["revenue"].reindex(revenue.index).to_numpy() == pytest.approx(revenue.to_numpy())
    assert truth.rejected() == {"malformed": 0, "future": 0, "expired": 0}
    assert truth.total("late") == 0


def test_taobaos_two_hours_are_counted(real: Path) -> None:
    truth = truth_of(load(real / "taobao_userbehavior_2h.parquet"))
    assert truth.sums()[["units", "views", "carts", "favourites"]].sum().tolist() == [2_493, 98_361, 6_063, 3_383]
    assert truth.counts[f"{Topic.CLICKSTREAM.name.lower()}.sent"] == 107_807
