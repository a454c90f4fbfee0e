"""The MCP server as the official client sees it: over each transport, in each era, under each server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import PromptReference, ResourceLink, ResourceTemplateReference, TextContent, TextResourceContents

from tests.asking import CHAT, SESSION, answer_of, ask, client_of, error_of, eventually, make_keys
from tests.hub import HubProcess
from tests.mcpbridge.wire import WAYS, chat, connected, fields_of, text_of

# The older transport answers a refused message nowhere.
REFUSED_WAIT_S = 1.0

ways = pytest.mark.parametrize("way", WAYS, ids=["-".join(way) for way in WAYS])
eras = pytest.mark.parametrize("way", WAYS[:2], ids=["modern", "handshake"])


@ways
async def test_a_conversation_goes_on_by_its_session_id(served: HubProcess, way: tuple[str, str]) -> None:
    async with connected(served, way=way) as client:
        first = await chat(client, "one")
        second = await chat(client, "two", session_id=first["session_id"])
        assert (first["answer"], second["answer"]) == ("one", "two")
        assert second["session_id"] == first["session_id"]
        assert (first["status"], first["provider"], first["model"], first["finish_reason"]) == (
            "complete",
            "echo",
            "echo",
            "stop",
        )
        found = fields_of(await client.call_tool("get_session", {"session_id": first["session_id"]}))
        assert [it["content"] for it in found["messages"]] == ["one", "one", "two", "two"]
        assert (found["status"], found["answer"], found["message_count"]) == ("complete", "two", 4)


@ways
async def test_progress_comes_at_once_then_the_words_then_the_answer(served: HubProcess, way: tuple[str, str]) -> None:
    told: list[tuple[float, str]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        told.append((progress, message or ""))

    async with connected(served, way=way) as client:
        text = "a few words that come in pieces [[chunks=4 delay=0.3]]"
        result = await client.call_tool("chat", {"message": text, "provider": "echo"}, progress_callback=note)
        assert fields_of(result)["answer"] == text
    assert [number for number, _ in told] == sorted({number for number, _ in told})
    assert told[0][1] == "the hub looks for a provider"
    assert told[1][1] == "echo answers with echo"
    said = "".join(message for _, message in told[2:])
    assert len(told) >= 4 and text.startswith(said) and len(said) > len(text) / 2


@eras
async def test_server_says_who_it_is_and_what_it_can(served: HubProcess, way: tuple[str, str]) -> None:
    async with connected(served, way=way) as client:
        about, can = client.server_info, client.server_capabilities
        assert about is not None
        assert (about.name, about.version) == ("llm-mcp-hub", "0.1.0")
        assert about.description == "Multi-LLM Hub - Access Claude, Gemini via unified interface"
        assert about.icons and about.icons[0].src.startswith("data:image/svg+xml")
        assert "session_id" in (client.instructions or "")
        assert can.tools and can.prompts and can.completions and can.resources and can.resources.list_changed


@eras
async def test_tools_are_described_for_models_and_for_strict_clients(served: HubProcess, way: tuple[str, str]) -> None:
    """Cursor and Gemini refuse undeclared fields, `$ref` and unions; others approve read-only tools by themselves."""
    async with connected(served, way=way) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == ["chat", "list_providers", "get_session"]
    for tool in tools.values():
        assert tool.title and tool.description and tool.annotations
        assert "$ref" not in str(tool.output_schema) and "anyOf" not in str((tool.input_schema, tool.output_schema))
    hints = {
        name: (it.annotations.read_only_hint, it.annotations.destructive_hint)
        for name, it in tools.items()
        if it.annotations
    }
    assert hints == {"chat": (False, False), "list_providers": (True, False), "get_session": (True, False)}
    assert tools["chat"].input_schema["required"] == ["message"]
    assert set(tools["chat"].input_schema["properties"]) == {"message", "provider", "session_id", "model", "system"}


async def test_structured_content_holds_exactly_what_is_declared(served: HubProcess) -> None:
    async with connected(served) as client:
        declared = {it.name: set((it.output_schema or {})["properties"]) for it in (await client.list_tools()).tools}
        answer = await chat(client, "hi")
        assert set(answer) == declared["chat"]
        found = await client.call_tool("get_session", {"session_id": answer["session_id"]})
        assert set(fields_of(found)) == declared["get_session"]
        assert set(fields_of(await client.call_tool("list_providers", {}))) == declared["list_providers"]


async def test_answer_is_words_with_a_link_to_its_session(served: HubProcess) -> None:
    async with connected(served) as client:
        result = await client.call_tool("chat", {"message": "hi", "provider": "echo"})
        session_id = fields_of(result)["session_id"]
        words, hint, link = result.content
        assert isinstance(words, TextContent) and words.text == "hi"
        assert isinstance(hint, TextContent) and hint.text == f"session_id: {session_id}"
        assert isinstance(link, ResourceLink) and link.uri == f"session://{session_id}"
        found = (await client.read_resource(link.uri)).contents[0]
        assert isinstance(found, TextResourceContents) and '"content":"hi"' in found.text


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "[1, 2]", "null", "  spaced  ", "ünïcödé \u2028 \x00 😀", "-- $(x) @/etc"]
)
async def test_message_arrives_as_it_was_sent(served: HubProcess, text: str) -> None:
    async with connected(served) as client:
        assert (await chat(client, text))["answer"] == text


async def test_nulls_for_what_is_left_out_are_no_error(served: HubProcess) -> None:
    """Models fill in null for optional arguments."""
    async with connected(served) as client:
        arguments = dict.fromkeys(("session_id", "model", "system"), None)
        assert (await chat(client, "hi", **arguments))["answer"] == "hi"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"message": "hi", "provider": "nobody"}, "provider_not_found"),
        ({"message": "  "}, "invalid_value"),
        ({"message": "hi", "provider": "echo", "model": "gpt-none"}, "model_not_found"),
        ({"message": "hi", "provider": "echo", "session_id": "../etc"}, "invalid_value"),
        ({"message": "hi [[do=crash]]", "provider": "echo"}, "worker_crashed"),
    ],
)
async def test_failure_is_a_result_the_model_can_read(served: HubProcess, arguments: dict[str, str], code: str) -> None:
    async with connected(served) as client:
        result = await client.call_tool("chat", arguments)
        assert result.is_error
        assert f"({code}" in text_of(result)


@pytest.mark.parametrize("arguments", [{}, {"message": 5}, {"message": "hi", "provider": ["echo"]}])
async def test_wrong_arguments_are_told_in_one_readable_piece(served: HubProcess, arguments: dict[str, Any]) -> None:
    async with connected(served) as client:
        result = await client.call_tool("chat", arguments)
        assert result.is_error and "pydantic" not in text_of(result)


@eras
async def test_providers_can_be_read_as_list_and_one_by_one(served: HubProcess, way: tuple[str, str]) -> None:
    async with connected(served, way=way) as client:
        providers = fields_of(await client.call_tool("list_providers", {}))["providers"]
        assert [(it["name"], it["status"], it["models"]) for it in providers] == [("echo", "available", ["echo"])]
        for uri in ("provider://list", "provider://echo"):
            content = (await client.read_resource(uri)).contents[0]
            assert isinstance(content, TextResourceContents)
            assert content.mime_type == "application/json" and '"name":"echo"' in content.text
        for uri in ("provider://nobody", "session://nothing", "other://thing"):
            with pytest.raises(MCPError) as failure:
                await client.read_resource(uri)
            assert failure.value.error.code == -32602


async def test_sessions_are_listed_newest_first_page_by_page(served: HubProcess, keys: dict[str, str]) -> None:
    async with connected(served, key=keys["many"]) as client:
        made = [(await chat(client, f"no {number}"))["session_id"] for number in range(53)]
        first = await client.list_resources()
        assert first.next_cursor is not None
        second = await client.list_resources(cursor=first.next_cursor)
        assert first.resources[0].uri == "provider://list"
        listed = [it.uri.removeprefix("session://") for it in (*first.resources[1:], *second.resources)]
        assert len(first.resources) == 51
        assert listed == list(reversed(made))
        assert first.resources[1].title == "no 52"
        with pytest.raises(MCPError):
            await client.list_resources(cursor="no such page")


@eras
async def test_prompts_are_filled_in(served: HubProcess, way: tuple[str, str]) -> None:
    async with connected(served, way=way) as client:
        names = {
            it.name: {arg.name: arg.required for arg in it.arguments or []}
            for it in (await client.list_prompts()).prompts
        }
        assert names == {
            "summarize": {"text": False, "session_id": False},
            "translate": {"text": True, "language": True},
            "code_review": {"code": True, "language": False, "focus": False},
        }
        session_id = (await chat(client, "talked of whales"))["session_id"]
        for name, arguments, expected in (
            ("summarize", {"text": "a long text"}, "a long text"),
            ("summarize", {"session_id": session_id}, "user: talked of whales"),
            ("translate", {"text": "good day", "language": "German"}, "into German"),
            (
                "code_review",
                {"code": "x = ```1```", "language": "Python", "focus": "speed"},
                "````python\nx = ```1```\n````",
            ),
        ):
            message = (await client.get_prompt(name, arguments)).messages[0]
            assert isinstance(message.content, TextContent)
            assert expected in message.content.text
        wrong: list[tuple[str, dict[str, str]]] = [
            ("summarize", {}),
            ("summarize", {"text": "x", "session_id": "y"}),
            ("summarize", {"session_id": "gone"}),
            ("translate", {"text": "x"}),
            ("translate", {"text": "x", "language": " "}),
            ("nothing", {}),
        ]
        for name, arguments in wrong:
            with pytest.raises(MCPError) as failure:
                await client.get_prompt(name, arguments)
            assert failure.value.error.code == -32602


async def test_arguments_are_completed(served: HubProcess) -> None:
    async with connected(served) as client:
        session_id = (await chat(client, "hi"))["session_id"]

        async def suggested(ref: Any, name: str, value: str) -> list[str]:
            return (await client.complete(ref, {"name": name, "value": value})).completion.values

        translate, review = (PromptReference(type="ref/prompt", name=it) for it in ("translate", "code_review"))
        summarize = PromptReference(type="ref/prompt", name="summarize")
        provider = ResourceTemplateReference(type="ref/resource", uri="provider://{name}")
        session = ResourceTemplateReference(type="ref/resource", uri="session://{session_id}")
        assert await suggested(translate, "language", "ger") == ["German"]
        assert await suggested(review, "language", "py") == ["Python"]
        assert await suggested(provider, "name", "e") == ["echo"]
        assert await suggested(summarize, "session_id", session_id[:-2]) == [session_id]
        assert (await suggested(session, "session_id", ""))[0] == session_id
        assert "echo/echo" in await suggested(translate, "model", "echo")
        assert await suggested(translate, "text", "") == []


# --- keys, owners, limits --------------------------------------------------------------------------------------------


async def test_conversation_begun_by_rest_goes_on_by_mcp_with_the_owners_other_key(
    served: HubProcess, keys: dict[str, str]
) -> None:
    """Begun in n8n, continued in Claude Desktop."""
    with client_of(served, keys["alices_other"]) as n8n:
        begun = n8n.post(CHAT, json=ask("begun elsewhere"))
        assert answer_of(begun) == "begun elsewhere"
        session_id = begun.headers[SESSION]
        async with connected(served, key=keys["alice"]) as client:
            assert (await chat(client, "and on", session_id=session_id))["session_id"] == session_id
        body = n8n.get(f"/v1/sessions/{session_id}").json()
    assert [it["content"] for it in body["messages"]] == ["begun elsewhere", "begun elsewhere", "and on", "and on"]


@eras
async def test_anothers_session_is_nowhere_to_be_seen(
    served: HubProcess, keys: dict[str, str], way: tuple[str, str]
) -> None:
    async with (
        connected(served, key=keys["alice"], way=way) as alice,
        connected(served, key=keys["bob"], way=way) as bob,
    ):
        session_id = (await chat(alice, "alice's own"))["session_id"]
        refused = await bob.call_tool("get_session", {"session_id": session_id})
        assert refused.is_error and "session_not_found" in text_of(refused)
        with pytest.raises(MCPError):
            await bob.read_resource(f"session://{session_id}")
        with pytest.raises(MCPError):
            await bob.get_prompt("summarize", {"session_id": session_id})
        assert f"session://{session_id}" not in [it.uri for it in (await bob.list_resources()).resources]
        ref = PromptReference(type="ref/prompt", name="summarize")
        found = await bob.complete(ref, {"name": "session_id", "value": session_id})
        assert found.completion.values == []
        # The same id is Bob's own conversation.
        assert (await chat(bob, "bob's own", session_id=session_id))["session_id"] == session_id
        theirs = fields_of(await alice.call_tool("get_session", {"session_id": session_id}))
        assert [it["content"] for it in theirs["messages"]] == ["alice's own", "alice's own"]


@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages/"])
def test_who_has_no_good_key_is_refused_as_everywhere(served: HubProcess, keys: dict[str, str], path: str) -> None:
    """In the hub's own shape, and without a hint that would send clients on an OAuth dance."""
    for headers, status, code in (
        ({}, 401, "missing_api_key"),
        ({"Authorization": "Bearer hub_wrong"}, 401, "invalid_api_key"),
        ({"X-API-Key": keys["alices_other"]}, 403, "insufficient_scope"),
        ({"Authorization": f"Bearer {served.key}", "Host": "evil.example"}, 421, "bad_request"),
        ({"Authorization": f"Bearer {served.key}", "Origin": "https://evil.example"}, 403, "bad_request"),
    ):
        for method in ("GET", "POST"):
            answer = httpx.request(method, f"{served.url}{path}", headers=headers, timeout=10)
            assert (answer.status_code, error_of(answer)["code"]) == (status, code)
            assert "resource_metadata" not in answer.headers.get("www-authenticate", "")
            assert ("www-authenticate" in answer.headers) == (status == 401)
    hint = httpx.get(f"{served.url}{path}?api_key={served.key}", timeout=10)
    assert "URL" in error_of(hint)["message"]
    assert httpx.get(f"{served.url}/.well-known/oauth-protected-resource{path}", timeout=10).status_code == 404


async def test_key_may_come_as_x_api_key_and_from_a_known_origin(served: HubProcess) -> None:
    headers = {"X-API-Key": served.key, "Origin": "https://tools.example"}
    async with connected(served, headers=headers) as client:
        assert (await chat(client, "hi"))["answer"] == "hi"


async def test_scopes_hold_behind_the_door(served: HubProcess, keys: dict[str, str]) -> None:
    async with connected(served, key=keys["reader"]) as reader:
        refused = await reader.call_tool("chat", {"message": "hi", "provider": "echo"})
        assert refused.is_error and "insufficient_scope" in text_of(refused)
    async with connected(served, key=keys["talker"]) as talker:
        session_id = (await chat(talker, "hi"))["session_id"]
        refused = await talker.call_tool("get_session", {"session_id": session_id})
        assert refused.is_error and "insufficient_scope" in text_of(refused)
        assert [it.uri for it in (await talker.list_resources()).resources] == ["provider://list"]
        with pytest.raises(MCPError):
            await talker.read_resource(f"session://{session_id}")


async def test_key_sees_only_the_providers_it_may_use(served: HubProcess, keys: dict[str, str]) -> None:
    async with connected(served, key=keys["narrow"]) as client:
        assert fields_of(await client.call_tool("list_providers", {}))["providers"] == []
        refused = await client.call_tool("chat", {"message": "hi", "provider": "echo"})
        assert refused.is_error and "provider_not_allowed" in text_of(refused)
        with pytest.raises(MCPError):
            await client.read_resource("provider://echo")


async def test_limits_of_a_key_hold_here_too(served: HubProcess, keys: dict[str, str]) -> None:
    async with connected(served, key=keys["few"]) as client:
        results = [await client.call_tool("chat", {"message": "hi", "provider": "echo"}) for _ in range(4)]
        assert [it.is_error for it in results] == [False, False, False, True]
        assert "rate_limit_exceeded; try again in" in text_of(results[-1])
        assert (await client.call_tool("list_providers", {})).is_error
        with pytest.raises(MCPError):
            await client.read_resource("provider://list")


@ways
async def test_revoked_key_is_out_within_a_second(
    served: HubProcess, keys: dict[str, str], way: tuple[str, str]
) -> None:

    name = f"gone-{'-'.join(way)}-{served.port}"
    key = make_keys(served, **{name: {"owner": "gone"}})[name]
    async with connected(served, key=key, way=way) as client:
        assert (await chat(client, "hi"))["answer"] == "hi"
        revoked = await asyncio.to_thread(served.run, "revoke_key", name)
        assert revoked.returncode == 0, revoked.stderr
        ends_at = time.monotonic() + 1
        while time.monotonic() < ends_at and not await is_refused(client):
            pass
        assert await is_refused(client)


async def is_refused(client: Client) -> bool:
    try:
        await client.call_tool("list_providers", {}, read_timeout_seconds=REFUSED_WAIT_S)
    except Exception:  # each transport has an error of its own for a 401
        return True
    return False


async def test_another_keys_mcp_session_can_not_be_used(served: HubProcess, keys: dict[str, str]) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    accept = {"Accept": "application/json, text/event-stream"}
    with client_of(served, keys["alice"], **accept) as alice, client_of(served, keys["bob"], **accept) as bob:
        opened = alice.post("/mcp", json=hello)
        named = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        assert alice.post("/mcp", json=listing, headers=named).status_code == 200
        assert bob.post("/mcp", json=listing, headers=named).status_code == 404
        assert bob.delete("/mcp", headers=named).status_code == 404
        assert alice.delete("/mcp", headers=named).status_code == 200


def test_nothing_of_a_key_or_a_question_is_in_the_log(served: HubProcess, keys: dict[str, str]) -> None:
    eventually(lambda: bool(served.log.read_text()))
    log = served.log.read_text()
    assert not [name for name, key in keys.items() if key in log]
    assert "alice's own" not in log and "talked of whales" not in log
