"""Tools, formats and files of a chat request, in the shapes clients send them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chat.errors import BadRequest
from chat.schemas import ChatCompletionRequest
from chat.wire.media import DEFAULT_LIMITS, MediaLimits, sniff
from chat.wire.openai_request import session_id_of, to_turn
from providers.events import ANY_OBJECT, Media, Message, Sampling, Tool, Toolbox, ToolCall, ToolResult

USER = {"role": "user", "content": "Hi"}
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 40
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"q": {"type": ["string", "null"], "default": None}},
    "additionalProperties": False,
}
F = {"type": "function", "function": {"name": "f", "description": "Does.", "parameters": SCHEMA, "strict": False}}
G = {"type": "function", "function": {"name": "g"}}


def read(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": [USER], **fields})


def toolbox(**fields: Any) -> Toolbox:
    return to_turn(read(**fields)).toolbox


def data_url(content: bytes, mime_type: str = "image/png") -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


# --- tools -----------------------------------------------------------------------------------------------------------


def test_a_tool_keeps_its_name_and_its_schema() -> None:
    first, second = toolbox(tools=[F, G]).tools
    assert (first.name, first.description, json.loads(first.schema)) == ("f", "Does.", SCHEMA)
    assert second == Tool("g", "", b'{"type":"object","properties":{}}')


@pytest.mark.parametrize(
    ("asked", "mode", "only"),
    [
        (None, "auto", ""),
        ("auto", "auto", ""),
        ("none", "none", ""),
        ("required", "required", ""),
        ({"type": "function", "function": {"name": "g"}}, "required", "g"),
    ],
    ids=["absent", "auto", "none", "required", "named"],
)
def test_the_choice_is_read(asked: Any, mode: str, only: str) -> None:
    found = toolbox(tools=[F, G], tool_choice=asked, parallel_tool_calls=False)
    assert (found.mode, found.only, found.is_parallel) == (mode, only, False)
    assert toolbox(tools=[F, G], tool_choice=asked).is_parallel


@pytest.mark.parametrize("tools", [None, []])
def test_without_tools_a_choice_that_asks_for_nothing_is_fine(tools: Any) -> None:
    assert not toolbox(tools=tools, tool_choice="auto", parallel_tool_calls=True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [F, F]}, "tools"),
        ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "strin"}}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [G, {"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://x/y"}}}]},
            "tools[1].function.parameters",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            "response_format.json_schema.schema",
        ),
    ],
    ids=["twice", "unknown", "no-tools", "no-schema", "remote-schema", "no-answer-schema", "array"],
)
def test_what_makes_no_sense_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        to_turn(read(**fields))
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"properties": found}
    return found


@pytest.mark.parametrize(
    "parameters", [{"type": "string"}, {"type": ["string"]}, nested(120), {"description": "x" * 70_000}]
)
def test_parameters_that_no_program_could_take_are_named(parameters: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        toolbox(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    assert caught.value.param == "tools[0].function.parameters"


def test_arguments_in_a_history_are_bounded_in_depth() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a":' * 150 + "1" + "}" * 150}}
    with pytest.raises(BadRequest, match="levels deep"):
        to_turn(read(messages=[USER, {"role": "assistant", "tool_calls": [call]}, USER]))


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "custom", "custom": {"name": "x"}}],
        [{"type": "function"}],
        [{"type": "function", "function": {"name": "a b"}}],
        [{"type": "function", "function": {"name": "a" * 65}}],
        [{"type": "function", "function": {"name": ""}}],
        [{"type": "function", "function": {"name": "f", "parameters": "x"}}],
        [G] * 129,
    ],
    ids=["custom", "empty", "space", "long", "nameless", "text-schema", "many"],
)
def test_tools_of_another_shape_are_refused(tools: Any) -> None:
    with pytest.raises(ValidationError):
        read(tools=tools)


# --- their messages --------------------------------------------------------------------------------------------------

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"q":"x","tool":"f","id":"1"}'}}


@pytest.mark.parametrize(
    "content",
    [{"content": None}, {"content": []}, {"content": ""}, {}, {"content": None, "refusal": None, "audio": None}],
    ids=["null", "list", "empty", "absent", "node"],
)
def test_an_agents_second_request_is_understood_in_every_shape(content: dict[str, Any]) -> None:
    said = {"role": "assistant", "tool_calls": [CALL], **content}
    answered = {"role": "tool", "tool_call_id": "call_1", "content": '{"a": 1}', "name": "f"}
    turn = to_turn(read(messages=[USER, said, answered], tools=[F]))
    assert turn.messages == (
        Message("user", ("Hi",)),
        Message("assistant", (ToolCall("call_1", "f", '{"q":"x","tool":"f","id":"1"}'),)),
        Message("tool", (ToolResult("call_1", ('{"a": 1}',)),)),
    )


def test_words_beside_calls_and_results_in_parts_are_kept() -> None:
    said = {"role": "assistant", "content": "Let me.", "tool_calls": [CALL, {**CALL, "id": "call_2"}]}
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": data_url(PNG)}}]
    first = {"role": "tool", "tool_call_id": "call_1", "content": parts}
    second = {"role": "tool", "tool_call_id": "call_2", "content": ""}
    messages = to_turn(read(messages=[USER, said, first, second], tools=[F])).messages
    assert messages[1].text == "Let me."
    assert [call.id for call in messages[1].calls] == ["call_1", "call_2"]
    assert messages[2].results[0].blocks == ("a", Media("image/png", base64.b64encode(PNG).decode()))
    assert messages[3] == Message("tool", (ToolResult("call_2", ()),))


def test_a_call_without_arguments_has_none() -> None:
    bare = {"id": "1", "function": {"name": "f"}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [bare]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]
    assert to_turn(read(messages=messages)).messages[1].calls == (ToolCall("1", "f", "{}"),)


def test_a_result_must_name_its_call() -> None:
    with pytest.raises(BadRequest) as caught:
        to_turn(read(messages=[USER, {"role": "tool", "content": "x"}]))
    assert caught.value.param == "messages[1].tool_call_id"


# --- formats and effort ----------------------------------------------------------------------------------------------


def test_formats_are_schemas() -> None:
    assert to_turn(read(response_format={"type": "text"})).json_schema == b""
    assert to_turn(read(response_format={"type": "json_object"})).json_schema == ANY_OBJECT
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    assert json.loads(to_turn(read(response_format=asked)).json_schema) == SCHEMA


def test_effort_is_part_of_the_sampling() -> None:
    assert to_turn(read(reasoning_effort="low")).sampling == Sampling(reasoning_effort="low")
    with pytest.raises(ValidationError):
        read(reasoning_effort="most")


# --- the session's name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, ""),
        ({"user": "me"}, ""),
        ({"user": "session:a-1"}, "a-1"),
        ({"metadata": {"session_id": "b-2"}, "user": "session:a-1"}, "b-2"),
        ({"metadata": {"session_id": None}}, ""),
    ],
)
def test_a_session_may_be_named_in_the_body(fields: dict[str, Any], named: str) -> None:
    assert session_id_of(read(**fields)) == named


def test_a_session_id_that_is_no_text_is_refused() -> None:
    with pytest.raises(BadRequest):
        session_id_of(read(metadata={"session_id": 5}))


# --- files -----------------------------------------------------------------------------------------------------------


def shown(part: dict[str, Any], limits: MediaLimits = DEFAULT_LIMITS) -> tuple[Media, ...]:
    return to_turn(read(messages=[{"role": "user", "content": [part]}]), limits).messages[0].media


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def test_an_image_is_known_by_its_content() -> None:
    (found,) = shown(image(data_url(PNG, "image/jpeg")))
    assert (found.mime_type, base64.b64decode(found.data)) == ("image/png", PNG)
    (found,) = shown({"type": "image_url", "image_url": data_url(PNG)})
    assert found.mime_type == "image/png"


def test_a_document_keeps_its_name() -> None:
    part = {"type": "file", "file": {"file_data": data_url(b"%PDF-1.7 x", "application/pdf"), "filename": "a.pdf"}}
    assert shown(part)[0] == Media("application/pdf", base64.b64encode(b"%PDF-1.7 x").decode(), "a.pdf")


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,!!!!",
        "data:image/png;base64,",
        "data:image/png,abc",
        "data:",
        data_url(b"<svg></svg>", "image/svg+xml"),
        data_url(b"hello", "image/png"),
    ],
)
def test_what_is_no_image_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        shown(image(url))
    assert caught.value.param == "messages[0].content[0].image_url"


def test_files_are_bounded_in_size_and_number() -> None:
    shown(image(data_url(PNG)), MediaLimits(max_bytes=len(PNG)))
    with pytest.raises(BadRequest, match="HUB_MEDIA_MAX_BYTES"):
        shown(image(data_url(PNG + b"x" * 10)), MediaLimits(max_bytes=len(PNG)))
    many = {"role": "user", "content": [image(data_url(PNG))] * 3}
    with pytest.raises(BadRequest, match="HUB_MEDIA_MAX_COUNT"):
        to_turn(read(messages=[many]), MediaLimits(max_count=2))


@given(st.binary(max_size=64))
def test_no_bytes_are_taken_for_what_they_are_not(head: bytes) -> None:
    found = sniff(head)
    assert found == "" or found.startswith("image/") or head.startswith(b"%PDF-")


def test_an_image_alone_is_a_question() -> None:
    assert shown(image(data_url(PNG)))
    with pytest.raises(BadRequest):
        to_turn(read(messages=[USER, {"role": "assistant", "content": [image(data_url(PNG))]}, USER]))
