"""The stream of /v1/responses is well-formed whatever the events are, and adds up to the whole answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type_unchecked
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from chat.response_id import ResponseId
from chat.wire.openai_errors import as_http
from chat.wire.responses_answer import as_response, envelope
from chat.wire.responses_output import Output
from chat.wire.responses_stream import ResponseWriter
from chat.wire.sse import as_sse
from providers.errors import WorkerCrashed
from providers.events import (
    Event,
    LimitNotice,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    TurnFinished,
    Usage,
    Working,
)

ID = ResponseId("0" * 32, "sess_1")
BASE = envelope(ID, status="in_progress", model="model", provider="echo")
STOP = TurnFinished("stop", Usage(3, 4, 1, 2, 0.5))
CALL = ToolCall("call_1", "look", '{"at": "it"}')


async def scripted(steps: Sequence[Event | Exception]) -> AsyncGenerator[Event, None]:
    for step in steps:
        if isinstance(step, Exception):
            raise step
        yield step


async def streamed(*steps: Event | Exception, is_json: bool = False) -> list[dict[str, Any]]:
    """The events of a stream, each of which has to be framed under its own name."""
    writer = ResponseWriter(BASE, Output(ID.turn_id, is_json=is_json))
    events = scripted(steps)
    sse = as_sse(events, writer, describe_error=lambda error: as_http(error).body, write_error=writer.fail)
    text = b"".join([chunk async for chunk in sse]).decode()
    assert text.endswith("\n\n")
    frames = [frame.split("\n") for frame in text.removesuffix("\n\n").split("\n\n")]
    told = []
    for name, data in frames:
        told.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {told[-1]['type']}"
    return told


async def whole(*steps: Event, is_json: bool = False) -> dict[str, Any]:
    answer = await as_response(BASE, Output(ID.turn_id, is_json=is_json), scripted(steps))
    return dict(json.loads(json.dumps(answer)))


def names(told: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in told]


# --- what comes in which order ---------------------------------------------------------------------------------------


async def test_thoughts_words_and_calls_are_items_of_their_own() -> None:
    steps = (ReasoningDelta("Hm"), ReasoningDelta("."), TextDelta("Let me"), TextDelta(" see"), CALL)
    told = await streamed(*steps, TurnFinished("tool_calls", None))
    assert names(told) == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    reasoning, message, call = told[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert message["content"] == [{"type": "output_text", "text": "Let me see", "annotations": [], "logprobs": []}]
    assert (call["type"], call["call_id"], call["name"]) == ("function_call", "call_1", "look")
    assert (call["arguments"], call["status"]) == ('{"at": "it"}', "completed")


async def test_calls_side_by_side_keep_their_order_and_ids() -> None:
    calls = [ToolCall(f"call_{n}", "look", json.dumps({"at": "x" * 2_500 * n})) for n in range(3)]
    told = await streamed(*calls, TurnFinished("tool_calls", None))
    for n, call in enumerate(calls):
        deltas = [it["delta"] for it in told if it["type"].endswith("arguments.delta") and it["output_index"] == n]
        assert "".join(deltas) == call.arguments
        assert all(len(delta) <= 1_000 for delta in deltas)
    assert [it["call_id"] for it in told[-1]["response"]["output"]] == ["call_0", "call_1", "call_2"]


async def test_usage_stands_in_the_last_event() -> None:
    told = await streamed(TextDelta("Hi"), STOP)
    assert [it["response"]["usage"] for it in told if "response" in it] == [
        None,
        None,
        {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 1},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 7,
            "cost_usd": 0.5,
        },
    ]


async def test_answer_without_a_word_is_an_empty_message() -> None:
    for steps in ((STOP,), (ReasoningDelta("Hm"), STOP)):
        *_, message = (await whole(*steps))["output"]
        assert message["content"][0]["text"] == ""
        assert (await streamed(*steps))[-1]["response"]["output"][-1] == message


async def test_answer_that_was_cut_is_incomplete() -> None:
    for reason, told_as in (("length", "max_output_tokens"), ("content_filter", "content_filter")):
        *_, last = await streamed(TextDelta("Hi"), TurnFinished(reason, None))  # type: ignore[arg-type]
        assert last["type"] == "response.incomplete"
        assert last["response"]["incomplete_details"] == {"reason": told_as}
        assert last["response"]["output"][0]["status"] == "incomplete"


async def test_refusal_in_the_place_of_json_is_no_text() -> None:
    """Clients would parse it."""
    for said in ("I can't do that.", ""):
        told = await streamed(TextDelta(said), TurnFinished("content_filter", None), is_json=True)
        (part,) = told[-1]["response"]["output"][0]["content"]
        assert part["type"] == "refusal"
        assert said in part["refusal"] != ""
        assert told[-1]["type"] == "response.completed"
        assert not any("output_text" in name for name in names(told))
        assert {"refusal.delta", "refusal.done"} <= set(names(told))


# --- failures --------------------------------------------------------------------------------------------------------


async def test_late_failure_is_a_failed_response_and_an_error() -> None:
    *_, failed, error = told = await streamed(TextDelta("Hi"), WorkerCrashed("process 1 ended with code 9"))
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "worker_crashed"
    assert (error["type"], error["code"], error["error"]["code"]) == ("error", "worker_crashed", "worker_crashed")
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert not {"completed", "output_item.done", "output_text.done"} & set(names(told))


async def test_events_that_end_without_a_finish_are_a_failure() -> None:
    told = await streamed(TextDelta("Hi"))
    assert told[-1]["code"] == "worker_protocol_broken"


async def test_unforeseen_failure_tells_nothing_of_its_words() -> None:
    told = await streamed(TextDelta("Hi"), RuntimeError("a secret"))
    assert told[-1]["code"] == "internal_error"
    assert "secret" not in json.dumps(told)


# --- whatever comes --------------------------------------------------------------------------------------------------

texts = st.text(max_size=5)
calls = st.builds(ToolCall, st.just("call"), st.just("look"), st.text(min_size=1, max_size=2_500))
steps = st.one_of(
    st.builds(TextDelta, texts),
    st.builds(ReasoningDelta, texts),
    calls,
    st.sampled_from([Working(), Usage(1, 2), LimitNotice("allowed", "5h")]),
)
ends = st.builds(
    TurnFinished, st.sampled_from(["stop", "length", "content_filter", "tool_calls"]), st.just(Usage(1, 2))
)


def numbered(given_steps: list[Event]) -> list[Event]:
    return [
        ToolCall(f"call_{n}", step.name, step.arguments) if isinstance(step, ToolCall) else step
        for n, step in enumerate(given_steps)
    ]


@given(st.lists(steps, max_size=12), ends, st.booleans())
@settings(max_examples=200, deadline=None)
async def test_any_stream_is_well_formed_and_adds_up_to_the_whole_answer(
    given_steps: list[Event], end: TurnFinished, is_json: bool
) -> None:
    events = [*numbered(given_steps), end]
    told = await streamed(*events, is_json=is_json)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    answer = await whole(*events, is_json=is_json)
    assert told[-1]["response"] == answer
    assert put_together(told) == answer["output"]
    assert_an_sdk_reads(told)


def put_together(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items by their deltas alone; what is not open can't grow, and what is done is as it grew."""
    items: dict[int, dict[str, Any]] = {}
    is_open: set[int] = set()
    done: list[dict[str, Any]] = []
    for event in told:
        kind, index = event["type"], event.get("output_index", -1)
        if kind == "response.output_item.added":
            assert index == len(items)
            items[index] = event["item"]
            is_open.add(index)
        elif kind == "response.output_item.done":
            is_open.remove(index)
            item = items[index]
            assert item | {"status": ""} == event["item"] | {"status": ""}
            done.append(event["item"])
        elif index >= 0:
            assert index in is_open, f"{kind} of an item that is not open"
            grow(items[index], event)
    assert not is_open
    return done


def grow(item: dict[str, Any], event: dict[str, Any]) -> None:
    assert item["id"] == event["item_id"]
    parts: list[dict[str, Any]] = item.get("summary", item.get("content", []))
    match event["type"].rsplit(".", 1):
        case [("response.content_part" | "response.reasoning_summary_part"), "added"]:
            assert parts == []
            parts.append(event["part"])
        case [("response.content_part" | "response.reasoning_summary_part"), "done"]:
            assert parts == [event["part"]]
        case ["response.function_call_arguments", "delta"]:
            item["arguments"] += event["delta"]
        case ["response.function_call_arguments", "done"]:
            assert item["arguments"] == event["arguments"]
        case [_, "delta"]:
            (part,) = parts
            field = "refusal" if part["type"] == "refusal" else "text"
            part[field] += event["delta"]
        case [_, "done"]:
            (part,) = parts
            field = "refusal" if part["type"] == "refusal" else "text"
            assert part[field] == event[field]
        case _:
            raise AssertionError(f"an unknown event {event['type']}")


def assert_an_sdk_reads(told: list[dict[str, Any]]) -> None:
    """OpenAI's own accumulator raises at what is out of order."""
    state = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in told:
        state.handle_event(construct_type_unchecked(type_=cast(Any, ResponseStreamEvent), value=event))
    if told[-1]["type"] == "response.completed":
        assert state._completed_response is not None
