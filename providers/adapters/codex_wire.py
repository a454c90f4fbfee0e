"""The lines of codex' app-server protocol, JSON-RPC without its version field: what they say, what its errors mean."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

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
    UnsupportedAccount,
    excerpt,
)
from providers.events import FinishReason, LimitNotice, Usage

# What the hub has no use for; a flood of it would only cost time.
UNWANTED = (
    *("thread/started", "thread/status/changed", "thread/closed", "turn/started", "turn/diff/updated", "error"),
    *("item/completed", "item/reasoning/summaryPartAdded", "item/reasoning/textDelta", "warning", "configWarning"),
    *("remoteControl/status/changed", "skills/changed", "account/updated", "app/list/updated"),
)

# A window counts as nearly used up from this share on.
WARNING_FROM = 0.9
WINDOWS = {300: "five_hour", 10_080: "seven_day"}

WAIT = re.compile(r"try again in ([\d.]+) ?(ms|s|m|h)\b")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}
TOO_LONG = re.compile(r"context.length.exceeded|context window|maximum context length|input is too long")
NOT_IN_PLAN = "not supported when using codex with a chatgpt account"
UNSUPPORTED = re.compile(r"unsupported_country|not available in y")
CUT = re.compile(r"stream disconnected|stream closed|error decoding response body")
UNREACHABLE = re.compile(r"connection failed|error sending request|discovery failed|dns error|network error|timed out")
INCOMPLETE: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}

BY_NAME: dict[str, type[ProviderError]] = {
    "contextWindowExceeded": ContextTooLong,
    "usageLimitExceeded": RateLimited,
    "sessionBudgetExceeded": RateLimited,
    "rateLimitExceeded": RateLimited,
    "flexUnavailable": Overloaded,
    "serverOverloaded": Overloaded,
    "policyCapacityUnavailable": Overloaded,
    "internalServerError": Overloaded,
    "modelNotFound": ModelUnknown,
    "unauthorized": NeedsLogin,
    "badRequest": TurnRefused,
    "cyberPolicy": TurnRefused,
    "misalignmentPolicyViolation": TurnRefused,
    "inferenceHookDenied": TurnRefused,
}
BY_STATUS: dict[int, type[ProviderError]] = {
    400: TurnRefused,
    401: NeedsLogin,
    403: NeedsLogin,
    404: ModelUnknown,
    413: RequestTooLarge,
    429: RateLimited,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the CLI to us. It gets nothing, a call of a tool not even a refusal: the CLI would go on with it."""

    id: Any
    method: str

    @property
    def is_call(self) -> bool:
        return self.method == "item/tool/call"


@dataclass(frozen=True, slots=True)
class Notice:
    """What the CLI tells unasked. `thread` is empty for what concerns the whole process."""

    method: str
    thread: str
    params: Json


def request_line(request_id: int, method: str, params: Json) -> bytes:
    return orjson.dumps({"id": request_id, "method": method, "params": params})


def notice_line(method: str) -> bytes:
    return orjson.dumps({"method": method})


def refusal_line(ask: Ask) -> bytes:
    return orjson.dumps({"id": ask.id, "error": {"code": METHOD_NOT_FOUND, "message": "not supported"}})


def parse_line(line: bytes) -> Reply | Ask | Notice | None:
    """One line of the CLI; None for an empty one. Raises ProtocolBroken for a line that is no JSON object."""
    if not line.strip():
        return None
    match load_object(line, "codex"):
        case {"id": ask_id, "method": str(method)}:
            return Ask(ask_id, method)
        case {"id": int(reply_id), **rest}:
            return read_reply(reply_id, rest)
        case {"method": str(method), "params": dict(params)}:
            return Notice(method, str(params.get("threadId") or ""), params)
    return None


def read_usage(params: Json) -> Usage | None:
    """The tokens of the last request. The vendor counts cached tokens among the prompt's, thoughts in the answer's."""
    match params:
        case {"tokenUsage": {"last": dict(used)}} | {"usage": dict(used)}:
            return Usage(
                input_tokens=int(used.get("inputTokens") or 0),
                output_tokens=int(used.get("outputTokens") or 0),
                cached_tokens=int(used.get("cachedInputTokens") or 0),
                reasoning_tokens=int(used.get("reasoningOutputTokens") or 0),
            )
    return None


def read_limits(params: Json) -> tuple[LimitNotice, ...]:
    """The usage windows of a ChatGPT plan; none with an API key."""
    limits = params.get("rateLimits") or {}
    windows = [window for name in ("primary", "secondary") if isinstance(window := limits.get(name), dict)]
    return tuple(map(_limit, windows))


def _limit(window: Json) -> LimitNotice:
    minutes = window.get("windowDurationMins")
    used = float(window.get("usedPercent") or 0) / 100
    resets_at = window.get("resetsAt")
    status: Literal["warning", "allowed"] = "warning" if used >= WARNING_FROM else "allowed"
    name = WINDOWS.get(minutes or 0) or (f"{minutes}_minutes" if minutes else "plan")
    return LimitNotice(status, name, resets_at=float(resets_at) if resets_at else None, used=used)


def used_up(limits: Iterable[LimitNotice]) -> tuple[LimitNotice, ...]:
    """The windows that let nothing more through."""
    return tuple(
        LimitNotice("rejected", limit.window, limit.resets_at, limit.used)
        for limit in limits
        if limit.used is not None and limit.used >= 1
    )


def cut_short(error: Json) -> FinishReason | None:
    """Why an answer ended before its time, where that is not a failure but the vendor's decision."""
    words = str(error.get("message") or "")
    return next(
        (reason for said, reason in INCOMPLETE.items() if "Incomplete response" in words and said in words), None
    )


def failure(error: Json, limits: tuple[LimitNotice, ...], mend_login: str) -> ProviderError:
    """The error a failed turn stands for. `limits` are the windows known to be used up."""
    words, info = _vendor_words(error)
    message = f"codex: {excerpt(words)}" if words else "codex failed without a word"
    kind = _kind(info, words.lower())
    if kind is NeedsLogin:
        return NeedsLogin(message, mend=mend_login)
    if kind is UnsupportedAccount:
        return UnsupportedAccount(message, mend="use an API key")
    if kind is RateLimited:
        return RateLimited(message, retry_after_s=_wait_s(words.lower(), limits))
    return kind(message)


def _vendor_words(error: Json) -> tuple[str, object]:
    """What was said, and of which kind it is. A refusal without a kind is handed on as the vendor's whole JSON."""
    words, info = str(error.get("message") or ""), error.get("codexErrorInfo")
    try:
        inner = orjson.loads(words)["error"]
        return f"{inner['message']} ({inner['code']})", "badRequest"
    except (ValueError, KeyError, TypeError):
        return words, info


def _kind(info: object, lower: str) -> type[ProviderError]:
    found = _kind_of(info, lower)
    # What is said of a missing model holds its name, which is the caller's text.
    if found is not ModelUnknown and UNSUPPORTED.search(lower):
        return UnsupportedAccount
    if NOT_IN_PLAN in lower:
        return ModelUnknown
    return ContextTooLong if found is TurnRefused and TOO_LONG.search(lower) else found


def _kind_of(info: object, lower: str) -> type[ProviderError]:
    match info:
        case str(name) if name in BY_NAME:
            return BY_NAME[name]
        case dict() if (status := _status(info)) is not None:
            return BY_STATUS.get(status, Overloaded if status >= 500 else TurnRefused)
        case {"responseStreamDisconnected": _}:
            return StreamCut
        case dict():
            return Overloaded
    if CUT.search(lower):
        return StreamCut
    return Overloaded if UNREACHABLE.search(lower) else ProtocolBroken


def _status(info: Json) -> int | None:
    statuses = [inner.get("httpStatusCode") for inner in info.values() if isinstance(inner, dict)]
    return next((status for status in statuses if isinstance(status, int)), None)


def _wait_s(lower: str, limits: tuple[LimitNotice, ...]) -> float | None:
    resets = [limit.resets_at for limit in limits if limit.resets_at is not None]
    if resets:
        return max(1.0, max(resets) - time.time())
    found = WAIT.search(lower)
    return float(found[1]) * SECONDS[found[2]] if found else None
