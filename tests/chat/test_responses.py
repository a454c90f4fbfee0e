"""POST /v1/responses answers in OpenAI's shape, and takes what published clients send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from chat.ids import new_id
from tests.asking import CHAT, SESSION, answer_of, ask, client_of, error_of, eventually, make_keys
from tests.hub import HubProcess

RESPONSES = "/v1/responses"
# Recorded in November 2026; only the model's name is ours.
RECORDED: dict[str, dict[str, Any]] = {
    "n8n chat model as dropped": {
        "input": [{"type": "message", "role": "user", "content": "Hi"}],
        "model": "echo",
        "stream": False,
        "text": {},
    },
    "n8n message node": {
        "model": "echo",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "parallel_tool_calls": True,
        "store": True,
        "background": False,
    },
    "an agent without its tools": {
        "model": "echo",
        "stream": False,
        "input": [
            {"type": "message", "role": "system", "content": "You are a helpful assistant"},
            {"type": "message", "role": "user", "content": "Which?"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "This.", "annotations": [], "logprobs": []}],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]},
            {"type": "message", "role": "user", "content": "Hi"},
        ],
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
N8N_TOOL = {
    "type": "function",
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
}


def body_of(said: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "input": said, **fields}


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    (message,) = response.json()["output"]
    return str(message["content"][0]["text"])


@pytest.fixture(scope="module")
def keys(hub: HubProcess) -> dict[str, str]:
    return make_keys(hub, alice={"owner": "r-alice"}, bob={"owner": "r-bob"}, chatter={"scopes": ("chat",)})


@pytest.fixture
def alice(hub: HubProcess, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client_of(hub, keys["alice"]) as client:
        yield client


# --- the shape -------------------------------------------------------------------------------------------------------


def test_whole_answer_has_openais_shape_with_the_provider_beside_it(http: httpx.Client) -> None:
    response = http.post(RESPONSES, json=body_of("Hello there"))
    body = response.json()
    session_id = response.headers[SESSION]
    turn_id = body.pop("id").removeprefix("resp_").removesuffix(f"_{session_id}")
    assert isinstance(body.pop("created_at"), int)
    assert body == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": "echo",
        "provider": "echo",
        "output": [
            {
                "id": f"msg_{turn_id}_0",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}],
            }
        ],
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 8,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 19,
        },
        "instructions": None,
        "previous_response_id": None,
        "conversation": {"id": session_id},
        "store": True,
        "max_output_tokens": None,
        "temperature": None,
        "top_p": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": None, "summary": None},
        "truncation": "disabled",
        "metadata": {},
        "user": None,
    }


def test_what_was_asked_for_is_repeated(http: httpx.Client) -> None:
    asked = {
        "instructions": "Be brief.",
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "metadata": {"run": "1"},
        "user": "alice",
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    body = http.post(RESPONSES, json=body_of("Hi", **asked)).json()
    assert {name: body[name] for name in asked} == asked


def test_parameters_without_effect_are_named(http: httpx.Client) -> None:
    fields = {
        "seed": 1,
        "user": "u",
        "temperature": 0.5,
        "truncation": "auto",
        "include": ["x"],
        "service_tier": "flex",
    }
    nested = {"text": {"verbosity": "low"}, "reasoning": {"effort": "low"}, "prompt_cache_key": "k"}
    response = http.post(RESPONSES, json=body_of("Hi", **fields, **nested))
    assert sorted(response.headers["X-Hub-Ignored"].split(", ")) == [
        "include",
        "prompt_cache_key",
        "reasoning.effort",
        "seed",
        "service_tier",
        "temperature",
        "text.verbosity",
        "truncation",
        "user",
    ]
    assert "X-Hub-Ignored" not in http.post(RESPONSES, json=body_of("Hi", store=True, truncation="disabled")).headers


def test_stream_is_framed_by_the_names_of_its_events(http: httpx.Client) -> None:
    response = http.post(RESPONSES, json=body_of("Hi", stream=True), headers={"Accept": "application/json"})
    assert response.headers["content-type"] == "text/event-stream"
    frames = [frame.split("\n") for frame in response.text.removesuffix("\n\n").split("\n\n")]
    assert frames[0][0] == "event: response.created"
    assert frames[-1][0] == "event: response.completed"
    for name, data in frames:
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


# --- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", RECORDED)
def test_recorded_request_is_answered(http: httpx.Client, client: str) -> None:
    assert text_of(http.post(RESPONSES, json=RECORDED[client], headers=HEADERS)) == "Hi"


def test_a_provider_that_can_call_no_tools_says_so_by_name(http: httpx.Client) -> None:
    """n8n shows the message to its user word for word."""
    error = error_of(http.post(RESPONSES, json=body_of("Hi", tools=[N8N_TOOL]), headers=HEADERS))
    assert (error["param"], error["code"]) == ("tools", "tools_not_supported")
    assert "Echo" in error["message"]


def test_so_does_it_at_an_agents_second_request(http: httpx.Client) -> None:
    items = [
        {"type": "message", "role": "user", "content": "Which?"},
        {"type": "function_call", "id": "fc_1", "call_id": "1", "name": "MCP_list_providers", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "[]"},
    ]
    assert error_of(http.post(RESPONSES, json=body_of("", input=items)))["code"] == "tools_not_supported"


@pytest.mark.parametrize(
    "content",
    [
        "Hi you",
        [{"type": "input_text", "text": "Hi you"}],
        [{"type": "input_text", "text": "Hi "}, {"type": "input_text", "text": "you"}],
    ],
)
def test_content_may_be_a_text_or_parts_of_text(http: httpx.Client, content: object) -> None:
    assert text_of(http.post(RESPONSES, json=body_of("", input=[{"role": "user", "content": content}]))) == "Hi you"


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {SESSION: "$id"}),
        ({"conversation": "$id"}, {}),
        ({"metadata": {"session_id": "$id"}}, {}),
        ({"user": "session:$id"}, {}),
        ({"conversation": "another"}, {SESSION: "$id"}),
        ({"conversation": "$id", "user": "session:another"}, {}),
    ],
)
def test_session_is_named_in_a_header_or_in_the_body(
    http: httpx.Client, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    session_id = f"it-{new_id()}"
    given = json.loads(json.dumps([fields, headers]).replace("$id", session_id))
    response = http.post(RESPONSES, json=body_of("Hi", **given[0]), headers=given[1])
    assert response.headers[SESSION] == session_id
    assert response.json()["id"].endswith(f"_{session_id}")


def test_conversation_goes_on_over_both_of_openais_dialects(http: httpx.Client) -> None:
    first = http.post(CHAT, json=ask("one"))
    session_id = first.headers[SESSION]
    second = http.post(RESPONSES, json=body_of("two", conversation=session_id))
    assert answer_of(http.post(CHAT, json=ask("three"), headers={SESSION: session_id})) == "three"
    said = http.get(f"/v1/sessions/{session_id}").json()["messages"]
    assert [message["content"] for message in said] == ["one", "one", "two", "two", "three", "three"]
    found = http.get(f"{RESPONSES}/{second.json()['id']}").json()
    assert found["output"] == second.json()["output"]


def test_previous_response_of_another_session_than_the_named_is_refused(http: httpx.Client) -> None:
    first = http.post(RESPONSES, json=body_of("one"))
    body = body_of("two", previous_response_id=first.json()["id"])
    assert http.post(RESPONSES, json=body, headers={SESSION: first.headers[SESSION]}).status_code == 200
    error = error_of(http.post(RESPONSES, json=body, headers={SESSION: "another"}))
    assert error["param"] == "previous_response_id"


# --- whose it is -----------------------------------------------------------------------------------------------------


def test_others_can_neither_see_nor_go_on_from_nor_end_a_response(
    hub: HubProcess, keys: dict[str, str], alice: httpx.Client
) -> None:
    kept = alice.post(RESPONSES, json=body_of("private")).json()["id"]
    slow = body_of("[[chunks=50 delay=0.1]] private", background=True)
    running = alice.post(RESPONSES, json=slow).json()["id"]
    with client_of(hub, keys["bob"]) as bob:
        for response_id in (kept, running):
            path = f"{RESPONSES}/{response_id}"
            tried = [bob.get(path), bob.delete(path), bob.post(f"{path}/cancel"), bob.get(f"{path}/input_items")]
            assert [(it.status_code, error_of(it)["code"]) for it in tried] == [(404, "response_not_found")] * 4
            refused = bob.post(RESPONSES, json=body_of("Hi", previous_response_id=response_id))
            assert (refused.status_code, error_of(refused)["code"]) == (400, "previous_response_not_found")
    assert alice.post(f"{RESPONSES}/{running}/cancel").json()["status"] == "cancelled"


def test_stored_responses_need_the_scope_of_sessions(hub: HubProcess, keys: dict[str, str]) -> None:
    with client_of(hub, keys["chatter"]) as client:
        made = client.post(RESPONSES, json=body_of("Hi"))
        assert made.status_code == 200
        path = f"{RESPONSES}/{made.json()['id']}"
        tried = [client.get(path), client.delete(path), client.post(RESPONSES, json=body_of("Hi", background=True))]
        assert [error_of(it)["code"] for it in tried] == ["insufficient_scope"] * 3


def test_unknown_response_is_a_404_and_what_is_no_id_a_400(http: httpx.Client) -> None:
    for response_id in ("resp_1", f"resp_{new_id()}", f"resp_{new_id()}_sess_1", f"resp_b{new_id()}_sess_1"):
        response = http.get(f"{RESPONSES}/{response_id}")
        assert (response.status_code, error_of(response)["code"]) == (404, "response_not_found")
    assert error_of(http.get(f"{RESPONSES}/chatcmpl-1"))["param"] == "response_id"
    assert error_of(http.get(f"{RESPONSES}/resp_1", params={"stream": "true"}))["param"] == "stream"


def test_deleted_session_takes_its_responses_with_it(http: httpx.Client) -> None:
    made = http.post(RESPONSES, json=body_of("Hi"))
    http.delete(f"/v1/sessions/{made.headers[SESSION]}")
    assert http.get(f"{RESPONSES}/{made.json()['id']}").status_code == 404


def test_response_of_a_session_in_use_is_not_deleted(http: httpx.Client) -> None:
    """What runs would be lost without a word."""
    made = http.post(RESPONSES, json=body_of("Hi"))
    session_id, path = made.headers[SESSION], f"{RESPONSES}/{made.json()['id']}"
    slow = body_of("[[chunks=100 delay=0.1]] Hi", background=True, conversation=session_id)
    running = http.post(RESPONSES, json=slow).json()["id"]
    assert http.delete(path).status_code == 409
    http.post(f"{RESPONSES}/{running}/cancel")
    eventually(lambda: http.get(f"{RESPONSES}/{running}").json()["status"] == "cancelled")


# --- the same request again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"background": True}])
def test_same_idempotency_key_gets_the_same_response(http: httpx.Client, fields: dict[str, Any]) -> None:
    marks = {"Idempotency-Key": new_id()}
    first, second = (http.post(RESPONSES, json=body_of("once", **fields), headers=marks) for _ in range(2))
    assert first.json() == second.json()
    assert first.headers[SESSION] == second.headers[SESSION]
    other = http.post(RESPONSES, json=body_of("twice", **fields), headers=marks)
    assert error_of(other)["code"] == "idempotency_key_reused"


def test_idempotency_key_of_a_stream_is_named_as_ignored(http: httpx.Client) -> None:
    response = http.post(RESPONSES, json=body_of("Hi", stream=True), headers={"Idempotency-Key": new_id()})
    assert response.headers["X-Hub-Ignored"] == "Idempotency-Key"


# --- what is refused -------------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "Hi"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": ""}, "input"),
    ({"input": [{"content": "Hi"}]}, "input[0].role"),
    ({"input": [{"role": "tool", "content": "Hi"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
    ({"input": [USER, {"role": "assistant", "content": "Hi"}]}, "input[1]"),
    ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
    ({"input": [USER, {"type": "item_reference", "id": "msg_1"}]}, "input[1]"),
    ({"input": [USER, {"type": "web_search_call", "action": {}}]}, "input[1]"),
    ({"input": [USER, {"type": "function_call", "name": "f"}]}, "input[1]"),
    ({"input": [USER, {"type": "function_call_output", "call_id": "1"}]}, "input[1]"),
    ({"input": [USER, {"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "custom", "name": "f"}]}, "tools[0].type"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [N8N_TOOL, N8N_TOOL]}, "tools"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "schema": {"properties": 5}}}}, "text.format.schema"),
    ({"conversation": "a b"}, "conversation"),
    ({"conversation": {"id": "a b"}}, "conversation"),
    ({"conversation": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"metadata": {"session_id": 5}}, "metadata.session_id"),
    ({"background": True, "stream": True}, "background"),
    ({"background": True, "store": False}, "background"),
    ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"fallback": "claude"}, "fallback"),
    ({"stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[json.dumps(fields)[:60] for fields, _ in REFUSED])
def test_what_can_not_be_honoured_is_a_400_that_names_it(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    response = http.post(RESPONSES, json=body_of("Hi", **fields))
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param


def test_guessing_at_responses_is_counted(hub: HubProcess) -> None:
    """No turn comes of them, and each is a request all the same (hub rule)."""
    key = make_keys(hub, guesser={"requests_per_minute": 3})["guesser"]
    with client_of(hub, key) as client:
        for _ in range(3):
            refused = client.post(RESPONSES, json=body_of("Hi", previous_response_id="resp_1"))
            assert error_of(refused)["code"] == "previous_response_not_found"
        assert client.post(RESPONSES, json=body_of("Hi", previous_response_id="resp_1")).status_code == 429
        assert client.get(f"{RESPONSES}/resp_1").status_code == 429
