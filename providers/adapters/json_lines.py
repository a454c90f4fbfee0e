"""What protocols of JSON lines share, most of them JSON-RPC: an object to a line, a reply to each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from providers.errors import ProtocolBroken, excerpt

Json = dict[str, Any]

METHOD_NOT_FOUND = -32_601


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one of our requests: `result`, or `error` if that is not empty."""

    id: int
    result: Json
    error: Json


def load_object(line: bytes, name: str) -> Json:
    """What a line of the program `name` holds. Raises ProtocolBroken unless that is a JSON object."""
    try:
        found = orjson.loads(line)
    except ValueError as exc:
        raise ProtocolBroken(f"{name} wrote no JSON: {excerpt(line)}") from exc
    if not isinstance(found, dict):
        raise ProtocolBroken(f"{name} wrote no object: {excerpt(line)}")
    return found


def read_reply(reply_id: int, rest: Mapping[str, Any]) -> Reply:
    """A reply whose parts may be of any kind; an error that is no object becomes one with its words."""
    result, error = rest.get("result"), rest.get("error")
    if error and not isinstance(error, dict):
        error = {"message": str(error)}
    return Reply(reply_id, result=result if isinstance(result, dict) else {}, error=error or {})
