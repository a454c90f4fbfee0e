"""The errors of all rooms as MCP tells them: to the model as a tool's result, to the client as a protocol error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, TextContent

from chat.errors import ChatError
from chat.wire.openai_errors import as_http
from providers.errors import ProviderError

PYDANTICS_OWN = re.compile(r" \[type=.*\]$|\n +For further information visit .*$", re.MULTILINE)


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


async def tell_plainly(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware that leaves of a complaint about arguments what a model can use: the field and what is wrong."""
    result = await call_next(ctx)
    if ctx.method == "tools/call" and isinstance(result, dict) and result.get("isError"):
        for content in result["content"]:
            if "text" in content:
                content["text"] = PYDANTICS_OWN.sub("", content["text"])
    return result


def told(error: Exception) -> str:
    """An error in words: what happened, its code, and when to ask again."""
    known = as_http(error)
    about = known.body["error"]
    wait_s = known.headers.get("Retry-After")
    again = f"; try again in {wait_s} s" if wait_s and known.headers.get("X-Should-Retry", "true") == "true" else ""
    return f"{about['message']} ({about['code']}{again})"
