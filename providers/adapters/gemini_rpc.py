"""The Agent Client Protocol as the gemini CLI speaks it: JSON-RPC lines, and what its errors mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from providers.errors import (
    ContextTooLong,
    ModelUnknown,
    NeedsLogin,
    Overloaded,
    ProtocolBroken,
    ProviderError,
    RateLimited,
    RequestTooLarge,
    StreamCut,
    TurnRefused,
    UnsupportedAccount,
    excerpt,
)
from providers.events import FinishReason, ReasoningDelta, TextDelta, Usage

Json = dict[str, Any]

AUTH_REQUIRED = -32_000
METHOD_NOT_FOUND = -32_601

RETRY_AFTER = re.compile(r"retry (?:after|in) ([\d.]+) ?s")
# Keys and tokens of Google, should its words ever quote one that is not in the hub's environment.
KEY = re.compile(r"AIza[\w-]{20,}|ya29\.[\w.-]+|AQ\.[\w-]{20,}")

UNSUPPORTED = re.compile(
    r"ineligible|not eligible|unsupported.client|client is no longer supported|location is not supp"
)
LOGIN = re.compile(r"api.key|credential|invalid_grant|not authenticated|authentication|authorization code")
TOO_LONG = re.compile(r"token count .*exceeds|maximum number of tokens|context (?:window|length)")
UNREACHABLE = re.compile(r"fetch failed|econnrefused|enotfound|eai_again|etimedout")
CUT = re.compile(r"terminated|socket hang up|econnreset|other side closed|premature close")
MODEL_MISSING = re.compile(r"is not found|not found for api version|model .*not found")

# Printed instead of protocol when the login has run out: the CLI asks on its terminal for a new one.
LOGIN_DIALOG = (b"authorize the application", b"authorization code", b"accounts.google.com")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one of our requests: `result`, or `error` if that is not empty."""

    id: int
    result: Json
    error: Json


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the CLI to us. It gets nothing."""

    id: Any


@dataclass(frozen=True, slots=True)
class Update:
    session: str
    event: TextDelta | ReasoningDelta


def request_line(request_id: int, method: str, params: Json) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def cancel_line(session: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}})


def refusal_line(ask: Ask) -> bytes:
    error = {"code": METHOD_NOT_FOUND, "message": "not supported"}
    return orjson.dumps({"jsonrpc": "2.0", "id": ask.id, "error": error})


def parse_line(line: bytes) -> Reply | Ask | Update | None:
    """One line of the CLI; None for those the hub has no use for.

    Raises ProtocolBroken for a line that is no JSON object, NeedsLogin for the CLI's login dialog.
    """
    match _loads(line):
        case {"id": ask_id, "method": str()}:
            return Ask(ask_id)
        case {"id": int(reply_id), **rest}:
            return Reply(reply_id, result=rest.get("result") or {}, error=rest.get("error") or {})
        case {"method": "session/update", "params": {"sessionId": str(session), "update": dict(update)}}:
            event = _event(update)
            return Update(session, event) if event else None
    return None


def _loads(line: bytes) -> Json:
    try:
        found = orjson.loads(line)
    except ValueError as exc:
        if not line.strip():
            return {}
        if any(words in line for words in LOGIN_DIALOG):
            raise NeedsLogin("the gemini CLI asks for a new login") from exc
        raise ProtocolBroken(f"gemini wrote no JSON: {excerpt(line)}") from exc
    if not isinstance(found, dict):
        raise ProtocolBroken(f"gemini wrote no object: {excerpt(line)}")
    return found


def _event(update: Json) -> TextDelta | ReasoningDelta | None:
    match update:
        case {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": str(text)}}:
            return TextDelta(text)
        case {"sessionUpdate": "agent_thought_chunk", "content": {"type": "text", "text": str(text)}}:
            return ReasoningDelta(text + "\n\n")
    return None


def read_usage(result: Json, recorded: Json) -> Usage | None:
    """The tokens of an answer: from the CLI's own record, else the two figures of its reply. None without any.

    Google counts thoughts apart from the answer's tokens, yet bills and limits both together; so does the hub.
    """
    thoughts = int(recorded.get("thoughts") or 0)
    if recorded:
        return Usage(
            input_tokens=int(recorded.get("input") or 0),
            output_tokens=int(recorded.get("output") or 0) + thoughts,
            cached_tokens=int(recorded.get("cached") or 0),
            reasoning_tokens=thoughts,
        )
    match result:
        case {"_meta": {"quota": {"model_usage": [*used], "token_count": dict(count)}}} if used:
            return Usage(int(count.get("input_tokens") or 0), int(count.get("output_tokens") or 0))
    return None


def finish_reason(usage: Usage, max_tokens: int | None, *, has_only_thought: bool) -> FinishReason:
    """Why the answer ended, inferred: the CLI reports every end alike."""
    is_cut = max_tokens is not None and (has_only_thought or usage.output_tokens >= max_tokens)
    return "length" if is_cut else "stop"


def failure(error: Json, *, mend_login: str = "", secrets: tuple[str, ...] = ()) -> ProviderError:
    """The error a failed request stands for. `code` is the HTTP status, except 500 for an unknown model."""
    status, words, reasons = _vendor_error(error)
    message = f"gemini: {excerpt(redact(words, secrets))}"
    lower = words.lower()
    if UNSUPPORTED.search(lower):
        return UnsupportedAccount(message, mend=mend_login)
    if status in (401, 403, AUTH_REQUIRED) or (status == 400 and ("API_KEY_INVALID" in reasons or _is_login(lower))):
        return NeedsLogin(message, mend=mend_login)
    if status == 429:
        return RateLimited(message, retry_after_s=_wait_s(lower))
    if status == 404 or (status == 500 and MODEL_MISSING.search(lower)):
        return ModelUnknown(message)
    if status == 400 and TOO_LONG.search(lower):
        return ContextTooLong(message)
    if status == 500 and CUT.search(lower):
        return StreamCut(message)
    if status >= 500 or UNREACHABLE.search(lower):
        return Overloaded(message)
    by_status: dict[int, type[ProviderError]] = {400: TurnRefused, 413: RequestTooLarge}
    return by_status.get(status, ProtocolBroken)(message)


def _is_login(lower: str) -> bool:
    return LOGIN.search(lower) is not None


def _vendor_error(error: Json) -> tuple[int, str, str]:
    """Status, words and reasons; the CLI often hands on the vendor's whole JSON as the message."""
    code, message = error.get("code"), str(error.get("message") or "")
    status = code if isinstance(code, int) else 500
    try:
        inner = orjson.loads(message)["error"]
        return int(inner.get("code") or status), str(inner.get("message") or ""), str(inner.get("details") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return status, message, ""


def redact(words: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        words = words.replace(secret, "***")
    return KEY.sub("***", words)


def _wait_s(lower: str) -> float | None:
    found = RETRY_AFTER.search(lower)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None
