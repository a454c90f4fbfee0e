"""The resources: the providers, and the caller's own conversations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.types import ListResourcesResult, PaginatedRequestParams, Resource

from chat import choice, conversations, service
from chat.conversation import Head
from chat.errors import SessionNotFound
from chat.provider_bodies import ProviderList, describe
from chat.session_bodies import whole
from mcpbridge.failures import as_protocol_errors
from mcpbridge.who import current_caller
from providers import runtime
from providers.errors import ProviderUnknown

JSON = "application/json"
PROVIDERS_URI = "provider://list"
PAGE = 50


def provider_uri(name: str) -> str:
    return f"provider://{name}"


def session_uri(session_id: str) -> str:
    return f"session://{session_id}"


def add_resources(server: MCPServer[Any]) -> None:
    server.resource(PROVIDERS_URI, name="providers", title="Providers", mime_type=JSON)(read_providers)
    server.resource("provider://{name}", name="provider", title="One provider", mime_type=JSON)(read_provider)
    server.resource("session://{session_id}", name="session", title="A conversation", mime_type=JSON)(read_session)
    # The server's own list knows only what was registered: not the sessions, nor pages.
    server._lowlevel_server.add_request_handler("resources/list", PaginatedRequestParams, list_resources)


async def read_providers() -> str:
    """Every provider: its state, its models, its usage windows, and what mends it."""
    caller = current_caller()
    with as_protocol_errors():
        await service.count_request(caller)
        providers = [describe(it) for it in await choice.list_providers(caller)]
    return ProviderList(providers=providers).model_dump_json()


async def read_provider(name: str) -> str:
    """One provider by its name."""
    caller = current_caller()
    with as_protocol_errors(), _missing_as_not_found():
        await service.count_request(caller)
        provider = runtime.engine().provider(name)
        caller.check_provider(provider.name)
        await provider.open()
        return describe(provider).model_dump_json()


async def read_session(session_id: str) -> str:
    """A conversation of this key's owner, whole."""
    caller = current_caller()
    with as_protocol_errors(), _missing_as_not_found():
        await service.count_request(caller)
        caller.require("sessions")
        return whole(await conversations.get_session(caller, session_id)).model_dump_json()


@contextmanager
def _missing_as_not_found() -> Iterator[None]:
    """Raises the SDK's own error for what is not there, which tells the client the URI, too."""
    try:
        yield
    except (ProviderUnknown, SessionNotFound) as error:
        raise ResourceNotFoundError(error.message) from error


async def list_resources(
    ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None
) -> ListResourcesResult:
    """The providers, then the owner's conversations, the last used first."""
    after = (params.cursor if params is not None else None) or ""
    page = await _sessions(after)
    first = [] if after else [_providers()]
    return ListResourcesResult(resources=[*first, *map(_listed, page.heads)], next_cursor=page.next)


async def _sessions(after: str) -> conversations.Page:
    caller = current_caller()
    if "sessions" not in caller.scopes:
        return conversations.Page([], None)
    with as_protocol_errors():
        await service.count_request(caller)
        return await conversations.list_sessions(caller, after=after, limit=PAGE)


def _providers() -> Resource:
    return Resource(
        uri=PROVIDERS_URI, name="providers", title="Providers", description=read_providers.__doc__, mime_type=JSON
    )


def _listed(head: Head) -> Resource:
    return Resource(
        uri=session_uri(head.session_id),
        name=head.session_id,
        title=head.title or head.session_id,
        description=f"A conversation with {head.provider or 'no provider yet'}",
        mime_type=JSON,
    )
