"""The lines of claude's stream-json protocol: those the hub writes, and what the CLI's words mean."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import orjson

from providers.adapters.call_ids import CallIds
from providers.adapters.json_lines import Json
from providers.errors import (
    ContextTooLong,
    ModelUnknown,
    NeedsLogin,
    Overloaded,
    ProviderError,
    RateLimited,
    RequestTooLarge,
    StreamCut,
    TurnRefused,
    UnsupportedAccount,
    excerpt,
)
from providers.events import (
    Block,
    Effort,
    FinishReason,
    LimitNotice,
    Media,
    Message,
    Sampling,
    ToolCall,
    ToolResult,
    Usage,
)

# Thinking counts against max_tokens, and the vendor wants at least 1,024 tokens of it and no temperature beside it.
THINKING_MIN_TOKENS = 4_096

# The CLI looks before every request whether the conversation is longer than this many tokens. Set to 1 while an answer
# comes, it keeps the CLI from asking its vendor for more by itself; an interrupt alone often comes too late for that.
BLOCKING_LIMIT = "CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE"
NO_SECOND_REQUEST: Json = {"subtype": "apply_flag_settings", "settings": {"env": {BLOCKING_LIMIT: "1"}}}

# Windows of one model's own, such as `seven_day_opus`.
MODEL_WINDOW = re.compile(r"_(opus|sonnet|haiku|fable)$")

FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}

# The vendor's own words for how much is to be thought; "none" is without thinking.
EFFORTS: dict[Effort | None, str] = {
    None: "",
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
}

ToolName = Callable[[str], str]


def control_request(request_id: str, request: Json) -> bytes:
    return orjson.dumps({"type": "control_request", "request_id": request_id, "request": request})


def control_refusal(request_id: str) -> bytes:
    """The answer to whatever the CLI asks of its host: the hub offers it nothing."""
    response = {"subtype": "error", "request_id": request_id, "error": "not supported"}
    return orjson.dumps({"type": "control_response", "response": response})


def mcp_reply(request_id: str, reply: Json) -> bytes:
    response = {"subtype": "success", "request_id": request_id, "response": {"mcp_response": reply}}
    return orjson.dumps({"type": "control_response", "response": response})


def spoken(messages: Sequence[Message]) -> Iterator[tuple[str, tuple[Block, ...]]]:
    """The conversation as the vendor has it: results of calls are the user's, together with what he says to them.

    Calls have ids the vendor takes, each one of its own.
    """
    open_results: tuple[Block, ...] = ()
    ids = CallIds()
    for message in messages if all(message.is_plain for message in messages) else map(ids.renamed, messages):
        if message.role == "tool":
            open_results += message.blocks
            continue
        if open_results and message.role == "assistant":
            yield "user", open_results
            open_results = ()
        yield message.role, open_results + message.blocks
        open_results = ()
    if open_results:
        yield "user", open_results


def user_line(blocks: tuple[Block, ...], uuid: str, *, is_question: bool) -> bytes:
    """A user message. One that is no question is only added to the conversation."""
    last = blocks[-1]
    # The CLI takes a last block that starts with a slash for one of its own commands; a line break before it keeps
    # the text a text.
    if isinstance(last, str) and last.startswith("/"):
        blocks = (*blocks[:-1], "\n" + last)
    line: Json = {"type": "user", "uuid": uuid, "message": {"role": "user", "content": [*map(_block, blocks)]}}
    if not is_question:
        line["shouldQuery"] = False
    return orjson.dumps(line)


def assistant_line(blocks: tuple[Block, ...], tool_name: ToolName) -> bytes:
    content = [_call(block, tool_name) if isinstance(block, ToolCall) else _block(block) for block in blocks]
    return orjson.dumps({"type": "assistant", "message": {"role": "assistant", "content": content}})


def _call(call: ToolCall, tool_name: ToolName) -> Json:
    return {"type": "tool_use", "id": call.id, "name": tool_name(call.name), "input": call.input}


def _block(block: Block) -> Json:
    match block:
        case Media(mime_type, data, name):
            source = {"type": "base64", "media_type": mime_type, "data": data}
            if block.is_image:
                return {"type": "image", "source": source}
            return {"type": "document", "source": source, **({"title": name} if name else {})}
        case ToolResult(call_id, blocks, is_error):
            content = [_block(inner) for inner in blocks if inner]
            return {"type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": is_error}
    return {"type": "text", "text": block}


def flag_settings(model: str, sampling: Sampling, more: Json | None = None, permission: str = "") -> Json:
    """Model and sampling of one turn, always the full set: a value stays in the process until it is overwritten.

    `more` are further fields of the vendor's request, `permission` names the tools that may be called.
    """
    body: Json = {}
    if sampling.temperature is not None:
        body["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    has_randomness = bool(body)
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    is_short = sampling.max_tokens is not None and sampling.max_tokens < THINKING_MIN_TOKENS
    env = {
        "CLAUDE_CODE_EXTRA_BODY": orjson.dumps(body | (more or {})).decode() if body or more else "",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(sampling.max_tokens or ""),
        "CLAUDE_CODE_DISABLE_THINKING": "1" if has_randomness or is_short or _forbids_thinking(sampling, more) else "",
        "CLAUDE_CODE_EFFORT_LEVEL": EFFORTS[sampling.reasoning_effort],
        BLOCKING_LIMIT: "",
    }
    permissions = {"allow": [permission] if permission else []}
    return {"subtype": "apply_flag_settings", "settings": {"model": model, "env": env, "permissions": permissions}}


def _forbids_thinking(sampling: Sampling, more: Json | None) -> bool:
    """The vendor refuses to think before a call that it is made to make."""
    kind = (more or {}).get("tool_choice", {}).get("type")
    return sampling.reasoning_effort == "none" or kind in ("any", "tool")


def read_usage(usage: Json, cost_usd: float | None) -> Usage:
    """The usage of a `result` line or of the vendor's own events.

    Anthropic counts cached tokens apart from input_tokens, the hub among them.
    """
    cached = int(usage.get("cache_read_input_tokens") or 0)
    written = int(usage.get("cache_creation_input_tokens") or 0)
    details = usage.get("output_tokens_details") or {}
    return Usage(
        input_tokens=int(usage.get("input_tokens") or 0) + cached + written,
        output_tokens=int(usage.get("output_tokens") or 0),
        cached_tokens=cached,
        reasoning_tokens=int(details.get("thinking_tokens") or 0),
        cost_usd=cost_usd,
    )


def read_limit(info: Json) -> LimitNotice:
    """A `rate_limit_event`: only a login by subscription produces it."""
    status, window = str(info.get("status")), str(info.get("rateLimitType") or "")
    if status == "rejected" and info.get("isUsingOverage"):
        status = "allowed_warning"  # the window is used up, and what is asked beyond it is served and billed
    statuses = {"allowed_warning": "warning", "rejected": "rejected"}
    about = MODEL_WINDOW.search(window)
    return LimitNotice(
        status=statuses.get(status, "allowed"),  # type: ignore[arg-type]
        window=window,
        resets_at=_number(info.get("resetsAt")),
        used=_number(info.get("utilization")),
        model=about[1] if about else "",
    )


def read_other_windows(info: Json, told: str) -> list[LimitNotice]:
    """The usage windows beside the one that is `told` of. That one decides; these are full at worst."""
    windows = info.get("unifiedWindows")
    found = windows.items() if isinstance(windows, dict) else ()
    return [
        replace(notice, status="warning") if notice.status == "rejected" else notice
        for name, window in found
        if name != told and isinstance(window, dict)
        for notice in [read_limit(window | {"rateLimitType": name})]
    ]


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number else None  # type: ignore[return-value]


def failure(result: Json, limit: LimitNotice | None, mend_login: str) -> ProviderError:
    """The error an `is_error` result stands for. Its subtype says "success" even then, so it is not looked at."""
    status = result.get("api_error_status")
    words = excerpt(str(result.get("result") or "; ".join(map(str, result.get("errors") or []))))
    message = f"claude: {words}" if words else "claude failed without a word"
    if status == 429:
        return RateLimited(message, retry_after_s=_wait_s(limit))
    # Said by the CLI itself, without asking its vendor; else it may be out of a model's name that the caller made up.
    if status in (401, 403) or (status is None and "not logged in" in words.lower()):
        return _login_failure(message, words, mend_login)
    if status in (400, 413) and ("too long" in words.lower() or result.get("terminal_reason") == "prompt_too_long"):
        return ContextTooLong(message)
    if status is None:
        return StreamCut(message)
    by_status: dict[int, type[ProviderError]] = {404: ModelUnknown, 400: TurnRefused, 413: RequestTooLarge}
    return by_status.get(int(status), Overloaded)(message)


def _login_failure(message: str, words: str, mend_login: str) -> ProviderError:
    if "organization" in words.lower():
        return UnsupportedAccount(message, mend="ask the organization's administrator, or use an API key")
    return NeedsLogin(message, mend=mend_login)


def _wait_s(limit: LimitNotice | None) -> float | None:
    if limit is None or limit.resets_at is None:
        return None
    return max(1.0, limit.resets_at - time.time())
