"""The schemas that we publish say what our own reader accepts and what we send."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.contracts import CE_TYPES, Forecast, Message, Order, TrendAlert, encode, forecast_headers
from streaming.decode import Unreadable, read
from streaming.schemas import CHANNELS, asyncapi, json_schema, write
from streaming.settings import Settings
from streaming.topics import plan
from tests.streaming.records import EXAMPLES, dump, forecast, order
from tests.streaming.test_decode_fuzz import ORDERS

TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
# Annotations, and words that bind values of one type only and are met here with another.
SAY_NOTHING = {"title", "description", "default", "format", "$defs", "$schema", "properties", "required", "items", "pattern"}
SAY_NOTHING |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems"}


def violations(schema: dict[str, Any], value: Any, root: dict[str, Any], path: str = "$") -> list[str]:
    """Where a value breaks a JSON Schema, of the words that ours use; any other word is an error of this function."""
    broken = []
    for word, wanted in schema.items():
        match word:
            case "$ref":
                target: Any = root
                for name in wanted.removeprefix("#/").split("/"):
                    target = target[name]
                broken += violations(target, value, root, path)
            case "type":
                number = isinstance(value, int | float) and not isinstance(value, bool)
                right = (
                    number and (wanted == "number" or isinstance(value, int))
                    if wanted in ("number", "integer")
                    else isinstance(value, TYPES[wanted])
                )
                broken += [] if right else [f"{path}: not of type {wanted}"]
            case "anyOf":
                broken += [] if any(not violations(option, value, root, path) for option in wanted) else [f"{path}: none of anyOf"]
            case "enum" | "const":
                broken += [] if value in (wanted if word == "enum" else [wanted]) else [f"{path}: not allowed"]
            case "properties" if isinstance(value, dict):
                broken += [
                    b for name, inner in wanted.items() if name in value for b in violations(inner, value[name], root, f"{path}.{name}")
                ]
            case "required" if isinstance(value, dict):
                broken += [f"{path}: no {name}" for name in wanted if name not in value]
            case "items" if isinstance(value, list):
                broken += [b for i, inner in enumerate(value) for b in violations(wanted, inner, root, f"{path}[{i}]")]
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" if isinstance(value, int | float):
                held = {
                    "minimum": value >= wanted,
                    "maximum": value <= wanted,
                    "exclusiveMinimum": value > wanted,
                    "exclusiveMaximum": value < wanted,
                }
                broken += [] if held[word] else [f"{path}: {word}"]
            case "minLength" | "maxLength" | "minItems" | "maxItems" if isinstance(value, str | list):
                broken += [] if (len(value) >= wanted if word.startswith("min") else len(value) <= wanted) else [f"{path}: {word}"]
            case "pattern" if isinstance(value, str):
                broken += [] if re.search(wanted, value) else [f"{path}: {word}"]
            case _ if word not in SAY_NOTHING:
                raise AssertionError(f"unknown word {word}")
    return broken


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_keeps_to_its_schema(message: Message) -> None:
    document = json.loads(encode(message))
    schema, api = json_schema(type(message)), asyncapi()
    assert violations(schema, document, schema) == []
    assert violations(api["components"]["messages"][type(message).__name__]["payload"], document, api) == []
    for name in schema["$defs"][type(message).__name__]["required"]:
        without = {key: value for key, value in document.items() if key != name}
        assert violations(schema, without, schema)


@pytest.mark.parametrize("struct", [Forecast, TrendAlert])
def test_all_fields_of_what_is_sent_are_promised(struct: type[Any]) -> None:
    definition = json_schema(struct)["$defs"][struct.__name__]
    assert definition["required"] == list(struct.__struct_fields__)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(ORDERS, st.just(order())))
def test_the_schema_accepts_what_the_reader_accepts(document: dict[str, Any]) -> None:
    schema = json_schema(Order)
    text = dump(document)
    try:
        read(Order, text)
    except Unreadable as error:
        # What a schema can't say: bytes of ids, worth of lines, the date behind a text, and what is not JSON at all.
        unsaid = error.fault.error_class in ("bad_id", "bad_time", "not_json") or "times" in error.fault.message
        assert unsaid or violations(schema, document, schema)
    else:
        assert violations(schema, document, schema) == []


def test_the_asyncapi_document_is_whole() -> None:
    api = asyncapi()
    assert api["asyncapi"] == "3.0.0"
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(api)):
        target = api
        for name in reference.split("/"):
            target = target[name]
    for operation in api["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in api["channels"]
    used = {reference["$ref"] for channel in api["channels"].values() for reference in channel["messages"].values()}
    assert used == {f"#/components/messages/{name}" for name in api["components"]["messages"]}


def test_every_topic_is_described() -> None:
    addresses = {channel.address.replace("{namespace}", Settings().namespace) for channel in CHANNELS.values()}
    assert addresses == {topic.name for topic in plan(Settings(facts_topic="product-facts", context_topic="context"))}
    assert {channel.struct for channel in CHANNELS.values() if channel.struct} == set(CE_TYPES)


def test_headers_that_are_sent_keep_to_the_document() -> None:
    schema = asyncapi()["components"]["messages"]["Forecast"]["headers"]
    headers = {name: value.decode() for name, value in forecast_headers(forecast(), "/trendcast/shop")}
    assert violations(schema, headers, schema) == []


def test_files_are_written_where_asked_and_are_json(tmp_path: Path) -> None:
    paths = write(tmp_path / "new" / "folder")
    assert {path.name for path in paths} == {f"{struct.__name__}.schema.json" for struct in CE_TYPES} | {"asyncapi.json"}
    documents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    assert documents["asyncapi.json"] == asyncapi()
    assert documents["Order.schema.json"] == json_schema(Order)
    assert [path.read_bytes() for path in write(tmp_path)] == [path.read_bytes() for path in paths]
