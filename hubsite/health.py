"""GET /health: whether the hub can answer, for load balancers and people."""

from __future__ import annotations

import orjson
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from providers import runtime
from providers.errors import ShuttingDown

METHODS = ("GET", "HEAD")


async def health(request: HttpRequest) -> HttpResponse:
    """200 while the hub takes requests, 503 when it is shutting down. Needs no key, tells no secret."""
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    try:
        engine = runtime.engine()
        is_up = not engine.is_closing
        providers = {it.name: "up" if it.state == "ready" else "down" for it in engine.providers.values()}
    except ShuttingDown:
        is_up, providers = False, {}
    body = {
        "status": "healthy" if is_up else "unhealthy",
        "version": settings.VERSION,
        "providers": providers,
        "redis": "not configured",
    }
    return HttpResponse(orjson.dumps(body), status=200 if is_up else 503, content_type="application/json")
