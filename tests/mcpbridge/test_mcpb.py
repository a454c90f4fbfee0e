"""`build_mcpb`: what is in the bundle for Claude Desktop, and how its bridge behaves between a client and a hub."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent, ToolListChangedNotification

from mcpbridge.bundle import FOLDER, build_bundle, manifest
from mcpbridge.changes import Changes
from mcpbridge.management.commands.build_mcpb import Command
from mcpbridge.server import build_server
from tests.asking import eventually
from tests.hub import ROOT, HubProcess, free_port
from tests.mcp_clients.tools import REQUIREMENT, find_node
from tests.mcpbridge.small_hub import KEY, SEEN_PATH
from tests.programs import lacking

WAIT_S = 10.0
# From the closed pipe to the end of the process.
END_S = 1.0
ERAS = {"modern": "auto", "handshake": "legacy"}
MODERN = "2026-07-28"
# What manifests of version 0.3 may have, by their schema; others are refused when a bundle is installed.
KNOWN_FIELDS = {
    *("manifest_version", "name", "display_name", "version", "description", "long_description", "author", "icon"),
    *("server", "tools", "prompts", "keywords", "license", "compatibility", "user_config"),
}
REQUIRED_FIELDS = {"manifest_version", "name", "version", "description", "author", "server"}

eras = pytest.mark.parametrize("era", list(ERAS))


# --- the bundle ------------------------------------------------------------------------------------------------------


def unpacked() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(build_bundle("1.2.3"))) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def test_the_same_hub_makes_the_same_bundle() -> None:
    assert build_bundle("1.2.3") == build_bundle("1.2.3")


def test_the_bundle_holds_what_its_manifest_names() -> None:
    parts = unpacked()
    told = json.loads(parts["manifest.json"])
    assert set(parts) == {"manifest.json", told["icon"], told["server"]["entry_point"]}
    assert parts[told["server"]["entry_point"]] == (FOLDER / "server.js").read_bytes()
    assert told["server"]["mcp_config"]["args"] == [f"${{__dirname}}/{told['server']['entry_point']}"]


def test_the_manifest_is_one_of_version_0_3() -> None:
    told = manifest("1.2.3")
    assert told["manifest_version"] == "0.3"
    assert told["version"] == "1.2.3"
    assert REQUIRED_FIELDS <= set(told) <= KNOWN_FIELDS
    assert told["server"]["type"] == "node"
    assert told["server"]["mcp_config"]["command"] == "node"
    assert all(set(tool) == {"name", "description"} for tool in told["tools"])
    assert all(set(it) == {"name", "description", "arguments", "text"} for it in told["prompts"])


def test_the_manifest_asks_for_the_address_and_keeps_the_key_secret() -> None:
    told = manifest("1.2.3")
    asked = told["user_config"]
    assert asked["hub_url"]["default"] == "http://127.0.0.1:8000"
    assert asked["api_key"]["sensitive"]
    assert all({"type", "title", "description"} <= set(it) and it["required"] for it in asked.values())
    env = told["server"]["mcp_config"]["env"]
    assert env == {"HUB_URL": "${user_config.hub_url}", "HUB_API_KEY": "${user_config.api_key}"}


async def test_the_manifest_lists_what_the_server_has() -> None:
    server, told = build_server(Changes()), manifest("1.2.3")
    assert [it["name"] for it in told["tools"]] == [it.name for it in await server.list_tools()]
    prompts = {it.name: [arg.name for arg in it.arguments or []] for it in await server.list_prompts()}
    assert {it["name"]: it["arguments"] for it in told["prompts"]} == prompts


def test_the_texts_of_prompts_use_their_arguments_alone() -> None:
    for prompt in manifest("1.2.3")["prompts"]:
        used = set(prompt["text"].split("${arguments.")[1:])
        assert {it.split("}")[0] for it in used} == set(prompt["arguments"])


def test_the_icon_is_a_square_png_of_the_size_that_is_wanted() -> None:
    icon = unpacked()["icon.png"]
    assert icon.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", icon[16:24]) == (512, 512)


def test_the_command_writes_the_bundle_and_prints_its_path_alone(tmp_path: Path) -> None:
    out, path = io.StringIO(), tmp_path / "new" / "hub.mcpb"
    call_command(Command(), "--output", str(path), stdout=out, stderr=io.StringIO())
    assert out.getvalue() == f"{path}\n"
    assert path.read_bytes() == build_bundle(settings.VERSION)


def test_a_place_that_can_not_be_written_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="directory"):
        call_command(Command(), "--output", str(tmp_path), stdout=io.StringIO(), stderr=io.StringIO())


# --- its bridge ------------------------------------------------------------------------------------------------------


class SmallHub:
    """The server of small_hub.py, on a port that it keeps when it is started again."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.stop()
        argv = [sys.executable, "-m", "uvicorn", "tests.mcpbridge.small_hub:app", "--log-level", "error"]
        argv += ["--port", self.url.rpartition(":")[2], "--timeout-graceful-shutdown", "1"]
        self._process = subprocess.Popen(argv, cwd=ROOT)
        eventually(self._is_up)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            return bool(self.seen() is not None)
        return False

    def seen(self) -> list[dict[str, str]]:
        """What has reached it, as headers with the method."""
        found: list[dict[str, str]] = httpx.get(self.url + SEEN_PATH, trust_env=False).json()
        return found

    def methods(self) -> list[str]:
        return [it["method"] for it in self.seen()]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT_S)


@contextlib.contextmanager
def running_small_hub() -> Iterator[SmallHub]:
    hub = SmallHub()
    try:
        hub.start()
        yield hub
    finally:
        hub.stop()


@pytest.fixture(scope="module")
def small_hub() -> Iterator[SmallHub]:
    with running_small_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def node() -> str:
    """Node.js of this machine, else the one that the MCP clients of the tests run on."""
    found = shutil.which("node") or find_node()
    if found is None:
        lacking(REQUIREMENT, "node is not installed for the tests; get it by: npm ci --prefix tests/mcp_clients")
    return str(found)


@pytest.fixture(scope="module")
def bridge(node: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of the bridge, from a bundle that was unpacked as Claude Desktop does."""
    folder = tmp_path_factory.mktemp("bundle")
    with zipfile.ZipFile(io.BytesIO(build_bundle("1.2.3"))) as bundle:
        bundle.extractall(folder)
    return [node, str(folder / "server" / "index.js")]


def env_of(url: str, key: str = KEY) -> dict[str, str]:
    return {"HUB_URL": url, "HUB_API_KEY": key}


@contextlib.asynccontextmanager
async def connected(bridge: list[str], url: str, era: str, *, key: str = KEY, **options: Any) -> AsyncIterator[Client]:
    """The official client, with the bridge as the program it starts."""
    program = StdioServerParameters(command=bridge[0], args=bridge[1:], env=env_of(url, key))
    async with asyncio.timeout(2 * WAIT_S), Client(stdio_client(program), mode=ERAS[era], **options) as client:
        yield client


async def call(client: Client, tool: str, /, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


class Pipe:
    """The bridge as a client sees it, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, line: str | dict[str, Any]) -> dict[str, Any]:
        await self.tell(line)
        async with asyncio.timeout(WAIT_S):
            answer: dict[str, Any] = json.loads(await self._stdout.readline())
        return answer

    async def tell(self, line: str | dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
        await self.process.stdin.drain()

    async def agree(self) -> None:
        """The handshake of the older eras."""
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "alice", "version": "1"}}
        answer = await self.ask({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert answer["result"]["protocolVersion"] == "2025-11-25"
        await self.tell({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def end(self) -> tuple[str, str]:
        """Close its input and wait for its end; what it wrote meanwhile."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(WAIT_S):
            out, err = await self.process.communicate()
        return out.decode(), err.decode()

    @property
    def _stdout(self) -> asyncio.StreamReader:
        assert self.process.stdout is not None
        return self.process.stdout


@contextlib.asynccontextmanager
async def piped(bridge: list[str], url: str, *, key: str = KEY) -> AsyncIterator[Pipe]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    process = await asyncio.create_subprocess_exec(*bridge, env=env_of(url, key), **pipes)  # type: ignore[arg-type]
    try:
        yield Pipe(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def tool_call(id: int, name: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}


@eras
async def test_tools_are_listed_and_called(bridge: list[str], small_hub: SmallHub, era: str) -> None:
    async with connected(bridge, small_hub.url, era) as client:
        assert (client.protocol_version == MODERN) == (era == "modern")
        assert "add" in [tool.name for tool in (await client.list_tools()).tools]
        assert await call(client, "add", a=2, b=3) == "5"


@eras
async def test_calls_run_side_by_side(bridge: list[str], small_hub: SmallHub, era: str) -> None:
    async with connected(bridge, small_hub.url, era) as client, asyncio.TaskGroup() as group:
        waiting = group.create_task(call(client, "wait"))
        assert await asyncio.gather(*(call(client, "add", a=n, b=1) for n in range(20))) == [
            str(n + 1) for n in range(20)
        ]
        waiting.cancel()


@eras
async def test_names_and_texts_beyond_ascii_pass(bridge: list[str], small_hub: SmallHub, era: str) -> None:
    """U+2028 ends a line for some, not for JSON-RPC; a header takes such a name only encoded."""
    async with connected(bridge, small_hub.url, era) as client:
        assert await call(client, "grüße ", name="Ada\u2028Bob\u0085") == "Grüße,\u2028Ada\u2028Bob\u0085"


@eras
async def test_a_cancelled_call_ends_at_the_hub(bridge: list[str], small_hub: SmallHub, era: str) -> None:
    begun, before = asyncio.Event(), small_hub.methods().count("CANCELLED")

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        assert message == "begun"
        begun.set()

    async with connected(bridge, small_hub.url, era) as client:
        task = asyncio.create_task(client.call_tool("wait", {}, progress_callback=on_progress))
        await begun.wait()
        task.cancel()
        await asyncio.to_thread(eventually, lambda: small_hub.methods().count("CANCELLED") > before)
        assert await call(client, "add", a=1, b=1) == "2"


async def test_what_the_hub_says_by_itself_is_passed_on(bridge: list[str], small_hub: SmallHub) -> None:
    heard = asyncio.Event()

    async def on_message(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            heard.set()

    async with connected(bridge, small_hub.url, "handshake", message_handler=on_message) as client:
        await call(client, "announce")
        await heard.wait()


@eras
async def test_a_hub_that_dies_is_told_of_and_one_that_is_back_is_used(bridge: list[str], era: str) -> None:
    """Its sessions went with it: the bridge agrees on another, and the client need not know."""
    with running_small_hub() as hub:
        async with connected(bridge, hub.url, era) as client:
            with pytest.raises(MCPError, match="ended"):
                await call(client, "die")
            await asyncio.to_thread(hub.stop)  # which waits until it is gone
            with pytest.raises(MCPError, match="can't be reached"):
                await call(client, "add", a=1, b=1)
            await asyncio.to_thread(hub.start)
            assert await asyncio.gather(*(call(client, "add", a=n, b=1) for n in range(5))) == list("12345")


async def test_a_hub_that_is_not_there_is_told_of(bridge: list[str]) -> None:
    async with piped(bridge, f"http://127.0.0.1:{free_port()}") as pipe:
        answer = await pipe.ask(PING)
    assert answer["id"] == 7
    assert "can't be reached" in answer["error"]["message"]


@pytest.mark.parametrize("url", ["no address", "ftp://127.0.0.1", "http://127.0.0.1:99999"])
async def test_what_is_no_address_is_told_of(bridge: list[str], url: str) -> None:
    async with piped(bridge, url) as pipe:
        assert (await pipe.ask(PING))["error"]["code"] == -32000


@pytest.mark.parametrize("key", ["hub_bobs-key", "hub_böse\u2028"])
async def test_a_refused_key_is_told_of_and_shown_nowhere(bridge: list[str], small_hub: SmallHub, key: str) -> None:
    async with piped(bridge, small_hub.url, key=key) as pipe:
        answer = await pipe.ask(PING)
        assert answer["id"] == 7
        assert key == "hub_böse\u2028" or "this key is not valid" in answer["error"]["message"]
        assert key not in "".join([json.dumps(answer, ensure_ascii=False), *await pipe.end()])


@pytest.mark.parametrize(
    ("line", "code"),
    [("{", -32700), ("nonsense", -32700), ("[]", -32600), ("5", -32600), ("null", -32600), ("{}", -32600)],
)
async def test_what_is_no_message_is_answered_as_such(
    bridge: list[str], small_hub: SmallHub, line: str, code: int
) -> None:
    async with piped(bridge, small_hub.url) as pipe:
        answer = await pipe.ask(line)
        assert (answer["id"], answer["error"]["code"]) == (None, code)
        await pipe.agree()


async def test_a_cancelled_call_gets_no_answer(bridge: list[str], small_hub: SmallHub) -> None:
    """Also where the hub ends it by one, as Streamable HTTP has it in the older eras."""
    async with piped(bridge, small_hub.url) as pipe:
        await pipe.agree()
        await pipe.tell(tool_call(1, "wait"))
        await pipe.tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        answer = await pipe.ask(tool_call(2, "add", a=1, b=1))
        assert answer["id"] == 2
        assert await pipe.end() == ("", "")


async def test_a_client_may_agree_anew(bridge: list[str], small_hub: SmallHub) -> None:
    before = small_hub.methods().count("DELETE")
    async with piped(bridge, f"{small_hub.url}/mcp/") as pipe:
        await pipe.agree()
        await pipe.agree()
        assert (await pipe.ask(tool_call(1, "add", a=1, b=1)))["result"]["structuredContent"] == {"result": 2}
        await pipe.end()
    assert small_hub.methods().count("DELETE") == before + 2


async def test_a_client_that_does_not_wait_for_answers_is_served_in_order(
    bridge: list[str], small_hub: SmallHub
) -> None:
    async with piped(bridge, small_hub.url) as pipe:
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "alice", "version": "1"}}
        lines = [
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
        ]
        first = await pipe.ask("\n".join(map(json.dumps, lines)))
        assert first["result"]["protocolVersion"] == "2025-06-18"
        assert "tools" in (await pipe.ask(""))["result"]


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT], ids=["end of input", "SIGTERM", "SIGINT"])
async def test_at_its_end_it_gives_its_session_back_at_once(
    bridge: list[str], small_hub: SmallHub, number: signal.Signals | None
) -> None:
    """Whatever runs: the hub is not left with a turn nobody waits for."""
    before = small_hub.methods()
    async with piped(bridge, small_hub.url) as pipe:
        await pipe.agree()
        params = {"name": "wait", "_meta": {"progressToken": 1}}
        progress = await pipe.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        assert progress["method"] == "notifications/progress"
        began_at = time.monotonic()
        if number is not None:
            pipe.process.send_signal(number)
        assert await pipe.end() == ("", "")
        assert time.monotonic() - began_at < END_S
        assert pipe.process.returncode == 0
    assert small_hub.methods().count("DELETE") == before.count("DELETE") + 1
    await asyncio.to_thread(eventually, lambda: small_hub.methods().count("CANCELLED") == before.count("CANCELLED") + 1)


async def test_it_ends_at_once_without_a_hub_to_take_leave_of(bridge: list[str]) -> None:
    with running_small_hub() as hub:
        async with piped(bridge, hub.url) as pipe:
            await pipe.agree()
            hub.stop()
            began_at = time.monotonic()
            assert (await pipe.end())[0] == ""
            assert time.monotonic() - began_at < END_S


@eras
async def test_a_turn_of_the_real_hub_comes_through(bridge: list[str], hub: HubProcess, era: str) -> None:
    async with connected(bridge, hub.url, era, key=hub.key) as client:
        result = await client.call_tool("chat", {"message": "Hello, Bob", "provider": "echo"})
        assert result.structured_content is not None
        assert result.structured_content["answer"] == "Hello, Bob"
