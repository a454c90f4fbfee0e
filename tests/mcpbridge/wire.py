"""The official client, connected to a hub over each transport in each era of the protocol."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from tests.hub import HubProcess

WAIT_S = 20.0
# Transport and era.
WAYS = [("http", "auto"), ("http", "legacy"), ("sse", "auto"), ("sse", "legacy")]
MODERN = "2026-07-28"


@contextlib.asynccontextmanager
async def connected(
    hub: HubProcess,
    *,
    key: str = "",
    way: tuple[str, str] = WAYS[0],
    headers: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """A client with a key, the hub's own if none is given."""
    transport, era = way
    named = {"Authorization": f"Bearer {key or hub.key}", **(headers or {})}
    async with contextlib.AsyncExitStack() as stack:
        if transport == "http":
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=named, timeout=WAIT_S, trust_env=False))
            pipes = streamable_http_client(f"{hub.url}/mcp", http_client=http)
        else:
            pipes = sse_client(f"{hub.url}/sse", headers=named)
        yield await stack.enter_async_context(Client(pipes, mode=era, **options))


def text_of(result: CallToolResult) -> str:
    """What a person reads of a result."""
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


def fields_of(result: CallToolResult) -> dict[str, Any]:
    """What a program reads of one that is no error."""
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return dict(result.structured_content)


async def chat(client: Client, message: str, **arguments: Any) -> dict[str, Any]:
    """One turn with the demo provider."""
    return fields_of(await client.call_tool("chat", {"message": message, "provider": "echo", **arguments}))
