"""The admin site: the theme's, with the dashboard as its index."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from django.contrib import admin
from django.db import DataError
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse

from chat.dashboard.login_brake import LoginBrake

if TYPE_CHECKING:
    BaseSite = admin.AdminSite
else:
    from unfold.sites import UnfoldAdminSite as BaseSite

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=HttpResponseBase)

FOUND = 302
# What a database refuses to look for: a text as a number, a number beyond its columns, a NUL.
UNASKABLE = (ValueError, OverflowError, DataError)

# The theme's Alpine evaluates expressions of its own pages and writes styles; no script stands in a page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class HubAdminSite(BaseSite):
    """Its views are imported when they are asked for: they need the pages that register themselves here."""

    index_title = "Dashboard"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._brake = LoginBrake()

    def get_urls(self) -> list[Any]:
        from chat.dashboard.views import act, look_at_figures, look_at_now

        views: dict[str, Callable[[HttpRequest], HttpResponseBase]] = {
            "now": look_at_now,
            "figures": look_at_figures,
            "act": partial(act, self),
        }
        own = [
            path(f"dashboard/{name}/", self.admin_view(view), name=f"dashboard_{name}") for name, view in views.items()
        ]
        return [*own, *super().get_urls()]

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        inner: Callable[..., HttpResponseBase] = super().admin_view(view, cacheable)

        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                return _guarded(inner(request, *args, **kwargs))
            except UNASKABLE as error:
                logger.warning("the admin was asked for what can't be: %s", type(error).__name__, exc_info=True)
                return HttpResponseBadRequest("Nothing can be found by what stands in this address or form.")

        return update_wrapper(guarded, inner)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The theme's form goes on to where it is told to, so it has to be told."""
        if request.method == "GET" and "next" not in request.GET:
            return HttpResponseRedirect(f"{request.path}?{urlencode({'next': reverse(f'{self.name}:index')})}")
        if request.method != "POST":
            return _guarded(super().login(request, extra_context))
        if (refusal := self._brake.begin(request)) is not None:
            return refusal
        response = super().login(request, extra_context)
        self._brake.end(request, is_in=response.status_code == FOUND)
        return _guarded(response)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        from chat.dashboard.views import what_may

        return super().index(request, {**(extra_context or {}), "may": what_may(request)})


def _guarded(response: R) -> R:
    """A page that runs no foreign script, whatever comes to stand in it."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    return response
