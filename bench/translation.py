"""The dialects' translations as pieces of work that can be repeated: a request read and answered, a stream written."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hubsite.settings")
django.setup()

from chat.schemas import ChatCompletionRequest  # noqa: E402 (models need Django)
from chat.wire import openai_answer, openai_request  # noqa: E402
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
    }


def _whole(body: dict[str, Any], events: list[Any]) -> Work:
    def work() -> object:
        asked = ChatCompletionRequest.model_validate(body)
        openai_request.to_turn(asked)
        openai_request.ignored_parameters(asked, ())
        return _run(openai_answer.as_completion(STARTED, _each(events)))

    return work


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


STREAMS: dict[str, Callable[[], tuple[Work, int]]] = {"a chunk of a chat completion": _chat_chunks}
