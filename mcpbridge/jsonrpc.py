"""JSON-RPC messages as the bridge sees them: bytes to pass on, and the little that decides where they go."""

from __future__ import annotations

import base64
import json
import logging
import re
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR, HUB_ERROR = -32700, -32600, -32603, -32000

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
# What a request is about, for who routes by headers (protocol 2026-07-28).
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
PLAIN = re.compile(r"[\x20-\x7E]*")
ENCODED = re.compile(r"=\?base64\?.*\?=")

RequestId = str | int | float


class BadMessage(Exception):
    """What came is no message; `error` is the answer to it, with the id None if it had none that can be used."""

    def __init__(self, code: int, reason: str, id: RequestId | None = None) -> None:
        super().__init__(reason)
        self.error = error_line(id, code, reason)


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came. Without an id it is a notification, without a method an answer."""

    body: bytes
    method: str
    id: RequestId | None
    params: dict[str, Any]

    @property
    def is_request(self) -> bool:
        return bool(self.method) and self.id is not None

    @property
    def version(self) -> str:
        """The protocol this very message speaks, of 2026 or later; empty in the eras that agree on one first."""
        meta = self.params.get("_meta")
        version = meta.get(VERSION_KEY, "") if isinstance(meta, dict) else ""
        return version if isinstance(version, str) else json.dumps(version)


def read_message(line: bytes) -> Message:
    """Raises BadMessage."""
    try:
        # Not left to json.loads, which would take UTF-16 as well, and the hub does not.
        parsed = json.loads(line.decode())
    except (ValueError, RecursionError) as exc:
        raise BadMessage(PARSE_ERROR, "Parse error: a message is one line of JSON in UTF-8") from exc
    if not isinstance(parsed, dict):
        raise BadMessage(INVALID_REQUEST, "Invalid request: a message is one JSON object (batches are not supported)")
    id, params = parsed.get("id"), parsed.get("params")
    id = id if isinstance(id, str | int | float) and not isinstance(id, bool) else None
    known = params if isinstance(params, dict) else {}
    match parsed:
        case {"method": str(method)} if method and (id is not None or "id" not in parsed):
            return Message(line, method, id, known)
        case {"result": _} | {"error": _} if "method" not in parsed:
            return Message(line, "", id, known)
    raise BadMessage(INVALID_REQUEST, "Invalid request: it has no method, or an id of the wrong kind", id)


def read_hubs(data: bytes) -> dict[str, Any]:
    """A message of the hub's; empty if it is none, which no client must see."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict) and parsed.keys() & {"method", "result", "error"}:
        return parsed
    logger.warning("passed over %d bytes from the hub that are no message", len(data))
    return {}


def routing_headers(message: Message) -> dict[str, str]:
    """What a request of 2026 repeats of itself in HTTP's headers."""
    # Never refused for its characters: what the hub thinks of a strange method is its own to say.
    headers = {"Mcp-Protocol-Version": encode_header_value(message.version)}
    if message.is_request:
        headers["Mcp-Method"] = encode_header_value(message.method)
    if (key := NAMED_BY.get(message.method)) and isinstance(named := message.params.get(key), str):
        headers["Mcp-Name"] = encode_header_value(named)
    return headers


def encode_header_value(value: str) -> str:
    """The value as a header can carry it, by the protocol's own rule."""
    if PLAIN.fullmatch(value) and value == value.strip() and not ENCODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode('utf-8', 'surrogatepass')).decode()}?="


def error_line(id: RequestId | None, code: int, message: str, data: Any = None) -> bytes:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return dump({"jsonrpc": "2.0", "id": id, "error": error})


def dump(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def one_line(text: bytes) -> bytes:
    """JSON on one line: a newline in it stands between tokens, never in a string."""
    return text.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in text or b"\r" in text else text
