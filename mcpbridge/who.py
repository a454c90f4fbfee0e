"""Who asks, inside MCP's handlers: the door has checked the key, the session's loop runs in a task of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from chat import log_ids
from chat.ids import new_id
from chat.keys import Caller

# Where the doors leave them in the request's ASGI scope.
SCOPE_KEY = "hub.caller"
REQUEST_ID_KEY = "hub.request_id"

_caller: ContextVar[Caller] = ContextVar("hub_mcp_caller")

Whose = Callable[[], Awaitable[Caller]]


def current_caller() -> Caller:
    """The caller of the message that is being handled. Raises LookupError outside of one."""
    return _caller.get()


class Identify:
    """Middleware that finds each message's caller: of its own HTTP request, else (on stdio) of `whose`."""

    def __init__(self, whose: Whose | None = None) -> None:
        self._whose = whose

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        asked = ctx.request.scope.get(REQUEST_ID_KEY) if ctx.request is not None else None
        log_ids.begin(asked or f"req_{new_id()}")
        caller = await self._find(ctx)
        if caller is None:
            return await call_next(ctx)
        token = _caller.set(caller)
        try:
            return await call_next(ctx)
        finally:
            _caller.reset(token)

    async def _find(self, ctx: ServerRequestContext[Any, Any]) -> Caller | None:
        if ctx.request is not None:
            found: Caller | None = ctx.request.scope.get(SCOPE_KEY)
            return found
        return await self._whose() if self._whose is not None else None
