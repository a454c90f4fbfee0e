"""A stream is never a half answer that looks whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from chat.wire.openai_answer import ChunkWriter, as_completion
from chat.wire.openai_errors import as_http
from chat.wire.sse import as_sse
from providers.errors import ProtocolBroken, WorkerCrashed
from providers.events import Event, LimitNotice, ReasoningDelta, TextDelta, TurnFinished, TurnStarted

STARTED = TurnStarted("model", "echo")
FINISHED = TurnFinished("stop", None)
WAIT_S = 5


class Script:
    """Events as an engine would give them; `closed` says whether the turn was let go of."""

    def __init__(self, *steps: Event | Exception | asyncio.Event) -> None:
        self.steps = steps
        self.closed = False

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed = True

    def stream(self, *, include_usage: bool = False) -> AsyncGenerator[bytes, None]:
        writer = ChunkWriter(STARTED, include_usage=include_usage)
        return as_sse(self.events(), writer, describe_error=lambda error: as_http(error).body)


async def all_of(stream: AsyncGenerator[bytes, None]) -> list[bytes]:
    async with asyncio.timeout(WAIT_S):
        return [chunk async for chunk in stream]


def error_in(chunk: bytes) -> str:
    return str(json.loads(chunk.removeprefix(b"data: "))["error"]["code"])


async def test_answer_ends_with_done_and_lets_go_of_the_turn() -> None:
    script = Script(TextDelta("Hi"), FINISHED)
    chunks = await all_of(script.stream())
    assert chunks[-1].endswith(b"data: [DONE]\n\n")
    assert script.closed


async def test_every_line_is_data_and_every_event_ends_with_an_empty_line() -> None:
    script = Script(TextDelta("a\nb\r\nc\u2028d"), FINISHED)
    body = b"".join(await all_of(script.stream())).decode()
    events = body.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event and "\r" not in event for event in events)


async def test_late_failure_is_one_error_line_and_no_done() -> None:
    script = Script(TextDelta("Hi"), WorkerCrashed("process 1 ended with code 9"))
    *_, last = chunks = await all_of(script.stream())
    assert error_in(last) == "worker_crashed"
    assert len(chunks) == 3
    assert b"[DONE]" not in b"".join(chunks)
    assert script.closed


async def test_unforeseen_failure_tells_nothing_of_its_words() -> None:
    chunks = await all_of(Script(TextDelta("Hi"), RuntimeError("a secret")).stream())
    assert error_in(chunks[-1]) == "internal_error"
    assert b"secret" not in b"".join(chunks)


async def test_events_that_end_without_a_finish_are_a_failure_in_a_stream() -> None:
    """Clients take a stream that merely ends for a whole answer."""
    chunks = await all_of(Script(TextDelta("Hi")).stream())
    assert error_in(chunks[-1]) == "worker_protocol_broken"
    assert b"[DONE]" not in b"".join(chunks)


async def test_events_that_end_without_a_finish_are_a_failure_in_a_whole_answer() -> None:
    with pytest.raises(ProtocolBroken):
        await as_completion(STARTED, Script(TextDelta("Hi")).events())


async def test_closing_a_silent_stream_closes_the_turn() -> None:
    script = Script(TextDelta("Hi"), asyncio.Event())
    stream = script.stream()
    async with asyncio.timeout(WAIT_S):
        await anext(stream)
        await anext(stream)
        await stream.aclose()
    assert script.closed


async def test_cancelling_the_reader_of_a_silent_stream_closes_the_turn() -> None:
    """That is how a client's hang-up arrives."""
    script = Script(TextDelta("Hi"), asyncio.Event())
    has_spoken = asyncio.Event()

    async def read() -> None:
        async for chunk in script.stream():
            if b'"Hi"' in chunk:
                has_spoken.set()

    reader = asyncio.create_task(read())
    async with asyncio.timeout(WAIT_S):
        await has_spoken.wait()
        reader.cancel()
        await asyncio.wait({reader})
    assert reader.cancelled()
    assert script.closed


async def test_reasoning_has_a_field_of_its_own_and_limit_notices_none() -> None:
    notice = LimitNotice("warning", "5h")
    chunks = await all_of(Script(notice, ReasoningDelta("Hm"), notice, TextDelta("Hi"), FINISHED).stream())
    assert [b"reasoning_content" in chunk for chunk in chunks] == [False, True, False, False]


async def test_usage_that_nobody_reported_is_null_not_a_guess() -> None:
    chunks = await all_of(Script(FINISHED).stream(include_usage=True))
    assert b'"choices":[],"usage":null}' in chunks[-1]
