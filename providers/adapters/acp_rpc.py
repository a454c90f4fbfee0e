"""The lines of the Agent Client Protocol, version 1: JSON-RPC both ways, and what its answers mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from providers.adapters.json_lines import METHOD_NOT_FOUND, Json, Reply, load_object, read_reply
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
    excerpt,
)
from providers.events import ReasoningDelta, TextDelta, Usage

VERSION = 1
AUTH_REQUIRED = -32_000

RETRY_AFTER = re.compile(r"retry (?:after|in) ([\d.]+) ?s")
TOO_LONG = re.compile(r"token count .*exceeds|maximum number of tokens|context (?:window|length)|prompt is too long")
UNREACHABLE = re.compile(r"fetch failed|econnrefused|enotfound|eai_again|etimedout")
CUT = re.compile(r"terminated|socket hang up|econnreset|other side closed|premature close")
MODEL_MISSING = re.compile(r"is not found|not found for api version|model .*not found")

# An agent hides its vendor's status in words; the first of these that fits stands for it.
STATUS = re.compile(r"(?:api error|error|status|http)[^\d\n]{0,12}([45]\d\d)\b")
STATUS_WORDS = (
    (401, re.compile(r"not logged in|log in|login|unauthori[sz]ed|authenticat|api.key|credential")),
    (429, re.compile(r"rate.?limit|too many requests|quota|usage limit|exhausted")),
    (503, re.compile(r"overloaded|unavailable|at capacity")),
    (400, TOO_LONG),
    (404, MODEL_MISSING),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the agent to us. It gets nothing."""

    id: Any
    method: str = ""
    params: Any = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The agent speaks of a tool of its own; `has_begun`: nobody was asked first, or it would still be pending."""

    has_begun: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What the session has cost so far, in dollars."""

    usd: float


@dataclass(frozen=True, slots=True)
class Update:
    session: str
    event: TextDelta | ReasoningDelta | ToolUse | Cost


Line = Reply | Ask | Update | None


def request_line(request_id: int, method: str, params: Json) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def cancel_line(session: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}})


def refusal_line(ask: Ask) -> bytes:
    """The answer to what an agent asks of its client: a permission is denied, anything else is not there."""
    if ask.method == "session/request_permission":
        return orjson.dumps({"jsonrpc": "2.0", "id": ask.id, "result": {"outcome": _denial(ask.params)}})
    error = {"code": METHOD_NOT_FOUND, "message": "not supported"}
    return orjson.dumps({"jsonrpc": "2.0", "id": ask.id, "error": error})


def _denial(params: Any) -> Json:
    """Denied by the agent's own option, so that it may go on without; one that has none must take it as cancelled."""
    match params:
        case {"options": [*options]}:
            for option in options:
                match option:
                    case {"kind": "reject_once" | "reject_always", "optionId": str(chosen)}:
                        return {"outcome": "selected", "optionId": chosen}
    return {"outcome": "cancelled"}


def parse_line(line: bytes, name: str) -> Line:
    """One line of the agent `name`; None for those the hub has no use for.

    Raises ProtocolBroken for a line that is no JSON object.
    """
    if not line.strip():
        return None
    match load_object(line, name):
        case {"id": ask_id, "method": str(method), **rest}:
            return Ask(ask_id, method, rest.get("params"))
        case {"id": int(reply_id), **rest}:
            return read_reply(reply_id, rest)
        case {"method": "session/update", "params": {"sessionId": str(session), "update": dict(update)}}:
            event = _event(update)
            return Update(session, event) if event else None
    return None


def _event(update: Json) -> TextDelta | ReasoningDelta | ToolUse | Cost | None:
    match update:
        case {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": str(text)}}:
            return TextDelta(text)
        case {"sessionUpdate": "agent_thought_chunk", "content": {"type": "text", "text": str(text)}}:
            return ReasoningDelta(text)
        case {"sessionUpdate": "tool_call" | "tool_call_update", **rest}:
            return ToolUse(has_begun=rest.get("status") in ("in_progress", "completed"))
        case {"sessionUpdate": "usage_update", "cost": {"amount": int() | float() as amount, "currency": "USD"}}:
            return Cost(float(amount))
    return None


def read_usage(result: Json, cost_usd: float | None = None) -> Usage | None:
    """The tokens a reply tells of, None where it tells of none: `usage`, or the older `_meta.quota`."""
    match result:
        case {"usage": dict(count)} | {"_meta": {"quota": {"token_count": dict(count)}}}:
            usage = _usage(count, cost_usd)
            return usage if usage.input_tokens or usage.output_tokens else None
    return None


def _usage(count: Json, cost_usd: float | None) -> Usage:
    given, output = _number(count, "inputTokens", "input_tokens"), _number(count, "outputTokens", "output_tokens")
    cached = _number(count, "cachedReadTokens", "cachedInputTokens")
    whole = given + cached + _number(count, "cachedWriteTokens")
    # Some agents count what came from the cache within the prompt's tokens, some beside them; the sum tells.
    is_beside = _number(count, "totalTokens") >= whole + output
    return Usage(
        input_tokens=whole if is_beside else given,
        output_tokens=output,
        cached_tokens=cached,
        reasoning_tokens=_number(count, "thoughtTokens", "reasoningOutputTokens"),
        cost_usd=cost_usd,
    )


def _number(count: Json, *names: str) -> int:
    found = [count[name] for name in names if isinstance(count.get(name), int)]
    return max(0, found[0]) if found else 0


# --- errors ----------------------------------------------------------------------------------------------------------


def failure(error: Json, *, name: str, mend_login: str) -> ProviderError:
    """The error that a failed request to the agent `name` stands for."""
    words = f"{error.get('message') or ''} {_details(error.get('data'))}".strip()
    message = f"{name}: {excerpt(words)}"
    return failure_of(_status(error.get("code"), words.lower()), words, message, mend_login=mend_login)


def _details(data: Any) -> str:
    match data:
        case str():
            return data
        case {"details": str(text)} | {"message": str(text)} | {"error": {"message": str(text)}}:
            return text
    return ""


def _status(code: Any, lower: str) -> int:
    if isinstance(code, int) and (code == AUTH_REQUIRED or 400 <= code < 600):
        return code
    if found := STATUS.search(lower):
        return int(found[1])
    return next((status for status, words in STATUS_WORDS if words.search(lower)), 0)


def failure_of(status: int, words: str, message: str, *, mend_login: str) -> ProviderError:
    """The error of an HTTP status (or AUTH_REQUIRED) and what was said with it."""
    lower = words.lower()
    if status in (401, 403, AUTH_REQUIRED):
        return NeedsLogin(message, mend=mend_login)
    if status == 429:
        return RateLimited(message, retry_after_s=wait_s(lower))
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


def wait_s(lower: str) -> float | None:
    found = RETRY_AFTER.search(lower)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None
