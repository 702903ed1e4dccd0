"""Dead letters read back: what the worker wrote, counted once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from streaming.deadletter_log import Letter, find, letter_of, listing, parse_coordinates
from streaming.deadletters import MAX_VALUE_BYTES, dead_letter
from streaming.operators import printable
from streaming.rejections import ErrorClass, Rejected


@dataclass
class Sent:
    """A record, of whatever topic."""

    topic: str = "orders"
    partition: int = 3
    offset: int = 0
    timestamp: int = 1_000
    key: bytes | None = b"k"
    value: bytes | None = b"{}"
    headers: Sequence[tuple[str, bytes]] = field(default_factory=list)


def letter(record: Sent, reason: ErrorClass = ErrorClass.NOT_JSON, at_ms: int = 5_000) -> Sent:
    rejected = Rejected(0, record.offset, record.timestamp, reason, "$.items[0]", "is wrong")
    key, value, headers = dead_letter(record, rejected, "ingest")
    return Sent("dead-letters", 0, 0, at_ms, key, value, headers)


def counted(records: Iterable[Sent], limit: int = 10) -> tuple[dict[str, int], list[int], int, int]:
    found = listing(records, lambda _: True, limit)
    return dict(found.counts), [one.source[2] for one in found.newest], found.repeated, found.foreign


def test_a_letter_says_what_was_rejected_and_why() -> None:
    original = Sent(offset=4711, key=None, value=b"\xff\x00", headers=[("sent_at", b"17"), ("stage", b"theirs")])
    assert letter_of(letter(original)) == Letter(
        source=("orders", 3, 4711),
        source_timestamp_ms=1_000,
        rejected_at_ms=5_000,
        stage="ingest",
        error_class="not_json",
        path="$.items[0]",
        message="is wrong",
        key=None,
        value=b"\xff\x00",
        headers=[("sent_at", b"17"), ("stage", b"theirs")],
        cut={},
    )


def test_what_was_cut_off_is_said() -> None:
    read = letter_of(letter(Sent(value=b"x" * (MAX_VALUE_BYTES + 1))))
    assert read is not None
    assert read.cut == {"value": MAX_VALUE_BYTES + 1}


def test_repetitions_count_once_and_the_newest_are_kept() -> None:
    letters = [letter(Sent(offset=i), at_ms=5_000 + i) for i in range(5)]
    late = letter(Sent(offset=9), ErrorClass.EXPIRED, at_ms=4_000)
    assert counted([*letters, late, letters[1], Sent()], limit=3) == ({"not_json": 5, "expired": 1}, [4, 3, 2], 1, 1)
    assert counted(letters, limit=0) == ({"not_json": 5}, [], 0, 0)


def test_letters_of_the_same_moment_are_told_apart() -> None:
    assert counted([letter(Sent(offset=i)) for i in (3, 1, 2)])[1] == [3, 2, 1]


def test_one_is_found_by_its_coordinates() -> None:
    letters = [letter(Sent(offset=i)) for i in range(3)]
    found = find(letters, ("orders", 3, 2))
    assert found is not None
    assert found.id == "orders/3/2"
    assert find(letters, ("orders", 2, 2)) is None


@pytest.mark.parametrize("damage", [{"source_topic": None}, {"message": None}, {"source_offset": b"many"}, {"source_partition": b""}])
def test_other_records_are_no_letters(damage: dict[str, bytes | None]) -> None:
    headers = {**dict(letter(Sent()).headers), **damage}
    assert letter_of(Sent(headers=[(name, value) for name, value in headers.items() if value is not None])) is None
    assert letter_of(Sent()) is None


@pytest.mark.parametrize("text", ["", "orders", "orders/3", "orders/3/x", "/3/4", "orders/-1/4", "a/b/3/4", "orders/3/²"])
def test_what_names_no_record(text: str) -> None:
    with pytest.raises(ValueError, match="TOPIC/PARTITION/OFFSET"):
        parse_coordinates(text)


def test_a_terminal_is_not_obeyed() -> None:
    assert printable(b"\x1b]0;title\x07\xe2\x80\xae\r\n") == "\\x1b]0;title\\x07\\u202e\\r\\n"
