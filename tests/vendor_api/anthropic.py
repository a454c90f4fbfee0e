"""Anthropic's Messages API: reading its requests, writing its answers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

from tests.vendor_api.script import Script
from tests.vendor_api.turn import Answer, Asked, Reply, Step, compose, tokens_of

_JSON = {"content-type": "application/json"}
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_STOP_REASONS = {"end": "end_turn"}
_ERRORS = {
    400: ("invalid_request_error", "messages: at least one message is required"),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: {model}"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your account's rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    503: ("api_error", "Service temporarily unavailable"),
    529: ("overloaded_error", "Overloaded"),
}
_TOO_LONG = "prompt is too long: 205000 tokens > 200000 maximum"
_EXPIRED = "OAuth token has expired. Please obtain a new token or refresh your existing token."
_USED = {"allowed": "0.12", "allowed_warning": "0.91", "rejected": "1.0"}
_SIGNATURE = {"type": "signature_delta", "signature": "c3RhbmQtaW4="}
_STRUCTURED = "StructuredOutput"
_ids = count(1)


def read(body: Any, *, bearer: bool = False) -> Asked:
    """The chat request in a parsed body; fields of the wrong shape count as absent."""
    body = body if isinstance(body, dict) else {}
    messages = [message for message in body.get("messages") or () if isinstance(message, dict)]
    users = [message.get("content") for message in messages if message.get("role") == "user"]
    texts = [text for content in users if (text := _last_text(content)) is not None]
    max_tokens = body.get("max_tokens")
    return Asked(
        model=str(body.get("model", "")),
        stream=body.get("stream") is True,
        last_text=texts[-1] if texts else "",
        prompt_chars=sum(map(len, _all_texts([body.get("system"), *(m.get("content") for m in messages)]))),
        max_tokens=max_tokens if isinstance(max_tokens, int) else None,
        stop_sequences=tuple(str(text) for text in body.get("stop_sequences") or () if text),
        results=_results(users),
        offered=tuple(str(tool.get("name")) for tool in body.get("tools") or () if isinstance(tool, dict)),
        bearer=bearer,
    )


def answer(asked: Asked, script: Script) -> Answer:
    """The response to one POST /v1/messages."""
    headers = {"request-id": f"req_{next(_ids):024d}", **_rate_limit_headers(script)}
    if script.too_long:
        return _failure(400, script.message or _TOO_LONG, headers, script)
    if script.status != 200:
        wording = _EXPIRED if script.status == 401 and asked.bearer else _ERRORS[script.status][1]
        message = script.message or wording.format(model=asked.model)
        return _failure(script.status, message, headers, script)
    reply = _as_structured(asked, script, compose(asked, script))
    if asked.stream:
        return Answer(200, _SSE | headers, tuple(_steps(asked, script, reply)), reply.end, script.slow_s)
    if reply.end == "error":
        return _failure(529, script.message or _ERRORS[529][1], headers, script)
    whole = _message(asked) | {
        "content": _content(script, reply),
        "stop_reason": _stop_reason(reply),
        "stop_sequence": reply.stop_sequence,
        "usage": _usage(asked, script, _output_tokens(script, reply)),
    }
    delay_s = script.first_delay_s + script.delay_s * max(0, len(reply.pieces) - 1)
    steps = (Step(delay_s, _dump(whole)),) if reply.end == "complete" else ()
    return Answer(200, _JSON | headers, steps, reply.end, script.slow_s)


def _as_structured(asked: Asked, script: Script, reply: Reply) -> Reply:
    """JSON by a schema is to this vendor the call of a tool that its CLI offers for it."""
    if not script.structured or reply.calls or _STRUCTURED not in asked.offered:
        return reply
    return replace(reply, pieces=(), calls=((_STRUCTURED, script.structured),), stop="tool_use")


def count_tokens(body: Any) -> Answer:
    return Answer(200, _JSON, (Step(0, _dump({"input_tokens": read(body).prompt_tokens})),))


def models() -> Answer:
    names = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-4-5")
    made = "2026-01-01T00:00:00Z"
    data = [{"type": "model", "id": name, "display_name": name, "created_at": made} for name in names]
    page = {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
    return Answer(200, _JSON, (Step(0, _dump(page)),))


def error(status: int, message: str) -> Answer:
    return _failure(status, message, {}, Script())


def _steps(asked: Asked, script: Script, reply: Reply) -> Iterator[Step]:
    start = _message(asked) | {"content": [], "stop_reason": None, "stop_sequence": None}
    yield _event("message_start", message=start | {"usage": _usage(asked, script, 1)})
    yield _event("ping")
    index = 0
    pause_s = script.first_delay_s
    if script.thinking:
        deltas = [{"type": "thinking_delta", "thinking": script.thinking}, _SIGNATURE]
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield from _block(index, block, deltas, first_s=pause_s, next_s=0, closed=True)
        index, pause_s = 1, script.delay_s
    if reply.pieces:
        deltas = [{"type": "text_delta", "text": piece} for piece in reply.pieces]
        closed = reply.end == "complete"
        block = {"type": "text", "text": ""}
        yield from _block(index, block, deltas, first_s=pause_s, next_s=script.delay_s, closed=closed)
        index, pause_s = index + 1, script.delay_s
    for tool, arguments in _tool_uses(reply):
        # In two pieces, as the vendor does it with longer ones.
        halves = (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :])
        deltas = [{"type": "input_json_delta", "partial_json": half} for half in halves]
        yield from _block(index, tool | {"input": {}}, deltas, first_s=pause_s, next_s=0, closed=True)
        index += 1
    match reply.end:
        case "complete":
            delta = {"stop_reason": _stop_reason(reply), "stop_sequence": reply.stop_sequence}
            usage = _usage(asked, script, _output_tokens(script, reply))
            yield _event("message_delta", delta=delta, usage=usage)
            yield _event("message_stop")
        case "error":
            kind, message = _ERRORS[529]
            failed = _event("error", error={"type": kind, "message": script.message or message})
            yield Step(script.delay_s, failed.data)


def _block(
    index: int, block: dict[str, Any], deltas: list[dict[str, str]], *, first_s: float, next_s: float, closed: bool
) -> Iterator[Step]:
    yield Step(first_s, _event("content_block_start", index=index, content_block=block).data)
    for n, delta in enumerate(deltas):
        yield Step(next_s if n else 0, _event("content_block_delta", index=index, delta=delta).data)
    if closed:
        yield _event("content_block_stop", index=index)


def _event(kind: str, **fields: Any) -> Step:
    return Step(0, b"event: %s\ndata: %s\n\n" % (kind.encode(), _dump({"type": kind, **fields})))


def _message(asked: Asked) -> dict[str, Any]:
    return {"id": f"msg_{next(_ids):024d}", "type": "message", "role": "assistant", "model": asked.model}


def _content(script: Script, reply: Reply) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if script.thinking:
        content.append({"type": "thinking", "thinking": script.thinking, "signature": _SIGNATURE["signature"]})
    if reply.pieces:
        content.append({"type": "text", "text": reply.text})
    return content + [tool | {"input": json.loads(arguments)} for tool, arguments in _tool_uses(reply)]


def _tool_uses(reply: Reply) -> list[tuple[dict[str, Any], str]]:
    return [
        ({"type": "tool_use", "id": f"toolu_{next(_ids):024d}", "name": name}, arguments)
        for name, arguments in reply.calls
    ]


def _stop_reason(reply: Reply) -> str:
    return _STOP_REASONS.get(reply.stop, reply.stop)


def _output_tokens(script: Script, reply: Reply) -> int:
    # The vendor counts thinking as output.
    return len(reply.pieces) + tokens_of(len(script.thinking))


def _usage(asked: Asked, script: Script, output_tokens: int) -> dict[str, Any]:
    # The vendor's input_tokens leave out what came from its cache.
    cached = min(script.cached, asked.prompt_tokens)
    return {
        "input_tokens": asked.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": tokens_of(len(script.thinking))},
    }


def _rate_limit_headers(script: Script) -> dict[str, str]:
    headers: dict[str, str] = {}
    if script.retry_after_s is not None:
        headers["retry-after"] = f"{script.retry_after_s:g}"
    if script.unified:
        prefix, reset = "anthropic-ratelimit-unified", str(script.resets_at())
        window = "5h" if script.claim == "five_hour" else "7d"
        headers |= {
            f"{prefix}-status": script.unified,
            f"{prefix}-reset": reset,
            f"{prefix}-representative-claim": script.claim,
            f"{prefix}-{window}-status": script.unified,
            f"{prefix}-{window}-reset": reset,
            f"{prefix}-{window}-utilization": _USED[script.unified],
            f"{prefix}-overage-status": "rejected",
            f"{prefix}-overage-disabled-reason": "org_level_disabled",
        }
        if script.unified == "allowed_warning":
            headers[f"{prefix}-{window}-surpassed-threshold"] = "0.9"
    return headers


def _failure(status: int, message: str, headers: dict[str, str], script: Script) -> Answer:
    body: dict[str, Any] = {"type": "error", "error": {"type": _ERRORS[status][0], "message": message}}
    if "request-id" in headers:
        body["request_id"] = headers["request-id"]
    return Answer(status, _JSON | headers, (Step(0, _dump(body)),), slow_s=script.slow_s)


def _last_text(content: Any) -> str | None:
    match content:
        case str(text):
            return text
        case list(blocks):
            # The CLI puts reminders of its own beside the user's text.
            texts = [text for text in _block_texts(blocks) if not text.startswith("<system-reminder>")]
            return texts[-1] if texts else None
    return None


def _block_texts(blocks: list[Any]) -> Iterator[str]:
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                yield text


def _all_texts(content: Any) -> Iterator[str]:
    match content:
        case str(text):
            yield text
        case list(parts):
            for part in parts:
                yield from _all_texts(part)
        case {"text": str(text)}:
            yield text
        case {"content": inner}:
            yield from _all_texts(inner)


def _results(users: list[Any]) -> int:
    """How many messages at the end bring results of tools; a text beside them is none of the user's."""
    return next((n for n, content in enumerate(reversed(users)) if not _has_tool_result(content)), len(users))


def _has_tool_result(content: Any) -> bool:
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_result" for block in content
    )


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
