"""Gemini's generateContent API: reading its requests, writing its answers."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from tests.vendor_api.script import Script
from tests.vendor_api.turn import Answer, Asked, Reply, Step, compose, tokens_of

_JSON = {"content-type": "application/json; charset=UTF-8"}
_SSE = {"content-type": "text/event-stream", "cache-control": "no-cache"}
_FINISH_REASONS = {"max_tokens": "MAX_TOKENS", "refusal": "SAFETY"}
_OVERLOADED = "The model is overloaded. Please try again later."
_ERRORS = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: ("NOT_FOUND", "models/{model} is not found for API version v1beta, or is not supported for generateContent."),
    413: ("INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."),
    429: ("RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details."),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    503: ("UNAVAILABLE", _OVERLOADED),
    529: ("UNAVAILABLE", _OVERLOADED),
}
_TOO_LONG = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
_RPC = "type.googleapis.com/google.rpc"
_APART_S = 0.05  # the CLI knows a bare error only if it arrives alone
_NOTHING = "\u200b"  # stands for no text: the vendor takes no empty part
_ids = count(1)


def read(body: Any, *, model: str, stream: bool) -> Asked:
    """The chat request in a parsed body; fields of the wrong shape count as absent."""
    body = body if isinstance(body, dict) else {}
    contents = [content for content in body.get("contents") or () if isinstance(content, dict)]
    users = [_parts(content) for content in contents if content.get("role", "user") == "user"]
    # The CLI starts a conversation with a note of its own about date and folders.
    spoken = [text for parts in users for text in _texts(parts) if not text.startswith("<session_context>")]
    texts = [text for text in spoken if text != _NOTHING]
    config = body.get("generationConfig") or {}
    max_tokens = config.get("maxOutputTokens")
    return Asked(
        model=model,
        stream=stream,
        last_text=texts[-1] if texts else "",
        prompt_chars=sum(
            len(text) for content in (body.get("systemInstruction"), *contents) for text in _texts(_parts(content))
        ),
        max_tokens=max_tokens if isinstance(max_tokens, int) else None,
        stop_sequences=tuple(str(text) for text in config.get("stopSequences") or () if text),
        results=_results(users),
        offered=tuple(str(it.get("name")) for it in _declarations(body)),
    )


def answer(asked: Asked, script: Script) -> Answer:
    """The response to one :generateContent or :streamGenerateContent."""
    if script.too_long:
        return _failure(400, script.message or _TOO_LONG, [], script)
    if script.status != 200:
        message = script.message or _ERRORS[script.status][1].format(model=asked.model)
        return _failure(script.status, message, _details(asked, script), script)
    reply = compose(asked, script)
    if asked.stream:
        return Answer(200, _SSE, tuple(_steps(asked, script, reply)), reply.end, script.slow_s)
    if reply.end == "error":
        return _failure(503, script.message or _OVERLOADED, [], script)
    parts = [part for _, part in _timed_parts(script, reply)]
    whole = _chunk(asked, script, reply, parts, said=len(reply.pieces), last=True)
    delay_s = script.first_delay_s + script.delay_s * max(0, len(reply.pieces) - 1)
    steps = (Step(delay_s, _dump(whole)),) if reply.end == "complete" else ()
    return Answer(200, _JSON, steps, reply.end, script.slow_s)


def count_tokens(body: Any) -> Answer:
    match body:
        case {"generateContentRequest": dict(inner)}:
            body = inner
    total = read(body, model="", stream=False).prompt_tokens
    return Answer(200, _JSON, (Step(0, _dump({"totalTokens": total})),))


def models() -> Answer:
    names = ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite")
    methods = ["generateContent", "countTokens"]
    data = [{"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods} for name in names]
    return Answer(200, _JSON, (Step(0, _dump({"models": data})),))


def error(status: int, message: str) -> Answer:
    return _failure(status, message, [], Script())


def _steps(asked: Asked, script: Script, reply: Reply) -> Iterator[Step]:
    timed = list(_timed_parts(script, reply))
    complete = reply.end == "complete"
    said = 0
    for n, (delay_s, part) in enumerate(timed):
        said += "text" in part and "thought" not in part
        # An empty last part would make the CLI call the whole answer invalid, so the reason rides on the last real one.
        last = complete and n == len(timed) - 1
        yield Step(delay_s, _frame(_chunk(asked, script, reply, [part], said=said, last=last)))
    if complete and not timed:
        yield Step(script.first_delay_s, _frame(_chunk(asked, script, reply, [], said=0, last=True)))
    if reply.end == "error":
        failed = {"error": {"code": 503, "message": script.message or _OVERLOADED, "status": "UNAVAILABLE"}}
        if script.sse_error_bare:
            yield Step(max(script.delay_s, _APART_S), _dump(failed))
        else:
            yield Step(script.delay_s, _frame(failed))


def _timed_parts(script: Script, reply: Reply) -> Iterator[tuple[float, dict[str, Any]]]:
    parts: list[dict[str, Any]] = []
    if script.thinking:
        parts.append({"text": script.thinking, "thought": True})
    parts += [{"text": piece} for piece in reply.pieces]
    parts += [
        {"functionCall": {"id": f"call_{next(_ids)}", "name": name, "args": json.loads(arguments)}}
        for name, arguments in reply.calls
    ]
    for n, part in enumerate(parts):
        yield (script.delay_s if n else script.first_delay_s), part


def _chunk(
    asked: Asked, script: Script, reply: Reply, parts: list[dict[str, Any]], *, said: int, last: bool
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0}
    if parts:
        candidate["content"] = {"parts": parts, "role": "model"}
    if last:
        candidate["finishReason"] = _FINISH_REASONS.get(reply.stop, "STOP")
    usage = _usage(asked, script, said)
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": asked.model, "responseId": "stand-in"}


def _usage(asked: Asked, script: Script, output_tokens: int) -> dict[str, int]:
    # Unlike Anthropic's, this vendor's prompt count includes the cached tokens, and its answer count no thoughts.
    thoughts = tokens_of(len(script.thinking))
    usage = {
        "promptTokenCount": asked.prompt_tokens,
        "candidatesTokenCount": output_tokens,
        "totalTokenCount": asked.prompt_tokens + output_tokens + thoughts,
    }
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    if script.cached:
        usage["cachedContentTokenCount"] = min(script.cached, asked.prompt_tokens)
    return usage


def _details(asked: Asked, script: Script) -> list[dict[str, Any]]:
    details: list[dict[str, Any]] = []
    if script.status == 429:
        period, value = ("Day", "250") if script.daily else ("Minute", "10")
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
            "quotaId": f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier",
            "quotaDimensions": {"location": "global", "model": asked.model},
            "quotaValue": value,
        }
        details.append({"@type": f"{_RPC}.QuotaFailure", "violations": [violation]})
    if script.retry_after_s is not None:
        details.append({"@type": f"{_RPC}.RetryInfo", "retryDelay": f"{script.retry_after_s:g}s"})
    return details


def _failure(status: int, message: str, details: list[dict[str, Any]], script: Script) -> Answer:
    failed: dict[str, Any] = {"code": status, "message": message, "status": _ERRORS[status][0]}
    if details:
        failed["details"] = details
    return Answer(status, _JSON, (Step(0, _dump({"error": failed})),), slow_s=script.slow_s)


def _results(users: list[list[dict[str, Any]]]) -> int:
    """How many messages at the end bring results of tools; a text beside them is none of the user's."""
    found = (n for n, parts in enumerate(reversed(users)) if not any("functionResponse" in part for part in parts))
    return next(found, len(users))


def _declarations(body: dict[str, Any]) -> list[dict[str, Any]]:
    tools = [tool for tool in body.get("tools") or () if isinstance(tool, dict)]
    return [it for tool in tools for it in tool.get("functionDeclarations") or () if isinstance(it, dict)]


def _parts(content: Any) -> list[dict[str, Any]]:
    match content:
        case {"parts": list(parts)}:
            return [part for part in parts if isinstance(part, dict)]
    return []


def _texts(parts: list[dict[str, Any]]) -> list[str]:
    return [text for part in parts if isinstance(text := part.get("text"), str)]


def _frame(value: Any) -> bytes:
    return b"data: %s\r\n\r\n" % _dump(value)


def _dump(value: Any) -> bytes:
    # Escaped, as Google's own JSON does with line separators: the CLI would take a bare one for the end of a line.
    return json.dumps(value, separators=(",", ":")).encode()
