"""Days ahead: holidays, events and weekends, by local days, whatever the clocks do."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from models import calendar
from models.calendar import COLUMNS, FARTHEST_DAYS, Event, InvalidCalendar
from models.seasons import DAY_MS, HOUR_MS

EPOCH = date(1970, 1, 1)
HOLIDAY, BEFORE, AFTER, EVENT, AWAY, WEEKEND = range(len(COLUMNS))


def ordinal(text: str) -> int:
    return (date.fromisoformat(text) - EPOCH).days


def test_a_holiday_its_eve_and_the_day_after() -> None:
    # A Wednesday to Sunday: Thanksgiving is Thursday 25 November 2010.
    found = calendar.days(ordinal("2010-11-24"), 5, "US")
    assert found[:, HOLIDAY].tolist() == [0, 1, 0, 0, 0]
    assert found[:, BEFORE].tolist() == [1, 0, 0, 0, 0]
    assert found[:, AFTER].tolist() == [0, 0, 1, 0, 0]
    assert found[:, WEEKEND].tolist() == [0, 0, 0, 1, 1]
    assert found.dtype == np.float32


def test_eves_and_days_after_reach_over_the_years_end() -> None:
    found = calendar.days(ordinal("2014-12-31"), 3, "GB")
    assert found[:, HOLIDAY].tolist() == [0, 1, 0]
    assert found[:, BEFORE].tolist() == [1, 0, 0]
    assert found[:, AFTER].tolist() == [0, 0, 1]


def test_a_subdivision_has_its_own_holidays() -> None:
    august = ordinal("2010-08-30")  # a bank holiday of England, not of Scotland
    assert calendar.days(august, 1, "GB", "ENG")[0, HOLIDAY] == 1
    assert calendar.days(august, 1, "GB", "SCT")[0, HOLIDAY] == 0


def test_days_off_in_lieu_are_holidays() -> None:
    assert calendar.days(ordinal("2010-12-25"), 4, "GB", "ENG")[:, HOLIDAY].tolist() == [1, 1, 1, 1]


def test_weekends_are_the_countrys() -> None:
    assert calendar.days(ordinal("2024-06-07"), 3, "AE")[:, WEEKEND].tolist() == [0, 1, 1]  # Friday to Sunday
    assert calendar.days(ordinal("2024-06-07"), 3, "EG")[:, WEEKEND].tolist() == [1, 1, 0]
    assert calendar.days(ordinal("2024-10-12"), 2, "CN")[:, WEEKEND].tolist() == [0, 1]  # Saturday is worked in return for a holiday


def test_without_a_country_there_are_only_weekends() -> None:
    found = calendar.days(ordinal("2024-12-24"), 5)
    assert not found[:, [HOLIDAY, BEFORE, AFTER, EVENT]].any()
    assert (found[:, AWAY] == 1).all()
    assert found[:, WEEKEND].tolist() == [0, 0, 0, 0, 1]


def test_days_to_an_event_count_down_and_are_bounded() -> None:
    sale = Event("sale", ("01-03",), days=2)
    found = calendar.days(ordinal("2023-12-12"), 25, events=(sale,))
    expected = [max(0, min(FARTHEST_DAYS, 22 - i)) for i in range(22)] + [0, 0] + [FARTHEST_DAYS]
    assert np.allclose(found[:, AWAY] * FARTHEST_DAYS, expected)
    assert found[:, EVENT].tolist() == [0.0] * 22 + [1, 1, 0]


def test_an_event_lasts_into_the_next_year() -> None:
    found = calendar.days(ordinal("2023-12-30"), 5, events=(Event("turn of the year", ("12-31",), days=3),))
    assert found[:, EVENT].tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("event", "year", "days"),
    [
        (Event("e", ("11-11",)), 2019, ["2019-11-11"]),
        (Event("e", ("02-29",)), 2023, []),
        (Event("e", ("02-29",)), 2024, ["2024-02-29"]),
        (Event("e", ("fourth Thursday of November",), shift=1), 2024, ["2024-11-29"]),
        (Event("e", ("Last Monday of May",)), 2024, ["2024-05-27"]),
        (Event("e", ("last friday of december",)), 2021, ["2021-12-31"]),
        (Event("e", ("first Sunday of March",)), 2026, ["2026-03-01"]),
        (Event("e", ("2024-02-10", "2025-01-29")), 2025, ["2025-01-29"]),
    ],
)
def test_the_days_of_a_rule(event: Event, year: int, days: list[str]) -> None:
    assert event.starts(year) == [ordinal(day) for day in days]


def test_days_do_not_depend_on_where_a_span_begins() -> None:
    events = calendar.read_events()
    whole = calendar.days(ordinal("2023-01-01"), 1100, "GB", "ENG", events)
    for start, n in ((0, 1), (364, 3), (700, 400)):
        assert np.array_equal(calendar.days(ordinal("2023-01-01") + start, n, "GB", "ENG", events), whole[start : start + n])
    whole[:] = 9  # a caller's own copy
    assert calendar.days(ordinal("2023-01-01"), 1, "GB", "ENG", events)[0, HOLIDAY] == 1


# Days on which clocks change, and the holiday or event that is put there.
CHANGES = [
    ("Europe/London", "2024-03-31", 23),
    ("Europe/London", "2024-10-27", 25),
    ("America/New_York", "2024-03-10", 23),
    ("America/New_York", "2024-11-03", 25),
]


@pytest.mark.parametrize("step_ms", [HOUR_MS, HOUR_MS // 2])
@pytest.mark.parametrize(("zone", "day", "hours"), CHANGES)
def test_an_event_fills_the_local_day_on_which_clocks_change(zone: str, day: str, hours: int, step_ms: int) -> None:
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    first = int(midnight.timestamp() * 1000) // step_ms
    per_hour = HOUR_MS // step_ms
    events = (Event("change", (day,)),)
    found = calendar.columns(first - 48 * per_hour, 100 * per_hour, step_ms=step_ms, timezone=zone, events=events)
    expected = np.zeros(100 * per_hour)
    expected[48 * per_hour : (48 + hours) * per_hour] = 1
    assert np.array_equal(found[:, EVENT], expected)


@pytest.mark.parametrize("step_ms", [HOUR_MS // 2, HOUR_MS, 6 * HOUR_MS, DAY_MS])
@pytest.mark.parametrize("zone", ["Europe/London", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"])
def test_each_step_is_what_its_middle_says(zone: str, step_ms: int) -> None:
    events = calendar.read_events()
    n = 400 * DAY_MS // step_ms // 7
    first = ordinal("2024-02-20") * DAY_MS // step_ms
    found = calendar.columns(first, 7 * n, step_ms=step_ms, timezone=zone, country="US", events=events)
    for i in range(0, 7 * n, 7):
        middle = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=(first + i) * step_ms + step_ms // 2)
        local = (middle.astimezone(ZoneInfo(zone)).date() - EPOCH).days
        assert np.array_equal(found[i], calendar.days(local, 1, "US", None, events)[0])


def test_a_step_of_a_week_takes_the_mean_of_its_days() -> None:
    monday = ordinal("2024-11-25") // 7  # weeks from 1970 begin on Thursdays
    found = calendar.columns(monday, 1, step_ms=7 * DAY_MS, timezone="Europe/London", country="US", events=calendar.read_events())
    days = calendar.days(monday * 7, 7, "US", None, calendar.read_events())
    assert np.allclose(found[0], days.mean(axis=0))
    assert found[0, WEEKEND] == pytest.approx(2 / 7)


def test_no_steps_have_no_rows() -> None:
    assert calendar.columns(5, 0, step_ms=HOUR_MS, timezone="UTC").shape == (0, 6)


def test_the_shipped_events() -> None:
    found = calendar.named(calendar.read_events(), ordinal("2024-11-01"), 61)
    assert [(name, str(EPOCH + timedelta(start)), last - start + 1) for name, start, last in found] == [
        ("Double 11", "2024-11-11", 1),
        ("Black Friday", "2024-11-29", 4),
        ("Christmas season", "2024-12-01", 24),
    ]


def test_dates_may_be_tomls_own() -> None:
    (event,) = calendar.parse_events('[[event]]\nname = "new year"\non = [2024-02-10, "2025-01-29"]\nshift = -3\ndays = 10')
    assert event == Event("new year", ("2024-02-10", "2025-01-29"), -3, 10)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[event]", "is not TOML"),
        ("events = 3", "only .*event.* tables, found events"),
        ('[[event]]\non = "11-11"', "event 1: it needs a name"),
        ('[[event]]\nname = "x"', "event 1 .x.: on = None is no day"),
        ('[[event]]\nname = "x"\non = []', "is no day"),
        ('[[event]]\nname = "x"\non = "11-31"', "is no day"),
        ('[[event]]\nname = "x"\non = "2023-02-29"', "is no day"),
        ('[[event]]\nname = "x"\non = "fifth Friday of May"', "is no day; write a date"),
        ('[[event]]\nname = "x"\non = "11-11"\ndays = 0', "days = 0; it must be a whole number, 1 to"),
        ('[[event]]\nname = "x"\non = "11-11"\nshift = 1.5', "shift = 1.5; it must be"),
        ('[[event]]\nname = "x"\non = "11-11"\nuntil = "11-12"', "no field until; an event has days, name, on, shift"),
        ('[[event]]\nname = "x"\non = "11-11"\n[[event]]\nname = "x"\non = "12-12"', "x is there twice"),
    ],
)
def test_unusable_events_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidCalendar, match=says):
        calendar.parse_events(text)


@pytest.mark.parametrize(
    ("country", "subdivision", "says"),
    [("XX", None, "no holidays are known of the country XX"), ("GB", "TX", "has ENG, NIR, SCT, WLS"), (None, "ENG", "needs a country")],
)
def test_an_unknown_place_says_what_is_known(country: str | None, subdivision: str | None, says: str) -> None:
    with pytest.raises(InvalidCalendar, match=says):
        calendar.days(0, 1, country, subdivision)


def test_a_file_that_is_not_there_says_so() -> None:
    with pytest.raises(InvalidCalendar, match="cannot be read"):
        calendar.read_events(calendar.DEFAULT_EVENTS.with_name("nowhere.toml"))
