"""The page at `/`: a conversation with any provider, over the WebSocket. All it does is in chat/static/stream/."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt, ensure_csrf_cookie

from chat.wire.openai_errors import error_body
from hubsite.api import error_response

# Nothing from elsewhere, no script or style in the page itself, and no sink for text as HTML but the cleaner's.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self' {sockets}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)


@csrf_exempt  # it changes nothing, and whoever posts to it is to learn so
@ensure_csrf_cookie
def stream_page(request: HttpRequest) -> HttpResponse:
    """Also for whoever is not logged in: an API key is enough, and is asked for on the page."""
    if request.method not in ("GET", "HEAD"):
        body = error_body("use GET here", "invalid_request_error", code="method_not_allowed")
        return error_response(405, body, {"Allow": "GET, HEAD"})
    user = request.user
    name = user.get_username() if isinstance(user, User) and user.is_active and user.is_staff else ""
    response = render(request, "stream/page.html", {"page_user": name})
    host = request.get_host()
    # Some browsers don't count WebSockets of the same host as 'self'.
    response["Content-Security-Policy"] = POLICY.format(sockets=f"ws://{host} wss://{host}")
    response["Cache-Control"] = "no-store"
    return response
