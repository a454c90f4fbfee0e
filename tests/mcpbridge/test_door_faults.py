"""Clients that never say goodbye, send too much or nonsense, and a hub that ends while they listen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.asking import client_of, error_of, eventually
from tests.hub import HubProcess, running_hub
from tests.mcpbridge.conftest import MCP_ENV
from tests.mcpbridge.wire import MODERN, WAIT_S, WAYS, chat, connected

ACCEPT = {"Accept": "application/json, text/event-stream"}
MOST_SESSIONS = 40
IDLE_S = 2.0
servers = pytest.mark.parametrize("server", ["daphne", "uvicorn"])


@pytest.fixture(scope="module", params=["daphne", "uvicorn"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that holds few sessions, and none for long."""
    env = MCP_ENV | {"HUB_MCP_MAX_SESSIONS": str(MOST_SESSIONS), "HUB_MCP_IDLE_S": str(IDLE_S)}
    with running_hub(tmp_path_factory.mktemp("crowded"), env=env, server=str(request.param)) as started:
        yield started


@pytest.fixture
def alice(crowded: HubProcess) -> Iterator[httpx.Client]:
    with client_of(crowded, crowded.key, **ACCEPT) as client:
        yield client


def request(method: str, number: int = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def open_session(client: httpx.Client) -> dict[str, str]:
    """The header that names a new session of the handshake era."""
    about: dict[str, Any] = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    answer = client.post("/mcp", json=request("initialize", **about))
    assert answer.status_code == 200, answer.text
    return {"Mcp-Session-Id": answer.headers["mcp-session-id"]}


def lists_tools(client: httpx.Client, session: dict[str, str]) -> bool:
    answer = client.post("/mcp", json=request("tools/list"), headers=session)
    assert answer.status_code in (200, 404), answer.text
    return answer.status_code == 200


def test_a_thousand_sessions_that_are_never_closed_hold_nothing_up(crowded: HubProcess, alice: httpx.Client) -> None:
    """n8n opens one for every call. The newest work, and memory stays flat."""
    for _ in range(5 * MOST_SESSIONS):
        open_session(alice)
    before = psutil.Process(crowded.pid).memory_info().rss
    sessions = [open_session(alice) for _ in range(1_000)]
    assert all(lists_tools(alice, it) for it in sessions[-MOST_SESSIONS // 2 :])
    assert not lists_tools(alice, sessions[0])
    assert psutil.Process(crowded.pid).memory_info().rss - before < 20 * 1024 * 1024


def test_session_that_is_listened_to_is_not_the_one_to_go(crowded: HubProcess, alice: httpx.Client) -> None:
    kept = open_session(alice)
    with httpx.stream("GET", f"{crowded.url}/mcp", headers={**alice.headers, **kept}, timeout=WAIT_S) as stream:
        assert stream.status_code == 200
        for _ in range(2 * MOST_SESSIONS):
            open_session(alice)
        assert lists_tools(alice, kept)


def test_idle_session_ends(crowded: HubProcess, alice: httpx.Client) -> None:
    session = open_session(alice)
    assert lists_tools(alice, session)
    ends_at = time.monotonic() + IDLE_S
    eventually(lambda: time.monotonic() > ends_at + 0.5)
    assert not lists_tools(alice, session)


async def test_message_of_five_megabytes_is_answered(crowded: HubProcess) -> None:
    text = "five megabytes " * 350_000
    async with connected(crowded) as client:
        answer = await chat(client, text)
    assert answer["is_cut"] and text.startswith(answer["answer"])


def test_body_over_the_limit_is_refused(crowded: HubProcess, alice: httpx.Client) -> None:
    for path in ("/mcp", "/messages/?session_id=00000000000000000000000000000000"):
        answer = alice.post(path, content=b" " * (17 * 1024 * 1024))
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("content", "version"),
    [(b"\xff\xfe", ""), (b"{", ""), (b"[]", ""), (b'"hello"', ""), (b"{}", ""), (b"{", MODERN), (b"[]", MODERN)],
)
def test_nonsense_gets_an_answer_and_harms_nobody(
    crowded: HubProcess, alice: httpx.Client, content: bytes, version: str
) -> None:
    headers = {"MCP-Protocol-Version": version} if version else {}
    answer = alice.post("/mcp", content=content, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == 400, answer.text
    assert json.loads(answer.text)["error"]["code"] in (-32700, -32600, -32602)
    assert lists_tools(alice, open_session(alice))


@pytest.mark.parametrize(("method", "path"), [("GET", "/mcp"), ("DELETE", "/mcp"), ("PUT", "/mcp"), ("POST", "/sse")])
def test_what_is_no_way_in_is_answered_at_once(alice: httpx.Client, method: str, path: str) -> None:
    """mcp-remote begins with a GET without a session."""
    began_at = time.monotonic()
    assert alice.request(method, path).status_code in (400, 404, 405, 406)
    assert time.monotonic() - began_at < 2


@contextlib.contextmanager
def listening(hub: HubProcess, method: str, path: str, **options: Any) -> Iterator[threading.Event]:
    """A client that reads a stream until it ends, which sets the event."""
    ended, begun = threading.Event(), threading.Event()

    def read() -> None:
        headers = {**hub.headers, **ACCEPT, **options.pop("headers", {})}
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream(method, f"{hub.url}{path}", headers=headers, timeout=WAIT_S, **options) as answer,
        ):
            begun.set()
            for _ in answer.iter_raw():
                pass
        ended.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert begun.wait(WAIT_S)
    yield ended


@servers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_hub_ends_soon_and_cleanly_while_clients_listen(tmp_path: Path, server: str, number: signal.Signals) -> None:
    """daphne once crashed at its end with such streams open, and uvicorn waited for them for ever."""
    with running_hub(tmp_path, env=MCP_ENV, server=server) as hub:
        with client_of(hub, hub.key, **ACCEPT) as client:
            session = open_session(client)
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        listen = request("subscriptions/listen", notifications={"resourcesListChanged": True}, _meta=meta)
        modern = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "subscriptions/listen"}
        with (
            listening(hub, "GET", "/sse") as sse,
            listening(hub, "GET", "/mcp", headers=session) as pushed,
            listening(hub, "POST", "/mcp", json=listen, headers=modern) as listened,
        ):
            began_at = time.monotonic()
            code = hub.stop(number)
            assert time.monotonic() - began_at < 8
            assert code in (0, -number)  # uvicorn ends by the signal it got
            assert all(it.wait(WAIT_S) for it in (sse, pushed, listened))
        assert "Traceback" not in hub.log.read_text()


@servers
async def test_call_under_way_gets_its_grace_when_the_hub_ends(tmp_path: Path, server: str) -> None:
    with running_hub(tmp_path, env=MCP_ENV | {"HUB_SHUTDOWN_GRACE_S": "20"}, server=server) as hub:
        async with connected(hub, way=WAYS[0]) as client:
            await client.list_tools()  # which it would else ask for after the answer, to check it
            text = "it is allowed to finish [[chunks=5 delay=0.3]]"
            begun = asyncio.Event()

            async def note(progress: float, total: float | None, message: str | None) -> None:
                if progress > 2:
                    begun.set()

            arguments = {"message": text, "provider": "echo"}
            call = asyncio.create_task(client.call_tool("chat", arguments, progress_callback=note))
            async with asyncio.timeout(WAIT_S):
                await begun.wait()
            hub.send_signal(signal.SIGTERM)
            result = await call
            assert (result.structured_content or {})["answer"] == text
            await asyncio.to_thread(eventually, lambda: hub.process is not None and hub.process.poll() is not None)


def test_errors_before_and_after_the_hubs_life_have_its_shape(crowded: HubProcess) -> None:
    with client_of(crowded, crowded.key) as client:
        assert error_of(client.get("/mcpx"))["code"] == "not_found"
