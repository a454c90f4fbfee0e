"""Events as OpenAI's chat completion: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson

from chat.ask import Admitted, Answering, Note
from chat.ids import new_id
from providers.errors import ProtocolBroken
from providers.events import Event, LimitNotice, ReasoningDelta, TextDelta, TurnFinished, TurnStarted, Usage

Json = dict[str, Any]


def usage_body(usage: Usage) -> Json:
    body: Json = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    return body if usage.cost_usd is None else {**body, "cost_usd": usage.cost_usd}


async def as_completion(started: TurnStarted, events: AsyncIterator[Note | Event]) -> Json:
    """The whole answer, once it is complete. Raises what the events raise."""
    texts: list[str] = []
    thoughts: list[str] = []
    finished: TurnFinished | None = None
    async for event in events:
        match event:
            case TextDelta(text):
                texts.append(text)
            case ReasoningDelta(text):
                thoughts.append(text)
            case TurnFinished():
                finished = event
    if finished is None:
        raise ProtocolBroken("the turn ended before its answer did")
    message: Json = {"role": "assistant", "content": "".join(texts), "refusal": None}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    return {
        **_head(started, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": finished.reason, "logprobs": None}],
        "usage": usage_body(finished.usage) if finished.usage else None,
    }


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

    def __init__(self, started: TurnStarted, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        # What never changes is serialised once; only the delta is new in each chunk.
        self._head = orjson.dumps(_head(started, "chat.completion.chunk"))[:-1]
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def first(self) -> bytes:
        return self._choice({"role": "assistant", "content": ""}, None)

    def write(self, event: Note | Event) -> bytes:
        """The chunks of one event; empty for one that OpenAI's stream has no place for."""
        match event:
            case TextDelta(text):
                return self._choice({"content": text}, None)
            case ReasoningDelta(text):
                return self._choice({"reasoning_content": text}, None)
            case TurnFinished(reason, usage):
                return self._choice({}, reason) + self._usage(usage) + b"data: [DONE]\n\n"
            case Admitted() | Answering() | TurnStarted() | LimitNotice() | Usage():
                return b""

    def _choice(self, delta: Json, reason: str | None) -> bytes:
        choices = orjson.dumps([{"index": 0, "delta": delta, "finish_reason": reason}])
        return b"data: " + self._head + b',"choices":' + choices + self._tail

    def _usage(self, usage: Usage | None) -> bytes:
        if not self._include_usage:
            return b""
        body = orjson.dumps(usage_body(usage) if usage else None)
        return b"data: " + self._head + b',"choices":[],"usage":' + body + b"}\n\n"
