"""What is known of the days ahead: public holidays, the shop's own events, weekends; for any step, in the shop's time zone.

A step takes the values of the local day that holds its middle, as in `models.seasons`, so that neither time zones nor the two days a year on
which clocks change move it to another day. A step longer than a day takes the mean of its days.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import holidays
import numpy as np
import numpy.typing as npt

from models.seasons import DAY_MS, utc_offsets_ms

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

# In the order of the columns: all 0 or 1, `days_to_event` between them.
COLUMNS: Final = ("holiday", "day_before", "day_after", "event", "days_to_event", "weekend")
# Beyond three weeks an event is too far to move demand: `days_to_event` is 1 there, and 0 while an event lasts.
FARTHEST_DAYS: Final = 21
DEFAULT_EVENTS: Final = Path(__file__).with_name("events.toml")

_EPOCH: Final = date(1970, 1, 1).toordinal()
_MONTHS: Final = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"]
_WEEKDAYS: Final = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_PLACES: Final = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
_RULE: Final = re.compile(rf"({'|'.join(_PLACES)}) ({'|'.join(_WEEKDAYS)}) of ({'|'.join(_MONTHS)})", re.IGNORECASE)
_FIELDS: Final = {"name", "on", "shift", "days"}
_LONGEST_DAYS: Final = 120
_MOST_SHIFT: Final = 60
_SATURDAY_SUNDAY: Final = frozenset({5, 6})


class InvalidCalendar(ValueError):
    """The events, the country or its subdivision are not usable; the message says which, and what would be."""


@dataclass(frozen=True, slots=True)
class Event:
    """Days on which a shop expects other demand than usual, every year or once."""

    name: str
    on: tuple[str, ...]  # dates (2026-02-17), or one rule for every year: 11-11, fourth Thursday of November
    shift: int = 0  # days from there to the event's first day
    days: int = 1

    def starts(self, year: int) -> list[int]:
        """First days, counted from 1970, of the occurrences that the rule or the dates give for a year; a shift may lead out of it.

        >>> [str(date.fromordinal(day + _EPOCH)) for day in Event("Black Friday", ("fourth Thursday of November",), shift=1).starts(2019)]
        ['2019-11-29']
        """
        found = [_day_of(rule, year) for rule in self.on]
        return [day + self.shift for day in found if day is not None]


def parse_events(text: str, source: str = "events") -> tuple[Event, ...]:
    """The events of a TOML file: `[[event]]` tables of `name`, `on`, and, where they differ from 0 and 1, `shift` and `days`.

    `on` is a date, a list of dates, a month and day that comes every year ("11-11"), or a rule ("fourth Thursday of November"; also first,
    second, third, last). Raises InvalidCalendar, which names the event and what would be right.

    >>> parse_events('[[event]]\\nname = "Double 11"\\non = "11-11"')
    (Event(name='Double 11', on=('11-11',), shift=0, days=1),)
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidCalendar(f"{source} is not TOML: {error}") from error
    tables = content.get("event", [])
    if set(content) - {"event"} or not isinstance(tables, list):
        raise InvalidCalendar(f"{source}: expected only [[event]] tables, found {', '.join(sorted(content))}")
    events = tuple(_event(fields, f"{source}, event {i}") for i, fields in enumerate(tables, start=1))
    names = [event.name for event in events]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidCalendar(f"{source}: {', '.join(twice)} is there twice; one event may have a list of dates")
    return events


def read_events(path: Path = DEFAULT_EVENTS) -> tuple[Event, ...]:
    """The events of a file. Raises InvalidCalendar."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCalendar(f"{path} cannot be read: {error}") from error
    return parse_events(text, path.name)


def columns(
    first: int,
    n: int,
    *,
    step_ms: int,
    timezone: str,
    country: str | None = None,
    subdivision: str | None = None,
    events: tuple[Event, ...] = (),
) -> F32:
    """`COLUMNS` of the steps `first .. first + n - 1`, (n, 6). Raises InvalidCalendar.

    >>> columns(14_968, 2, step_ms=DAY_MS, timezone="Europe/London", country="GB")[:, 0].tolist()  # 2010-12-25, a Saturday, and 26
    [1.0, 1.0]
    """
    steps = np.arange(first, first + n, dtype=np.int64)
    whole_days = max(step_ms // DAY_MS, 1)
    # Of a step of several days the middle of the first day says which local day that is.
    middle_ms = steps * step_ms + min(step_ms, DAY_MS) // 2
    day = (middle_ms + utc_offsets_ms(middle_ms, timezone)) // DAY_MS
    if not n:
        return np.empty((0, len(COLUMNS)), np.float32)
    start = int(day[0])
    table = days(start, int(day[-1]) - start + whole_days, country, subdivision, events)
    if whole_days == 1:
        return np.asarray(table[day - start])
    return np.asarray(table[day[:, None] - start + np.arange(whole_days)].mean(axis=1, dtype=np.float32))


def days(first_day: int, n: int, country: str | None = None, subdivision: str | None = None, events: tuple[Event, ...] = ()) -> F32:
    """`COLUMNS` of the local days `first_day .. first_day + n - 1`, counted from 1970, (n, 6). Raises InvalidCalendar.

    `country` is an ISO 3166 code (GB, US), `subdivision` that of a part of it (SCT, CA): a country alone has the holidays that all its parts
    share. Days off in lieu are holidays, too. Without a country there are no holidays, and weekends are Saturday and Sunday.

    >>> days(17_715, 3, "US")[:, :3].tolist()  # 3 to 5 July 2018
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    day = np.arange(first_day, first_day + n, dtype=np.int64)
    year = day.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970
    out = np.empty((n, len(COLUMNS)), np.float32)
    for each in np.unique(year).tolist():
        january = _days_before(each)
        here = year == each
        out[here] = _year(each, country, subdivision, events)[day[here] - january]
    return out


@lru_cache(maxsize=64)
def _year(year: int, country: str | None, subdivision: str | None, events: tuple[Event, ...]) -> F32:
    """`COLUMNS` of the days of a year; the year may serve many calls, so it must not be written to."""
    first, end = _days_before(year), _days_before(year + 1)
    day = np.arange(first - 1, end + 1, dtype=np.int64)
    off = [holiday for near in (year - 1, year, year + 1) for holiday in _holidays(near, country, subdivision)[0]]
    holiday = np.isin(day, off)
    _, weekend, worked = _holidays(year, country, subdivision)
    day = day[1:-1]
    weekday = (day + 3) % 7
    resting = np.isin(weekday, list(weekend)) & ~np.isin(day, list(worked))
    starts, lasts = _occurrences(year, events)
    lasting = ((starts <= day[:, None]) & (day[:, None] <= lasts)).any(axis=1)
    ahead = np.where(starts >= day[:, None], starts - day[:, None], FARTHEST_DAYS).min(axis=1, initial=FARTHEST_DAYS)
    away = np.where(lasting, 0, ahead) / FARTHEST_DAYS
    table = np.stack([holiday[1:-1], holiday[2:], holiday[:-2], lasting, away, resting], axis=1).astype(np.float32)
    table.setflags(write=False)
    return table


def _occurrences(year: int, events: tuple[Event, ...]) -> tuple[I64, I64]:
    """First and last days of all that may touch a year or its next weeks."""
    found = [(start, start + event.days - 1) for event in events for near in (year - 1, year, year + 1) for start in event.starts(near)]
    starts, lasts = np.array(found, np.int64).reshape(-1, 2).T
    return starts, lasts


@lru_cache(maxsize=256)
def _holidays(year: int, country: str | None, subdivision: str | None) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    """Public holidays of a year, the country's weekdays off (Monday is 0), and days of weekends that are worked; days from 1970."""
    if country is None:
        if subdivision is not None:
            raise InvalidCalendar(f"the subdivision {subdivision} needs a country")
        return frozenset(), _SATURDAY_SUNDAY, frozenset()
    known = holidays.list_supported_countries(include_aliases=True)
    if country not in known:
        raise InvalidCalendar(f"no holidays are known of the country {country}; an ISO 3166 code is wanted, as GB or US")
    if subdivision is not None and subdivision not in known[country]:
        raise InvalidCalendar(f"{country} has no subdivision {subdivision}; it has {', '.join(known[country]) or 'none'}")
    of_year = holidays.country_holidays(country, subdivision, years=year)
    off = frozenset(day.toordinal() - _EPOCH for day in of_year if day.year == year)
    worked = frozenset(day.toordinal() - _EPOCH for day in of_year.weekend_workdays if day.year == year)
    return off, frozenset(of_year.weekend), worked


def _event(fields: Any, where: str) -> Event:
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str) or not fields["name"].strip():
        raise InvalidCalendar(f"{where}: it needs a name")
    where = f"{where} ({fields['name']})"
    strange = sorted(set(fields) - _FIELDS)
    if strange:
        raise InvalidCalendar(f"{where}: there is no field {', '.join(strange)}; an event has {', '.join(sorted(_FIELDS))}")
    given = fields.get("on")
    rules = tuple(str(rule) for rule in (given if isinstance(given, list) else [given]))
    if not rules or not all(_is_rule(rule) for rule in rules):
        raise InvalidCalendar(
            f'{where}: on = {given!r} is no day; write a date (2026-02-17), a list of them, "11-11" or "fourth Thursday of November"'
        )
    shift, length = fields.get("shift", 0), fields.get("days", 1)
    if type(shift) is not int or abs(shift) > _MOST_SHIFT:
        raise InvalidCalendar(f"{where}: shift = {shift!r}; it must be a whole number of days, -{_MOST_SHIFT} to {_MOST_SHIFT}")
    if type(length) is not int or not 1 <= length <= _LONGEST_DAYS:
        raise InvalidCalendar(f"{where}: days = {length!r}; it must be a whole number, 1 to {_LONGEST_DAYS}")
    return Event(fields["name"], rules, shift, length)


def _is_rule(text: str) -> bool:
    # 2000 is a leap year: 02-29 is a rule, for the years that have the day.
    dated = re.fullmatch(r"\d{4}-\d{2}-\d{2}", text)
    try:
        return _day_of(text, int(text[:4]) if dated else 2000) is not None
    except ValueError:
        return False


def _day_of(rule: str, year: int) -> int | None:
    """The day from 1970 that a rule or date means in a year; None: it has none. Raises ValueError where it is neither rule nor date."""
    named = _RULE.fullmatch(rule)
    if named:
        place, weekday, month = (word.lower() for word in named.groups())
        return _nth_weekday(year, _MONTHS.index(month) + 1, _WEEKDAYS.index(weekday), _PLACES[place])
    if re.fullmatch(r"\d{2}-\d{2}", rule):
        if rule == "02-29" and not _has_leap_day(year):
            return None
        return date.fromisoformat(f"{year:04}-{rule}").toordinal() - _EPOCH
    day = date.fromisoformat(rule)
    return day.toordinal() - _EPOCH if day.year == year else None


def _nth_weekday(year: int, month: int, weekday: int, place: int) -> int:
    if place < 0:
        last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
        return last.toordinal() - (last.weekday() - weekday) % 7 - _EPOCH
    first = date(year, month, 1)
    return first.toordinal() + (weekday - first.weekday()) % 7 + 7 * place - _EPOCH


def _has_leap_day(year: int) -> bool:
    return _days_before(year + 1) - _days_before(year) == 366


def _days_before(year: int) -> int:
    """Days from 1970 to a year's first day."""
    return date(year, 1, 1).toordinal() - _EPOCH


def named(events: Sequence[Event], first_day: int, n: int) -> list[tuple[str, int, int]]:
    """(name, first day, last day) of the occurrences that touch the days `first_day .. first_day + n - 1`, in order: for people."""
    years = range(date.fromordinal(first_day + _EPOCH).year - 1, date.fromordinal(first_day + n + _EPOCH).year + 2)
    found = {(start, start + event.days - 1, event.name) for event in events for year in years for start in event.starts(year)}
    return [(name, start, last) for start, last, name in sorted(found) if start < first_day + n and last >= first_day]
