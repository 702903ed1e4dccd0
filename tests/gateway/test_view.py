"""The view is what its messages say, and a reader's snapshot and frames add up to it, however they are interleaved."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import frames
from gateway.hub import Hub, Reader
from gateway.view import REMEMBERED_MS, Key, View
from streaming.contracts import Message, encode
from tests.gateway.messages import HOUR_MS, NOW_MS, STEP_MS, alert, facts, feedback, forecast, of_category

PRODUCTS = ("p1", "p2", "p3")
Change = Callable[[View], object]


def told(view: View, message: Message) -> str:
    match type(message).__name__:
        case "Forecast":
            return view.apply_forecast(message.product_id, encode(message), NOW_MS)  # type: ignore[union-attr]
        case "TrendAlert":
            return view.apply_alert(encode(message), NOW_MS)
        case "ProductFacts":
            return view.apply_facts(message.product_id, encode(message))  # type: ignore[union-attr]
        case _:
            return view.apply_feedback(message.alert_id, encode(message))  # type: ignore[union-attr]


def viewed(*messages: Message) -> View:
    view = View()
    for message in messages:
        assert told(view, message) == "applied"
    return view


def test_the_greatest_revision_stays_and_of_equals_the_later() -> None:
    view = viewed(forecast(sequence=5, mean=1.0))
    assert told(view, forecast(sequence=4, mean=2.0)) == "older"
    assert view.products["p1"].row.ahead == 24.0
    assert told(view, forecast(sequence=5, mean=3.0)) == "applied"
    assert view.products["p1"].row.ahead == 72.0


def test_a_tombstone_forgets_a_product_and_its_return_is_told() -> None:
    view = viewed(facts(), forecast())
    before = view.position
    assert view.apply_forecast("p1", None, NOW_MS) == "applied"
    assert view.detail("p1") is None
    assert list(view.since(before)) == [Key("product", "p1")]
    assert view.movers.products(view.as_of, 5).rising == []
    assert told(view, forecast(sequence=1)) == "applied"  # the worker that forgot it begins anew
    assert view.products["p1"].row.title == "Product p1"


def test_facts_change_the_row_of_a_forecast_that_came_before_them() -> None:
    view = viewed(forecast())
    assert (view.products["p1"].row.title, view.products["p1"].row.stock) == ("p1", None)
    told(view, facts(stock=7.0))
    assert (view.products["p1"].row.title, view.products["p1"].row.stock) == ("Product p1", 7.0)
    view.apply_facts("p1", None)
    assert (view.products["p1"].row.title, view.products["p1"].row.category) == ("p1", None)


def test_an_alert_lives_from_its_first_message_to_its_resolution() -> None:
    view = viewed(alert(sequence=5))
    assert told(view, alert(sequence=4, observed=99.0)) == "older"
    assert told(view, alert(sequence=6, observed=40.0)) == "applied"
    assert [one.observed for one in view.open_alerts()] == [40.0]
    assert told(view, alert(sequence=7, status="resolved")) == "applied"
    assert list(view.open_alerts()) == []
    assert told(view, alert(sequence=7)) == "older"  # a crash repeats what it had said
    assert list(view.open_alerts()) == []


def test_an_alert_that_nobody_renews_dies_by_the_forecasts_time_and_never_by_the_clock() -> None:
    view = viewed(alert(valid_until=STEP_MS + HOUR_MS), forecast("p2"))
    view.forget(NOW_MS + 10**12)
    assert len(list(view.open_alerts())) == 1
    told(view, forecast("p2", step_ms=STEP_MS + 2 * HOUR_MS))
    view.forget(NOW_MS)
    assert list(view.open_alerts()) == []
    assert view.alerts["p1-1"].status == "resolved"


def test_an_acknowledgement_belongs_to_its_alert_whichever_comes_first() -> None:
    view = View()
    told(view, feedback(by="Ada"))
    told(view, alert())
    assert view.alert(view.alerts["p1-1"]).acknowledged_by == "Ada"
    told(view, feedback(at=None))
    assert view.alert(view.alerts["p1-1"]).acknowledged_at is None


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"product_id":"p1"}',
        encode(forecast("p2")),
        encode(forecast(mean=1.0)).replace(b'"horizon":24', b'"horizon":25'),
    ],
)
def test_what_cannot_be_read_changes_nothing(value: bytes) -> None:
    view = viewed(forecast())
    before = view.position
    assert view.apply_forecast("p1", value, NOW_MS) == "unreadable"
    assert view.position == before


def test_line_breaks_in_a_message_never_break_a_frame() -> None:
    view = View()
    view.apply_forecast("p1", json.dumps(json.loads(encode(forecast())), indent=2).encode(), NOW_MS)
    data = frames.frame(view, [Key("product", "p1")], "p1", about=b'"now":1', board=None)
    assert b"\n" not in data
    assert json.loads(data)["product"]["forecast"]["horizon"] == 24


def test_categories_and_the_shop_are_no_products() -> None:
    view = viewed(forecast(), of_category("garden"))
    assert set(view.products) == {"p1"}
    assert view.levels["level/category/garden"].category == "garden"
    assert view.apply_forecast("level/category/garden", None, NOW_MS) == "applied"
    assert view.levels == {}


def test_what_was_removed_is_remembered_for_a_day_and_older_positions_are_refused() -> None:
    view = viewed(forecast(), alert())
    before = view.position
    view.apply_forecast("p1", None, NOW_MS)
    told(view, alert(sequence=2, status="resolved"))
    view.forget(NOW_MS + REMEMBERED_MS)
    assert view.holds(before)
    view.forget(NOW_MS + REMEMBERED_MS + 1)
    assert not view.holds(before)
    assert view.holds(view.position)
    assert (view.alerts, view.positions) == ({}, {})


# ---- snapshot and stream


class Page:
    """What a browser does with a snapshot and frames, in its simplest form."""

    def __init__(self, view: View, product: str) -> None:
        self.product = product
        self.position = view.position
        self.alerts = {one.alert_id: json.loads(json.dumps(item(view, one.alert_id))) for one in view.open_alerts()}
        body = view.detail(product)
        self.detail = None if body is None else json.loads(body)

    def take(self, data: bytes, position: int) -> None:
        frame = json.loads(data)
        for row in frame["rows"]:
            if row.get("gone"):
                self.detail = None if row["id"] == self.product else self.detail
            for one in self.alerts.values():
                if one["product_id"] == row["id"]:
                    one["row"] = None if row.get("gone") else row
        for one in frame["alerts"]:
            self.alerts.pop(one["alert_id"], None)
            if one["status"] == "firing":
                self.alerts[one["alert_id"]] = one
        self.detail = frame.get("product", self.detail)
        self.position = position


def item(view: View, alert_id: str) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = json.loads(msgspec.json.encode(view.alert(view.alerts[alert_id])))
    return found


@st.composite
def changes(draw: st.DrawFn) -> Change:
    product = draw(st.sampled_from(PRODUCTS))
    number = draw(st.integers(1, 2))
    sequence = draw(st.integers(1, 6))
    kind = draw(
        st.sampled_from(["forecast", "forecast", "forecast", "tombstone", "alert", "alert", "resolve", "facts", "no facts", "feedback"])
    )
    match kind:
        case "forecast":
            message: Message = forecast(product, sequence=sequence, mean=float(draw(st.integers(0, 20))))
        case "alert":
            message = alert(product, number=number, sequence=sequence)
        case "resolve":
            message = alert(product, number=number, sequence=sequence, status="resolved")
        case "facts":
            message = facts(product, stock=float(draw(st.integers(0, 500))))
        case "feedback":
            message = feedback(f"{product}-{number}", at=draw(st.sampled_from([None, NOW_MS])))
        case "tombstone":
            return lambda view: view.apply_forecast(product, None, NOW_MS)
        case _:
            return lambda view: view.apply_facts(product, None)
    return lambda view: told(view, message)


@given(
    before=st.lists(changes(), max_size=15),
    between=st.lists(changes(), max_size=15),
    after=st.lists(st.one_of(changes(), st.sampled_from(["frame", "reconnect"])), max_size=30),
    product=st.sampled_from(PRODUCTS),
)
def test_snapshot_and_stream_are_the_view_at_any_interleaving(
    before: list[Change], between: list[Change], after: list[Any], product: str
) -> None:
    view = View()
    hub = Hub(view)

    def happen(change: Change) -> None:
        change(view)
        hub.tell(view.changes())

    def connected(page: Page) -> Reader:
        reader = Reader(product, lambda: None)
        hub.add(reader)
        position = frames.resume(frames.name("e", page.position), "e", view)
        assert position is not None
        hub.catch_up(reader, position)
        return reader

    def sent() -> None:
        page.take(frames.frame(view, reader.take(), product, about=b'"now":0', board=None), view.position)

    for change in before:
        happen(change)
    page = Page(view, product)
    for change in between:
        happen(change)
    reader = connected(page)
    for what in after:
        if what == "frame":
            sent()
        elif what == "reconnect":
            hub.remove(reader)
            reader = connected(page)
        else:
            happen(what)
    sent()
    whole = Page(view, product)
    assert page.alerts == whole.alerts
    assert page.detail == whole.detail
    assert not reader.dirty


def test_a_reader_that_sleeps_keeps_one_mark_a_key() -> None:
    view = viewed(forecast(), alert())
    hub, woken = Hub(view), []
    view.changes()
    reader = Reader(None, lambda: woken.append(1))
    hub.add(reader)
    for sequence in range(2, 1_000):
        told(view, forecast(sequence=sequence))
        told(view, forecast("p2", sequence=sequence))  # nobody looks at it
        hub.tell(view.changes())
    assert reader.take() == {Key("product", "p1"): None}
    assert (reader.merged, len(woken)) == (997, 1)
