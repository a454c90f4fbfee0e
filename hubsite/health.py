"""GET /health, /health/live, /health/ready: whether the hub can answer, for load balancers and people."""

from __future__ import annotations

from typing import Any

import orjson
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from chat.runtime import chat
from hubsite.readiness import is_leaving, obstacles
from providers import runtime
from providers.engine import Engine
from providers.errors import ShuttingDown
from providers.status import Status

METHODS = ("GET", "HEAD")


async def health(request: HttpRequest) -> HttpResponse:
    """200 while the hub takes requests (`degraded` without Redis or the database), 503 when it is shutting down.

    Needs no key, tells no secret, asks nobody.
    """
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    try:
        engine, has_redis = runtime.engine(), not chat().hot.is_away
        body = _body(engine, has_redis=has_redis, has_database=not chat().archive.is_behind)
    except ShuttingDown:
        body = {"status": "unhealthy", "version": settings.VERSION, "providers": {}, "states": {}}
        body |= {"redis": "down", "database": "down"}
    return _answer(body, is_up=body["status"] != "unhealthy")


async def live(request: HttpRequest) -> HttpResponse:
    """200 as long as the process serves at all; no answer means that it has to be started again."""
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    return _answer({"status": "live"}, is_up=True)


async def ready(request: HttpRequest) -> HttpResponse:
    """200 while the hub takes every kind of turn; else 503 with the reasons."""
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    reasons = obstacles()
    return _answer({"status": "not_ready" if reasons else "ready", "reasons": reasons}, is_up=not reasons)


def _answer(body: dict[str, Any], *, is_up: bool) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), status=200 if is_up else 503, content_type="application/json")


def _body(engine: Engine, *, has_redis: bool, has_database: bool) -> dict[str, Any]:
    status = {provider.name: provider.status for provider in engine.providers.values()}
    word = "healthy" if has_redis and has_database else "degraded"
    return {
        "status": "unhealthy" if engine.is_closing or is_leaving() else word,
        "version": settings.VERSION,
        "providers": {name: "up" if it.is_serving else "down" for name, it in status.items()},
        "states": {name: _state(it) for name, it in status.items()},
        "redis": "up" if has_redis else "down",
        "database": "up" if has_database else "down",
    }


def _state(status: Status) -> dict[str, str | float | None]:
    return {"state": status.state, "since": status.since, "until": status.until}
