"""The API's own handler chain: Django's request and response, without what costs a thread hand-over per request.

Django's standard chain runs synchronous middleware, request signals and response closing in threads, 0.2 to 0.5 ms
each. /v1 and /health need none of that: they are async throughout. Bodies are bounded while they are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import lru_cache
from inspect import iscoroutinefunction
from io import BytesIO
from typing import IO, Any, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import BadRequest, RequestAborted, SuspiciousOperation
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, resolve, set_script_prefix

from chat.answering import EventStreamResponse
from chat.requests import HubRequest, hub_request
from chat.wire.openai_errors import error_body
from chat.wire.sse import HEARTBEAT
from hubsite import access, api
from hubsite.heartbeat import Heartbeat, Message, Send
from hubsite.readiness import is_leaving

Receive = Callable[[], Awaitable[Message]]
View = Callable[..., Awaitable[HttpResponseBase]]

# Nearly all requests go to a handful of paths, and to search for each costs more than the rest of this file.
PATHS_KEPT = 64


class BodyTooLarge(Exception):
    """The body is over HUB_MAX_BODY_BYTES."""


class LeanHandler(ASGIHandler):
    """Serves the async views of the URLconf without any middleware."""

    def load_middleware(self, is_async: bool = False) -> None:
        """There is none, and that is the point."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        began_at = access.begin(scope)
        try:
            await self._handle(scope, receive, send)
        finally:
            access.end(scope, began_at)

    async def _handle(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            body = await self._read_bounded(receive)
        except RequestAborted:
            return
        except BodyTooLarge:
            await self._finish(_too_large(), scope, send)
            return
        if root_path := scope.get("root_path", ""):
            set_script_prefix(root_path)
        with body:
            request, refusal = self.create_request(scope, body)
            if request is not None:
                await self._serve(request, receive, send)
            elif refusal is not None:
                await self._finish(refusal, scope, send)

    async def _read_bounded(self, receive: Receive) -> IO[bytes]:
        """Raises BodyTooLarge, RequestAborted."""
        limit, received = settings.HUB_MAX_BODY_BYTES, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLarge
            return message

        first = await counted()
        if first["type"] == "http.request" and not first.get("more_body", False):
            # All at once, as most come: no need of Django's file, which moves to the disk when it grows.
            return BytesIO(first.get("body", b""))
        return await self.read_body(_again(first, counted))

    async def _serve(self, request: ASGIRequest, receive: Receive, send: Send) -> None:
        """Answer, and stop at once when the client is gone: what it asked for must not run on."""
        asked = hub_request(request)
        asked.request_id, asked.answer_headers = request.scope["hub.request_id"], {}
        work = cast("asyncio.Task[None]", asyncio.current_task())
        hang_up = asyncio.ensure_future(receive())
        hang_up.add_done_callback(lambda ended: None if ended.cancelled() else work.cancel())
        try:
            await self._respond(asked, send)
        except asyncio.CancelledError:
            if not hang_up.done() or work.uncancel():
                raise  # the server ends, too
            _scope(request)["hub.status"] = access.HUNG_UP
        finally:
            hang_up.cancel()

    async def _respond(self, request: HubRequest, send: Send) -> None:
        response = await self._get_response(request)
        for name, value in request.answer_headers.items():
            response.setdefault(name, value)
        await self._finish(response, _scope(request), send)

    async def _finish(self, response: HttpResponseBase, scope: dict[str, Any], send: Send) -> None:
        scope["hub.status"] = response.status_code
        response["X-Request-ID"] = scope["hub.request_id"]
        if is_leaving():
            response["Connection"] = "close"  # the balancer's next request is to find another hub
        if isinstance(response, HttpResponse):
            response["Content-Length"] = str(len(response.content))
        if isinstance(response, EventStreamResponse):
            try:
                with Heartbeat(send, HEARTBEAT, settings.HUB_HEARTBEAT_S) as heartbeat:
                    await self.send_response(response, heartbeat.send)
            finally:
                await response.release()
        else:
            await self.send_response(response, send)

    async def _get_response(self, request: HttpRequest) -> HttpResponseBase:
        try:
            request.get_host()
            match, run = _view_at(request.path_info, settings.ROOT_URLCONF)
            request.resolver_match = match
            _scope(request)["hub.route"] = match.route
            return _in_error_shape(await run(request, *match.args, **match.kwargs))
        except Http404:
            return api.not_found(request)
        except (SuspiciousOperation, BadRequest):
            return api.bad_request(request)
        except Exception as error:
            return api.on_error(request, error)


@lru_cache(maxsize=PATHS_KEPT)
def _view_at(path: str, urlconf: str) -> tuple[ResolverMatch, View]:
    """What serves a path, as something to await. Raises Http404."""
    match = resolve(path, urlconf)
    return match, match.func if iscoroutinefunction(match.func) else sync_to_async(match.func)


def _scope(request: HttpRequest) -> dict[str, Any]:
    return cast("dict[str, Any]", cast(ASGIRequest, request).scope)


def _again(first: Message, receive: Receive) -> Receive:
    """`receive`, with a message before its next one."""
    left = [first]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received


def _in_error_shape(response: HttpResponseBase) -> HttpResponseBase:
    """ninja answers a wrong method in plain text; an API's client wants the reason in the usual place."""
    if response.status_code != 405:
        return response
    allowed = response.get("Allow", "")
    body = error_body(f"use {allowed} here", "invalid_request_error", code="method_not_allowed")
    return api.error_response(405, body, {"Allow": allowed})


def _too_large() -> HttpResponse:
    message = f"the body is larger than {settings.HUB_MAX_BODY_BYTES} bytes (HUB_MAX_BODY_BYTES)"
    return api.error_response(413, error_body(message, "invalid_request_error", code="request_too_large"))
