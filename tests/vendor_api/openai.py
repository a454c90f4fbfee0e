"""OpenAI's Responses API: reading its requests, writing its answers."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from tests.vendor_api.script import Script
from tests.vendor_api.turn import Answer, Asked, Reply, Step, compose, tokens_of

_JSON = {"content-type": "application/json"}
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_INCOMPLETE = {"max_tokens": "max_output_tokens", "refusal": "content_filter"}
_ERRORS = {
    400: ("invalid_request_error", "invalid_value", "Invalid value for 'input'."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", "insufficient_permissions", "You have insufficient permissions for this operation."),
    404: (
        "invalid_request_error",
        "model_not_found",
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    413: ("invalid_request_error", "request_too_large", "Request body is larger than the maximum size allowed."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for {model} on requests per min. {wait}"),
    500: ("server_error", "server_error", "The server had an error while processing your request."),
    503: ("server_error", "service_unavailable", "The service is temporarily unavailable."),
    529: ("server_error", "overloaded", "The engine is currently overloaded, please try again later."),
}
_OVERLOADED = ("server_is_overloaded", "Our servers are currently overloaded. Please try again later.")
_TOO_LONG = (
    "context_length_exceeded",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
)
_USED = {"allowed": 12, "allowed_warning": 91, "rejected": 100}
_WINDOWS = {"five_hour": ("primary", 300), "seven_day": ("secondary", 10_080)}
_ids = count(1)


def read(body: Any) -> Asked:
    """The chat request in a parsed body; fields of the wrong shape count as absent."""
    body = body if isinstance(body, dict) else {}
    items = [item for item in body.get("input") or () if isinstance(item, dict)]
    users = [texts_of(item) for item in items if item.get("role") == "user"]
    texts = [text for parts in users for text in parts]
    max_tokens = body.get("max_output_tokens")
    return Asked(
        model=str(body.get("model", "")),
        stream=body.get("stream") is True,
        last_text=texts[-1] if texts else "",
        prompt_chars=len(str(body.get("instructions") or ""))
        + sum(len(text) for item in items for text in texts_of(item)),
        max_tokens=max_tokens if isinstance(max_tokens, int) else None,
        stop_sequences=(),
        results=_results(items),
        offered=tuple(str(tool.get("name")) for tool in offered_tools(body)),
    )


def answer(asked: Asked, script: Script) -> Answer:
    """The response to one POST /v1/responses."""
    headers = {"x-request-id": f"req_{next(_ids):024d}", **_limit_headers(script)}
    if script.too_long and not asked.stream:
        return _failure(400, ("invalid_request_error", *_TOO_LONG), script.message, headers, script)
    if script.status != 200:
        return _refusal(asked, script, headers)
    reply = compose(asked, script)
    if asked.stream:
        return Answer(200, _SSE | headers, tuple(_stream(asked, script, reply)), reply.end, script.slow_s)
    whole = _response(asked, script, reply, _output(script, reply), "completed")
    delay_s = script.first_delay_s + script.delay_s * max(0, len(reply.pieces) - 1)
    steps = (Step(delay_s, _dump(whole)),) if reply.end == "complete" else ()
    return Answer(200, _JSON | headers, steps, reply.end, script.slow_s)


def count_tokens(body: Any) -> Answer:
    counted = {"object": "response.input_tokens", "input_tokens": read(body).prompt_tokens}
    return Answer(200, _JSON, (Step(0, _dump(counted)),))


def models() -> Answer:
    data = [{"id": name, "object": "model", "owned_by": "openai"} for name in ("gpt-5.5", "gpt-5.5-mini")]
    return Answer(200, _JSON, (Step(0, _dump({"object": "list", "data": data})),))


def account() -> Answer:
    """What ChatGPT knows of a login beside its chats: nothing that matters."""
    return Answer(200, _JSON, (Step(0, _dump({"accounts": []})),))


def error(status: int, message: str) -> Answer:
    return _failure(status, _ERRORS[status], message, {}, Script())


def _stream(asked: Asked, script: Script, reply: Reply) -> Iterator[Step]:
    """The events as the vendor numbers them: a sequence over the whole answer."""
    for number, (delay_s, event) in enumerate(_events(asked, script, reply)):
        data = _dump({**event, "sequence_number": number})
        yield Step(delay_s, b"event: %s\ndata: %s\n\n" % (event["type"].encode(), data))


def _events(asked: Asked, script: Script, reply: Reply) -> Iterator[tuple[float, dict[str, Any]]]:
    started = _response(asked, script, reply, [], "in_progress")
    for kind in ("response.created", "response.in_progress"):
        yield 0, {"type": kind, "response": started}
    if script.too_long:
        yield script.first_delay_s, _failed(started, _TOO_LONG, script.message)
        return
    pause_s = script.first_delay_s
    items = _output(script, reply)
    for index, item in enumerate(items):
        closed = reply.end == "complete" or index < bool(script.thinking)
        for delay_s, event in _item_events(index, item, script, reply, closed=closed):
            yield pause_s + delay_s, event
            pause_s = 0
        pause_s = script.delay_s
    match reply.end:
        case "complete":
            status = "incomplete" if _reason(script, reply) else "completed"
            done = {**_response(asked, script, reply, items, status), "id": started["id"]}
            yield script.delay_s if reply.calls else 0, {"type": f"response.{status}", "response": done}
        case "error":
            yield script.delay_s, _failed(started, _OVERLOADED, script.message)


def _item_events(
    index: int, item: dict[str, Any], script: Script, reply: Reply, *, closed: bool
) -> Iterator[tuple[float, dict[str, Any]]]:
    at = {"output_index": index, "item_id": item["id"]}
    opened = {**item, "status": "in_progress", "content": [], "summary": []}
    if item["type"] in ("function_call", "custom_tool_call"):
        opened = {**item, "status": "in_progress"}
    yield 0, {"type": "response.output_item.added", "output_index": index, "item": opened}
    match item["type"]:
        case "reasoning":
            part = {"type": "summary_text", "text": ""}
            where = {**at, "summary_index": 0}
            yield 0, {"type": "response.reasoning_summary_part.added", **where, "part": part}
            yield 0, {"type": "response.reasoning_summary_text.delta", **where, "delta": script.thinking}
            yield 0, {"type": "response.reasoning_summary_text.done", **where, "text": script.thinking}
        case "message":
            where = {**at, "content_index": 0}
            yield 0, {"type": "response.content_part.added", **where, "part": _text_part("")}
            for n, piece in enumerate(reply.pieces):
                yield script.delay_s if n else 0, {"type": "response.output_text.delta", **where, "delta": piece}
            if closed:
                yield 0, {"type": "response.output_text.done", **where, "text": reply.text}
    if closed:
        yield 0, {"type": "response.output_item.done", "output_index": index, "item": item}


def _output(script: Script, reply: Reply) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if script.thinking:
        summary = [{"type": "summary_text", "text": script.thinking}]
        items.append({"type": "reasoning", "id": f"rs_{next(_ids)}", "summary": summary, "encrypted_content": "c2Vh"})
    if reply.pieces:
        content = [_text_part(reply.text)]
        message = {"type": "message", "id": f"msg_{next(_ids)}", "role": "assistant", "status": "completed"}
        items.append({**message, "content": content})
    for name, arguments in reply.calls:
        n = next(_ids)
        status = "incomplete" if _reason(script, reply) else "completed"
        call = {"id": f"fc_{n}", "call_id": f"call_{n}", "name": name, "status": status}
        items.append({"type": "function_call", **call, "arguments": arguments})
    return items


def offered_tools(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The functions a request offers: beside its conversation or, as newer models take them, within it."""
    inside = [tool for item in body.get("input") or () if isinstance(item, dict) for tool in item.get("tools") or ()]
    found: list[dict[str, Any]] = []
    for tool in (*(body.get("tools") or ()), *inside):
        found += tool["tools"] if tool.get("type") == "namespace" else [tool]
    return found


def _reason(script: Script, reply: Reply) -> str:
    """Why an answer is incomplete, empty if it is not; one cut in the midst of calls counts by its script."""
    return _INCOMPLETE.get(script.stop if reply.calls else reply.stop, "")


def _results(items: list[dict[str, Any]]) -> int:
    """How many rounds of results of tools there are at the end: outputs between two calls are one."""
    kinds = [str(item.get("type", "")) for item in items]
    last = max((n for n, item in enumerate(items) if item.get("role") == "user"), default=-1)
    is_output = [kind.endswith("call_output") for kind in kinds[last + 1 :]]
    return sum(it and not before for before, it in zip([False, *is_output], is_output, strict=False))


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _response(asked: Asked, script: Script, reply: Reply, output: list[dict[str, Any]], status: str) -> dict[str, Any]:
    is_over = status != "in_progress"
    reason = _reason(script, reply)
    return {
        "id": f"resp_{next(_ids):024d}",
        "object": "response",
        "status": status,
        "model": asked.model,
        "output": output,
        "error": None,
        "incomplete_details": {"reason": reason} if is_over and reason else None,
        "usage": _usage(asked, script, reply) if is_over else None,
    }


def _usage(asked: Asked, script: Script, reply: Reply) -> dict[str, Any]:
    # This vendor counts cached tokens among the prompt's, and thoughts among the answer's.
    thoughts = tokens_of(len(script.thinking))
    output_tokens = len(reply.pieces) + thoughts
    return {
        "input_tokens": asked.prompt_tokens,
        "input_tokens_details": {"cached_tokens": min(script.cached, asked.prompt_tokens)},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": thoughts},
        "total_tokens": asked.prompt_tokens + output_tokens,
    }


def _failed(response: dict[str, Any], words: tuple[str, str], message: str) -> dict[str, Any]:
    code, wording = words
    failed = {**response, "status": "failed", "error": {"code": code, "message": message or wording}}
    return {"type": "response.failed", "response": failed}


def _limit_headers(script: Script) -> dict[str, str]:
    """What a request paid by a ChatGPT plan is told of its windows; an API key's only how long to wait."""
    headers: dict[str, str] = {}
    if script.retry_after_s is not None:
        headers["retry-after"] = f"{script.retry_after_s:g}"
    if script.unified:
        name, minutes = _WINDOWS.get(script.claim, _WINDOWS["five_hour"])
        headers |= {
            f"x-codex-{name}-used-percent": str(_USED[script.unified]),
            f"x-codex-{name}-window-minutes": str(minutes),
            f"x-codex-{name}-reset-at": str(script.resets_at()),
        }
    return headers


def _refusal(asked: Asked, script: Script, headers: dict[str, str]) -> Answer:
    kind, code, wording = _ERRORS[script.status]
    wait = "" if script.retry_after_s is None else f"Please try again in {script.retry_after_s:g}s."
    words = (kind, code, wording.format(model=asked.model, wait=wait).strip())
    extra: dict[str, Any] = {}
    if script.status == 429 and script.unified == "rejected":
        words = ("usage_limit_reached", code, "The usage limit has been reached")
        extra = {"plan_type": "plus", "resets_at": script.resets_at()}
    return _failure(script.status, words, script.message, headers, script, extra)


def _failure(
    status: int,
    words: tuple[str, str, str],
    message: str,
    headers: dict[str, str],
    script: Script,
    extra: dict[str, Any] | None = None,
) -> Answer:
    kind, code, wording = words
    body = {"error": {"message": message or wording, "type": kind, "param": None, "code": code, **(extra or {})}}
    return Answer(status, _JSON | headers, (Step(0, _dump(body)),), slow_s=script.slow_s)


def texts_of(item: dict[str, Any]) -> list[str]:
    """The texts of an input item: of a message's parts, or of a tool's output."""
    match item.get("content"):
        case str(text):
            return [text]
        case list(parts):
            return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return []


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
