"""What the dashboard asks while it is open, and what it sends. Each part wants Django's own permission for it."""

from __future__ import annotations

from typing import Any

import orjson
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.cache import get_conditional_response, set_response_etag

from chat.dashboard import figures, now
from chat.dashboard.acts import ACTS, NothingThere, Target

VIEWS = {"providers": "providers.view_providerrow", "turns": "chat.view_turnrecord", "keys": "chat.view_apikey"}


def what_may(request: HttpRequest) -> dict[str, Any]:
    """What the user may see and do."""
    seen = {name: request.user.has_perm(permission) for name, permission in VIEWS.items()}
    return {**seen, "acts": " ".join(name for name, act in ACTS.items() if act.is_allowed(request))}


def look_at_now(request: HttpRequest) -> HttpResponseBase:
    """What this hub does at the moment, as far as the user may see it."""
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])
    body: dict[str, Any] = {"hub": now.hub()}
    if request.user.has_perm(VIEWS["providers"]):
        body["providers"] = now.providers()
    if request.user.has_perm(VIEWS["turns"]):
        body["turns"] = now.turns()
    return _answer(request, body)


def look_at_figures(request: HttpRequest) -> HttpResponseBase:
    """The plots' figures, and the busiest keys."""
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])
    if not request.user.has_perm(VIEWS["turns"]):
        return _said("You may not see the turns.", 403)
    span = request.GET.get("span", "day")
    if span not in figures.SPANS:
        return _said(f"span is one of {', '.join(figures.SPANS)}.", 400)
    body = figures.look(span)
    if request.user.has_perm(VIEWS["keys"]):
        body["keys"] = figures.busiest_keys()
    return _answer(request, body)


def act(site: AdminSite, request: HttpRequest) -> HttpResponseBase:
    """Do what the user has confirmed in the page."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    wanted = ACTS.get(request.POST.get("act", ""))
    if wanted is None:
        return _said("There is no such action.", 400)
    if not wanted.is_allowed(request):
        return _said("You may look, but not act here.", 403)
    try:
        return _said(wanted.do(Target.of(request, site)), 200)
    except NothingThere as error:
        return _said(str(error), 404)


def _answer(request: HttpRequest, body: dict[str, Any]) -> HttpResponseBase:
    """JSON, or 304 if the page has it already. The hub's clock goes beside it: times are shown as ages."""
    whole = HttpResponse(orjson.dumps(body), content_type="application/json")
    set_response_etag(whole)
    response = get_conditional_response(request, etag=whole["ETag"], response=whole) or whole
    response["Cache-Control"] = "no-store"
    response["X-Hub-Time"] = f"{timezone.now().timestamp():.1f}"
    return response


def _said(message: str, status: int) -> HttpResponse:
    return HttpResponse(orjson.dumps({"message": message}), content_type="application/json", status=status)
