"""What the REST door knows of a request beside what Django does."""

from __future__ import annotations

from typing import cast

from django.http import HttpRequest

from chat import service
from chat.keys import Caller
from chat.wire.limit_headers import limit_headers


class HubRequest(HttpRequest):
    """A request on the lean chain. `answer_headers` go with whatever answer it gets, errors too."""

    auth: Caller
    request_id: str
    answer_headers: dict[str, str]


def hub_request(request: HttpRequest) -> HubRequest:
    return cast(HubRequest, request)


def header(request: HttpRequest, name: str) -> str:
    """A header's value, empty if it is not there. Django would first make a mapping of all there are."""
    return str(request.META.get(f"HTTP_{name.upper().replace('-', '_')}", ""))


async def count(request: HttpRequest, scope: str = "") -> None:
    """Admit a request that is no turn. Raises ScopeMissing, LimitReached."""
    asked = hub_request(request)
    asked.answer_headers |= limit_headers(await service.count_request(asked.auth))
    if scope:
        asked.auth.require(scope)
