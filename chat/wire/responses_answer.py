"""Events as an answer of OpenAI's Responses API, and what a session keeps of one."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from chat.ask import Admitted, Answering, Note
from chat.conversation import StoredMessage
from chat.response_id import ResponseId
from chat.responses_bodies import Status
from chat.responses_schemas import ResponseRequest
from chat.wire.responses_output import Output
from providers.errors import ProtocolBroken
from providers.events import Event, TextDelta, ToolCall, TurnFinished, Usage

Json = dict[str, Any]

# What a request is answered with that asks for nothing of the kind; an answer that is fetched later has the same.
DEFAULTS: Json = {
    "instructions": None,
    "previous_response_id": None,
    "max_output_tokens": None,
    "temperature": None,
    "top_p": None,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
    "truncation": "disabled",
    "metadata": {},
    "user": None,
}
REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def envelope(response_id: ResponseId, *, status: Status, model: str, provider: str, **fields: Any) -> Json:
    """A response without its output."""
    session_id = response_id.session_id
    return {
        "id": str(response_id),
        "object": "response",
        "created_at": response_id.created_s,
        "status": status,
        "background": response_id.is_background,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "provider": provider,
        "output": [],
        "usage": None,
        "conversation": {"id": session_id} if session_id else None,
        "store": bool(session_id),
        **DEFAULTS,
        **fields,
    }


def echo_of(body: ResponseRequest) -> Json:
    """What an answer repeats of its request."""
    asked = body.model_dump(include={*DEFAULTS} - {"text", "truncation"}, by_alias=True, exclude_unset=True)
    echoed = {name: value for name, value in asked.items() if value is not None}
    if body.text is not None and body.text.format is not None:
        echoed["text"] = {"format": body.text.format.model_dump(by_alias=True, exclude_unset=True)}
    if "reasoning" in echoed:
        echoed["reasoning"] = {**DEFAULTS["reasoning"], **echoed["reasoning"]}
    return echoed


async def as_response(base: Json, output: Output, events: AsyncIterator[Note | Event]) -> Json:
    """The whole answer, once it is complete. Raises what the events raise."""
    finished: TurnFinished | None = None
    async for event in events:
        if isinstance(event, (Admitted, Answering)):
            continue
        _drain(output, event)
        finished = event if isinstance(event, TurnFinished) else None
    if finished is None:
        raise ProtocolBroken("the turn ended before its answer did")
    return completed(base, output, finished)


def completed(base: Json, output: Output, finished: TurnFinished) -> Json:
    is_complete = output.is_complete(finished.reason)
    return {
        **base,
        "status": "completed" if is_complete else "incomplete",
        "incomplete_details": None if is_complete else {"reason": REASONS[finished.reason]},
        "output": output.items,
        "usage": usage_body(finished.usage) if finished.usage else None,
    }


def usage_body(usage: Usage) -> Json:
    body: Json = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    return body if usage.cost_usd is None else {**body, "cost_usd": usage.cost_usd}


def error_of(body: Json) -> Json:
    """An error in OpenAI's shape as a failed response tells it."""
    return {"code": body["error"]["code"], "message": body["error"]["message"]}


def kept_response(response_id: ResponseId, answer: StoredMessage, *, system: str) -> Json:
    """An answer as its session keeps it: without thoughts, and of a turn that was cancelled what had come of it."""
    output = Output(response_id.turn_id)
    for block in answer.blocks:
        match block:
            case str():
                _drain(output, TextDelta(block))
            case ToolCall():
                _drain(output, block)
    finished = TurnFinished("length" if answer.is_partial else answer.reason, _usage_of(answer))
    _drain(output, finished)
    base = envelope(response_id, status="cancelled", model=answer.model, provider=answer.provider)
    body = {**completed(base, output, finished), "instructions": system or None}
    return {**body, "status": "cancelled", "incomplete_details": None} if answer.is_partial else body


def _usage_of(answer: StoredMessage) -> Usage | None:
    return Usage(*answer.tokens) if answer.tokens else None


def _drain(output: Output, event: Event) -> None:
    deque(output.take(event), maxlen=0)
