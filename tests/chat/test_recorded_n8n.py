"""n8n's own requests with the demo provider behind, and the workflows and pictures of its guide."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.asking import SESSION, answer_of, chunks_of, data_lines, session_of, streamed_text
from tests.chat.recorded import FIRST_SESSION, FOLDER, Recorded, recorded
from tests.hub import ROOT

KIT = ROOT / "docs" / "n8n"
GUIDE = (KIT / "README.md").read_text()
WORKFLOWS = sorted(KIT.glob("*.json"))
PICTURES = sorted(KIT.glob("**/*.png"))
MAX_PICTURE_BYTES = 150_000
MAX_PICTURE_WIDTH = 1200
CREDENTIALS = {"LLM MCP Hub", "LLM MCP Hub with session", "LLM MCP Hub MCP"}


def roles_of(http: httpx.Client, session_id: str) -> list[str]:
    body = http.get(f"/v1/sessions/{session_id}").json()
    return [message["role"] for message in body["messages"]]


# --- what the nodes send ---------------------------------------------------------------------------------------------


def test_the_connection_test_of_the_credential_passes(http: httpx.Client) -> None:
    """n8n looks at the status alone; the list of models of its node reads the ids."""
    (request,) = recorded("n8n_credential_test")
    response = request.send(http)
    assert response.status_code == 200
    assert all(model["id"] for model in response.json()["data"])


def test_two_requests_are_one_conversation_by_the_header_of_the_first_answer(http: httpx.Client) -> None:
    first, second = recorded("n8n_http_two_turns")
    assert second.headers["x-session-id"] == FIRST_SESSION
    response = first.send(http, model="echo")
    assert answer_of(response) == "My name is Ada. Answer in one sentence."
    session_id = session_of(response)
    again = second.send(http, model="echo", x_session_id=session_id)
    assert (answer_of(again), session_of(again)) == ("What is my name?", session_id)
    assert roles_of(http, session_id) == ["user", "assistant"] * 2


@pytest.mark.parametrize("name", ["n8n_chat_model", "n8n_message_1_8"])
def test_a_chat_completion_has_what_the_nodes_read(http: httpx.Client, name: str) -> None:
    (request,) = recorded(name)
    response = request.send(http, model="echo")
    assert answer_of(response) == request.body["messages"][-1]["content"]
    (choice,) = response.json()["choices"]
    assert (choice["index"], choice["message"]["role"], choice["finish_reason"]) == (0, "assistant", "stop")
    usage = response.json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_a_response_has_what_the_message_node_reads(http: httpx.Client) -> None:
    """The node hands its workflow the messages of `output` as they are."""
    (request,) = recorded("n8n_message_2_3")
    response = request.send(http, model="echo")
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "completed"
    (message,) = response.json()["output"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert [(part["type"], part["text"]) for part in message["content"]] == [("output_text", "Hi there")]


def test_a_chat_goes_on_by_the_session_that_n8n_names(http: httpx.Client) -> None:
    requests = recorded("n8n_chat_with_memory")
    named = {request.headers["x-session-id"] for request in requests}
    assert {session_of(request.send(http, model="echo")) for request in requests} == named
    assert roles_of(http, *named) == ["user", "assistant"] * 2


def test_a_streamed_chat_ends_with_its_tokens(http: httpx.Client) -> None:
    requests = recorded("n8n_chat_streamed")
    for request in requests:
        response = request.send(http, model="echo")
        assert streamed_text(response) == request.body["messages"][-1]["content"]
        *_, last = chunks_of(response)
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] > 0
    assert roles_of(http, requests[0].headers[SESSION.lower()]) == ["user", "assistant"] * 2


# --- MCP -------------------------------------------------------------------------------------------------------------


def test_mcp_tools_are_listed_and_called_while_older_sessions_stay_open(http: httpx.Client) -> None:
    """n8n opens a session to list the tools, another one for each call, and closes none of them."""
    results = dict(replay_mcp(http, recorded("n8n_agent_mcp")))
    assert {tool["name"] for tool in results["tools/list"]["tools"]} == {"chat", "list_providers", "get_session"}
    assert [it["name"] for it in results["list_providers"]["structuredContent"]["providers"]] == ["echo"]
    said = results["chat"]["structuredContent"]
    assert (said["answer"], said["status"], said["provider"]) == ("Say hello.", "complete", "echo")


def test_the_mcp_node_calls_a_tool_it_has_not_listed(http: httpx.Client) -> None:
    results = dict(replay_mcp(http, recorded("n8n_mcp_client")))
    assert results["chat"]["structuredContent"]["answer"] == "Hello"
    assert results["chat"]["content"][0] == {"type": "text", "text": "Hello"}


def replay_mcp(http: httpx.Client, requests: list[Recorded]) -> Iterator[tuple[str, Any]]:
    """The results of what was called and asked, with the sessions of this hub in the place of the recorded ones."""
    sessions: dict[str, str] = {}
    with contextlib.ExitStack() as streams:
        for request in (it for it in requests if it.path == "/mcp"):
            named = request.headers.get("mcp-session-id")
            headers = {"mcp_session_id": sessions[named]} if named else {}
            if request.method == "GET":
                opened = http.send(request.build(http, **headers), stream=True)
                streams.callback(opened.close)
                assert opened.status_code == 200
                assert opened.headers["content-type"].startswith("text/event-stream")
                continue
            response = request.send(http, **headers)
            if "id" not in request.body:
                assert response.status_code == 202
                continue
            assert response.status_code == 200, response.text
            if request.opens:
                sessions[request.opens] = response.headers["mcp-session-id"]
            *_, line = data_lines(response.text)
            method = request.body["method"]
            yield request.body["params"]["name"] if method == "tools/call" else method, json.loads(line)["result"]


# --- the kit ---------------------------------------------------------------------------------------------------------


def test_every_workflow_was_run_and_is_in_the_guide() -> None:
    sources = {json.loads(file.read_text())["recorded_from"] for file in FOLDER.glob("n8n_*.json")}
    assert {f"docs/n8n/{workflow.name}" for workflow in WORKFLOWS} <= sources
    assert all(f"]({workflow.name})" in GUIDE for workflow in WORKFLOWS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_can_be_imported_anywhere(path: Path) -> None:
    """Credentials are found by their names; nothing of the machine they were made on is left."""
    workflow = json.loads(path.read_text())
    nodes = {node["name"] for node in workflow["nodes"]}
    assert set(workflow["connections"]) <= nodes
    assert {goal["node"] for goal in goals_of(workflow["connections"])} <= nodes
    given = [it for node in workflow["nodes"] for it in node.get("credentials", {}).values()]
    assert all(it["id"] is None for it in given)
    assert {it["name"] for it in given} <= CREDENTIALS
    assert all(f"`{it['name']}`" in GUIDE for it in given)
    assert set(re.findall(r"https?://[^/\"\\ ]+", path.read_text())) <= {"http://127.0.0.1:8000"}
    assert not {"id", "versionId", "meta", "shared"} & set(workflow)


def goals_of(connections: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kinds in connections.values():
        for outputs in kinds.values():
            for output in outputs:
                yield from output


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_small_and_shown(path: Path) -> None:
    data = path.read_bytes()
    width, _ = struct.unpack(">II", data[16:24])
    assert len(data) < MAX_PICTURE_BYTES
    assert width <= MAX_PICTURE_WIDTH
    assert f"]({path.relative_to(KIT)})" in GUIDE


def test_links_of_the_guide_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", GUIDE):
        assert (KIT / target).exists(), target
