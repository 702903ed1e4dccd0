"""What is known of coming steps, as arrays of named covariates: one code for training, backtest and stream.

A covariate of a step is what was known of it, and when: of a step that is over, what held as it began (`price`, `discount`) or was known of it by its
end (`context:…`); of a coming one, what is known at the beginning of the first of them. Versions and entries are in force from the start of a step on
(`feature_store.facts`), so both are a matter of comparing steps, and do not depend on when they are asked for.

    price            logarithm of the product's price, before promotions, over the first one that was known of it; one of now holds on
    discount         share of the price that promotions take off, their mean over the step: those under way and those planned
    holiday …        `models.calendar.COLUMNS`: of the shop's country, and of its events
    context:NAME     the series, of the product's category where it has one of its own there; known ahead, or else the last known value

NaN means "as the step before"; what was never known is 0 (`models.features.advance`, `held`).
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from feature_store.facts import DISCOUNT_SCALE, SCOPE_MARK, UNKNOWN, Entry, Facts, decode_entries, decode_facts
from models import calendar
from models.calendar import Event

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PRICE: Final = "price"
DISCOUNT: Final = "discount"
CONTEXT: Final = "context:"
OF_FACTS: Final = (PRICE, DISCOUNT)
# Row and step in one number, to search many products' versions at once: steps of a second reach to the year 9999.
_STEP_BITS: Final = 38


class UnknownCovariate(ValueError):
    """There is no covariate of this name; the message says which there are."""


def check_names(names: Iterable[str]) -> None:
    """Raises UnknownCovariate."""
    for name in names:
        if name not in (*OF_FACTS, *calendar.COLUMNS) and not (name.startswith(CONTEXT) and len(name) > len(CONTEXT)):
            raise UnknownCovariate(
                f"there is no covariate {name!r}; choose from {', '.join((*OF_FACTS, *calendar.COLUMNS))}, {CONTEXT}SERIES"
            )


@dataclass(frozen=True, slots=True)
class Place:
    """Whose holidays and events count."""

    timezone: str
    country: str | None = None
    subdivision: str | None = None
    events: tuple[Event, ...] = ()

    def columns(self, names: tuple[str, ...], first: int, n: int, step_ms: int) -> F32:
        """These columns of the calendar, (n, names). Raises InvalidCalendar."""
        found = calendar.columns(
            first, n, step_ms=step_ms, timezone=self.timezone, country=self.country, subdivision=self.subdivision, events=self.events
        )
        return found[:, [calendar.COLUMNS.index(name) for name in names]]


@dataclass(frozen=True, slots=True)
class FactColumns:
    """Facts of `n` products, their `v` versions one after another, by product and step."""

    first: I64  # (n + 1,) where each product's versions begin
    key: I64  # (v,) product and step in one number, rising
    usual: F64  # (n,) logarithm of the product's first price, in 1/10,000 of the currency; NaN: none is known
    price: F64  # (v,) logarithm of the price over the product's first one; NaN: unknown
    stock: I64  # (v,) 1: some, 0: none, -1: unknown
    lead_steps: I64  # (v,) 0: unknown
    category: tuple[str, ...]  # (v,)
    promotion_first: I64  # (v + 1,) where each version's promotions begin
    promotions: I64  # (p, 3) start and end in seconds since 1970, discount in 1/10,000

    @classmethod
    def of(cls, stored: Sequence[Facts | None]) -> Self:
        """Of products in this order; None: nothing is known of one."""
        found = [facts.versions if facts else [] for facts in stored]
        versions = [version for some in found for version in some]
        usual = [facts.usual if facts else UNKNOWN for facts in stored]
        lengths = [len(some) for some in found]
        row = np.repeat(np.arange(len(found)), lengths)
        # Math.log, one by one: the same bits whatever stands beside it.
        price = [
            math.log(max(v.price, 1) / max(usual[i], 1)) if v.price != UNKNOWN else math.nan
            for i, v in zip(row.tolist(), versions, strict=True)
        ]
        return cls(
            first=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            key=(row << _STEP_BITS) + np.array([v.step for v in versions], np.int64),
            usual=np.array([math.log(max(each, 1)) if each != UNKNOWN else math.nan for each in usual], np.float64),
            price=np.array(price, np.float64),
            stock=np.array([v.stock for v in versions], np.int64),
            lead_steps=np.array([v.lead_steps for v in versions], np.int64),
            category=tuple(v.category for v in versions),
            promotion_first=np.concatenate([[0], np.cumsum([len(v.promotions) // 3 for v in versions], dtype=np.int64)]),
            promotions=np.array([number for v in versions for number in v.promotions], np.int64).reshape(-1, 3),
        )

    def at(self, row: I64, step: I64) -> I64:
        """The version that is in force as a step begins, of the same shape; -1: none yet."""
        found = np.searchsorted(self.key, (row << _STEP_BITS) + np.maximum(step, 0), side="right") - 1
        return np.where(found >= self.first[row], found, -1)

    def discounts(self, version: I64, step: I64, step_ms: int) -> F64:
        """Mean discount of steps, (m, n), by versions, (m, n), or (m, 1) of all of a row; of promotions at the same time the largest counts."""
        if version.shape != (len(step), 1):
            return self.discounts(version.reshape(-1, 1), step.reshape(-1, 1), step_ms).reshape(step.shape)
        out = np.zeros(step.shape)
        begins = self.promotion_first[version]
        count = np.where(version >= 0, self.promotion_first[version + 1] - begins, 0)[:, 0]
        start_s, length_s = step * (step_ms / 1000), step_ms / 1000
        for i in range(int(count.max(initial=0))):
            some = np.flatnonzero(count > i)
            span = self.promotions[begins[some] + i]  # (s, 1, 3)
            overlap = np.minimum(span[..., 1], start_s[some] + length_s) - np.maximum(span[..., 0], start_s[some])
            out[some] = np.maximum(out[some], np.maximum(overlap, 0) / length_s * span[..., 2] / DISCOUNT_SCALE)
        return out


@dataclass(frozen=True, slots=True)
class Series:
    """A context series of one scope by step; of each step what was said of it, oldest first. Where nothing was said, what was said before holds on."""

    first: int  # step of the first row
    value: F64  # (steps, said)
    known: I64  # (steps, said) from which step on; beyond any step where less was said
    known_future: bool  # as its newest value says

    @classmethod
    def of(cls, entries: Sequence[Entry], step_ms: int) -> "Series | None":
        """None: nothing was said. A step takes the values that hold in its middle."""
        spans = [
            (max(_first_middle(e.start_s, step_ms), e.step - _OLDEST), min(_first_middle(e.end_s, step_ms), e.step + _FARTHEST))
            for e in entries
        ]
        values = [i for i, (begin, end) in enumerate(spans) if begin < end]
        ends = [i for i, entry in enumerate(entries) if not entry.end_s]  # nothing said before holds
        if not values:
            return None
        first = min(spans[i][0] for i in values)
        count = np.zeros(max(spans[i][1] for i in values) + 1 - first, np.int64)
        for i in values:
            count[spans[i][0] - first : spans[i][1] - first] += 1
        said = np.full((len(count), int(count.max()) + len(ends)), len(entries))  # which entries speak of each step; the last of all: none
        count[:] = 0
        for i in values:
            steps = np.arange(spans[i][0] - first, spans[i][1] - first)
            said[steps, count[steps]] = i
            count[steps] += 1
        said = said[np.maximum.accumulate(np.where(count > 0, np.arange(len(count)), 0))]
        said[:, said.shape[1] - len(ends) :] = ends
        said.sort(axis=1)
        value = np.array([*(entry.value if entry.end_s else np.nan for entry in entries), np.nan])
        known = np.array([*(entry.step for entry in entries), _NEVER], np.int64)
        return cls(first, value[said], known[said], bool(entries[values[-1]].known_future))

    def at(self, step: I64, asof: I64) -> F64:
        """Values of steps as known when step `asof` begins, of the same shape; NaN: not known. Nothing but what is known ahead is said of `asof` and later."""
        last = self.first + len(self.value) - 1
        reached = np.minimum(step, last if self.known_future else np.minimum(last, asof - 1))
        place = np.maximum(reached - self.first, 0)
        out = np.full(step.shape, np.nan)
        for i in range(self.value.shape[1]):
            known = (reached >= self.first) & (self.known[place, i] <= asof)
            out[known] = self.value[place[known], i]
        return out


_NEVER: Final = np.iinfo(np.int64).max
# In steps, what an entry says of times longer ago, or farther ahead, than any forecast looks. (What it said last holds on.)
_OLDEST: Final = 1_000
_FARTHEST: Final = 20_000


def _first_middle(time_s: int, step_ms: int) -> int:
    """The first step whose middle is not before a time."""
    return -((step_ms - 2 * time_s * 1000) // (2 * step_ms))


Contexts = tuple[tuple[bytes, bytes], ...]  # name of series and scope, entries; as stored


@lru_cache(maxsize=64)
def _series(fields: Contexts, step_ms: int) -> dict[tuple[str, str], Series]:
    """Series by name and scope."""
    found = {}
    for name, packed in fields:
        series, _, scope = name.decode().partition(SCOPE_MARK)
        one = Series.of(decode_entries(packed), step_ms)
        if one is not None:
            found[series, scope] = one
    return found


@dataclass(frozen=True, slots=True)
class KnownFuture:
    """What a shop knows of `n` products' steps."""

    names: tuple[str, ...]  # of the covariates that are asked for
    step_ms: int
    place: Place
    facts: FactColumns
    contexts: tuple[Contexts, ...] = ((),)
    context_of: I64 = field(default_factory=lambda: np.zeros(0, np.int64))  # (n,) index into contexts; empty: the first for all

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        step_ms: int,
        place: Place,
        facts: Sequence[bytes],
        contexts: Sequence[Contexts] = ((),),
        context_of: I64 | None = None,
    ) -> Self:
        """From what is stored: facts of each product (b"": none), and series."""
        columns = FactColumns.of([decode_facts(packed) if packed else None for packed in facts])
        rows = np.zeros(len(facts), np.int64) if context_of is None else context_of
        return cls(names, step_ms, place, columns, tuple(contexts), rows)

    def of_step(self, rows: npt.NDArray[np.intp], step: I64) -> F32:
        """Covariates of the steps `step`, (m,), that products `rows`, (m,), have lived through, as known at their end; (m, covariates)."""
        return self._values(rows, step[:, None], step[:, None] + 1)[:, 0]

    def ahead(self, rows: npt.NDArray[np.intp], step: I64, span: int, *, newest: bool = False) -> F32:
        """Covariates of the `span` steps after `step`, (m,), as known when the first of them begins; (m, span, covariates).

        `newest`: as known now. What is not announced stays as it is.
        """
        steps = step[:, None] + 1 + np.arange(span)
        return self._values(rows, steps, np.full_like(step, _LATEST)[:, None] if newest else step[:, None] + 1)

    def sold_out(self, rows: npt.NDArray[np.intp], step: I64) -> Bools:
        """Whether the steps `step`, (m,), began without stock: known as soon as they begin."""
        version = self.facts.at(np.asarray(rows, np.int64), step)
        empty = np.zeros(len(version), np.bool_)
        there = version >= 0
        empty[there] = self.facts.stock[version[there]] == 0
        return empty

    def out_of_stock(self, rows: npt.NDArray[np.intp], step: I64) -> Bools:
        """Whether the steps `step`, (m,), began and ended without stock."""
        return self.sold_out(rows, step) & self.sold_out(rows, step + 1)

    def lead_steps(self, rows: npt.NDArray[np.intp]) -> I64:
        """The products' own lead times as known now, in steps, (m,); 0: unknown."""
        row = np.asarray(rows, np.int64)
        version = self.facts.first[row + 1] - 1
        there = version >= self.facts.first[row]
        out = np.zeros(len(row), np.int64)
        out[there] = self.facts.lead_steps[version[there]]
        return out

    def categories(self, rows: npt.NDArray[np.intp], step: I64) -> list[str | None]:
        """Of the products in `rows`, (m,), what was said to be their category when `step`, (m,), began; None: nothing."""
        version = self.facts.at(np.asarray(rows, np.int64), step)
        return [(self.facts.category[v] or None) if v >= 0 else None for v in version.tolist()]

    def log_prices(self, rows: npt.NDArray[np.intp], step: I64) -> F64:
        """Logarithms of the prices of the products in `rows`, (m,), before promotions, when `step`, (m,), began; NaN: not known."""
        row = np.asarray(rows, np.int64)
        return np.asarray(self.facts.usual[row] + np.append(self.facts.price, np.nan)[self.facts.at(row, step)])

    def change(self, rows: npt.NDArray[np.intp], before: I64, now: I64) -> tuple[F64, F64, F64]:
        """Of the products in `rows`, (m,), from the start of one step to that of another, (m,) each: stock at the end (1: some, 0: none, NaN: not known),
        what the discount of the step grew by, and the price as a multiple of the earlier one (NaN: not known)."""
        row = np.asarray(rows, np.int64)
        then, after = self.facts.at(row, before), self.facts.at(row, now)
        stock = np.append(self.facts.stock, -1)[after].astype(np.float64)
        discounts = [
            self.facts.discounts(version[:, None], step[:, None], self.step_ms)[:, 0] for version, step in ((then, before), (after, now))
        ]
        price = np.append(self.facts.price, np.nan)
        return np.where(stock < 0, np.nan, stock), discounts[1] - discounts[0], np.exp(price[after] - price[then])

    def _values(self, rows: npt.NDArray[np.intp], step: I64, asof: I64) -> F32:
        """Covariates of `step`, (m, n), as known when step `asof`, (m, 1), begins; (m, n, covariates)."""
        row = np.asarray(rows, np.int64)[:, None]
        out = np.empty((*step.shape, len(self.names)), np.float32)
        if not step.size:
            return out
        of_calendar = tuple(name for name in self.names if name in calendar.COLUMNS)
        version = self._versions(row, step, asof) if self._asks_facts() else np.zeros((len(row), 1), np.int64)
        if of_calendar:
            first = int(step.min()) // _CALENDAR_STEPS * _CALENDAR_STEPS
            n = -(-(int(step.max()) + 1 - first) // _CALENDAR_STEPS) * _CALENDAR_STEPS
            days = _calendar(self.place, of_calendar, first, n, self.step_ms)[step - first]
        for k, name in enumerate(self.names):
            if name == PRICE:
                out[..., k] = np.append(self.facts.price, np.nan)[version]
            elif name == DISCOUNT:
                out[..., k] = self.facts.discounts(version, step, self.step_ms)
            elif name in of_calendar:
                out[..., k] = days[..., of_calendar.index(name)]
            else:
                out[..., k] = self._context(name.removeprefix(CONTEXT), row[:, 0], version[:, 0], step, asof)
        return out

    def _versions(self, row: I64, step: I64, asof: I64) -> I64:
        """The version that says what is known of each step, (m, n); (m, 1) where one speaks of all steps of a row."""
        if (step >= asof).all():
            return self.facts.at(row, asof)
        return self.facts.at(np.broadcast_to(row, step.shape), np.minimum(step, asof))

    def _asks_facts(self) -> bool:
        return any(name in OF_FACTS or name.startswith(CONTEXT) for name in self.names)

    def _context(self, name: str, row: I64, version: I64, step: I64, asof: I64) -> F64:
        """A series by (m, n) steps; products of a category that has one of its own see that."""
        out = np.full(step.shape, np.nan)
        category = np.array([*self.facts.category, ""])[version]
        where = self.context_of[row] if len(self.context_of) else np.zeros(len(row), np.int64)
        for i, fields in enumerate(self.contexts):
            known = _series(fields, self.step_ms)
            scopes = np.array([scope for series, scope in known if series == name and scope])
            scope = np.where(np.isin(category, scopes), category, "") if len(scopes) else np.full(len(row), "")
            for each in np.unique(scope):
                series = known.get((name, str(each)))
                some = np.flatnonzero((where == i) & (scope == each))
                if series is not None and len(some):
                    out[some] = series.at(step[some], np.broadcast_to(asof[some], step[some].shape))
        return out

    def only(self, chosen: npt.NDArray[np.intp]) -> "KnownFuture":
        """Of the products at these indices, in this order."""
        first, f = self.facts.first, self.facts
        versions = np.concatenate([np.zeros(0, np.int64), *(np.arange(first[i], first[i + 1]) for i in chosen.tolist())])
        lengths = first[chosen + 1] - first[chosen]
        promotions = [np.arange(f.promotion_first[v], f.promotion_first[v + 1]) for v in versions.tolist()]
        counts = f.promotion_first[versions + 1] - f.promotion_first[versions]
        facts = FactColumns(
            first=np.concatenate([[0], np.cumsum(lengths)]),
            key=(f.key[versions] & ((1 << _STEP_BITS) - 1)) + (np.repeat(np.arange(len(chosen)), lengths) << _STEP_BITS),
            usual=f.usual[chosen],
            price=f.price[versions],
            stock=f.stock[versions],
            lead_steps=f.lead_steps[versions],
            category=tuple(f.category[v] for v in versions.tolist()),
            promotion_first=np.concatenate([[0], np.cumsum(counts)]),
            promotions=f.promotions[np.concatenate([np.zeros(0, np.int64), *promotions])],
        )
        return replace(self, facts=facts, context_of=self.context_of[chosen] if len(self.context_of) else self.context_of)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all that is known."""
        sha = hashlib.sha256(repr((self.names, self.step_ms, self.place, self.contexts, self.facts.category)).encode())
        for array in (
            self.context_of,
            self.facts.key,
            self.facts.price,
            self.facts.stock,
            self.facts.promotion_first,
            self.facts.promotions,
        ):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()[:16]


# The calendar is made for so many steps at once, and remembered.
_CALENDAR_STEPS: Final = 512
# Later than any step that a version may be in force from.
_LATEST: Final = (1 << _STEP_BITS) - 1


@lru_cache(maxsize=256)
def _calendar(place: Place, names: tuple[str, ...], first: int, n: int, step_ms: int) -> F32:
    return place.columns(names, first, n, step_ms)
