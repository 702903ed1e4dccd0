"""Covariates are what was known, when it was known: held against a naive reading of everything that was ever said."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.facts import Entry, Version, context_field, encode, in_force_from, put
from models import calendar
from models.known_future import KnownFuture, Place, UnknownCovariate, check_names

STEP_MS = 3_600_000
HOUR_S = 3_600
PLACE = Place("UTC")
NAMES = ("price", "discount", "context:weather", "context:spent")


@dataclass(frozen=True)
class Said:
    """A record, in force from a step on."""

    product: int
    version: Version


promotions = st.lists(st.tuples(st.integers(0, 40 * 60), st.integers(1, 20 * 60), st.sampled_from([1_000, 2_500, 10_000])), max_size=3)


@st.composite
def versions(draw: st.DrawFn) -> list[Said]:
    """What is said of three products, in order of time."""
    steps = sorted(draw(st.lists(st.integers(0, 30), max_size=12)))
    found = []
    for step in steps:
        spans = [(start * 60, (start + length) * 60, discount) for start, length, discount in draw(promotions)]
        version = Version(
            step,
            price=draw(st.sampled_from([-1, 10_000, 12_500, 80_000])),
            stock=draw(st.sampled_from([-1, 0, 1])),
            category=draw(st.sampled_from(["", "toys", "tools"])),
            promotions=tuple(number for span in sorted(spans) for number in span),
        )
        found.append(Said(draw(st.integers(0, 2)), version))
    return found


@st.composite
def entries(draw: st.DrawFn) -> list[tuple[str, Entry]]:
    """What is said of a series, by scope, in order of time; each scope is either known ahead or measured."""
    found = []
    for step in sorted(draw(st.lists(st.integers(0, 30), max_size=10))):
        start = draw(st.integers(max(step - 6, 0), step + 12))
        entry = Entry(step, start * HOUR_S, (start + draw(st.integers(1, 8))) * HOUR_S, draw(st.floats(-9, 9, width=32)), 1)
        found.append((draw(st.sampled_from(["", "toys"])), Entry(step) if draw(st.integers(0, 9)) == 0 else entry))
    return found


def as_known(said: list[Said], weather: list[tuple[str, Entry]]) -> KnownFuture:
    facts: dict[int, object] = {}
    for one in said:
        facts[one.product] = put(facts.get(one.product), one.version)  # type: ignore[arg-type]
    by_scope: dict[str, list[Entry]] = {}
    for scope, entry in weather:
        by_scope.setdefault(scope, []).append(entry)
    context = tuple(sorted((context_field("weather", scope).encode(), encode(some)) for scope, some in by_scope.items()))
    return KnownFuture.of(NAMES, STEP_MS, PLACE, [encode(facts[i]) if i in facts else b"" for i in range(3)], [context])


def naive_version(said: list[Said], product: int, step: int) -> Version | None:
    """The last one that was said before the step began."""
    found = None
    for one in said:
        if one.product == product and one.version.step <= step:
            found = one.version
    return found


def naive_price(said: list[Said], product: int, step: int) -> float:
    version = naive_version(said, product, step)
    usual = next((one.version.price for one in said if one.product == product and one.version.price > 0), 1)
    return math.log(version.price / usual) if version is not None and version.price > 0 else math.nan


def naive_discount(said: list[Said], product: int, step: int, asof: int) -> float:
    version = naive_version(said, product, min(step, asof))
    best = 0.0
    flat = version.promotions if version else ()
    for start, end, discount in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        share = sum(1 for minute in range(60) if start <= step * HOUR_S + minute * 60 < end) / 60
        best = max(best, share * discount / 10_000)
    return best


@given(versions(), st.integers(0, 35), st.integers(1, 12))
def test_prices_and_promotions_are_those_that_were_known(said: list[Said], step: int, span: int) -> None:
    known = as_known(said, [])
    rows, steps = np.arange(3), np.full(3, step)
    lived = known.of_step(rows, steps)
    ahead = known.ahead(rows, steps, span)
    for product in range(3):
        assert lived[product, 0] == pytest.approx(naive_price(said, product, step), rel=1e-6, nan_ok=True)
        assert lived[product, 1] == pytest.approx(naive_discount(said, product, step, step), rel=1e-6)
        for i in range(span):
            assert ahead[product, i, 0] == pytest.approx(naive_price(said, product, step + 1), rel=1e-6, nan_ok=True)
            assert ahead[product, i, 1] == pytest.approx(naive_discount(said, product, step + 1 + i, step + 1), rel=1e-6)
        versions = naive_version(said, product, step), naive_version(said, product, step + 1)
        empty = all(version is not None and version.stock == 0 for version in versions)
        assert known.out_of_stock(rows, steps)[product] == empty


def naive_value(said: list[Entry], step: int, asof: int) -> float:
    """What was said last of the middle of the step; where nothing was, what was said of the nearest step before of which something was."""
    for earlier in range(step, -20, -1):
        about = [e for e in said if e.end_s == 0 or e.start_s <= earlier * HOUR_S + 1_800 < e.end_s]
        if any(e.end_s for e in about):
            heard = [e for e in about if e.step <= asof]
            return heard[-1].value if heard and heard[-1].end_s else math.nan
    return math.nan


@given(versions(), entries(), st.integers(0, 35), st.integers(1, 12))
def test_a_series_known_ahead_is_what_was_said_of_it_by_then(
    said: list[Said], weather: list[tuple[str, Entry]], step: int, span: int
) -> None:
    known = as_known(said, weather)
    rows, steps = np.arange(3), np.full(3, step)
    ahead, lived = known.ahead(rows, steps, span), known.of_step(rows, steps)
    scopes = {scope for scope, entry in weather if entry.end_s}
    for product in range(3):
        versions = naive_version(said, product, step), naive_version(said, product, step + 1)
        own = [v.category if v is not None and v.category in scopes else "" for v in versions]
        before, after = ([entry for scope, entry in weather if scope == each] for each in own)
        assert lived[product, 2] == pytest.approx(naive_value(before, step, step + 1), rel=1e-6, nan_ok=True)
        for i in range(span):
            assert ahead[product, i, 2] == pytest.approx(naive_value(after, step + 1 + i, step + 1), rel=1e-6, nan_ok=True)
        assert np.isnan(ahead[product, :, 3]).all()


def test_a_measured_series_stays_as_it_was_last_measured() -> None:
    told = [Entry(step=9, start_s=8 * HOUR_S, end_s=9 * HOUR_S, value=3.0), Entry(10, 9 * HOUR_S, 10 * HOUR_S, 4.0)]
    known = KnownFuture.of(("context:spent",), STEP_MS, PLACE, [b""], [((b"spent\n", encode(told)),)])
    row = np.zeros(1, np.int64)
    assert known.of_step(row, np.array([8]))[0, 0] == 3
    assert known.of_step(row, np.array([9]))[0, 0] == 4
    assert known.ahead(row, np.array([9]), 3)[0, :, 0].tolist() == [4, 4, 4]
    assert known.ahead(row, np.array([8]), 3)[0, :, 0].tolist() == [3, 3, 3]


def test_a_series_that_was_forgotten_may_be_measured_again() -> None:
    told = [Entry(9, 8 * HOUR_S, 9 * HOUR_S, 3.0), Entry(11), Entry(14, 13 * HOUR_S, 14 * HOUR_S, 4.0)]
    known = KnownFuture.of(("context:spent",), STEP_MS, PLACE, [b""], [((b"spent\n", encode(told)),)])
    found = known.of_step(np.zeros(7, np.int64), np.arange(8, 15))[:, 0]
    np.testing.assert_array_equal(found, [3, 3, np.nan, np.nan, np.nan, 4, 4])


def test_what_was_said_during_a_step_is_known_from_the_next_on() -> None:
    at_ms = 10 * STEP_MS + 1
    version = Version(in_force_from(at_ms, STEP_MS), price=10_000, promotions=(0, 10**9, 5_000))
    known = KnownFuture.of(("discount",), STEP_MS, PLACE, [encode(put(None, version))])
    row = np.zeros(1, np.int64)
    assert [known.of_step(row, np.array([step]))[0, 0] for step in (10, 11)] == [0, 0.5]
    assert known.ahead(row, np.array([9]), 2)[0, :, 0].tolist() == [0, 0]
    assert known.ahead(row, np.array([9]), 2, newest=True)[0, :, 0].tolist() == [0, 0.5]


def test_the_calendar_stands_beside_what_the_shop_says() -> None:
    place = Place("Europe/London", "GB", None, calendar.read_events())
    known = KnownFuture.of(("weekend", "holiday", "days_to_event"), STEP_MS, place, [b"", b""])
    first = 359_400  # 1 January 2011
    found = known.ahead(np.array([1, 0]), np.array([first, first + 30]), 30)
    expected = calendar.columns(first, 62, step_ms=STEP_MS, timezone="Europe/London", country="GB", events=calendar.read_events())
    for row, begin in enumerate((1, 31)):
        np.testing.assert_array_equal(found[row], expected[begin : begin + 30][:, [5, 0, 4]])


@given(versions(), st.permutations([0, 1, 2]))
def test_products_do_not_see_each_other(said: list[Said], order: list[int]) -> None:
    known = as_known(said, [])
    chosen = np.array(order[:2])
    steps = np.full(2, 12)
    some = known.only(chosen)
    np.testing.assert_array_equal(some.ahead(np.arange(2), steps, 9), known.ahead(chosen, steps, 9))
    np.testing.assert_array_equal(some.of_step(np.arange(2), steps), known.of_step(chosen, steps))


def test_nobody_may_be_asked_about() -> None:
    known = KnownFuture.of((*NAMES, "holiday"), STEP_MS, PLACE, [b""])
    nobody = np.zeros(0, np.int64)
    assert known.of_step(nobody, nobody).shape == (0, 5)
    assert known.ahead(nobody, nobody, 3).shape == (0, 3, 5)
    assert len(known.out_of_stock(nobody, nobody)) == len(known.lead_steps(nobody)) == 0


def test_lead_times_are_those_of_now() -> None:
    facts = put(put(None, Version(3, lead_steps=40)), Version(900, lead_steps=50))
    known = KnownFuture.of((), STEP_MS, PLACE, [b"", encode(facts)])
    assert known.lead_steps(np.array([0, 1])).tolist() == [0, 50]


def test_unknown_names_are_refused() -> None:
    check_names(("price", "holiday", "context:weather"))
    with pytest.raises(UnknownCovariate, match="choose from price, discount, holiday"):
        check_names(("prices",))
    with pytest.raises(UnknownCovariate):
        check_names(("context:",))
