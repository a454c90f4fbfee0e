"""`run_mcp` as a bridge: a real process, driven over its pipes, before servers that work and servers that don't."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, MCPError, StdioServerParameters
from mcp.shared.inbound import encode_header_value as sdks_encode

from mcpbridge.jsonrpc import encode_header_value
from tests.asking import eventually
from tests.hub import ROOT, clean_env
from tests.mcpbridge.bridged import (
    INITIALIZED,
    META,
    MODERN,
    WAIT_S,
    WHO,
    BridgeProcess,
    Json,
    Reply,
    SlowServer,
    begin,
    bridging,
    cancelled,
    eras,
    error_of,
    fault_hub,
    ready,
    request,
    slow_server,
    text_of,
    tool,
)

COMMAND = [sys.executable, "manage.py", "run_mcp"]
# Clients have less patience than this, and a busy machine takes its time.
MOST_START_S, MOST_END_S = 2.0, 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowServer]:
    """One that works, for tests that do it no harm."""
    with slow_server(tmp_path_factory.mktemp("slow")) as started:
        yield started


@pytest.fixture
def bridge(server: SlowServer, tmp_path: Path) -> Iterator[BridgeProcess]:
    with bridging(tmp_path, server.url) as started:
        yield started


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """What the slow tool's notes of this test are known by."""
    return str(request.node.name)


# --- what it passes on -----------------------------------------------------------------------------------------------


@eras
def test_first_answer_comes_soon(server: SlowServer, tmp_path: Path, meta: Json | None) -> None:
    """Clients that probe give up after 0.6 s; it takes a tenth of that on an idle machine."""
    first = request("initialize", **WHO) if meta is None else request("server/discover", meta=meta)
    began_at = time.monotonic()
    with bridging(tmp_path, server.url) as bridge:
        assert "result" in bridge.ask(first)
        assert time.monotonic() - began_at < MOST_START_S


@eras
def test_progress_comes_before_the_answer(bridge: BridgeProcess, meta: Json | None, name: str) -> None:
    ready(bridge, meta)
    asked = tool("slow", meta={**(meta or {}), "progressToken": "here"}, name=name, seconds=0.2)
    assert text_of(bridge.ask(asked)) == f"done {name}"
    progress = [it["params"] for it in bridge.passed if it["method"] == "notifications/progress"]
    assert [it["progress"] for it in progress] == list(range(1, len(progress) + 1))
    assert len(progress) >= 5
    assert {it["progressToken"] for it in progress} == {"here"}


@eras
@pytest.mark.parametrize("size", [5_000_000, 16_000_000])
def test_large_messages_pass_both_ways(bridge: BridgeProcess, meta: Json | None, size: int) -> None:
    ready(bridge, meta)
    text = "é" * (size // 2)
    asked = tool("echo", meta=meta, text=text)
    bridge.send(json.dumps(asked, ensure_ascii=False).encode())
    assert text_of(bridge.answer(asked)) == text


@eras
def test_fifty_requests_are_in_flight_at_once(bridge: BridgeProcess, meta: Json | None, name: str) -> None:
    ready(bridge, meta)
    asked = [tool("slow", meta=meta, name=f"{name} {number}", seconds=0.5) for number in range(50)]
    began_at = time.monotonic()
    bridge.send(*asked)
    answers = [bridge.until(lambda it: "method" not in it) for _ in asked]
    assert time.monotonic() - began_at < 10
    assert {it["id"]: text_of(it) for it in answers} == {
        it["id"]: f"done {it['params']['arguments']['name']}" for it in asked
    }


def test_client_may_probe_and_then_shake_hands_on_the_same_pipe(bridge: BridgeProcess) -> None:
    """A server on stdio by the SDK alone would be lost to this client."""
    assert "result" in bridge.ask(request("server/discover", meta=META))
    bridge.shake_hands()
    assert text_of(bridge.ask(tool("echo", text="old"))) == "old"
    assert text_of(bridge.ask(tool("echo", meta=META, text="new"))) == "new"


def test_ids_keep_their_type(bridge: BridgeProcess) -> None:
    for id in ("1", 1, "", -5, "ü"):
        assert bridge.ask({**tool("echo", meta=META, text="hi"), "id": id})["id"] == id


def test_client_need_not_wait_for_the_answer_to_initialize(bridge: BridgeProcess) -> None:
    asked = tool("echo", text="at once")
    bridge.send(request("initialize", **WHO), INITIALIZED, asked)
    assert text_of(bridge.answer(asked)) == "at once"


def test_what_the_server_says_by_itself_is_passed_on(bridge: BridgeProcess) -> None:
    bridge.shake_hands()
    changed = "notifications/resources/list_changed"
    ends_at = time.monotonic() + WAIT_S
    # The stream is opened in the background; what is said before has nobody to hear it.
    while not any(it.get("method") == changed for it in bridge.passed):
        assert time.monotonic() < ends_at
        bridge.ask(tool("announce"))


@pytest.mark.parametrize("mode", ["legacy", "auto", MODERN])
async def test_official_client_lists_calls_and_cancels(
    server: SlowServer, tmp_path: Path, mode: str, name: str
) -> None:
    env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), "HUB_URL": server.url})
    started = StdioServerParameters(command=sys.executable, args=[str(ROOT / "manage.py"), "run_mcp"], env=env)
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with asyncio.timeout(3 * WAIT_S), Client(started, mode=mode) as client:
        assert {it.name for it in (await client.list_tools()).tools} == {"slow", "echo", "announce"}
        result = await client.call_tool("slow", {"name": name, "seconds": 0.1}, progress_callback=note)
        assert result.model_dump()["content"][0]["text"] == f"done {name}"
        assert seen
        with pytest.raises(MCPError):
            await client.call_tool("slow", {"name": f"long {name}"}, read_timeout_seconds=0.3)
        await asyncio.to_thread(eventually, server.has_noted(f"cancelled long {name}"))
        assert (await client.call_tool("echo", {"text": "still here"})).model_dump()["content"][0]["text"]


def test_two_bridges_do_not_disturb_each_other(server: SlowServer, tmp_path: Path) -> None:
    """Claude Desktop starts each server twice."""
    with ExitStack() as stack:
        both = [stack.enter_context(bridging(tmp_path, server.url)) for _ in range(2)]
        for bridge in both:
            bridge.shake_hands()
        asked = [tool("slow", name="twice", seconds=0.2) for _ in both]
        for bridge, it in zip(both, asked, strict=True):
            bridge.send(it)
        assert [text_of(bridge.answer(it)) for bridge, it in zip(both, asked, strict=True)] == ["done twice"] * 2
        both[0].close_input()
        assert both[0].end()[0] == 0
        assert text_of(both[1].ask(tool("echo", text="here"))) == "here"


def imports(log: str) -> set[str]:
    """The top level modules that `-X importtime` tells of."""
    names = (line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:"))
    return {it.partition(".")[0] for it in names}


def test_pipes_may_be_sockets_and_not_wait(server: SlowServer, tmp_path: Path) -> None:
    """Node.js gives its children a pair of sockets."""
    env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), "HUB_URL": server.url})
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, subprocess.Popen(COMMAND, cwd=ROOT, env=env, stdin=theirs.fileno(), stdout=theirs.fileno()) as process:
        theirs.close()
        ours.settimeout(WAIT_S)
        text = "x" * 1_000_000
        ours.sendall(json.dumps(tool("echo", meta=META, text=text)).encode() + b"\n")
        assert text_of(json.loads(ours.makefile().readline())) == text
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(WAIT_S) == 0


def test_nothing_but_the_standard_library_is_imported(server: SlowServer, tmp_path: Path) -> None:
    """Whatever is imported is waited for by the client, and Django alone takes longer than some of them wait."""
    python = [sys.executable, "-X", "importtime"]
    env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), "HUB_URL": server.url})
    bare = subprocess.run([*python, "-c", ""], cwd=ROOT, env=env, capture_output=True, text=True, timeout=WAIT_S)
    command = [*python, "manage.py", "run_mcp", "--mode", "bridge"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{json.dumps(request('initialize', **WHO))}\n{json.dumps(INITIALIZED)}\n")
        process.stdin.flush()
        assert "result" in process.stdout.readline()
        _, log = process.communicate(timeout=WAIT_S)
    tried_by_the_library_itself = {"org"}
    known = sys.stdlib_module_names | imports(bare.stderr) | tried_by_the_library_itself
    assert imports(log) - known == {"mcpbridge", "hubsite"}


def test_proxy_of_the_environment_is_not_used(server: SlowServer, tmp_path: Path) -> None:
    nowhere = {
        "http_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    with bridging(tmp_path, server.url, **nowhere) as bridge:
        assert text_of(bridge.ask(tool("echo", meta=META, text="hi"))) == "hi"


# --- cancelling ------------------------------------------------------------------------------------------------------


@eras
def test_cancel_reaches_the_tool_and_gets_no_answer(
    bridge: BridgeProcess, server: SlowServer, meta: Json | None, name: str
) -> None:
    ready(bridge, meta)
    asked = begin(bridge, server, name, meta)
    bridge.send(cancelled(asked))
    eventually(server.has_noted(f"cancelled {name}"))
    assert text_of(bridge.ask(tool("echo", meta=meta, text="next"))) == "next"
    assert all(it.get("id") != asked["id"] for it in bridge.passed)


@eras
def test_cancel_right_behind_its_request_is_not_lost(
    bridge: BridgeProcess, server: SlowServer, meta: Json | None, name: str
) -> None:
    ready(bridge, meta)
    asked = [tool("slow", meta=meta, name=f"{name} {number}") for number in range(10)]
    for it in asked:
        bridge.send(it, cancelled(it))
    assert text_of(bridge.ask(tool("echo", meta=meta, text="next"))) == "next"

    def none_is_running() -> bool:
        noted = [it for it in server.notes if name in it]
        return sum(it.startswith("began") for it in noted) == sum(it.startswith("cancelled") for it in noted)

    eventually(none_is_running)
    assert all(it.get("id") not in [it["id"] for it in asked] for it in bridge.passed)


def test_cancel_of_what_is_over_or_was_never_asked_harms_nobody(bridge: BridgeProcess) -> None:
    bridge.send(cancelled({"id": "nothing"}), cancelled({"id": None}), cancelled({"id": [1]}))
    bridge.shake_hands()
    asked = tool("echo", text="over")
    bridge.ask(asked)
    bridge.send(cancelled(asked), cancelled({"id": {}}))
    assert text_of(bridge.ask(tool("echo", text="next"))) == "next"
    assert not bridge.passed


# --- its end ---------------------------------------------------------------------------------------------------------


def end_of_input(bridge: BridgeProcess) -> None:
    bridge.close_input()


def by(number: signal.Signals) -> Callable[[BridgeProcess], None]:
    return lambda bridge: bridge.process.send_signal(number)


ENDS = {
    "end of input": end_of_input,
    "SIGTERM": by(signal.SIGTERM),
    "SIGINT": by(signal.SIGINT),
    "SIGHUP": by(signal.SIGHUP),
}
ends = pytest.mark.parametrize("way", ENDS)


@ends
@eras
def test_it_ends_soon_and_what_it_asked_for_is_cancelled(
    bridge: BridgeProcess, server: SlowServer, way: str, meta: Json | None, name: str
) -> None:
    ready(bridge, meta)
    begin(bridge, server, name, meta)
    ENDS[way](bridge)
    code, took_s = bridge.end()
    assert code == 0
    assert took_s < MOST_END_S
    eventually(server.has_noted(f"cancelled {name}"))


@ends
def test_it_ends_soon_though_the_hub_hangs(tmp_path: Path, way: str) -> None:
    is_over = threading.Event()

    def script(reply: Reply) -> None:
        if reply.command == "POST" and reply.body.get("method") in ("initialize", "notifications/initialized"):
            reply.result(Mcp_Session_Id="one") if "id" in reply.body else reply.give(202)
        else:
            is_over.wait(WAIT_S)

    with fault_hub(script) as hub, bridging(tmp_path, hub.url) as bridge:
        bridge.shake_hands()
        bridge.send(tool("slow"), tool("slow", meta=META), {"jsonrpc": "2.0", "method": "notifications/any"})
        eventually(lambda: len(hub.seen) >= 5)
        ENDS[way](bridge)
        code, took_s = bridge.end()
        is_over.set()
        assert code == 0
        assert took_s < MOST_END_S


@ends
def test_it_ends_soon_though_nobody_reads_what_it_says(tmp_path: Path, way: str) -> None:
    """The pipe is full, and the thread that writes stands still."""
    with fault_hub(lambda reply: reply.give(200, b'{"result": "%s"}' % (b"x" * 1_000_000))) as hub:
        held, told = os.pipe()
        env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), "HUB_URL": hub.url})
        with subprocess.Popen(COMMAND, cwd=ROOT, env=env, stdin=-1, stdout=told) as process:
            os.close(told)
            assert process.stdin is not None
            process.stdin.write(b"".join(json.dumps(request("any", meta=META)).encode() + b"\n" for _ in range(3)))
            process.stdin.flush()
            eventually(lambda: len(hub.seen) == 3)
            assert os.read(held, 10)  # it has begun to write
            began_at = time.monotonic()
            if way == "end of input":
                process.stdin.close()
            else:
                process.send_signal(getattr(signal, way))
            assert process.wait(WAIT_S) == 0
            assert time.monotonic() - began_at < MOST_END_S
        os.close(held)


@pytest.mark.parametrize("is_talking", [True, False])
def test_client_that_reads_no_more_is_gone(server: SlowServer, tmp_path: Path, name: str, is_talking: bool) -> None:
    held, told = os.pipe()
    env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), "HUB_URL": server.url})
    with subprocess.Popen(COMMAND, cwd=ROOT, env=env, stdin=-1, stdout=told) as process:
        os.close(told)
        assert process.stdin is not None
        meta = {**META, "progressToken": 1} if is_talking else META
        process.stdin.write(json.dumps(tool("slow", meta=meta, name=name)).encode() + b"\n")
        process.stdin.flush()
        eventually(server.has_noted(f"began {name}"))
        os.close(held)
        assert process.wait(WAIT_S) == 0
    eventually(server.has_noted(f"cancelled {name}"))


def test_it_ends_with_its_parent(server: SlowServer, tmp_path: Path, name: str) -> None:
    """A client that was killed closes no pipe that another process holds, too."""
    env = clean_env(tmp_path, {"HUB_DATA_DIR": str(tmp_path), "HUB_URL": server.url})
    client = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"]
    with subprocess.Popen([*client, *COMMAND], cwd=ROOT, env=env, stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(tool("slow", meta=META, name=name)).encode() + b"\n")
        process.stdin.flush()
        eventually(server.has_noted(f"began {name}"))
        process.kill()
        eventually(server.has_noted(f"cancelled {name}"))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "id"),
    [
        (b"{", -32700, None),
        (b"hello", -32700, None),
        (b"\xff\xfe\x00", -32700, None),
        (b'\xef\xbb\xbf{"jsonrpc": "2.0", "id": 1, "method": "ping"}', -32700, None),
        ('{"jsonrpc": "2.0", "id": 1, "method": "ping"}'.encode("utf-16"), -32700, None),
        (b"[" * 100_000, -32700, None),
        (b"1" * 10_000, -32700, None),
        (b"[]", -32600, None),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', -32600, None),
        (b'"hello"', -32600, None),
        (b"null", -32600, None),
        (b"{}", -32600, None),
        (b'{"id": 7}', -32600, 7),
        (b'{"id": null, "method": "ping"}', -32600, None),
        (b'{"id": [], "method": "ping"}', -32600, None),
        (b'{"id": true, "method": "ping"}', -32600, None),
        (b'{"id": "x", "method": 5}', -32600, "x"),
        (b'{"id": "x", "method": ""}', -32600, "x"),
    ],
)
def test_garbage_is_answered_and_passed_over(
    garbled: BridgeProcess, line: bytes, code: int, id: str | int | None
) -> None:
    garbled.send(b"", b"  \r", line)
    answer = garbled.next()
    assert answer["id"] == id
    assert error_of(answer)["code"] == code
    assert text_of(garbled.ask(tool("echo", meta=META, text="next"))) == "next"


@pytest.fixture(scope="module")
def garbled(server: SlowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeProcess]:
    with bridging(tmp_path_factory.mktemp("garbled"), server.url) as started:
        yield started


@pytest.mark.parametrize(
    "odd",
    [
        request("no/such"),
        {**request("a\nb: c"), "method": "a\r\nX-Other: b"},
        request("tools/\N{SNOWMAN}"),
        tool("\N{SNOWMAN}\n"),
        request("resources/read", uri="file:///\ud800"),
        request("tools/call", name=5),
    ],
)
@eras
def test_odd_requests_get_the_servers_own_answer(garbled: BridgeProcess, odd: Json, meta: Json | None) -> None:
    """Nothing in a message can spoil the headers, or another message."""
    ready(garbled, meta)
    asked = {**odd, "params": {**odd["params"], **({"_meta": meta} if meta else {})}}
    answer = garbled.ask(asked)
    assert "result" in answer or error_of(answer)["code"] < 0
    assert text_of(garbled.ask(tool("echo", meta=META, text="next"))) == "next"


@given(st.text())
def test_names_are_encoded_for_headers_as_the_sdk_does(value: str) -> None:
    assert encode_header_value(value) == sdks_encode(value)


@pytest.mark.parametrize(
    "value", ["chat", "", " chat", "chat ", "=?base64?Y2hhdA==?=", "ü", "a\tb", "a\n", "~", "\x7f"]
)
def test_known_names_are_encoded_for_headers_as_the_sdk_does(value: str) -> None:
    assert encode_header_value(value) == sdks_encode(value)
