"""Bodies of other APIs at /chat/completions, as Cursor's agent sends them, read as the same conversation."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.other_shapes import in_chat_shape
from chat.schemas import ChatCompletionRequest
from chat.wire.openai_request import to_turn
from providers.events import Message, ToolCall, ToolResult, Turn

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Read a.py."},
        {
            "role": "assistant",
            "content": "Let me.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path":"a.py"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "print(42)"},
        {"role": "user", "content": "And?"},
    ],
    "tools": [{"type": "function", "function": {"name": "read_file", "description": "Reads.", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "read_file"}},
}
RESPONSES: dict[str, Any] = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Read a.py."}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me."}]},
        {"type": "function_call", "call_id": "c1", "name": "read_file", "arguments": '{"path":"a.py"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "print(42)"},
        {"role": "user", "content": "And?"},
    ],
    "tools": [{"type": "function", "name": "read_file", "description": "Reads.", "parameters": SCHEMA}],
    "tool_choice": {"type": "function", "name": "read_file"},
}
ANTHROPIC: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [{"type": "text", "text": "Read a.py."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "Let me."},
                {"type": "tool_use", "id": "c1", "name": "read_file", "input": {"path": "a.py"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "print(42)"}]},
                {"type": "text", "text": "And?"},
            ],
        },
    ],
    "tools": [{"name": "read_file", "description": "Reads.", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "read_file"},
}


def read(body: dict[str, Any]) -> Turn:
    return to_turn(ChatCompletionRequest.model_validate(body))


@pytest.mark.parametrize("body", [CHAT, RESPONSES, ANTHROPIC], ids=["chat", "responses", "anthropic"])
def test_all_shapes_are_the_same_turn(body: dict[str, Any]) -> None:
    before = copy.deepcopy(body)
    turn = read(body)
    assert body == before
    assert turn.system == "Be brief."
    assert turn.messages == (
        Message("user", ("Read a.py.",)),
        Message("assistant", ("Let me.", ToolCall("c1", "read_file", '{"path":"a.py"}'))),
        Message("tool", (ToolResult("c1", ("print(42)",)),)),
        Message("user", ("And?",)),
    )
    (tool,) = turn.toolbox.tools
    assert (tool.name, tool.description, json.loads(tool.schema)) == ("read_file", "Reads.", SCHEMA)
    assert (turn.toolbox.mode, turn.toolbox.only) == ("required", "read_file")


def test_what_is_in_the_chat_shape_stays_as_it_is() -> None:
    assert in_chat_shape(CHAT) == CHAT


def test_a_question_alone_may_be_a_text() -> None:
    assert read({"model": "m", "input": "Hi"}).messages == (Message("user", ("Hi",)),)


@pytest.mark.parametrize(
    ("choice", "mode"), [({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none")]
)
def test_anthropics_choices(choice: Any, mode: str) -> None:
    assert read({**ANTHROPIC, "tool_choice": choice}).toolbox.mode == mode


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "name", "text", "id", "source"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "tools", "tool_choice", "instructions"]), anything))
def test_nothing_makes_it_fail(body: dict[str, Any]) -> None:
    """What is of no shape at all is left for the schema to complain of."""
    in_chat_shape(body)
