"""Records of `product-facts` and `context` to what the store keeps of them: typed, strict, and never an exception, whatever the bytes are.

Few come, compared with orders and clicks, so each is a Python object. A record without a value is a heartbeat where it declares a watermark, else a
tombstone of its key. The key must be the product, or the series: Kafka keeps the order, and compacted topics the newest, of equal keys only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from feature_store.events import ABSENT, EventBatch
from feature_store.facts import DISCOUNT_SCALE, NO_LEAD, PRICE_SCALE, UNKNOWN, ContextChange, Entry, FactChange, Version, in_force_from
from streaming.columns import Record, positions
from streaming.contracts import WATERMARK, Context, ProductFacts, epoch_ms, valid_id
from streaming.decode import DECODING_ERRORS, heartbeat
from streaming.rejections import ErrorClass, Fault, Rejected, fault_of, faults

_facts_decoder: Final = msgspec.json.Decoder(ProductFacts).decode
_context_decoder: Final = msgspec.json.Decoder(Context).decode
_EMPTY: Final = f"no value, and neither a key that it would forget nor a header `{WATERMARK}`"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was said of a series holds no longer. (Of a product, facts that say nothing are the same.)"""

    series: str


Said = ProductFacts | Context | Forgotten
Change = FactChange | ContextChange


@dataclass(frozen=True, slots=True)
class Notices:
    """Accepted records of one fetch, in offset order."""

    batch: EventBatch  # without lines; the time of an event is its Kafka timestamp
    said: list[Said | None]  # by record; None: a heartbeat

    def changes(self, effect_ms: npt.NDArray[np.int64], step_ms: int) -> list[Change | None]:
        """What changes, by record, each in force from the first step after it takes effect, (n,) epoch ms; None: nothing."""
        steps = (in_force_from(int(at), step_ms) for at in effect_ms.tolist())
        found: list[Change | None] = []
        for said, step, sent_at_ms in zip(self.said, steps, self.batch.sent_at_ms.tolist(), strict=True):
            match said:
                case ProductFacts():
                    found.append(FactChange(said.product_id, version(said, step, step_ms), sent_at_ms))
                case Context():
                    found.append(ContextChange(said.series, said.scope or "", entry(said, step)))
                case Forgotten():
                    found.append(ContextChange(said.series, "", Entry(step)))
                case None:
                    found.append(None)
        return found


def version(facts: ProductFacts, step: int, step_ms: int) -> Version:
    """What is kept of a product's facts. Promotions that are over before they are in force say nothing.

    >>> from streaming.contracts import Promotion
    >>> sale = Promotion(start=1_760_000_400_000, end=1_760_010_000_000, discount=0.25)
    >>> version(ProductFacts(product_id="p", unit_price=9.99, promotions=[sale], stock=0), 488_889, 3_600_000)
    Version(step=488889, price=99900, lead_steps=0, stock=0, category='', promotions=(1760000400, 1760010000, 2500))
    """
    begins_s = step * step_ms // 1000
    spans = sorted((epoch_ms(p.start) // 1000, epoch_ms(p.end) // 1000, round(p.discount * DISCOUNT_SCALE)) for p in facts.promotions)
    return Version(
        step=step,
        price=UNKNOWN if facts.unit_price is None else round(facts.unit_price * PRICE_SCALE),
        lead_steps=facts.lead_time_steps or NO_LEAD,
        stock=UNKNOWN if facts.stock is None else int(facts.stock > 0),
        category=facts.category or "",
        promotions=tuple(number for span in spans if span[1] > begins_s for number in span),
    )


def entry(said: Context, step: int) -> Entry:
    """What is kept of a value of a series."""
    return Entry(step, epoch_ms(said.start) // 1000, epoch_ms(said.end) // 1000, said.value, int(said.known_future))


def decode_product_facts(records: Sequence[Record]) -> tuple[Notices, list[Rejected]]:
    """The accepted records of one fetch of `product-facts`, and the rejected ones, both in offset order. Never raises."""
    return _decode(records, _read_facts)


def decode_context(records: Sequence[Record]) -> tuple[Notices, list[Rejected]]:
    """The accepted records of one fetch of `context`, and the rejected ones, both in offset order. Never raises."""
    return _decode(records, _read_context)


def _read_facts(key: str | None, value: bytes | None) -> ProductFacts | Fault:
    if not value:
        return Fault(ErrorClass.EMPTY, "$", _EMPTY) if key is None else ProductFacts(product_id=key)
    facts = _facts_decoder(value)
    spans = (_span_fault(p.start, p.end, f"$.promotions[{i}]") for i, p in enumerate(facts.promotions))
    return next(filter(None, [*faults(facts), _key_fault(key, facts.product_id), *spans]), facts)


def _read_context(key: str | None, value: bytes | None) -> Context | Forgotten | Fault:
    if not value:
        return Fault(ErrorClass.EMPTY, "$", _EMPTY) if key is None else Forgotten(key)
    said = _context_decoder(value)
    return next(filter(None, [*faults(said), _key_fault(key, said.series), _span_fault(said.start, said.end, "$")]), said)


def _decode(records: Sequence[Record], read: Callable[[str | None, bytes | None], Said | Fault]) -> tuple[Notices, list[Rejected]]:
    kept: list[Record] = []
    said: list[Said | None] = []
    time_ms: list[int] = []
    rejected: list[Rejected] = []
    for i, record in enumerate(records):
        found: Said | Fault | int
        try:
            found = heartbeat(record) if _is_heartbeat(record) else read(_text(record.key), record.value)
        except DECODING_ERRORS as error:
            found = fault_of(error)
        if isinstance(found, Fault):
            rejected.append(Rejected(i, record.offset, record.timestamp, *found))
            continue
        kept.append(record)
        said.append(None if isinstance(found, int) else found)
        time_ms.append(found if isinstance(found, int) else record.timestamp)
    return Notices(_without_lines(kept, time_ms, [each is None for each in said]), said), rejected


def _is_heartbeat(record: Record) -> bool:
    return not record.value and any(name == WATERMARK for name, _ in record.headers)


def _text(key: bytes | None) -> str | None:
    """A key as an id; None where it is none."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return text if valid_id(text) else None


def _key_fault(key: str | None, named: str) -> Fault | None:
    return None if key == named else Fault(ErrorClass.BAD_ID, "key", "the record's key is not what the record speaks of")


def _span_fault(start: int | datetime, end: int | datetime, path: str) -> Fault | None:
    whole = epoch_ms(end) // 1000 > epoch_ms(start) // 1000
    return None if whole else Fault(ErrorClass.OUT_OF_RANGE, f"{path}.end", "not a second after its start")


def _without_lines(records: Sequence[Record], declared: Sequence[int], heartbeat: Sequence[bool]) -> EventBatch:
    """Records whose event time is their Kafka timestamp, or of a heartbeat what it declares."""
    n = len(records)
    nothing = np.zeros(0, np.int64)
    offset, timestamp, sent_at = positions(records)
    return EventBatch(
        offset=offset,
        timestamp_ms=timestamp,
        sent_at_ms=sent_at,
        event_time_ms=np.array(declared, dtype=np.int64),
        placed_at_ms=np.full(n, ABSENT, dtype=np.int64),
        event_hash=np.full(n, ABSENT, dtype=np.int64),
        heartbeat=np.array(heartbeat, dtype=np.bool_),
        record=nothing,
        product=nothing,
        kind=nothing.astype(np.int8),
        quantity=np.zeros(0),
        amount=np.zeros(0),
        product_ids=(),
    )
