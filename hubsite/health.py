"""GET /health: whether the hub can answer, for load balancers and people."""

from __future__ import annotations

import orjson
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from chat.runtime import chat
from providers import runtime
from providers.errors import ShuttingDown

METHODS = ("GET", "HEAD")


async def health(request: HttpRequest) -> HttpResponse:
    """200 while the hub takes requests (`degraded` without Redis), 503 when it is shutting down.

    Needs no key, tells no secret.
    """
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    try:
        engine, has_redis = runtime.engine(), not chat().hot.is_away
        is_up = not engine.is_closing
        providers = {it.name: "up" if it.state == "ready" else "down" for it in engine.providers.values()}
    except ShuttingDown:
        is_up, has_redis, providers = False, False, {}
    body = {
        "status": ("healthy" if has_redis else "degraded") if is_up else "unhealthy",
        "version": settings.VERSION,
        "providers": providers,
        "redis": "up" if has_redis else "down",
    }
    return HttpResponse(orjson.dumps(body), status=200 if is_up else 503, content_type="application/json")
