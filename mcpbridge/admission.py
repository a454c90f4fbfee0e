"""Who may use the MCP door: a host and an origin the settings know, and a key with the scope `mcp`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import orjson
from django.conf import settings
from django.http.request import split_domain_port, validate_host
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from chat import log_ids
from chat.addresses import address_of
from chat.auth import gate, key_from_headers
from chat.errors import ChatError
from chat.keys import Caller
from chat.wire.openai_errors import as_http, error_body
from mcpbridge.mount import Receive, Scope, Send
from mcpbridge.who import SCOPE_KEY

SCOPE = "mcp"
Headers = dict[str, str]


async def admit(scope: Scope, receive: Receive, send: Send) -> bool:
    """Put the caller into the scope; else answer with what is wrong, as the other doors do, and return False."""
    headers = {name.decode("latin1").lower(): value.decode("latin1") for name, value in scope["headers"]}
    if (refusal := _foreign(headers)) is not None:
        status, message = refusal
        await _answer(send, status, error_body(message, "invalid_request_error", code="bad_request"), {})
        return False
    try:
        caller = await _caller(scope, headers)
    except ChatError as error:
        await answer_error(send, error)
        return False
    log_ids.add(key_id=caller.key_id)
    scope[SCOPE_KEY] = caller
    scope["user"] = _user(caller)
    return True


def _foreign(headers: Headers) -> tuple[int, str] | None:
    """A page that a browser was lured to must not reach a hub on this machine (DNS rebinding)."""
    host, origin = headers.get("host", ""), headers.get("origin", "")
    if not _is_known_host(host):
        return 421, f"this hub does not answer to the host {host[:100]!r} (HUB_ALLOWED_HOSTS)"
    if origin and not _is_known_origin(origin):
        return 403, f"requests from the origin {origin[:100]!r} are refused (HUB_ALLOWED_ORIGINS)"
    return None


def _is_known_host(host: str) -> bool:
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


def _is_known_origin(origin: str) -> bool:
    return origin.rstrip("/") in settings.HUB_ALLOWED_ORIGINS or _is_known_host(urlsplit(origin).netloc)


async def _caller(scope: Scope, headers: Headers) -> Caller:
    """Raises ChatError."""
    query = scope.get("query_string", b"").decode("latin1")
    key = key_from_headers(lambda name: headers.get(name.lower(), ""), query=query)
    caller = await gate().admit(key, address=address_of(scope))
    caller.require(SCOPE)
    return caller


def _user(caller: Caller) -> AuthenticatedUser:
    """What the SDK ties a session to: nobody else's key may speak in it. It never sees the key itself."""
    token = AccessToken(token="", client_id=str(caller.key_id), subject=caller.owner, scopes=sorted(caller.scopes))
    return AuthenticatedUser(token)


async def answer_error(send: Send, error: Exception) -> None:
    """Answer with an error as the REST door would."""
    known = as_http(error)
    await _answer(send, known.status, known.body, known.headers)


async def _answer(send: Send, status: int, body: Any, headers: Headers) -> None:
    content = orjson.dumps(body)
    named = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    raw = [(name.encode("latin1"), value.encode("latin1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
