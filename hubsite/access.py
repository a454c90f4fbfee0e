"""Every HTTP request as it is counted and logged: by its route, never by its path, which may hold what a caller wrote.

The id of a request is the caller's own where it is one, so that it finds its request again; it goes with every line of
the log that the request brings about, and with the answer.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from django.urls import Resolver404, resolve
from prometheus_client import Counter, Gauge, Histogram

from chat import log_ids
from chat.ids import new_id
from mcpbridge.mount import MESSAGES

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
UNMATCHED, OTHER = "unmatched", "other"
# What nginx calls it, too: there was nobody left to answer.
HUNG_UP = 499
# Asked every few seconds by machines; while all is well nobody wants to read that.
PROBES = frozenset(("health", "health/live", "health/ready", "metrics"))
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter("hub_http_requests", "HTTP requests that are over.", ["method", "route", "status"])
# Without a label: it is there, as 0, before the first one, so that the first one is an increase.
INTERNAL_ERRORS = Counter("hub_internal_errors", "HTTP requests that were answered with 500.")
SECONDS = Histogram(
    "hub_http_request_seconds", "From a request to the end of its answer, a stream's too.", ["route"], buckets=BUCKETS_S
)

WEBSOCKETS = Gauge("hub_websockets_open", "WebSocket connections.")


def begin(scope: Scope) -> float:
    """A request begins: it gets its id. Returns the time, for `end`."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin1")
    scope["hub.request_id"] = request_id = given if REQUEST_ID.fullmatch(given) else f"req_{new_id()}"
    log_ids.begin(request_id)
    return time.perf_counter()


def end(scope: Scope, began_at: float) -> None:
    """It is over: by `hub.status` and `hub.route`, as its scope has them."""
    seconds = time.perf_counter() - began_at
    method = scope["method"] if scope["method"] in METHODS else OTHER
    route, status = scope.get("hub.route", UNMATCHED), scope.get("hub.status", HUNG_UP)
    counter, histogram = _meters(method, route, status)
    counter.inc()
    histogram.observe(seconds)
    if status == 500:
        INTERNAL_ERRORS.inc()
    level = logging.DEBUG if route in PROBES and status < 400 else logging.INFO
    if logger.isEnabledFor(level):
        told = {"event": "request", "method": method, "route": route, "status": status}
        told["duration_ms"] = round(seconds * 1_000, 1)
        logger.log(level, "%s /%s %d in %.1f ms", method, route, status, seconds * 1_000, extra=told)


@cache
def _meters(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(status)), SECONDS.labels(route)


class Watched:
    """An ASGI application that neither counts nor names its requests itself; `route_of` knows a path's route."""

    def __init__(self, app: App, route_of: Callable[[str], str]) -> None:
        self._app = app
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_at = begin(scope)
        scope["hub.route"] = self._route_of(scope["path"])
        named = (b"x-request-id", scope["hub.request_id"].encode())

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                scope["hub.status"] = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), named]}
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            end(scope, began_at)


async def watch_socket(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a WebSocket, which gets its id, too, and one line of the log when it is closed."""
    began_at, route = begin(scope), scope["path"].strip("/")
    with WEBSOCKETS.track_inprogress():
        try:
            await app(scope, receive, send)
        finally:
            seconds = time.perf_counter() - began_at
            told = {"event": "websocket", "route": route, "duration_ms": round(seconds * 1_000)}
            logger.info("WebSocket /%s closed after %.1f s", route, seconds, extra=told)


def mcp_route(path: str) -> str:
    return MESSAGES[1:] if path.startswith(MESSAGES) else path.strip("/")


def page_route(path: str) -> str:
    """By Django's own table; its static files are one route."""
    if path.startswith("/static/"):
        return "static/"
    try:
        return resolve(path).route
    except Resolver404:
        return UNMATCHED
