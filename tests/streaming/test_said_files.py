"""Lines of files say what the topics' records would have said, from the same time on."""

import json
from pathlib import Path

import pytest

from feature_store.facts import ContextChange, Entry, FactChange
from models.known_future import Place
from streaming.contracts import Context, ProductFacts, Promotion
from streaming.errors import UserError
from streaming.facts import Forgotten
from streaming.said_files import line, read
from streaming.settings import HOUR_MS
from streaming.training_log import CONTEXT, FACTS, Ahead, LoggedRecord, changes

AT_MS = 1_772_348_400_000
SALE = Promotion(start=AT_MS + HOUR_MS, end=AT_MS + 9 * HOUR_MS, discount=0.25)


def written(path: Path, *lines: bytes | dict[str, object]) -> Path:
    path.write_bytes(b"\n\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines))
    return path


def test_lines_are_the_records_that_they_were_made_of(tmp_path: Path) -> None:
    said = [
        (AT_MS + 5, ProductFacts(product_id="mug", unit_price=9.99, promotions=[SALE], stock=0, category="cups", lead_time_steps=30)),
        (AT_MS + 2 * HOUR_MS, ProductFacts(product_id="mug")),
        (AT_MS, ProductFacts(product_id="cup", unit_price=0)),
    ]
    path = written(tmp_path / "facts.jsonl", *(line(at_ms, facts) for at_ms, facts in said))
    import msgspec

    records = [
        LoggedRecord("", 0, i, at_ms, msgspec.json.encode(facts), (), facts.product_id.encode())
        for i, (at_ms, facts) in enumerate(sorted(said, key=lambda one: one[0]))
    ]
    assert read([path], FACTS, HOUR_MS) == changes(records, FACTS, None, HOUR_MS)[0]


def test_a_series_is_forgotten_by_its_name_alone(tmp_path: Path) -> None:
    told = Context(series="rain", start=AT_MS, end=AT_MS + HOUR_MS, value=2.5, known_future=True)
    path = written(tmp_path / "context.jsonl", line(AT_MS + 1, Forgotten("rain")), line(AT_MS, told))
    first, second = (dated.change for dated in read([path], CONTEXT, HOUR_MS))
    step = AT_MS // HOUR_MS + 1
    assert first == ContextChange("rain", "", Entry(step, AT_MS // 1000, AT_MS // 1000 + 3600, 2.5, 1))
    assert second == ContextChange("rain", "", Entry(step))


def test_files_of_every_week_overlap_and_nothing_counts_before_it_was_said(tmp_path: Path) -> None:
    old, new = ({"at": AT_MS + i * HOUR_MS, "product_id": "mug", "unit_price": 10 + i} for i in range(2))
    one = written(tmp_path / "one.jsonl", old)
    both = written(tmp_path / "both.jsonl", new, old)
    found = Ahead.of(read([both, one], FACTS, HOUR_MS))
    assert found.known(("price",), HOUR_MS, Place("UTC"), ["mug"]) is not None
    versions = [dated.change for dated in read([both], FACTS, HOUR_MS)]
    assert all(isinstance(change, FactChange) for change in versions)
    assert Ahead.of(read([both], FACTS, HOUR_MS))._facts == found._facts
    assert [v.step - AT_MS // HOUR_MS for v in found._facts["mug"].versions] == [1, 2]
    assert found.known_from() == {"mug": AT_MS // HOUR_MS + 1}


def test_what_two_files_say_is_said_once_and_of_a_moment_the_last_counts(tmp_path: Path) -> None:
    spans = [(AT_MS + i * HOUR_MS, value) for i, value in ((0, 1.0), (1, 2.0), (0, 3.0), (0, 1.0))]
    lines = [line(AT_MS, Context(series="rain", start=at, end=at + HOUR_MS, value=value, known_future=True)) for at, value in spans]
    path, again = written(tmp_path / "one.jsonl", *lines), written(tmp_path / "two.jsonl", *lines)
    [entries] = Ahead.of(read([path, again], CONTEXT, HOUR_MS))._context.values()
    assert [entry.value for entry in entries] == [2.0, 3.0, 1.0]


def test_times_of_people_and_fields_of_others_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "facts.jsonl", {"at": "2026-03-01T07:00:00Z", "product_id": "mug", "unit_price": 5, "colour": "red"})
    [dated] = read([path], FACTS, HOUR_MS)
    assert dated.effect_ms == AT_MS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"product_id": "mug", "unit_price": 5}, r"line 1: .*at"),
        ({"at": AT_MS, "unit_price": 5}, r"line 1: .*product_id"),
        ({"at": AT_MS, "product_id": "mug", "unit_price": -5}, r"line 1: \$\.unit_price"),
        (b"{", "line 1"),
        (b"[]", "line 1"),
    ],
)
def test_a_line_that_says_nothing_is_named(tmp_path: Path, text: bytes | dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read([written(tmp_path / "facts.jsonl", text)], FACTS, HOUR_MS)
    with pytest.raises(UserError, match="cannot be read"):
        read([tmp_path / "none.jsonl"], FACTS, HOUR_MS)
