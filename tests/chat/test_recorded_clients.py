"""Requests as published clients really send them (recorded in November 2026; see the guide for versions)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.asking import CHAT, answer_of, ask, chunks_of, error_of, streamed_text

# Only the model's name is ours; fields, their order and their odd values are the clients' own.
WHOLE: dict[str, dict[str, Any]] = {
    "n8n chat model": {
        "model": "echo",
        "stream": False,
        "messages": [{"role": "user", "content": "Hi"}],
    },
    "n8n chat model with options": {
        "model": "echo",
        "temperature": 0.7,
        "max_tokens": 100,
        "stream": False,
        "messages": [{"role": "system", "content": "You are a helpful assistant"}, {"role": "user", "content": "Hi"}],
        "provider": "echo",
    },
    "n8n agent's second request, its tools switched off": {
        "model": "echo",
        "stream": False,
        "messages": [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": []},
            {"role": "user", "content": "Hi"},
        ],
    },
    "n8n message node": {
        "model": "echo",
        "messages": [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": None, "refusal": None},
            {"role": "user", "content": "Hi"},
        ],
        "response_format": {"type": "text"},
    },
    "langchain": {"messages": [{"content": "Hi", "role": "user"}], "model": "echo", "stream": False},
    "litellm": {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]},
    "llm with history": {
        "messages": [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": "Which?"},
            {"role": "user", "content": "Hi"},
        ],
        "model": "echo",
        "stream": False,
    },
    "openai SDK with everything harmless": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "alice"}],
        "model": "echo",
        "frequency_penalty": 0,
        "metadata": {"run": "1"},
        "n": 1,
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "reasoning_effort": "low",
        "seed": 7,
        "service_tier": "auto",
        "store": True,
        "temperature": 1,
        "tool_choice": "none",
        "top_p": 1,
        "user": "alice",
    },
}
STREAMED: dict[str, dict[str, Any]] = {
    "n8n streaming agent": {
        "model": "echo",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "Hi"}],
    },
    "langchain": {
        "messages": [{"content": "Hi", "role": "user"}],
        "model": "echo",
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "llm": {
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "model": "echo",
        "stream": True,
        "stream_options": {"include_usage": True},
    },
}
# Written down from what these programs' sources and their users' reports say; none of them runs without a screen.
STREAMED |= {
    "Cline": {
        "model": "echo",
        "messages": [
            {"role": "system", "content": "You are Cline, a software engineer."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<task>\nWhich?\n</task>"},
                    {"type": "text", "text": "<environment_details>\n# Current Mode\nACT\n</environment_details>"},
                ],
            },
            {"role": "assistant", "content": "Which?"},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "Open WebUI": {
        "stream": True,
        "model": "echo",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream_options": {"include_usage": True},
    },
    "Cursor's chat": {
        "messages": [
            {"role": "system", "content": "You are an AI coding assistant."},
            {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        ],
        "model": "echo",
        "temperature": 0,
        "user": "an-opaque-name",
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [],
        "tool_choice": "auto",
    },
    "Cursor's agent, in the shape of another API": {
        "model": "echo",
        "input": [
            {"role": "system", "content": "You are an AI coding assistant."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        ],
        "tools": [],
        "stream": True,
        "stream_options": {"include_usage": True},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    },
}
WHOLE |= {
    "Open WebUI's title": {
        "model": "echo",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
        "max_completion_tokens": 1000,
        "metadata": {"task": "title_generation"},
    },
    "Cursor's test of the key": {
        "messages": [
            {"role": "system", "content": "You are a test assistant."},
            {"role": "user", "content": "Hi"},
        ],
        "model": "echo",
    },
}
N8N_TOOL = {
    "type": "function",
    "function": {
        "name": "MCP_list_providers",
        "description": "Lists",
        "parameters": {
            "type": "object",
            "properties": {},
            "required": [],
            "additionalProperties": False,
            "$schema": "http://json-schema.org/draft-07/schema#",
        },
        "strict": False,
    },
}
HEADERS = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "openai-organization": "",
    "user-agent": "langchainjs-openai/1.0.0 ((node/v24.21.0; linux; x64))",
    "x-stainless-lang": "js",
    "x-stainless-retry-count": "0",
}


@pytest.mark.parametrize("client", WHOLE)
def test_recorded_request_is_answered_whole(http: httpx.Client, client: str) -> None:
    assert answer_of(http.post(CHAT, json=WHOLE[client], headers=HEADERS)) == "Hi"


@pytest.mark.parametrize("client", STREAMED)
def test_recorded_request_is_streamed_with_usage_at_its_end(http: httpx.Client, client: str) -> None:
    response = http.post(CHAT, json=STREAMED[client], headers=HEADERS)
    assert streamed_text(response) == "Hi"
    assert chunks_of(response)[-1]["usage"]["prompt_tokens"] == 2


def test_a_provider_that_can_call_no_tools_says_so_by_name(http: httpx.Client) -> None:
    """n8n shows the message to its user word for word."""
    error = error_of(http.post(CHAT, json=ask("Hi", tools=[N8N_TOOL])))
    assert (error["param"], error["code"]) == ("tools", "tools_not_supported")
    assert "Echo" in error["message"]


def test_so_does_it_at_an_agents_second_request(http: httpx.Client) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "MCP_list_providers", "arguments": '{"tool":"x"}'}}
    messages = [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": [], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "[]"},
    ]
    response = http.post(CHAT, json=ask("", messages=messages))
    assert response.status_code == 400
    assert error_of(response)["code"] == "tools_not_supported"


def test_credential_test_of_n8n_lists_models(http: httpx.Client) -> None:
    body = http.get("/v1/models", headers=HEADERS).json()
    assert body["object"] == "list"
    assert {model["id"] for model in body["data"]} == {"auto", "echo", "echo/echo"}
    assert {model["object"] for model in body["data"]} == {"model"}


def test_providers_are_listed_in_the_specified_shape(http: httpx.Client) -> None:
    """The hub's own fields may stand beside."""
    (provider,) = http.get("/v1/providers").json()["providers"]
    assert provider["since"] > 1_700_000_000
    assert provider["version"]
    specified = {"name": "echo", "status": "available", "models": ["echo"], "state": "ready", "mend": ""}
    assert {name: provider[name] for name in specified} == specified
