"""The MCP door of this process: started once by whoever serves, reached by the ASGI application."""

from __future__ import annotations

from django.conf import settings

from mcpbridge.admission import admit
from mcpbridge.changes import Changes
from mcpbridge.mount import DoorLimits, McpDoor
from mcpbridge.server import build_server
from providers.errors import ShuttingDown

_running: list[tuple[McpDoor, Changes]] = []


def door() -> McpDoor:
    """Raises ShuttingDown when there is none (before the start, after the end)."""
    if not _running:
        raise ShuttingDown("the hub is not running")
    return _running[0][0]


async def start() -> McpDoor:
    """Open the door; the chat room and the engine have to run."""
    changes = Changes()
    limits = DoorLimits(
        idle_s=settings.HUB_MCP_IDLE_S,
        max_sessions=settings.HUB_MCP_MAX_SESSIONS,
        max_body_bytes=settings.HUB_MAX_BODY_BYTES,
    )
    opened = McpDoor(build_server(changes), admit=admit, limits=limits)
    await opened.start()
    _running[:] = [(opened, changes)]
    return opened


def hang_up() -> None:
    """End the streams that would hold up the server's end."""
    if _running:
        _running[0][0].hang_up()


async def stop() -> None:
    """End every MCP session and stream."""
    if _running:
        opened, changes = _running.pop()
        await opened.stop()
        await changes.stop()
