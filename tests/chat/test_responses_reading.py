"""A request of the Responses API as a turn, and the ids its answers go by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chat.conversation import StoredMessage
from chat.errors import BadRequest, Unsupported
from chat.ids import new_id
from chat.response_id import ResponseId
from chat.responses_schemas import ResponseRequest
from chat.wire.media import MediaLimits
from chat.wire.responses_answer import kept_response
from chat.wire.responses_items import input_items
from chat.wire.responses_request import has_answers, ignored_parameters, session_id_of, to_turn
from providers.events import ANY_OBJECT, FinishReason, Media, Message, Sampling, ToolCall, ToolResult, Turn

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = "JVBERi0xLjQKJSVFT0YK"
IMAGE = {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{PNG}"}
FILE = {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def read(given: Any, **fields: Any) -> Turn:
    return to_turn(ResponseRequest.model_validate({"input": given, **fields}))


def user(content: Any = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


def call(number: int, arguments: str = "{}") -> dict[str, Any]:
    named = {"id": f"fc_{number}", "call_id": f"call_{number}", "name": "look", "arguments": arguments}
    return {"type": "function_call", **named, "status": "completed"}


def result(number: int, output: Any = "seen") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": output}


THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}], "content": None}


# --- input -----------------------------------------------------------------------------------------------------------


def test_an_answers_items_are_one_message_with_its_words_first() -> None:
    items = [user(), THOUGHT, call(1), said("Let me see."), call(2), result(1), result(2)]
    assert read(items).messages == (
        Message("user", ("Hi",)),
        Message("assistant", ("Let me see.", ToolCall("call_1", "look", "{}"), ToolCall("call_2", "look", "{}"))),
        Message("tool", (ToolResult("call_1", ("seen",)),)),
        Message("tool", (ToolResult("call_2", ("seen",)),)),
    )


def test_calls_one_after_the_other_are_messages_of_their_own() -> None:
    roles = [message.role for message in read([user(), call(1), result(1), call(2), result(2)]).messages]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]


def test_files_stand_in_questions_and_in_results() -> None:
    image, document = Media("image/png", PNG), Media("application/pdf", PDF, "a.pdf")
    turn = read([user([{"type": "input_text", "text": "What?"}, IMAGE, FILE]), call(1), result(1, [IMAGE])])
    question, _, returned = turn.messages
    assert question.blocks == ("What?", image, document)
    assert returned.results[0].blocks == (image,)


def test_files_are_bounded_in_number() -> None:
    body = ResponseRequest.model_validate({"input": [user([IMAGE]), call(1), result(1, [IMAGE])]})
    assert len(to_turn(body, MediaLimits(max_count=2)).messages) == 3
    with pytest.raises(BadRequest):
        to_turn(body, MediaLimits(max_count=1))


def test_instructions_come_before_those_of_the_input() -> None:
    items = [{"role": "developer", "content": "b"}, user(), {"role": "system", "content": "c"}]
    assert read(items, instructions="a").system == "a\n\nb\n\nc"


def test_answers_make_the_input_a_history() -> None:
    for items, is_history in (([user()], False), ([user(), said("a"), user()], True), ([call(1), result(1)], True)):
        assert has_answers(ResponseRequest.model_validate({"input": items})) is is_history


# --- the rest --------------------------------------------------------------------------------------------------------


def test_functions_choice_and_sampling_are_the_turns() -> None:
    turn = read(
        "Hi",
        tools=[LOOK],
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
        max_output_tokens=5,
        temperature=0.5,
        reasoning={"effort": "low", "summary": "auto"},
    )
    box = turn.toolbox
    assert ([it.name for it in box.tools], box.mode, box.only, box.is_parallel) == (["look"], "required", "look", False)
    assert turn.sampling == Sampling(max_tokens=5, temperature=0.5, reasoning_effort="low")


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        ({}, b""),
        ({"format": {"type": "text"}}, b""),
        ({"format": {"type": "json_object"}}, ANY_OBJECT),
        ({"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}, b'{"type":"object"}'),
    ],
)
def test_format_is_what_the_answer_has_to_fit(given: dict[str, Any], schema: bytes) -> None:
    assert read("Hi", text=given).json_schema == schema


def test_session_in_the_body_is_the_conversations_first() -> None:
    def named(**fields: Any) -> str:
        return session_id_of(ResponseRequest.model_validate({"input": "Hi", **fields}))

    other = {"metadata": {"session_id": "m"}, "user": "session:u"}
    assert [named(conversation="c", **other), named(conversation={"id": "c"}), named(**other)] == ["c", "c", "m"]
    assert [named(user="session:u"), named(user="u"), named()] == ["u", "", ""]


def test_what_no_turn_knows_is_named_where_it_stands() -> None:
    body = ResponseRequest.model_validate(
        {
            "input": [{**user([{"type": "input_text", "text": "Hi", "x": 1}]), "y": 2}],
            "tools": [{**LOOK, "defer_loading": True}],
            "reasoning": {"mode": "pro"},
            "stream_options": {"include_obfuscation": True},
        }
    )
    assert ignored_parameters(body, ("temperature", "max_tokens")) == [
        "reasoning.mode",
        "stream_options.include_obfuscation",
        "input[].y",
        "input[].content[].x",
        "tools[].defer_loading",
    ]


def test_other_kinds_of_tools_are_refused_by_their_name() -> None:
    for kind in ("web_search", "file_search", "code_interpreter", "mcp", "computer", "image_generation", "custom"):
        with pytest.raises(Unsupported, match=kind):
            read("Hi", tools=[{"type": kind, "name": 5}])


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_id", ["", "sess_1", "a.b:c-d_e", "b" * 128])
@pytest.mark.parametrize("is_background", [False, True])
def test_id_tells_turn_and_session(session_id: str, is_background: bool) -> None:
    named = ResponseId(new_id(), session_id, is_background)
    assert ResponseId.read(str(named)) == named


@pytest.mark.parametrize("text", ["", "resp_", "resp_1", "chatcmpl-1", f"resp_{'0' * 32}_", f"resp_{'0' * 32}_ü"])
def test_what_is_no_id_of_this_hub_is_none(text: str) -> None:
    assert ResponseId.read(text) is None


def test_kept_answer_has_its_words_and_calls() -> None:
    named = ResponseId(new_id(), "sess_1")
    blocks = ("Let me see.", ToolCall("call_1", "look", "{}"))
    answer = StoredMessage("assistant", blocks, named.turn_id, 0, "claude", "sonnet", tokens=(3, 4))
    kept = kept_response(named, answer, system="Be brief.")
    assert [item["type"] for item in kept["output"]] == ["message", "function_call"]
    assert (kept["status"], kept["model"], kept["instructions"]) == ("completed", "sonnet", "Be brief.")
    assert kept["usage"]["total_tokens"] == 7


def test_cut_answer_is_kept_as_cancelled_and_never_looks_whole() -> None:
    named = ResponseId(new_id(), "sess_1")
    answer = StoredMessage("assistant", ("Let me",), named.turn_id, 0, is_partial=True)
    kept = kept_response(named, answer, system="")
    assert (kept["status"], kept["output"][0]["status"]) == ("cancelled", "incomplete")


@pytest.mark.parametrize(("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_answer_that_was_ended_early_is_kept_as_incomplete(reason: FinishReason, told: str) -> None:
    named = ResponseId(new_id(), "sess_1")
    answer = StoredMessage("assistant", ("Let me",), named.turn_id, 0, "claude", "sonnet", tokens=(3, 4), reason=reason)
    kept = kept_response(named, answer, system="")
    assert (kept["status"], kept["incomplete_details"]) == ("incomplete", {"reason": told})
    assert kept["output"][0]["status"] == "incomplete"
    assert kept["usage"]["total_tokens"] == 7


def test_kept_questions_are_items_that_can_be_sent_again() -> None:
    items = [user([{"type": "input_text", "text": "What?"}, IMAGE, FILE]), said("Hm"), call(1), result(1, [IMAGE])]
    turn = read(items)
    stored = [StoredMessage(message.role, message.blocks, "t", 0) for message in turn.messages]
    listed = input_items("t", stored)
    assert len({item["id"] for item in listed}) == 4
    assert read(json.loads(json.dumps(listed))).messages == turn.messages
