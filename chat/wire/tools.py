"""Functions, choices and formats of a request as the engine has them, whichever dialect they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chat.errors import BadRequest
from providers.events import ANY_OBJECT, Tool, Toolbox, ToolMode
from providers.json_depth import MOST_LEVELS, is_deeper
from providers.json_schema import SchemaInvalid, compiled

# JSON objects, of any shape.
NO_PARAMETERS = b'{"type":"object","properties":{}}'
MAX_SCHEMA_BYTES = 64 * 1024
MAX_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Function:
    """A function as the caller describes it; `where` it stands in the request."""

    name: str
    description: str
    parameters: dict[str, Any] | None
    where: str


def read_toolbox(functions: Sequence[Function], mode: ToolMode, only: str, *, is_parallel: bool | None) -> Toolbox:
    """Raises BadRequest, naming the field."""
    tools = tuple(
        Tool(it.name, it.description, _read_parameters(it) if it.parameters else NO_PARAMETERS) for it in functions
    )
    if sum(len(tool.schema) for tool in tools) > MAX_BYTES:
        raise BadRequest(f"the schemas of a request's tools have at most {MAX_BYTES} bytes together", param="tools")
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise BadRequest("every tool must have a name of its own", param="tools")
    if only and only not in names:
        raise BadRequest(f"tool_choice names {only!r}, which is not among the tools", param="tool_choice")
    if not tools and mode == "required":
        raise BadRequest("tool_choice asks for a call, and there are no tools", param="tool_choice")
    return Toolbox(tools, mode, only, is_parallel is not False)


def _read_parameters(function: Function) -> bytes:
    kind = (function.parameters or {}).get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise BadRequest("the parameters of a function are an object", param=function.where)
    return read_schema(function.parameters or {}, function.where)


def read_schema(schema: dict[str, Any], where: str) -> bytes:
    """A JSON Schema as JSON, once it is known to be one. Raises BadRequest."""
    if is_deeper(schema, MOST_LEVELS):
        raise BadRequest(f"a schema is nested at most {MOST_LEVELS} levels deep", param=where)
    try:
        written = orjson.dumps(schema)
        if len(written) > MAX_SCHEMA_BYTES:
            raise BadRequest(f"a schema has at most {MAX_SCHEMA_BYTES} bytes", param=where)
        compiled(written)
    except (SchemaInvalid, TypeError, RecursionError) as exc:
        raise BadRequest(f"that is no JSON Schema: {exc}", param=where) from exc
    return written


def read_arguments(arguments: str | None, where: str) -> str:
    """Arguments of a call in a history. Raises BadRequest for what no program on their way can hold."""
    try:
        is_deep = is_deeper(orjson.loads(arguments or "{}"), MOST_LEVELS)
    except ValueError:
        return arguments or "{}"
    if is_deep:
        raise BadRequest(f"arguments are nested at most {MOST_LEVELS} levels deep", param=where)
    return arguments or "{}"


def read_format(kind: str, schema: dict[str, Any] | None, where: str) -> bytes:
    """What the answer has to be an instance of; empty for one in words. Raises BadRequest."""
    if kind == "text":
        return b""
    if kind == "json_object":
        return ANY_OBJECT
    if schema is None:
        raise BadRequest("a json_schema format must have a schema", param=where)
    if schema.get("type", "object") != "object":
        raise BadRequest("the schema of an answer must be one of an object", param=where)
    return read_schema(schema, where)
