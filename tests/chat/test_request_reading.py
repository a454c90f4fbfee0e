"""OpenAI's request as a turn: what is honoured, what is named as ignored, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from chat.errors import BadRequest, Unsupported
from chat.schemas import ChatCompletionRequest
from chat.wire.openai_request import REFUSED, ignored_parameters, to_turn
from providers.events import Message, Sampling

USER = {"role": "user", "content": "Hi"}

# Values that ask for something, and values clients send that ask for nothing.
ASKING: dict[str, list[Any]] = {
    "n": [2, 0, "1"],
    "functions": [[{"name": "f"}]],
    "function_call": [{"name": "f"}],
    "logprobs": [True],
    "top_logprobs": [2],
    "logit_bias": [{"50256": -100}],
    "modalities": [["text", "audio"], ["audio"]],
    "audio": [{"voice": "alloy"}],
    "prediction": [{"type": "content", "content": "x"}],
    "web_search_options": [{}, {"search_context_size": "low"}],
}
HARMLESS: dict[str, list[Any]] = {
    "n": [1],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "logprobs": [False],
    "top_logprobs": [0],
    "logit_bias": [{}],
    "modalities": [["text"]],
    "audio": [],
    "prediction": [],
    "web_search_options": [],
}


def read(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": [USER], **fields})


def cases(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


def test_every_refused_parameter_is_tried_here() -> None:
    assert set(REFUSED) == set(ASKING) == set(HARMLESS)


@pytest.mark.parametrize(("name", "value"), cases(ASKING))
def test_parameter_that_would_change_the_answer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        to_turn(read(**{name: value}))
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(("name", "value"), [*cases(HARMLESS), *((name, None) for name in REFUSED)])
def test_parameter_that_asks_for_nothing_is_let_through(name: str, value: Any) -> None:
    assert to_turn(read(**{name: value})).messages == (Message("user", ("Hi",)),)


def test_ignored_list_names_unknown_fields_and_what_the_provider_cannot_pass_on() -> None:
    body = read(seed=1, user="me", metadata=None, temperature=0.0, max_tokens=5)
    assert ignored_parameters(body, ("temperature", "top_p")) == ["seed", "user", "temperature"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_ignored_list_names_the_bound_of_an_answer_as_the_caller_called_it(name: str) -> None:
    assert ignored_parameters(read(**{name: 5}), ("max_tokens",)) == [name]


def test_ignored_list_names_fields_at_any_depth_once() -> None:
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    said = {"role": "user", "name": "bob", "content": [part, part]}
    body = read(messages=[said, said], stream_options={"include_usage": True, "include_obfuscation": False})
    assert ignored_parameters(body, ()) == [
        "stream_options.include_obfuscation",
        "messages[].name",
        "messages[].content[].cache_control",
    ]


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"type": "image_url", "image_url": {"url": "http://example.com/x.png"}}, ".image_url"),
        ({"type": "file", "file": {"file_id": "file-1"}}, ""),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, ""),
    ],
    ids=["address", "upload", "audio"],
)
def test_part_the_hub_has_no_way_for_is_refused_with_its_place(part: dict[str, Any], where: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}
    with pytest.raises(Unsupported) as caught:
        to_turn(read(messages=[USER, message]))
    assert caught.value.param == f"messages[1].content[1]{where}"


def test_messages_of_the_role_before_tools_are_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        to_turn(read(messages=[USER, {"role": "function", "name": "f", "content": "4"}, USER]))
    assert caught.value.param == "messages[1]"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": ""}], "messages[0].content"),
        ([{"role": "user", "content": " \n"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
        ([USER, {"role": "assistant", "content": "Yes?"}], "messages[1]"),
        ([{"role": "system", "content": "Be brief."}], "messages[0]"),
    ],
)
def test_conversation_without_a_question_at_its_end_is_refused(messages: list[Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        to_turn(read(messages=messages))
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


def test_instructions_are_joined_in_order_wherever_they_stand() -> None:
    turn = to_turn(
        read(
            messages=[
                {"role": "system", "content": "One."},
                USER,
                {
                    "role": "developer",
                    "content": [{"type": "text", "text": "Two."}, {"type": "text", "text": "Three."}],
                },
            ]
        )
    )
    assert turn.system == "One.\n\nTwo.\n\nThree."
    assert turn.messages == (Message("user", ("Hi",)),)


def test_history_keeps_roles_and_blocks_and_drops_empty_assistant_turns() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "text", "text": "b"}]
    contents: list[Any] = ["Yes?", None, [], "", " "]
    answers = [{"role": "assistant", "content": content} for content in contents]
    turn = to_turn(read(messages=[USER, *answers, {"role": "user", "content": parts}]))
    assert turn.messages == (
        Message("user", ("Hi",)),
        Message("assistant", ("Yes?",)),
        Message("user", ("a", "b")),
    )


def test_sampling_is_taken_over() -> None:
    body = read(max_tokens=5, temperature=0.0, top_p=0.5, stop=["a", "b"])
    assert to_turn(body).sampling == Sampling(max_tokens=5, temperature=0.0, top_p=0.5, stop=("a", "b"))


def test_newer_name_of_the_token_limit_wins() -> None:
    assert to_turn(read(max_tokens=5, max_completion_tokens=7)).sampling.max_tokens == 7


def test_one_stop_sequence_may_come_as_a_text() -> None:
    assert to_turn(read(stop="end")).sampling.stop == ("end",)
    assert to_turn(read(stop=None)).sampling.stop == ()


@pytest.mark.parametrize("stop", ["a\0b", [""], ["a", ""]])
def test_stop_sequence_that_cannot_be_passed_on_is_refused(stop: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        to_turn(read(stop=stop))
    assert caught.value.param == "stop"
