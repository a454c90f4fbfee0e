"""The one table that turns the errors of all rooms into HTTP, in OpenAI's shape."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from chat import errors as chat
from chat.decisions import route_headers
from chat.wire.limit_headers import limit_headers
from providers import errors as engine

logger = logging.getLogger(__name__)

# Longer than any SDK waits before it asks again.
LONGEST_WAIT_S = 120.0

Body = dict[str, dict[str, str | None]]

# The first class an error is an instance of decides, so children come before their parents.
TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (chat.KeyMissing, 401, "authentication_error"),
    (chat.KeyRefused, 401, "authentication_error"),
    (chat.TooManyFailures, 429, "rate_limit_error"),
    (chat.NotAllowed, 403, "permission_error"),
    (chat.BudgetSpent, 429, "insufficient_quota"),
    (chat.LimitReached, 429, "rate_limit_error"),
    (chat.ProviderNotFound, 404, "invalid_request_error"),
    (chat.ProviderConflict, 409, "conflict_error"),
    (chat.SessionNotFound, 404, "invalid_request_error"),
    (chat.SessionBusy, 409, "conflict_error"),
    (chat.SessionLost, 409, "conflict_error"),
    (chat.SessionTooLarge, 413, "invalid_request_error"),
    (chat.TurnStopped, 409, "conflict_error"),
    (chat.StoreUnavailable, 503, "server_error"),
    (chat.DatabaseUnavailable, 503, "server_error"),
    (chat.ChatError, 400, "invalid_request_error"),
    (engine.ModelUnknown, 404, "invalid_request_error"),
    (engine.RequestTooLarge, 413, "invalid_request_error"),
    (engine.TurnRefused, 400, "invalid_request_error"),
    (engine.AnswerInvalid, 502, "server_error"),
    # The vendor's refusal of the hub's login is not the caller's 401.
    (engine.ProviderUnavailable, 503, "server_error"),
    (engine.RateLimited, 429, "rate_limit_error"),
    (engine.Busy, 503, "server_error"),
    (engine.Overloaded, 503, "server_error"),
    (engine.ShuttingDown, 503, "server_error"),
    (engine.TimedOut, 504, "server_error"),
    (engine.WorkerFailed, 502, "server_error"),
)

OF_PARAMETERS: dict[type[Exception], str] = {
    engine.ToolsUnsupported: "tools",
    engine.JsonUnsupported: "response_format",
    engine.MediaUnsupported: "messages",
}
PARAMS: dict[type[Exception], str] = {engine.ModelUnknown: "model", engine.ProviderUnknown: "provider", **OF_PARAMETERS}


@dataclass(frozen=True, slots=True)
class HttpError:
    status: int
    body: Body
    headers: dict[str, str] = field(default_factory=dict)


def error_body(message: str, kind: str, *, code: str | None = None, param: str | None = None) -> Body:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_http(error: Exception) -> HttpError:
    """An error as an answer. One the table does not know is a bug: logged whole, answered without its words."""
    for known, status, kind in TABLE:
        if isinstance(error, known):
            return _known(error, status, kind)
    logger.error("a request failed in an unforeseen way", exc_info=error)
    return HttpError(500, error_body("the hub failed; its log says why", "server_error", code="internal_error"))


def _known(error: Exception, status: int, kind: str) -> HttpError:
    message = getattr(error, "message", str(error))
    mend = getattr(error, "mend", "")
    if mend and mend not in message:
        message = f"{message} (to mend it: {mend})"
    param = getattr(error, "param", None) or PARAMS.get(type(error))
    body = error_body(message, kind, code=getattr(error, "code", None), param=param)
    return HttpError(status, body, _headers(error, status))


def _headers(error: Exception, status: int) -> dict[str, str]:
    headers = {"WWW-Authenticate": 'Bearer realm="LLM MCP Hub"'} if status == 401 else {}
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    if isinstance(error, chat.LimitReached):
        headers |= limit_headers(error.standing)
    if isinstance(error, engine.ProviderError) and error.decision is not None:
        headers |= route_headers(error.decision, error.attempts)
    if isinstance(error, (engine.ProviderError, chat.ChatError)) and status >= 409:
        # OpenAI's SDKs would repeat every 409, 429 and 5xx; asking again does not log a CLI in, nor fill a budget.
        is_soon = wait_s is None or wait_s <= LONGEST_WAIT_S
        headers["X-Should-Retry"] = "true" if error.retryable and is_soon else "false"
    return headers
