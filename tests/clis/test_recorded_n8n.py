"""n8n's own requests with real claude behind: its agents' tools, over both dialects, and structured output."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.asking import answer_of
from tests.chat.recorded import Recorded, recorded
from tests.clis.dialects import DIALECTS
from tests.clis.test_rest import Door, open_door
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATES = '{"input": "2026-01-31, 2026-12-24"}'
ADA = {"name": "Ada Lovelace", "born": 1815, "city": "London"}
COUNTING = (
    Script(text="Let me count.", calls=(("Days_between", DATES),)),
    Script(calls=(("Calculator", '{"input": "327 * 24"}'),), rounds=9),
    Script(text="7,848 hours."),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def claude(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door("claude", tmp_path_factory.mktemp("claude")) as opened:
        yield opened


async def replay(door: Door, requests: list[Recorded], *scripts: Script) -> list[httpx.Response]:
    """Each request in its turn, answered by the vendor with its script."""
    door.vendor.clear()
    responses = []
    for request, script in zip(requests, scripts, strict=True):
        door.vendor.next(script)
        responses.append(await door.client.post(request.path, json=request.body, headers=dict(request.headers)))
    assert [response.status_code for response in responses] == [200] * len(requests), responses[-1].text
    return responses


def called(response: httpx.Response) -> list[tuple[str, Any]]:
    """The calls of a chat completion, as n8n reads them."""
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    calls = choice["message"]["tool_calls"]
    assert all(it["id"] and it["type"] == "function" for it in calls)
    return [(it["function"]["name"], json.loads(it["function"]["arguments"])) for it in calls]


def results_seen(door: Door) -> list[str]:
    """What n8n's tools gave back, as the vendor had it in the last request."""
    upstream = DIALECTS["claude"].read(door.vendor.chats()[-1])
    return [it.text for message in upstream.messages for it in message.results]


async def test_an_agent_calls_its_tools_and_answers(claude: Door) -> None:
    first, second, third = await replay(claude, recorded("n8n_agent_tools"), *COUNTING)
    assert first.json()["choices"][0]["message"]["content"] == "Let me count."
    assert called(first) == [("Days_between", {"input": "2026-01-31, 2026-12-24"})]
    assert called(second) == [("Calculator", {"input": "327 * 24"})]
    assert second.json()["choices"][0]["message"]["content"] is None
    assert answer_of(third) == "7,848 hours."
    assert results_seen(claude) == ['[{"response":"327"}]', '[{"response":"7848"}]']


async def test_an_agent_does_the_same_over_the_responses_api(claude: Door) -> None:
    first, second, third = await replay(claude, recorded("n8n_agent_tools_responses"), *COUNTING)
    said, call = first.json()["output"]
    assert said["content"][0]["text"] == "Let me count."
    assert (call["type"], call["name"]) == ("function_call", "Days_between")
    assert json.loads(call["arguments"]) == {"input": "2026-01-31, 2026-12-24"}
    assert call["call_id"]
    assert [it["name"] for it in second.json()["output"]] == ["Calculator"]
    (message,) = third.json()["output"]
    assert message["content"][0]["text"] == "7,848 hours."
    assert results_seen(claude) == ['[{"response":"327"}]', '[{"response":"7848"}]']


async def test_an_agents_calls_stay_in_the_session_of_its_chat(claude: Door) -> None:
    """n8n sends a new question alone, and with the results of its tools only what followed that question."""
    hello, question, results, last = recorded("n8n_chat_tools")
    _, asked = await replay(
        claude,
        [hello, question],
        Script(text="Hello Ada."),
        Script(text="I will.", calls=(("Calculator", '{"input": "2+2"}'),)),
    )
    results = with_call_id(results, asked.json()["choices"][0]["message"]["tool_calls"][0]["id"])
    await replay(claude, [results, last], Script(text="Four.", rounds=0), Script(text="Bye."))
    body = (await claude.client.get(f"/v1/sessions/{hello.headers['x-session-id']}")).json()
    talk = ["user", "assistant"]
    assert [it["role"] for it in body["messages"]] == [*talk, *talk, "tool", "assistant", *talk]
    upstream = DIALECTS["claude"].read(claude.vendor.chats()[-1])
    assert upstream.messages[0].text == "My name is Ada."


def with_call_id(request: Recorded, call_id: str) -> Recorded:
    """n8n repeats a call's id beside it and among its arguments."""
    recorded_id = request.body["messages"][-1]["tool_call_id"]
    return replace(request, body=json.loads(json.dumps(request.body).replace(recorded_id, call_id)))


async def test_an_agent_reaches_the_hubs_own_tools(claude: Door) -> None:
    """n8n puts its node's name before a tool's, and sends its schema with null as a default unchanged."""
    requests = [request for request in recorded("n8n_agent_mcp") if request.path != "/mcp"]
    first, second, third = await replay(
        claude,
        requests,
        Script(calls=(("Hub_list_providers", "{}"),)),
        Script(calls=(("Hub_chat", '{"message": "Say hello.", "provider": "echo"}'),), rounds=9),
        Script(text="Both are ready."),
    )
    assert called(first) == [("Hub_list_providers", {})]
    assert called(second) == [("Hub_chat", {"message": "Say hello.", "provider": "echo"})]
    assert answer_of(third) == "Both are ready."
    assert ["claude: available" in results_seen(claude)[0], "Say hello." in results_seen(claude)[1]] == [True, True]


async def test_structured_output_comes_by_parser_and_by_json_mode(claude: Door) -> None:
    """The parser takes JSON in a fence; JSON mode hands the node an object and nothing else."""
    fenced = f"```json\n{json.dumps({'output': ADA})}\n```"
    by_parser, by_mode = await replay(
        claude, recorded("n8n_structured_output"), Script(text=fenced), Script(structured=json.dumps(ADA))
    )
    assert answer_of(by_parser) == fenced
    assert json.loads(answer_of(by_mode)) == ADA


async def test_an_agent_with_a_parser_ends_by_calling_it(claude: Door) -> None:
    first, second = await replay(
        claude,
        recorded("n8n_agent_parser"),
        Script(calls=(("Calculator", '{"input": "2+2"}'),)),
        Script(calls=(("format_final_json_response", '{"output": {"sum": 4}}'),), rounds=9),
    )
    assert called(first) == [("Calculator", {"input": "2+2"})]
    assert called(second) == [("format_final_json_response", {"output": {"sum": 4}})]


async def test_a_schema_of_the_responses_api_is_kept_to(claude: Door) -> None:
    (response,) = await replay(claude, recorded("n8n_responses_json_schema"), Script(structured='{"name": "Ada"}'))
    (message,) = response.json()["output"]
    assert json.loads(message["content"][0]["text"]) == {"name": "Ada"}
