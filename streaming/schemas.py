"""JSON Schemas of all messages and an AsyncAPI 3 document, made from the structs of `streaming.contracts`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from streaming.contracts import (
    CE_DEAD_LETTER,
    CE_TYPES,
    SENT_AT,
    WATERMARK,
    AlertFeedback,
    Click,
    Context,
    Doorbell,
    Forecast,
    ForecastScores,
    Order,
    ProductFacts,
    TrendAlert,
)
from streaming.deadletters import HEADERS, ORIGINAL
from streaming.rejections import ErrorClass
from streaming.settings import Settings

Schema = dict[str, Any]
Action = Literal["receive", "send"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# The contracts' own version, which grows with their `schema` numbers and not with the program.
CONTRACTS_VERSION: Final = "1.0.0"

_DIGITS: Final[Schema] = {"type": "string", "pattern": "^[0-9]+$"}
_HEARTBEAT: Final = "Heartbeat"
_TOMBSTONE: Final = "Tombstone"
_DEAD_LETTER: Final = "DeadLetter"


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic. `action` is what trendcast does with it."""

    address: str
    struct: type[Struct] | None
    key: str
    action: Action
    description: str
    also: tuple[str, ...] = ()  # further messages without a JSON value


def _topic(setting: str) -> str:
    return str(Settings.model_fields[setting].default)


CHANNELS: Final = {
    "orders": Channel(_topic("orders_topic"), Order, "any", "receive", "What happened to orders.", (_HEARTBEAT,)),
    "clickstream": Channel(_topic("clickstream_topic"), Click, "any", "receive", "What visitors do.", (_HEARTBEAT,)),
    "productFacts": Channel(
        "product-facts", ProductFacts, "the product", "receive", "What the shop knows of its products. Compacted.", (_HEARTBEAT, _TOMBSTONE)
    ),
    "context": Channel(
        "context", Context, "the series", "receive", "Named series that are no product's. Compacted.", (_HEARTBEAT, _TOMBSTONE)
    ),
    "alertFeedback": Channel(
        _topic("feedback_topic"), AlertFeedback, "the alert", "receive", "What people say of alerts. Compacted.", (_TOMBSTONE,)
    ),
    "productUpdates": Channel(
        "{namespace}-product-updates", Doorbell, "none: the partition is the shard", "send", "Doorbell from ingest to forecast workers."
    ),
    "forecasts": Channel(
        _topic("forecasts_topic"),
        Forecast,
        "the product; of aggregates, level/shop or level/category/name",
        "send",
        "The newest forecast of each product, of each category and of the shop. Compacted.",
        (_TOMBSTONE,),
    ),
    "trendAlerts": Channel(
        _topic("alerts_topic"), TrendAlert, "the product", "send", "Sudden changes of demand: firing, updated, resolved."
    ),
    "forecastScores": Channel(
        _topic("scores_topic"),
        ForecastScores,
        "the shard; of a challenger's, shard/version",
        "send",
        "How good the forecasts of each day were. Compacted.",
    ),
    "deadLetters": Channel(
        _topic("dead_letters_topic"),
        None,
        "that of the record",
        "send",
        "Records that could not be counted. For operators only.",
        (_DEAD_LETTER,),
    ),
}
STRUCTS: Final = tuple(CE_TYPES)
# Every field of what we send is there, even where it has a default.
_SENT: Final = {channel.struct.__name__ for channel in CHANNELS.values() if channel.struct and channel.action == "send"}


def write(out_dir: Path) -> list[Path]:
    """Write `<Message>.schema.json` for each message, and `asyncapi.json`; returns their paths. Makes the folder where it is missing."""
    documents = {f"{struct.__name__}.schema.json": json_schema(struct) for struct in STRUCTS}
    documents["asyncapi.json"] = asyncapi()
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (out_dir / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [out_dir / name for name in documents]


def json_schema(struct: type[Struct]) -> Schema:
    """JSON Schema of one message, complete in itself."""
    (reference,), definitions = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    return {"$schema": DIALECT, **reference, "$defs": _tidied(definitions)}


def asyncapi() -> Schema:
    """The AsyncAPI 3.0 document of all topics."""
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "trendcast",
            "version": CONTRACTS_VERSION,
            "description": "Streaming forecaster of product demand: orders and clicks in, forecasts and trend alerts out.",
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(channel) for name, channel in CHANNELS.items()},
        "operations": {
            f"{channel.action}{name[0].upper()}{name[1:]}": {"action": channel.action, "channel": {"$ref": f"#/channels/{name}"}}
            for name, channel in CHANNELS.items()
        },
        "components": {"messages": _messages(), "schemas": _tidied(schemas)},
    }


def _channel(channel: Channel) -> Schema:
    names = ([channel.struct.__name__] if channel.struct else []) + list(channel.also)
    described: Schema = {
        "address": channel.address,
        "description": f"{channel.description} Key: {channel.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    if "{namespace}" in channel.address:
        described["parameters"] = {"namespace": {"default": _topic("namespace"), "description": "One shop's namespace."}}
    return described


def _messages() -> Schema:
    messages: Schema = {}
    for channel in CHANNELS.values():
        if channel.struct is not None:
            name = channel.struct.__name__
            messages[name] = {
                "name": name,
                "contentType": "application/json",
                "headers": _headers(CE_TYPES[channel.struct], channel.action),
                "payload": {"$ref": f"#/components/schemas/{name}"},
            }
    watermark = {
        WATERMARK: {**_DIGITS, "description": "Every event before this time, in epoch milliseconds, has been sent to this partition."}
    }
    messages[_HEARTBEAT] = {
        "name": _HEARTBEAT,
        "summary": "An empty value: moves an idle partition's time.",
        "headers": {"type": "object", "properties": watermark, "required": [WATERMARK]},
        "payload": {"type": "null"},
    }
    messages[_TOMBSTONE] = {"name": _TOMBSTONE, "summary": "An empty value: the product is forgotten.", "payload": {"type": "null"}}
    dead_letter = _headers(CE_DEAD_LETTER, "send")
    dead_letter["properties"] |= {name: {"type": "string", "description": text} for name, text in HEADERS.items()}
    dead_letter["properties"]["error_class"]["enum"] = [each.value for each in ErrorClass]
    dead_letter["patternProperties"] = {f"^{ORIGINAL.replace('.', '[.]')}": {"description": "A header of the rejected record."}}
    messages[_DEAD_LETTER] = {
        "name": _DEAD_LETTER,
        "contentType": "application/octet-stream",
        "summary": "The original bytes.",
        "headers": dead_letter,
        "payload": {"description": "Whatever was sent."},
    }
    return messages


def _headers(ce_type: str, action: Action) -> Schema:
    """CloudEvents, binary mode; on what we read they are optional, and so is the time of sending."""
    properties: Schema = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "minLength": 1},
        "ce_type": {"type": "string", "const": ce_type},
        "ce_source": {"type": "string", "minLength": 1},
        "ce_time": {"type": "string", "format": "date-time"},
    }
    if action == "send":
        return {"type": "object", "properties": properties, "required": list(properties)}
    sent_at = {SENT_AT: {**_DIGITS, "description": "Real time of sending, epoch milliseconds; without it the Kafka timestamp is taken."}}
    return {"type": "object", "properties": properties | sent_at}


def _tidied(definitions: Schema) -> Schema:
    """What we send has all its fields, and pairs are said in words that older dialects (AsyncAPI's own) know too."""
    for name, definition in definitions.items():
        if name in _SENT:
            definition["required"] = list(definition["properties"])
        if "description" in definition:
            definition["description"] = " ".join(definition["description"].split())
        for field in definition["properties"].values():
            if "prefixItems" in field:
                field["items"] = field.pop("prefixItems")[0]
    return definitions
