"""Sessions of Streamable HTTP, bounded: clients open one for each call and hardly ever close it."""

from __future__ import annotations

import math

from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


class BoundedSessions(StreamableHTTPSessionManager):
    """The SDK's manager, which lets the session go that is idle for longest rather than refuse a new client."""

    @property
    def count(self) -> int:
        return len(self._server_instances)

    def _admit_session(self, requestor: AuthorizationContext | None) -> StreamableHTTPServerTransport | None:
        if self.max_sessions is not None and self.count >= self.max_sessions:
            self._let_go()
        return super()._admit_session(requestor)

    def _let_go(self) -> None:
        # A session in use has no deadline.
        idle = [(deadline, key) for key, it in self._server_instances.items() if (deadline := _deadline(it)) < math.inf]
        if not idle:
            return
        _, key = min(idle)
        transport = self._server_instances.pop(key)
        self._session_owners.pop(key, None)
        if transport.idle_scope is not None:
            transport.idle_scope.cancel()  # its own task ends it then


def _deadline(transport: StreamableHTTPServerTransport) -> float:
    return math.inf if transport.idle_scope is None else transport.idle_scope.deadline
