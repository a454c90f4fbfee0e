"""The errors of all rooms as MCP tells them: to the model as a tool's result, to the client as a protocol error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, TextContent

from chat.errors import ChatError
from chat.wire.openai_errors import as_http
from providers.errors import ProviderError


def as_tool_result(error: Exception) -> CallToolResult:
    """What a model can read and act on. One that was not foreseen is logged, and told without its words."""
    return CallToolResult(content=[TextContent(type="text", text=told(error))], is_error=True)


@contextmanager
def as_protocol_errors() -> Iterator[None]:
    """Raises MCPError for what the block raises of the other rooms' errors."""
    try:
        yield
    except (ChatError, ProviderError) as error:
        known = as_http(error)
        number = INVALID_PARAMS if known.status < 500 else INTERNAL_ERROR
        raise MCPError(number, told(error), {"code": known.body["error"]["code"]}) from error


def told(error: Exception) -> str:
    """An error in words: what happened, its code, and when to ask again."""
    known = as_http(error)
    about = known.body["error"]
    wait_s = known.headers.get("Retry-After")
    again = f"; try again in {wait_s} s" if wait_s and known.headers.get("X-Should-Retry", "true") == "true" else ""
    return f"{about['message']} ({about['code']}{again})"
