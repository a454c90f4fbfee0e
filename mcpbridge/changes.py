"""Tells clients of changed resources: in the protocol of 2026 by `subscriptions/listen`, before that by
`resources/subscribe` and the session's own stream. Everybody hears of their owner's conversations alone."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.mcpserver import MCPServer
from mcp.server.session import ServerSession
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from chat.changes import SessionChange
from chat.keys import Caller
from chat.runtime import chat
from mcpbridge.resources import PROVIDERS_URI, provider_uri, session_uri
from mcpbridge.who import current_caller
from providers import runtime
from providers.status import Status
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

# A client that does not read its stream is not waited for.
SEND_WAIT_S = 5.0
MOST_URIS, MOST_URI_CHARS = 1_000, 2_048
FIRST_MODERN = "2026"

Deliver = Callable[[ServerEvent], None]


@dataclass(slots=True)
class _Old:
    """A session of the older protocol, and what it has subscribed to."""

    session: ServerSession
    caller: Caller
    uris: set[str] = field(default_factory=set)


class Changes:
    """The SDK's SubscriptionBus, and the same for older sessions. `stop` belongs to the event loop that serves.

    It listens to sessions and providers only while a client does.
    """

    def __init__(self) -> None:
        self._new: dict[object, tuple[Caller | None, Deliver]] = {}
        self._old: dict[int, _Old] = {}
        self._tasks = Tasks()
        self._ends: list[Callable[[], None]] = []

    # --- the protocol of 2026 ----------------------------------------------------------------------------------------

    def subscribe(self, listener: Deliver) -> Callable[[], None]:
        """The SDK's: called while a request for such a stream is handled, so its caller is known."""
        token = object()
        self._new[token] = (current_caller_or_none(), listener)
        self._listen()

        def unsubscribe() -> None:
            self._new.pop(token, None)
            self._listen()

        return unsubscribe

    async def publish(self, event: ServerEvent) -> None:
        """The SDK's: to everybody."""
        for _, deliver in list(self._new.values()):
            deliver(event)

    # --- older ones --------------------------------------------------------------------------------------------------

    def serve_older(self, server: MCPServer[Any]) -> None:
        """Have the server's older sessions told, too: the SDK has no broadcast for them, and would say so."""
        low = server._lowlevel_server
        low.create_initialization_options = functools.partial(  # type: ignore[method-assign]
            low.create_initialization_options, NotificationOptions(resources_changed=True)
        )
        low.add_request_handler("resources/subscribe", SubscribeRequestParams, self._on_subscribe)
        low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._on_unsubscribe)
        low.middleware.append(self._remember)

    async def _remember(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        caller = current_caller_or_none()
        if caller is not None and ctx.protocol_version < FIRST_MODERN:
            connection = ctx.session._connection
            if id(connection) not in self._old:
                self._old[id(connection)] = _Old(ctx.session, caller)
                connection.exit_stack.callback(self._forget, id(connection))
                self._listen()
        return await call_next(ctx)

    def _forget(self, key: int) -> None:
        self._old.pop(key, None)
        self._listen()

    async def _on_subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        old = self._old.get(id(ctx.session._connection))
        uri = str(params.uri)
        if old is not None and len(old.uris) < MOST_URIS and len(uri) <= MOST_URI_CHARS:
            old.uris.add(uri)
        return EmptyResult()

    async def _on_unsubscribe(
        self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        old = self._old.get(id(ctx.session._connection))
        if old is not None:
            old.uris.discard(str(params.uri))
        return EmptyResult()

    # --- what has changed --------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Hear of changes from the first client that wants to know until the last one leaves."""
        wants = bool(self._new or self._old)
        if wants and not self._ends:
            listeners = runtime.engine().on_change
            listeners.append(self._on_provider)
            self._ends = [chat().changes.subscribe(self._on_session), lambda: listeners.remove(self._on_provider)]
        elif not wants:
            self._stop_listening()

    def _stop_listening(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            end()

    def _on_session(self, change: SessionChange) -> None:
        uri = session_uri(change.session_id)
        is_listed_anew = change.kind != "changed"
        self._tell(uri, is_listed_anew, lambda caller: caller.owner == change.owner and "sessions" in caller.scopes)

    def _on_provider(self, name: str, status: Status) -> None:
        for uri in (PROVIDERS_URI, provider_uri(name)):
            self._tell(uri, False, lambda caller: caller.may_use_provider(name))

    def _tell(self, uri: str, is_listed_anew: bool, concerns: Callable[[Caller], bool]) -> None:
        for caller, deliver in list(self._new.values()):
            if caller is not None and concerns(caller):
                deliver(ResourceUpdated(uri=uri))
                if is_listed_anew:
                    deliver(ResourcesListChanged())
        for old in list(self._old.values()):
            if concerns(old.caller) and (is_listed_anew or uri in old.uris):
                self._tasks.start(self._send(old, uri, is_listed_anew), name="tell an MCP session")

    async def _send(self, old: _Old, uri: str, is_listed_anew: bool) -> None:
        try:
            async with asyncio.timeout(SEND_WAIT_S):
                if is_listed_anew:
                    await old.session.send_resource_list_changed()
                if uri in old.uris:
                    await old.session.send_resource_updated(uri)
        except Exception as error:  # its connection may be in any state
            logger.debug("an MCP session was not told: %r", error)

    async def stop(self) -> None:
        self._stop_listening()
        self._new.clear()
        self._old.clear()
        await self._tasks.cancel()


def current_caller_or_none() -> Caller | None:
    try:
        return current_caller()
    except LookupError:
        return None
