"""The dialects' translations as pieces of work that can be repeated: a request read and answered, a stream written."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hubsite.settings")
django.setup()

from chat.response_id import ResponseId  # noqa: E402 (models need Django)
from chat.responses_schemas import ResponseRequest  # noqa: E402
from chat.schemas import ChatCompletionRequest  # noqa: E402
from chat.wire import openai_answer, openai_request, responses_answer, responses_request  # noqa: E402
from chat.wire.responses_output import Output  # noqa: E402
from chat.wire.responses_stream import ResponseWriter  # noqa: E402
from providers.events import (  # noqa: E402
    Event,
    TextDelta,
    ToolCall,
    TurnFinished,
    TurnStarted,
    Usage,
)

Work = Callable[[], object]

STARTED = TurnStarted("claude-sonnet-5-5", "claude")
FINISHED = TurnFinished("stop", Usage(1_000, 40))
CHUNKS = 1_000
TURN = "01a204917c0bc7716c4375b15fefa539"


def requests_of(
    tools: Callable[[int], list[dict[str, Any]]], messages: Callable[[int], list[dict[str, Any]]]
) -> dict[str, tuple[Work, bool]]:
    """By name, and whether it is the request the bound was set for."""
    text = [TextDelta("word " * 50), FINISHED]
    call = [ToolCall("call_1", "get_weather_0", '{"city": "Bern"}'), TurnFinished("tool_calls", Usage(1_000, 40))]
    plain = {"model": "claude", "messages": messages(0)}
    agent = {"model": "claude", "messages": messages(3), "tools": tools(5), "stream": False}
    large = {"model": "claude", "messages": messages(20), "tools": tools(40)}
    return {
        "a question": (_whole(plain, text), True),
        "an agent's request, 5 tools, 3 rounds": (_whole(agent, call), True),
        "an agent's request, 40 tools, 20 rounds": (_whole(large, call), False),
        "a question by the Responses API": (_response({"model": "claude", "input": messages(0)}, text), True),
        "the same with 5 tools": (
            _response({"model": "claude", "input": messages(0), "tools": _flat(tools(5))}, call),
            True,
        ),
    }


def _flat(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "function", **tool["function"]} for tool in tools]


def _whole(body: dict[str, Any], events: list[Any]) -> Work:
    def work() -> object:
        asked = ChatCompletionRequest.model_validate(body)
        openai_request.to_turn(asked)
        openai_request.ignored_parameters(asked, ())
        return _run(openai_answer.as_completion(STARTED, _each(events)))

    return work


def _response(body: dict[str, Any], events: list[Any]) -> Work:
    def work() -> object:
        asked = ResponseRequest.model_validate(body)
        responses_request.to_turn(asked)
        responses_request.ignored_parameters(asked, ())
        return _run(responses_answer.as_response(_base(asked), Output(TURN), _each(events)))

    return work


def _base(asked: ResponseRequest) -> dict[str, Any]:
    echo = responses_answer.echo_of(asked)
    return responses_answer.envelope(ResponseId(TURN), status="in_progress", model="m", provider="claude", **echo)


async def _each(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


def _run(coroutine: Any) -> object:
    """What it returns; nothing in it waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("a translation waited for something")


def _chat_chunks() -> tuple[Work, int]:
    writer = openai_answer.ChunkWriter(STARTED, include_usage=True)
    events = [TextDelta(f"word {n} ") for n in range(CHUNKS)]
    return (lambda: [writer.write(event) for event in events]), CHUNKS


def _response_chunks() -> tuple[Work, int]:
    events = [TextDelta(f"word {n} ") for n in range(CHUNKS)]
    asked = ResponseRequest.model_validate({"model": "claude", "input": "x"})

    def work() -> object:
        writer = ResponseWriter(_base(asked), Output(TURN))
        writer.first()
        return [writer.write(event) for event in events]

    return work, CHUNKS


STREAMS: dict[str, Callable[[], tuple[Work, int]]] = {
    "a chunk of a chat completion": _chat_chunks,
    "a chunk of a response": _response_chunks,
}
