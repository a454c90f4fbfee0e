"""A small MCP server for the bundle's bridge: it wants a key and remembers what reached it over HTTP.

Run by uvicorn in a process of its own, which a test may end in the middle of an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.mcpserver import Context, MCPServer

KEY = "hub_alices-key"
SEEN_PATH = "/seen"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

server: MCPServer[Any] = MCPServer("small", version="1", log_level="ERROR")
seen: list[dict[str, str]] = []


@server.tool()
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(name="grüße ")
async def greet(name: str) -> str:
    """A name that no header can carry as it is, and a text that some take for two lines."""
    return f"Grüße,\u2028{name}"


@server.tool()
async def wait(ctx: Context[Any, Any]) -> str:
    """Say that it has begun, and never end."""
    await ctx.report_progress(1, None, "begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        seen.append({"method": "CANCELLED"})
        raise
    return ""


@server.tool()
async def die(ctx: Context[Any, Any]) -> str:
    """Take the server down in the middle of an answer."""
    await ctx.report_progress(1, None, "begun")
    os._exit(1)


@server.tool()
async def announce(ctx: Context[Any, Any]) -> str:
    """Tell a client of the older eras of something outside of this answer."""
    await ctx.session.send_tool_list_changed()
    return "announced"


_app: Any = server.streamable_http_app()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await _app(scope, receive, send)
        return
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    if scope["path"] == SEEN_PATH:
        await _answer(send, 200, seen)
    elif headers.get("authorization") != f"Bearer {KEY}":
        await _answer(send, 401, {"error": {"message": "this key is not valid", "code": "invalid_api_key"}})
    else:
        seen.append({"method": scope["method"], **headers})
        await _app(scope, receive, send)


async def _answer(send: Send, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
