"""The MCP door with the real programs behind it: an answer, true roles, a cancelled call, a failing vendor."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import psutil
import pytest
import pytest_asyncio

from tests.asking import eventually
from tests.clis.dialects import DIALECTS
from tests.clis.rig import REAL
from tests.clis.test_rest import HANG_UP_S, HTTP_TIMEOUT_S, Door, open_door
from tests.hub import ROOT, clean_env, is_gone
from tests.mcpbridge.wire import connected, fields_of, text_of
from tests.programs import require_cli
from tests.vendor_api import Script, VendorApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

END_S = 1.0
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
WAYS = [("http", "auto"), ("http", "legacy")]


@pytest_asyncio.fixture(params=REAL, scope="module", loop_scope="module")
async def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(request.param, tmp_path_factory.mktemp(f"mcp_{request.param}")) as opened:
        yield opened


@pytest.mark.parametrize("way", WAYS, ids=["modern", "handshake"])
async def test_conversation_reaches_the_vendor_in_its_true_roles(door: Door, way: tuple[str, str]) -> None:
    door.vendor.clear()
    door.vendor.script = Script(text="well then", chunks=3)
    async with connected(door.hub, way=way) as client:
        asked = {"provider": door.name, "system": "Be brief."}
        first = fields_of(await client.call_tool("chat", {"message": "hello", **asked}))
        assert (first["answer"], first["status"], first["provider"]) == ("well then", "complete", door.name)
        again = {"message": "and now?", "session_id": first["session_id"], **asked}
        assert fields_of(await client.call_tool("chat", again))["answer"] == "well then"
    seen = DIALECTS[door.name].read(door.vendor.chats()[-1])
    assert [(it.role, it.text.strip()) for it in seen.messages] == [
        ("user", "hello"),
        ("assistant", "well then"),
        ("user", "and now?"),
    ]


@pytest.mark.parametrize("way", WAYS, ids=["modern", "handshake"])
async def test_cancelled_call_stops_the_vendors_work(door: Door, way: tuple[str, str]) -> None:
    door.vendor.clear()
    door.vendor.script = Script(text="on and on " * 200, chunks=200, delay_s=0.1)
    async with connected(door.hub, way=way) as client:
        async with anyio.create_task_group() as group:
            arguments = {"message": "hello", "provider": door.name}
            group.start_soon(lambda: client.call_tool("chat", arguments))
            await door.vendor.wait_for(1, HTTP_TIMEOUT_S)
            group.cancel_scope.cancel()
        await door.vendor.wait_for_abort(HANG_UP_S)


async def test_vendors_failure_is_told_to_the_model(door: Door) -> None:
    door.vendor.clear()
    door.vendor.script = Script(status=401)
    async with connected(door.hub) as client:
        result = await client.call_tool("chat", {"message": "hello", "provider": door.name})
    assert result.is_error and "(provider_needs_login" in text_of(result)


@pytest.mark.parametrize("how", ["eof", signal.SIGTERM], ids=str)
@pytest.mark.parametrize("name", REAL)
async def test_embedded_engine_ends_in_mid_answer_with_the_program(tmp_path: Path, name: str, how: str | int) -> None:
    """`run_mcp` without a hub: what it started is gone within a second of its client, and the vendor's work, too."""
    home = tmp_path / "home"
    home.mkdir()
    async with VendorApi() as vendor:
        vendor.script = Script(text="on and on " * 200, chunks=200, delay_s=0.1)
        env = {"HUB_DATA_DIR": str(tmp_path / "data"), "HUB_PROVIDERS": name}
        env |= {f"HUB_{name.upper()}_BIN": str(require_cli(name)), **DIALECTS[name].env(vendor.url)}
        command = [sys.executable, "manage.py", "run_mcp", "--mode", "embedded"]
        program = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=clean_env(home, env), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        )
        assert program.stdin is not None
        arguments = {"message": "hello", "provider": name}
        for message in (
            {"id": 0, "method": "initialize", "params": HELLO},
            {"method": "notifications/initialized"},
            {"id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": arguments}},
        ):
            program.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        await vendor.wait_for(1, HTTP_TIMEOUT_S)
        children = psutil.Process(program.pid).children(recursive=True)
        assert children
        if isinstance(how, int):
            program.send_signal(how)
        else:
            program.stdin.close()
        async with asyncio.timeout(END_S):
            assert await program.wait() == 0
        await vendor.wait_for_abort(HANG_UP_S)
        await asyncio.to_thread(eventually, lambda: all(map(is_gone, children)), within_s=END_S)
