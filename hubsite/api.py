"""The REST API of the hub: its routers, and every error in one shape."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, cast

import orjson
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from ninja import NinjaAPI
from ninja.errors import HttpError as NinjaHttpError
from ninja.errors import ValidationError
from ninja.parser import Parser

from chat.api import router as chat_router
from chat.errors import ChatError
from chat.provider_admin_api import router as provider_admin_router
from chat.provider_api import router as provider_router
from chat.responses_api import router as responses_router
from chat.route_api import router as route_router
from chat.session_api import router as session_router
from chat.wire.openai_errors import as_http, error_body
from providers.errors import ProviderError

# pydantic names the members of a union on the way to a fault, which no caller has ever written.
UNION_MEMBER = re.compile(r"str|(?:list|literal)\[.*|[A-Z]\w*")


class StrictParser(Parser):
    """orjson refuses what JSON forbids and databases choke on: lone surrogates, NaN, infinities."""

    def parse_body(self, request: HttpRequest) -> Any:
        return orjson.loads(request.body)


class HubApi(NinjaAPI):
    def create_temporal_response(self, request: HttpRequest) -> HttpResponse:
        """ninja has one ready for each view to fill; the busiest answer with one of their own."""
        return cast(HttpResponse, SimpleLazyObject(partial(super().create_temporal_response, request)))


api = HubApi(
    title="LLM MCP Hub",
    version=settings.VERSION,
    description="The AI command-line programs you are logged in to, as an API in OpenAI's shape.",
    parser=StrictParser(),
    urls_namespace="v1",
)
api.add_router("", chat_router)
api.add_router("", responses_router)
api.add_router("", provider_router)
api.add_router("", route_router)
api.add_router("", session_router)
api.add_router("", provider_admin_router)


def error_response(status: int, body: object, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), status=status, content_type="application/json", headers=headers)


@api.exception_handler(ChatError)
@api.exception_handler(ProviderError)
@api.exception_handler(Exception)
def on_error(request: HttpRequest, error: Exception) -> HttpResponse:
    known = as_http(error)
    return error_response(known.status, known.body, known.headers)


@api.exception_handler(ValidationError)
def on_invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    # Of a value that fits no member of a union, the deepest complaint is about the member it was meant to be.
    worst = max(reversed(error.errors), key=lambda it: len(it["loc"]))
    param = _field(worst["loc"])
    message = f"{param or 'the request'}: {worst['msg'].removeprefix('Value error, ')}"
    return error_response(400, error_body(message, "invalid_request_error", code="invalid_value", param=param or None))


def _field(loc: tuple[str | int, ...]) -> str:
    """A place in the request as its sender would write it, such as `messages[0].content`."""
    # ninja puts the source and the parameter's own name first: ("body", "body", "messages", 0, "content", "str").
    where = loc[2:] if loc[:2] == ("body", "body") else loc[1:]
    named = [part for part in where if isinstance(part, int) or not UNION_MEMBER.fullmatch(part)]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in named).lstrip(".")


@api.exception_handler(NinjaHttpError)
def on_http_error(request: HttpRequest, error: NinjaHttpError) -> HttpResponse:
    if error.status_code == 400:
        message = "the body is not valid JSON in UTF-8"
        return error_response(400, error_body(message, "invalid_request_error", code="invalid_json"))
    return error_response(error.status_code, error_body(error.message, "invalid_request_error"))


@api.exception_handler(Http404)
def on_not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return not_found(request)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    message = f"there is nothing at {request.path[:200]}"
    return error_response(404, error_body(message, "invalid_request_error", code="not_found"))


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    message = "the request was refused before it was read (its host is not in HUB_ALLOWED_HOSTS, or it is malformed)"
    return error_response(400, error_body(message, "invalid_request_error", code="bad_request"))


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_response(403, error_body("not allowed", "permission_error", code="forbidden"))


def server_error(request: HttpRequest) -> HttpResponse:
    message = "the hub failed; its log says why"
    return error_response(500, error_body(message, "server_error", code="internal_error"))
