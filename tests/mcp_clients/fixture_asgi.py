"""The fixture server behind the hub's own mount class, for any ASGI server.

Under uvicorn the lifespan opens the door; daphne knows no lifespan, so there the first request does.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from mcpbridge.mount import DoorLimits, McpDoor, Receive, Scope, Send
from tests.mcp_clients.fixtures import build_fixture_server

LOCAL = ("127.0.0.1", "localhost")

_doors: list[McpDoor] = []
_opening = asyncio.Lock()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif McpDoor.serves(scope["path"]):
        door = await _door()
        await door(scope, receive, send)
    else:
        await _answer(send, 404)


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    door = await _door()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await door.stop()
    await send({"type": "lifespan.shutdown.complete"})


async def _door() -> McpDoor:
    """The one door of this process, open."""
    async with _opening:
        if not _doors:
            door = McpDoor(build_fixture_server(), admit=_admit, limits=DoorLimits())
            await door.start()
            _doors.append(door)
    return _doors[0]


async def _admit(scope: Scope, receive: Receive, send: Send) -> bool:
    """Everybody on this machine, and no page from elsewhere."""
    headers = dict(scope["headers"])
    host, origin = headers.get(b"host", b"").decode(), headers.get(b"origin", b"").decode()
    if urlsplit(f"//{host}").hostname in LOCAL and (not origin or urlsplit(origin).hostname in LOCAL):
        return True
    await _answer(send, 403)
    return False


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
