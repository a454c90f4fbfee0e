"""The fixture whose schema has what no Python signature makes; clients must get every keyword of it."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver.tools import Tool

NAME = "json_schema_2020_12_tool"
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


async def answer() -> str:
    """A tool with the keywords of JSON Schema 2020-12."""
    return "It was called."


def schema_tool() -> Tool:
    tool = Tool.from_function(answer, name=NAME, structured_output=False)
    tool.parameters = SCHEMA
    return tool
