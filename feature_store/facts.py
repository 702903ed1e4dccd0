"""What a shop knows ahead, as the store keeps it: versions of a product's facts and entries of context series, each in force from a step on.

A record of `product-facts` or `context` is in force from the first step that starts after its time (`in_force_from`). So what a step may know is
settled before the step begins, and everything that was sent before a step's end is counted before the step is closed.
`put` is what `apply.lua` does to what is stored, without the trimming there.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

# Money as elsewhere; a discount of 1 is 10,000.
PRICE_SCALE: Final = 10_000
DISCOUNT_SCALE: Final = 10_000
UNKNOWN: Final = -1
NO_LEAD: Final = 0
# Between a series' name and its scope, in the names of what is stored: control characters are no part of an id.
SCOPE_MARK: Final = "\n"


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A product's facts from the start of a step on, until the next version's. The defaults are "nothing is known"."""

    step: int
    price: int = UNKNOWN  # of one unit, in 1/10,000 of the currency
    lead_steps: int = NO_LEAD
    stock: int = UNKNOWN  # 1: some, 0: none
    category: str = ""
    promotions: tuple[int, ...] = ()  # start and end in seconds since 1970, discount in 1/10,000; one promotion after another


class Facts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is stored of a product."""

    usual: int  # the first price that was known of it, in 1/10,000; its prices are compared with this one
    versions: list[Version]  # by step, at most one a step


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value of a context series, known from a step on. Without an end: the series was forgotten, what was said before holds no longer."""

    step: int
    start_s: int = 0
    end_s: int = 0
    value: float = 0.0
    known_future: int = 0


@dataclass(frozen=True, slots=True)
class FactChange:
    """The newest version of a product's facts."""

    product: str
    version: Version
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class ContextChange:
    """One more entry of a series; the one without an end goes to all scopes of the series."""

    series: str
    scope: str  # "": everything
    entry: Entry


decode_facts = msgspec.msgpack.Decoder(Facts).decode
decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode
encode = msgspec.msgpack.Encoder().encode


def in_force_from(time_ms: int, step_ms: int) -> int:
    """The first step that starts after a time.

    >>> in_force_from(3_599_999, 3_600_000), in_force_from(3_600_000, 3_600_000)
    (1, 2)
    """
    return time_ms // step_ms + 1


def put(facts: Facts | None, new: Version) -> Facts:
    """Facts with one more version. One that says what its predecessor says is left out; of a step's versions the last one counts.

    >>> put(put(put(None, Version(5, 100)), Version(7, 100)), Version(8, 90))
    Facts(usual=100, versions=[Version(step=5, price=100, lead_steps=0, stock=-1, category='', promotions=()), \
Version(step=8, price=90, lead_steps=0, stock=-1, category='', promotions=())])
    """
    usual, versions = (facts.usual, list(facts.versions)) if facts else (UNKNOWN, [])
    if usual == UNKNOWN:
        usual = new.price
    at = len(versions)
    while at and versions[at - 1].step > new.step:
        at -= 1
    if at and versions[at - 1].step == new.step:
        at -= 1
        del versions[at]
    if not at or not same(versions[at - 1], new):
        versions.insert(at, new)
    return Facts(usual, versions)


def same(one: Version, other: Version) -> bool:
    """Whether two versions say the same."""
    return msgspec.structs.replace(one, step=0) == msgspec.structs.replace(other, step=0)


def context_field(series: str, scope: str) -> str:
    """What a series of a scope is stored under."""
    return f"{series}{SCOPE_MARK}{scope}"
