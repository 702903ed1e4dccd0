"""Rejected records, kept for people: the original bytes, and in headers where they came from and what is wrong with them.

Messages never hold field values; the value itself does, which is why only operators may read the topic. A dead letter can always be sent: what
would make it larger than a broker takes is cut off or left out, and the headers say so.
"""

from typing import Final

from streaming.contracts import CE_DEAD_LETTER, Headers, cloud_event
from streaming.decode import Record
from streaming.rejections import Rejected

# Brokers and producers take records of 1 MiB by default, all included; compressed batches may have held larger ones.
MAX_KEY_BYTES: Final = 64 * 1024
MAX_VALUE_BYTES: Final = 768 * 1024
MAX_HEADERS_BYTES: Final = 64 * 1024
# Of each original header: our prefix, and two lengths. Thousands of empty headers are large too.
HEADER_OVERHEAD_BYTES: Final = 16

# Our headers besides CloudEvents', and what they say. The last three are there only where they apply.
HEADERS: Final = {
    "source_topic": "Topic of the rejected record.",
    "source_partition": "Its partition.",
    "source_offset": "Its offset.",
    "source_timestamp": "Its Kafka timestamp, epoch ms.",
    "stage": "The worker that gave up.",
    "error_class": "What is wrong, for counting.",
    "path": "Where in the value the fault lies, as in `$.items[0].quantity`.",
    "message": "What is wrong, for people; without values of fields.",
    "key_bytes": "True size of a key that was too large and is cut off.",
    "value_bytes": "True size of a value that was too large and is cut off.",
    "headers_bytes": "Size of headers that were too large and are left out.",
}

# Headers of the rejected record are kept under this prefix, so that it can be sent again as it was.
ORIGINAL: Final = "original."


def dead_letter(record: Record, rejected: Rejected, stage: str) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers of the dead letter of a record; its id is the record's coordinates, so that repeating it changes nothing.

    `stage`: which worker gave up, `ingest` or `forecast`. Headers: CloudEvents', `HEADERS`, and the original ones.
    """
    source = f"/kafka/{record.topic}/{record.partition}"
    headers = cloud_event(CE_DEAD_LETTER, id=source_id(record), source=source, time_ms=record.timestamp)
    said = {
        "source_topic": record.topic,
        "source_partition": record.partition,
        "source_offset": record.offset,
        "source_timestamp": record.timestamp,
        "stage": stage,
        "error_class": rejected.error_class.value,
        "path": rejected.path,
        "message": rejected.message,
    }
    headers += [(name, str(value).encode()) for name, value in said.items()]
    key, key_cut = _cut("key", record.key, MAX_KEY_BYTES)
    value, value_cut = _cut("value", record.value, MAX_VALUE_BYTES)
    return key, value, [*headers, *key_cut, *value_cut, *_original(record)]


def source_id(record: Record) -> str:
    """Coordinates of a record: `orders/3/4711`."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def _cut(name: str, content: bytes | None, limit: int) -> tuple[bytes | None, Headers]:
    """At most `limit` bytes, and a header with the true number where there were more.

    >>> _cut("key", b"abc", 2), _cut("key", b"ab", 2), _cut("key", None, 2)
    ((b'ab', [('key_bytes', b'3')]), (b'ab', []), (None, []))
    """
    if content is None or len(content) <= limit:
        return content, []
    return content[:limit], [(f"{name}_bytes", str(len(content)).encode())]


def _original(record: Record) -> Headers:
    size = sum(len(name.encode()) + len(value or b"") + HEADER_OVERHEAD_BYTES for name, value in record.headers)
    if size > MAX_HEADERS_BYTES:
        return [("headers_bytes", str(size).encode())]
    return [(f"{ORIGINAL}{name}", value) for name, value in record.headers]
