"""The MCP door over HTTP: Streamable HTTP at /mcp, the older SSE transport at /sse and /messages/.

A pure ASGI application beside Django's: none of Django's middleware runs for these paths. The SDK's session manager
must be entered and left by one task, which is the door's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.sse import SseServerTransport
from mcp.server.transport_security import TransportSecuritySettings

from mcpbridge.eras import serve_both_eras
from mcpbridge.sessions import BoundedSessions
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# Lets a request in: puts its caller into the scope, or answers it itself and returns False.
Admit = Callable[[Scope, Receive, Send], Awaitable[bool]]

MCP_PATHS = ("/mcp", "/mcp/")
SSE_PATHS = ("/sse", "/sse/")
MESSAGES = "/messages/"

STOP_WAIT_S = 5.0
DELIVER_WAIT_S = 2.0

# Hosts and origins are checked by the door that admits, which knows wildcards and the settings.
NO_GUARD = TransportSecuritySettings(enable_dns_rebinding_protection=False)


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """`idle_s`: a session without a request for so many seconds ends. Beyond `max_sessions` the idlest one does."""

    idle_s: float = 600.0
    max_sessions: int = 500
    max_body_bytes: int = 16 * 1024 * 1024


class McpDoor:
    """One MCP server over HTTP. `start` and `stop` belong to the event loop that serves; it starts once."""

    def __init__(self, server: MCPServer[Any], *, admit: Admit, limits: DoorLimits) -> None:
        self._low = server._lowlevel_server
        self._admit = admit
        self._sessions = BoundedSessions(
            self._low,
            security_settings=NO_GUARD,
            session_idle_timeout=limits.idle_s,
            max_sessions=limits.max_sessions,
            max_request_body_size=limits.max_body_bytes,
        )
        self._sse = SseServerTransport(MESSAGES, NO_GUARD, limits.max_body_bytes)
        self._ready, self._stopping = asyncio.Event(), asyncio.Event()
        self._tasks = Tasks()
        self._calls: set[asyncio.Task[Any]] = set()
        self._listeners: set[asyncio.Task[Any]] = set()
        self._hung_up: set[asyncio.Task[Any]] = set()

    @staticmethod
    def serves(path: str) -> bool:
        return path in MCP_PATHS or path in SSE_PATHS or path.startswith(MESSAGES)

    @property
    def session_count(self) -> int:
        return self._sessions.count

    @property
    def stream_count(self) -> int:
        """Clients that listen, without having asked."""
        return len(self._listeners)

    @property
    def call_count(self) -> int:
        return len(self._calls)

    async def start(self) -> None:
        self._tasks.start(self._own_sessions(), name="MCP sessions")
        await self._ready.wait()

    async def _own_sessions(self) -> None:
        async with self._sessions.run():
            self._ready.set()
            await self._stopping.wait()

    def hang_up(self) -> None:
        """End what would never end by itself, the streams of clients that only listen. Calls go on."""
        self._cancel(self._listeners)

    def _cancel(self, tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks - self._hung_up:
            self._hung_up.add(task)
            task.cancel()

    async def stop(self) -> None:
        """End every session and stream; calls whose turns are over may still deliver their answers."""
        self.hang_up()
        if self._calls:
            await asyncio.wait(self._calls, timeout=DELIVER_WAIT_S)
        self._stopping.set()
        self._cancel(self._calls)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_WAIT_S):
                await self._tasks.drain()
                if left := self._listeners | self._calls:
                    await asyncio.wait(left)
        await self._tasks.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        answer = _Answer(send)
        held = self._listeners if _only_listens(scope) else self._calls
        held.add(task)
        try:
            await self._serve(scope, receive, answer.send)
        except asyncio.CancelledError:
            if task not in self._hung_up or task.uncancel():
                raise  # the server's doing
            await answer.end()
        finally:
            held.discard(task)
            self._hung_up.discard(task)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = dict(scope)
        if not await self._admit(scope, receive, send):
            return
        # Both spellings, and no redirect between them: some clients lose the key or the body on the way.
        path, app = self._app(scope["path"])
        await app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, receive, send)

    def _app(self, path: str) -> tuple[str, App]:
        if path in MCP_PATHS:
            return MCP_PATHS[0], self._sessions.asgi_app
        if path in SSE_PATHS:
            return SSE_PATHS[0], self._serve_sse
        return path, self._sse.handle_post_message

    async def _serve_sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await refuse_method(send, "GET")
            return
        async with self._sse.connect_sse(scope, receive, send) as (read, write):
            await serve_both_eras(self._low, read, write)


class _Answer:
    """Knows how far an answer has come, so that one which is cut off can be ended as HTTP wants it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_open = False

    async def send(self, message: Any) -> None:
        self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        if self._is_open:
            await self._send({"type": "http.response.body", "body": b""})


def _only_listens(scope: Scope) -> bool:
    return scope["method"] == "GET" or (b"mcp-method", b"subscriptions/listen") in scope["headers"]


async def refuse_method(send: Send, allowed: str) -> None:
    headers = [(b"allow", allowed.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 405, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
