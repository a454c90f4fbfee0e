"""Coding agents' tool conversations in the bodies they send, through a hub with real claude."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.asking import CHAT, chunks_of
from tests.clis.dialects import DIALECTS
from tests.clis.test_rest import Door, open_door
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
QUESTION = "Read a.py with the tool."
NESTED = {"type": "function", "function": {"name": "read_file", "description": "Reads.", "parameters": SCHEMA}}
SAID = {
    "role": "assistant",
    "content": "Let me.",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": '{"path":"a.py"}'}}
    ],
}

# First and second request of one round.
ROUNDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cline": (
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
            "tools": [NESTED],
            "temperature": 0,
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                SAID,
                {"role": "tool", "tool_call_id": "call_1", "content": "print(42)"},
            ],
            "tools": [NESTED],
            "tool_choice": "auto",
        },
    ),
    "cursor, responses": (
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
            "tools": [{"type": "function", "name": "read_file", "description": "Reads.", "parameters": SCHEMA}],
        },
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Let me."}]},
                {"type": "function_call", "call_id": "call_1", "name": "read_file", "arguments": '{"path":"a.py"}'},
                {"type": "function_call_output", "call_id": "call_1", "output": "print(42)"},
            ],
            "tools": [{"type": "function", "name": "read_file", "description": "Reads.", "parameters": SCHEMA}],
        },
    ),
    "cursor, anthropic": (
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
            "tools": [{"name": "read_file", "description": "Reads.", "input_schema": SCHEMA}],
            "tool_choice": {"type": "auto"},
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Let me."},
                        {"type": "tool_use", "id": "call_1", "name": "read_file", "input": {"path": "a.py"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "call_1",
                            "content": [{"type": "text", "text": "print(42)"}],
                        }
                    ],
                },
            ],
            "tools": [{"name": "read_file", "description": "Reads.", "input_schema": SCHEMA}],
        },
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def claude(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door("claude", tmp_path_factory.mktemp("claude")) as opened:
        yield opened


async def streamed(door: Door, body: dict[str, Any], script: Script) -> list[dict[str, Any]]:
    door.vendor.clear()
    door.vendor.script = script
    options = {"model": "claude", "stream": True, "stream_options": {"include_usage": True}}
    return chunks_of(await door.client.post(CHAT, json={**body, **options}))


@pytest.mark.parametrize("agent", ROUNDS)
async def test_an_agents_round_is_chat_chunks_whatever_it_sent(claude: Door, agent: str) -> None:
    asked, answered = ROUNDS[agent]
    script = Script(text="Let me.", calls=(("read_file", '{"path":"a.py"}'),))
    chunks = await streamed(claude, asked, script)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    pieces = [it for delta in deltas for it in delta.get("tool_calls", ())]
    assert pieces[0]["function"]["name"] == "read_file"
    assert json.loads("".join(it["function"].get("arguments", "") for it in pieces)) == {"path": "a.py"}
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]] == ["tool_calls"]
    assert chunks[-1]["usage"]["prompt_tokens"] > 0
    chunks = await streamed(claude, answered, Script(text="It prints 42."))
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert text == "It prints 42."
    question, said, result = DIALECTS["claude"].read(claude.vendor.chats()[0]).messages
    assert (question.text, said.text, said.calls[0].input) == (QUESTION, "Let me.", {"path": "a.py"})
    assert result.results[0].text == "print(42)"
