"""The caller's tools as the CLI's dynamic tools: offered by the client, called over its pipe, never run by the CLI.

On the way to the vendor the CLI rewrites the schema of a tool to what it knows: bounds, patterns, formats and defaults
are gone, from a large schema all descriptions too. What would be lost so is told in the tool's description instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import orjson

from providers.adapters.json_lines import Json
from providers.events import Tool, ToolCall

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# Refused by the CLI, or dropped in silence because a tool of its own has that name.
TAKEN = re.compile(r"mcp__.*|exec_command|shell_command")
MARK_CHARS = 8

# Of a schema larger than 5,000 bytes the CLI keeps no description.
SCHEMA_BYTES = 4_900
# Words of a schema that the CLI hands on, and those that tell a model nothing.
KEPT = {
    *("type", "description", "properties", "required", "items", "additionalProperties", "enum", "const", "minItems"),
    *("anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions"),
}
EMPTY_WORDS = {"$schema", "$id", "$comment", "title"}
# Without one of them the CLI takes a schema for one of anything, whatever else it says.
KINDS = {"type", "anyOf", "oneOf", "allOf", "$ref"}

SCHEMA_NOTE = "\n\nThe arguments are an object of this JSON Schema: "


def name_for(name: str) -> str:
    """The name under which the vendor sees a tool: the caller's, wherever that can be."""
    if NAME.fullmatch(name) and not TAKEN.fullmatch(name):
        return name
    mark = sha256(name.encode(errors="surrogatepass")).hexdigest()[:MARK_CHARS]
    return f"tool_{re.sub(r'[^a-zA-Z0-9_-]', '_', name)[:40]}_{mark}"


def offer(tool: Tool) -> Json:
    """A tool in the words of the CLI's protocol."""
    schema = orjson.loads(tool.schema)
    is_whole = len(tool.schema) <= SCHEMA_BYTES and is_kept(schema)
    note = "" if is_whole else f"{SCHEMA_NOTE}{orjson.dumps(schema).decode()}"
    described = f"{tool.description}{note}"
    return {"type": "function", "name": name_for(tool.name), "description": described, "inputSchema": schema}


def is_kept(schema: Any) -> bool:
    """Whether the vendor gets a schema in full."""
    if not isinstance(schema, dict) or not (KEPT | EMPTY_WORDS).issuperset(schema):
        return False
    if schema.keys() - EMPTY_WORDS and not KINDS.intersection(schema):
        return False
    # A list without a kind of items is made one of texts.
    if "array" in _list(schema.get("type")) and "items" not in schema:
        return False
    return all(map(is_kept, _parts(schema)))


def _parts(schema: Json) -> Iterable[Any]:
    """The schemas a schema is made of."""
    for word in ("properties", "$defs", "definitions"):
        yield from found.values() if isinstance(found := schema.get(word), dict) else ()
    for word in ("anyOf", "oneOf", "allOf"):
        yield from found if isinstance(found := schema.get(word), list) else ()
    yield from (
        schema[word] for word in ("items", "additionalProperties") if not isinstance(schema.get(word, True), bool)
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Offered:
    """What a thread offers, as its calls are read."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._own_names = {name_for(tool.name): tool.name for tool in tools}

    def read(self, item: Json) -> ToolCall | None:
        """The call in an item of an answer; None for one that no client could answer."""
        match item:
            case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
                return ToolCall(call_id, self._own_names.get(name, name), arguments)
            case {"type": "custom_tool_call", "call_id": str(call_id), "name": str(name), "input": str(text)}:
                return ToolCall(call_id, self._own_names.get(name, name), orjson.dumps({"input": text}).decode())
        return None

    def is_parked(self, item: Json) -> bool:
        """Whether the CLI waits for the client to answer a call. To any other it answers by itself, and asks again."""
        if item.get("type") != "function_call" or item.get("name") not in self._own_names:
            return False
        if item.get("namespace") not in (None, "functions"):
            return False
        try:
            orjson.loads(str(item.get("arguments")))
        except ValueError:
            return False
        return True
