"""An answer in JSON: by the vendor's own switch where that takes the schema, else by a word of the developer's.

The CLI has the vendor hold the model to a schema strictly, and there is no other way. Strictly the vendor takes a part
of JSON Schema alone, in which every object names all it holds, and refuses the request for any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from providers.adapters.json_lines import Json
from providers.events import ANY_OBJECT

WORDS = {
    *("type", "title", "description", "enum", "const", "properties", "required", "additionalProperties", "items"),
    *("anyOf", "$ref", "$defs", "definitions", "pattern", "format", "minItems", "maxItems", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
# At the top alone.
DIALECT = "$schema"

ALONE = "Your whole answer is JSON alone, with no word and no fence around it: "


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is asked for: `schema` for the vendor to hold the model to, or a `note` for the model."""

    schema: Json | None = None
    note: str = ""


def form_of(json_schema: bytes) -> Form:
    if not json_schema:
        return Form()
    if json_schema == ANY_OBJECT:
        return Form(note=f"{ALONE}one object.")
    schema = orjson.loads(json_schema)
    if is_strict(schema):
        return Form(schema=schema)
    return Form(note=f"{ALONE}an instance of this JSON Schema: {orjson.dumps(schema).decode()}")


def is_strict(schema: Any) -> bool:
    """Whether the vendor takes a schema as one it can hold the model to."""
    if not isinstance(schema, dict) or schema.get("type") != "object" or "anyOf" in schema:
        return False
    return _fits({word: value for word, value in schema.items() if word != DIALECT})


def _fits(schema: Any) -> bool:
    if not isinstance(schema, dict) or not WORDS.issuperset(schema):
        return False
    if schema.get("format", "date") not in FORMATS:
        return False
    if _may_be_object(schema) and not _is_closed(schema):
        return False
    named = [schema.get(word) for word in ("properties", "$defs", "definitions")]
    parts = [part for found in named if isinstance(found, dict) for part in found.values()]
    parts += [*schema.get("anyOf", ()), *(schema[word] for word in ("items",) if word in schema)]
    return all(map(_fits, parts))


def _may_be_object(schema: Json) -> bool:
    kinds = schema.get("type", ())
    return "object" in ((kinds,) if isinstance(kinds, str) else kinds) or "properties" in schema


def _is_closed(schema: Json) -> bool:
    names = schema.get("properties", {}).keys()
    return schema.get("additionalProperties") is False and names == set(schema.get("required", ()))
