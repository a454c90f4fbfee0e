"""Serves both eras of the protocol on one pair of streams.

The SDK locks a pipe to the era of its first request. Real clients probe with `server/discover` and then initialise on
the same pipe, so each era gets a loop of its own, and each message goes where its envelope says.
"""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskGroup
from mcp.server.lowlevel.server import Server
from mcp.shared._context_streams import ContextSendStream, create_context_streams
from mcp.shared.message import SessionMessage
from mcp.types import PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCNotification, JSONRPCRequest

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
MODERN, LEGACY = "modern", "legacy"

# What no loop would answer: its sender may be waiting.
NO_JSON_RPC = SessionMessage(
    JSONRPCError(
        jsonrpc="2.0", id=None, error=ErrorData(code=PARSE_ERROR, message="this is no JSON-RPC message in UTF-8")
    )
)

Inlet = ContextSendStream[SessionMessage | Exception]


async def serve_both_eras(server: Server[Any], read: Any, write: Any) -> None:
    """Serve until `read` ends or this is cancelled; both loops' turns are cancelled with it."""
    async with anyio.create_task_group() as group, write:
        inlets = _Inlets(server, write, group)
        async for item in read:
            if isinstance(item, Exception):
                await write.send(NO_JSON_RPC)
                continue
            for inlet in inlets.of(item):
                await inlet.send(item)
        await inlets.close()


class _Inlets:
    """The entrances of the two loops, each begun by its first message."""

    def __init__(self, server: Server[Any], write: Any, group: TaskGroup) -> None:
        self._server = server
        self._write = write
        self._group = group
        self._open: dict[str, Inlet] = {}

    def of(self, item: SessionMessage) -> list[Inlet]:
        """Where a message goes: a cancellation to both loops, of which one doesn't know the request."""
        message = item.message
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled" and self._open:
            return list(self._open.values())
        if isinstance(message, JSONRPCRequest):
            meta = (message.params or {}).get("_meta") or {}
            return [self._inlet(MODERN if VERSION_KEY in meta else LEGACY)]
        return [self._inlet(LEGACY if LEGACY in self._open or not self._open else MODERN)]

    def _inlet(self, era: str) -> Inlet:
        if era not in self._open:
            self._open[era], receive = create_context_streams[SessionMessage | Exception](0)
            options = self._server.create_initialization_options()
            self._group.start_soon(self._server.run, receive, self._write.clone(), options)
        return self._open[era]

    async def close(self) -> None:
        for inlet in self._open.values():
            await inlet.aclose()
