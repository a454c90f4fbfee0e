"""Answers that take longer than a client waits: they go on, are fetched later, and end when nobody wants them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client

from tests.asking import CHAT, SESSION, ask, begun_stream, client_of, eventually
from tests.hub import HubProcess
from tests.mcpbridge.wire import WAIT_S, WAYS, chat, connected, fields_of, text_of

ways = pytest.mark.parametrize("way", WAYS, ids=["-".join(way) for way in WAYS])

SOON = {"X-Hub-Soft-Deadline": "1"}
SLOW = "slow and steady it goes [[chunks=12 delay=0.25]]"
ENDLESS = f"{'on and on ' * 400} [[chunks=2000 delay=0.1]]"
# It says a word and then nothing, for longer than the hub of these tests lets it.
SILENT = "it begins well [[chunks=4 do=hang]]"


def busy_workers(hub: HubProcess) -> int:
    """Turns under way, by what the pool says of itself."""
    provider = httpx.get(f"{hub.url}/v1/providers/echo", headers=hub.headers, timeout=WAIT_S).json()
    return round(float(provider["load"]) * 16)


@contextlib.asynccontextmanager
async def impatient(served: HubProcess) -> AsyncIterator[Client]:
    """A client that can be kept waiting for a second."""
    async with connected(served, headers=SOON) as client:
        yield client


@ways
async def test_answer_past_the_soft_deadline_goes_on_and_is_fetched(served: HubProcess, way: tuple[str, str]) -> None:
    async with connected(served, way=way, headers=SOON) as client:
        result = await client.call_tool("chat", {"message": SLOW, "provider": "echo"})
        first = fields_of(result)
        assert first["status"] == "running" and first["finish_reason"] == ""
        assert first["answer"] and SLOW.startswith(first["answer"]) and first["answer"] != SLOW
        hint = result.content[1]
        # Claude Code shows its model nothing but the structured content, others nothing but the words.
        assert hint.type == "text" and "get_session" in hint.text and first["session_id"] in hint.text
        assert first["note"] in hint.text and "get_session" in first["note"]
        asked = {"session_id": first["session_id"]}
        still = fields_of(await client.call_tool("get_session", asked))
        assert (still["status"], still["messages"]) == ("running", [])
        assert still["answer"].startswith(first["answer"])
        whole = fields_of(await client.call_tool("get_session", asked | {"wait_seconds": 20}))
        assert (whole["status"], whole["answer"]) == ("complete", SLOW)
        again = fields_of(await client.call_tool("get_session", asked | {"wait_seconds": 20}))
        assert again == whole


async def test_waiting_for_an_answer_ends_when_it_said_it_would(served: HubProcess) -> None:
    async with impatient(served) as client:
        session_id = (await chat(client, SLOW))["session_id"]
        began_at = time.monotonic()
        still = fields_of(await client.call_tool("get_session", {"session_id": session_id, "wait_seconds": 0.5}))
        assert still["status"] == "running"
        assert 0.5 <= time.monotonic() - began_at < 2


async def test_waiting_client_is_told_of_what_comes(served: HubProcess) -> None:
    async with impatient(served) as client:
        told: list[str] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            told.append(message or "")

        session_id = (await chat(client, SLOW))["session_id"]
        asked: dict[str, Any] = {"session_id": session_id, "wait_seconds": 20}
        whole = fields_of(await client.call_tool("get_session", asked, progress_callback=note))
        assert whole["status"] == "complete" and "".join(told).count("steady") == 1


async def test_reason_of_a_failure_after_the_deadline_is_fetched_too(served: HubProcess) -> None:
    async with impatient(served) as client:
        session_id = (await chat(client, SILENT))["session_id"]
        failed = fields_of(await client.call_tool("get_session", {"session_id": session_id, "wait_seconds": 20}))
        assert failed["status"] == "failed"
        assert "timed_out" in failed["error"]


async def test_next_turn_after_a_failure_is_what_counts(served: HubProcess) -> None:
    async with impatient(served) as client:
        session_id = (await chat(client, "begin"))["session_id"]
        await chat(client, SILENT, session_id=session_id)
        asked = {"session_id": session_id, "wait_seconds": 20}
        assert fields_of(await client.call_tool("get_session", asked))["status"] == "failed"
        await chat(client, "better", session_id=session_id)
        found = fields_of(await client.call_tool("get_session", asked))
        assert (found["status"], found["error"], found["answer"]) == ("complete", "", "better")


async def test_deadline_of_a_client_that_says_nonsense_is_the_hubs(served: HubProcess) -> None:
    async with connected(served, headers={"X-Hub-Soft-Deadline": "soon"}) as client:
        assert (await chat(client, "hi [[chunks=4 delay=0.4]]"))["status"] == "complete"


async def test_answer_that_another_door_runs_is_waited_for(served: HubProcess) -> None:
    """By the session's lock, which all hubs of one Redis see."""

    async with impatient(served) as client:

        def stream() -> str:
            with client_of(served, served.key) as rest, begun_stream(rest, ask(SLOW), X_Session_ID="by-rest") as lines:
                return "".join(lines)

        running = asyncio.create_task(asyncio.to_thread(stream))
        asked: dict[str, Any] = {"session_id": "by-rest", "wait_seconds": 20}
        while (result := await client.call_tool("get_session", {"session_id": "by-rest"})).is_error:
            assert "session_not_found" in text_of(result)
        assert fields_of(result)["status"] == "running"
        assert fields_of(await client.call_tool("get_session", asked))["answer"] == SLOW
        await running


# --- nobody wants it any more ----------------------------------------------------------------------------------------


@ways
async def test_cancelled_call_ends_its_turn(served: HubProcess, way: tuple[str, str]) -> None:
    eventually(lambda: not busy_workers(served))
    async with connected(served, way=way) as client:
        begun = asyncio.Event()

        async def note(progress: float, total: float | None, message: str | None) -> None:
            if progress > 2:
                begun.set()

        async with anyio.create_task_group() as group:
            arguments = {"message": ENDLESS, "provider": "echo", "session_id": f"cancelled-{'-'.join(way)}"}
            group.start_soon(lambda: client.call_tool("chat", arguments, progress_callback=note))
            async with asyncio.timeout(WAIT_S):
                await begun.wait()
            group.cancel_scope.cancel()
        await asyncio.to_thread(eventually, lambda: not busy_workers(served), within_s=2)
        asked = {"session_id": f"cancelled-{'-'.join(way)}"}
        while (result := await client.call_tool("get_session", asked)).is_error:
            assert "session_not_found" in text_of(result)  # its partial answer is about to be written down
        assert fields_of(result)["messages"][-1]["status"] == "incomplete"


@pytest.mark.parametrize("way", [("http", "auto"), ("sse", "legacy"), ("sse", "auto")], ids=str)
async def test_client_that_vanishes_ends_its_turn(served: HubProcess, way: tuple[str, str]) -> None:
    eventually(lambda: not busy_workers(served))

    async def talk() -> None:
        async with connected(served, way=way) as client:
            await client.call_tool("chat", {"message": ENDLESS, "provider": "echo"})

    task = asyncio.create_task(talk())
    await asyncio.to_thread(eventually, lambda: bool(busy_workers(served)))
    task.cancel()
    await asyncio.wait({task})
    await asyncio.to_thread(eventually, lambda: not busy_workers(served), within_s=2)


async def test_closing_a_handshake_session_ends_its_turns(served: HubProcess) -> None:
    """Its connection's end does not, by the protocol; DELETE does."""
    eventually(lambda: not busy_workers(served))
    async with connected(served, way=("http", "legacy")) as client:
        task = asyncio.create_task(client.call_tool("chat", {"message": ENDLESS, "provider": "echo"}))
        await asyncio.to_thread(eventually, lambda: bool(busy_workers(served)))
        task.cancel()
        await asyncio.wait({task})
    await asyncio.to_thread(eventually, lambda: not busy_workers(served), within_s=2)


async def test_two_calls_on_one_session_come_one_after_the_other(served: HubProcess) -> None:
    async with connected(served) as one, connected(served) as two:
        session_id = (await chat(one, "begin"))["session_id"]
        text = "again [[chunks=3 delay=0.2]]"
        await asyncio.gather(*(chat(it, text, session_id=session_id) for it in (one, two)))
        found = fields_of(await one.call_tool("get_session", {"session_id": session_id}))
    assert [it["content"] for it in found["messages"]] == ["begin", "begin", text, text, text, text]


async def test_turn_that_goes_on_holds_its_session(served: HubProcess) -> None:
    """Nobody else may write into it meanwhile: REST waits, as for any other turn."""
    async with impatient(served) as client:
        session_id = (await chat(client, SLOW))["session_id"]

        def say() -> httpx.Response:
            with client_of(served, served.key) as rest:
                return rest.post(CHAT, json=ask("after it"), headers={SESSION: session_id})

        answer = await asyncio.to_thread(say)
        assert answer.status_code == 200
        found = fields_of(await client.call_tool("get_session", {"session_id": session_id}))
        assert [it["content"] for it in found["messages"]] == [SLOW, SLOW, "after it", "after it"]
