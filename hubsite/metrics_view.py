"""GET /metrics, and who may see it."""

from __future__ import annotations

import hmac
from functools import cache
from ipaddress import ip_address
from typing import Any, cast

import psutil
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed

from chat.addresses import address_of
from chat.auth import gate, key_from_headers
from hubsite.metrics import page

METHODS = ("GET", "HEAD")
# Whoever passes a request on says so, or should.
OF_PROXIES = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
SCOPE = "admin"


async def metrics(request: HttpRequest) -> HttpResponse:
    """The hub's figures in Prometheus' format. Raises ChatError for whom they are not meant."""
    if not settings.HUB_METRICS:
        raise Http404
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    await _admit(request)
    body, content_type = await page(request.headers.get("Accept", ""))
    return HttpResponse(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


async def _admit(request: HttpRequest) -> None:
    """Raises KeyMissing, KeyRefused, ScopeMissing, TooManyFailures, DatabaseUnavailable."""
    if _is_local(request):
        return
    given = key_from_headers(lambda name: request.headers.get(name, ""), query=request.META.get("QUERY_STRING", ""))
    token = settings.HUB_METRICS_TOKEN
    if token and hmac.compare_digest(given.encode(errors="surrogatepass"), token.encode()):
        return
    caller = await gate().admit(given, address=address_of(_scope(request)))
    caller.require(SCOPE)


def _is_local(request: HttpRequest) -> bool:
    """Whether it comes straight from this machine, to a hub that nobody else can reach."""
    peer = str((_scope(request).get("client") or [""])[0] or "")
    if settings.HUB_TRUSTED_PROXIES or any(name in request.headers for name in OF_PROXIES):
        return False
    return _is_loopback(peer) and listens_on_loopback_only()


@cache
def listens_on_loopback_only() -> bool:
    """Whatever server runs the application, and however it was told where to listen: the system knows."""
    try:
        connections = psutil.Process().net_connections(kind="tcp")
    except psutil.Error:
        return False
    listening = [it.laddr.ip for it in connections if it.status == psutil.CONN_LISTEN and it.laddr]
    return bool(listening) and all(map(_is_loopback, listening))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _scope(request: HttpRequest) -> dict[str, Any]:
    return cast("dict[str, Any]", cast(ASGIRequest, request).scope)
