"""Events as OpenAI's chat completion: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson

from chat.ask import Admitted, Answering, Note
from chat.ids import new_id
from chat.wire.whole import WholeTurn, collect
from providers.events import (
    Event,
    LimitNotice,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    TurnFinished,
    TurnStarted,
    Usage,
    Working,
)

Json = dict[str, Any]


REFUSED = "The model refused to answer."
NO_LOGPROBS: Json = {"logprobs": None}
# Arguments go out in pieces of so many characters.
ARGUMENTS_PIECE = 1_000


def usage_body(usage: Usage) -> Json:
    body: Json = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    return body if usage.cost_usd is None else {**body, "cost_usd": usage.cost_usd}


def tool_call_body(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


async def as_completion(started: TurnStarted, events: AsyncIterator[Note | Event], *, is_json: bool = False) -> Json:
    """The whole answer, once it is complete. `is_json`: it was asked for as JSON. Raises what the events raise."""
    answer = await collect(events)
    finished = answer.finished
    return {
        **_head(started, "chat.completion"),
        "choices": [
            {"index": 0, "message": _message(answer, is_json), "finish_reason": finished.reason, **NO_LOGPROBS}
        ],
        "usage": usage_body(finished.usage) if finished.usage else None,
    }


def _message(answer: WholeTurn, is_json: bool) -> Json:
    text, refusal = answer.text, None
    # Of JSON that was refused, what was said in its place is no answer.
    if is_json and answer.finished.reason == "content_filter":
        text, refusal = "", text or REFUSED
    message: Json = {"role": "assistant", "content": text, "refusal": refusal}
    if refusal or (answer.calls and not text):
        message["content"] = None
    if answer.calls:
        message["tool_calls"] = [tool_call_body(call) for call in answer.calls]
    if answer.thoughts:
        message["reasoning_content"] = "".join(answer.thoughts)
    return message


def _head(started: TurnStarted, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{new_id()}",
        "object": kind,
        "created": int(time.time()),
        "model": started.model,
        "provider": started.provider,
    }


class ChunkWriter:
    """Writes the chunks of one stream: one id throughout, the role in the first delta, usage only when asked."""

    def __init__(self, started: TurnStarted, *, include_usage: bool, is_json: bool = False) -> None:
        self._include_usage = include_usage
        self._is_json = is_json
        self._calls = 0
        self._has_text = False
        # What never changes is serialised once; only the delta is new in each chunk.
        self._head = orjson.dumps(_head(started, "chat.completion.chunk"))[:-1]
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def first(self) -> bytes:
        return self._choice({"role": "assistant", "content": ""}, None)

    def write(self, event: Note | Event) -> bytes:
        """The chunks of one event; empty for one that OpenAI's stream has no place for."""
        match event:
            case TextDelta(text):
                self._has_text = True
                return self._choice({"content": text}, None)
            case ReasoningDelta(text):
                return self._choice({"reasoning_content": text}, None)
            case ToolCall():
                return self._call(event)
            case TurnFinished(reason, usage):
                return self._end(reason) + self._usage(usage) + b"data: [DONE]\n\n"
            case Admitted() | Answering() | TurnStarted() | LimitNotice() | Usage() | Working():
                return b""

    def _call(self, call: ToolCall) -> bytes:
        """Name first, then the arguments in pieces: what clients put together again by the call's index."""
        index, arguments = self._calls, call.arguments
        self._calls += 1
        head = {"index": index, **tool_call_body(ToolCall(call.id, call.name, ""))}
        pieces = (arguments[at : at + ARGUMENTS_PIECE] for at in range(0, len(arguments), ARGUMENTS_PIECE))
        deltas = [head, *({"index": index, "function": {"arguments": piece}} for piece in pieces)]
        return b"".join(self._choice({"tool_calls": [delta]}, None) for delta in deltas)

    def _end(self, reason: str) -> bytes:
        is_refusal = self._is_json and reason == "content_filter" and not self._has_text
        refusal = self._choice({"refusal": REFUSED}, None) if is_refusal else b""
        return refusal + self._choice({}, reason)

    def _choice(self, delta: Json, reason: str | None) -> bytes:
        choices = orjson.dumps([{"index": 0, "delta": delta, "finish_reason": reason}])
        return b"data: " + self._head + b',"choices":' + choices + self._tail

    def _usage(self, usage: Usage | None) -> bytes:
        if not self._include_usage:
            return b""
        body = orjson.dumps(usage_body(usage) if usage else None)
        return b"data: " + self._head + b',"choices":[],"usage":' + body + b"}\n\n"
