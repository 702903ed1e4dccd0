"""What a shop said ahead, as lines of a file: records of `product-facts` or of `context`, each with the time at which it was sent.

    {"at": 1772348400000, "product_id": "mug", "unit_price": 9.99, "promotions": [{"start": "2026-03-07", "end": "2026-03-09", "discount": 0.2}]}
    {"at": "2026-03-01T07:00:00Z", "series": "weather", "start": 1772352000000, "end": 1772355600000, "value": 11.5, "known_future": true}

A line is the topic's value, and `at`, from when on it holds. One that names its product, or its series, and nothing else, takes back what was said of it, as
a tombstone does. Files may overlap, and lines be in any order.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from feature_store.watermarks import judge_states
from streaming.contracts import ProductFacts, TimeIn, epoch_ms
from streaming.decode import DECODING_ERRORS
from streaming.errors import UserError
from streaming.facts import Forgotten, Said, decode_context, decode_product_facts
from streaming.rejections import fault_of
from streaming.settings import Settings
from streaming.topic_log import whole
from streaming.training_log import CONTEXT, FACTS, Dated, LoggedRecord, changes

# What a line names, by what it speaks of.
_NAMED: Final = {FACTS: "product_id", CONTEXT: "series"}


class _Line(msgspec.Struct):
    """What places a line; the rest is the topic's contract's to judge."""

    at: TimeIn
    product_id: str = ""
    series: str = ""


_placed: Final = msgspec.json.Decoder(_Line).decode
_fields: Final = msgspec.json.Decoder(dict[str, Any]).decode


def read(paths: Sequence[Path], kind: int, step_ms: int) -> list[Dated]:
    """What the files say of `FACTS` or of `CONTEXT`, in order of time. Raises UserError that names the line that cannot be read."""
    lines = [(path, number, line) for path in paths for number, line in _lines(path)]
    placed = sorted(((_record(kind, *line), line) for line in lines), key=lambda pair: pair[0].timestamp)
    found, _, rejected = changes([record for record, _ in placed], kind, None, step_ms)
    if rejected:
        path, number, _ = placed[rejected[0].index][1]
        raise UserError(f"{path}, line {number}: {rejected[0].path}: {rejected[0].message}")
    return found


@dataclass(frozen=True, slots=True)
class Written:
    """Lines of a file that was written."""

    lines: int
    named: int  # products, or series, that they speak of
    rejected: int  # records that say nothing


def write(settings: Settings, topic: str, kind: int, out: Path, progress: Callable[[float], object] = lambda _: None) -> Written:
    """A file of all that a topic holds now. A crash leaves the old file or the new one. Raises UserError."""
    watermarks: dict[Any, int] = {}
    lines: list[tuple[int, bytes]] = []
    named: set[str] = set()
    rejected = 0
    for tp, records in whole(settings, topic, progress):
        notices, faulty = decode_product_facts(records) if kind == FACTS else decode_context(records)
        rejected += len(faulty)
        judged, effect_ms = judge_states(notices.batch, watermarks.get(tp))
        for at_ms, said in zip(effect_ms.tolist(), notices.said, strict=True):
            if said is not None:
                lines.append((at_ms, line(at_ms, said)))
                named.add(_name(said))
        if len(notices.batch):
            watermarks[tp] = int(judged.watermark_ms[-1])
    _write(out, (text for _, text in sorted(lines, key=lambda dated: dated[0])))
    return Written(len(lines), len(named), rejected)


def line(at_ms: int, said: Said) -> bytes:
    """A line, without its end; what the contracts do not know is left out.

    >>> line(1_772_348_400_000, Forgotten("weather"))
    b'{"at":1772348400000,"series":"weather"}'
    """
    fields: dict[str, Any] = {"series": said.series} if isinstance(said, Forgotten) else msgspec.to_builtins(said)
    return msgspec.json.encode({"at": at_ms, **{name: value for name, value in fields.items() if value not in (None, [])}})


def _name(said: Said) -> str:
    return said.product_id if isinstance(said, ProductFacts) else said.series


def _write(out: Path, lines: Iterable[bytes]) -> None:
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.writelines(text + b"\n" for text in lines)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error


def _lines(path: Path) -> list[tuple[int, bytes]]:
    """Lines that are not empty, with their numbers."""
    try:
        return [(i, text) for i, text in enumerate(path.read_bytes().splitlines(), 1) if text.strip()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _record(kind: int, path: Path, number: int, text: bytes) -> LoggedRecord:
    """The record that a line stands for."""
    try:
        placed = _placed(text)
        forgets = kind == CONTEXT and set(_fields(text)) == {"at", _NAMED[kind]}
    except DECODING_ERRORS as error:
        fault = fault_of(error)
        raise UserError(f"{path}, line {number}: {fault.path}: {fault.message}") from None
    key = placed.product_id if kind == FACTS else placed.series
    return LoggedRecord("", 0, number, epoch_ms(placed.at), None if forgets else text, (), key.encode())
