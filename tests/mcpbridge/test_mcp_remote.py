"""mcp-remote: how clients that only start commands, such as Claude Desktop, reach a hub over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.hub import HubProcess
from tests.mcp_clients.tools import argv, clean_env
from tests.mcpbridge.wire import fields_of, text_of

SLOW = "[[chunks=4 delay=0.4]] one two three four"
# How mcp-remote is given a key: in a file, or in a variable that its arguments name.
KEPT = ["file", "variable"]


@contextlib.asynccontextmanager
async def connected(
    hub: HubProcess, folder: Path, *, kept: str = "file", protocol: str = "legacy"
) -> AsyncIterator[Client]:
    """The official client at the pipes of an mcp-remote, which is ended with the block."""
    command, *args = argv("mcp-remote", f"{hub.url}/mcp", "--transport", "http-only", "--protocol", protocol)
    env = clean_env(folder)
    if kept == "file":
        headers = folder / "headers"
        headers.write_text(f"Authorization: Bearer {hub.key}\n")
        args += ["--header-file", str(headers)]
    else:
        args += ["--header", "Authorization:${AUTH_HEADER}"]
        env["AUTH_HEADER"] = f"Bearer {hub.key}"
    with (folder / "mcp-remote.log").open("w") as log:
        pipes = stdio_client(StdioServerParameters(command=command, args=args, env=env, cwd=folder), errlog=log)
        async with Client(pipes, mode="legacy" if protocol == "legacy" else "auto") as client:
            yield client


@pytest.mark.parametrize("kept", KEPT)
async def test_the_tools_are_listed(served: HubProcess, kept: str, tmp_path: Path) -> None:
    async with connected(served, tmp_path, kept=kept) as client:
        listed = await client.list_tools()
    assert {tool.name for tool in listed.tools} == {"chat", "get_session", "list_providers"}


@pytest.mark.parametrize("protocol", ["legacy", "auto"])
async def test_an_answer_comes_with_its_progress(served: HubProcess, protocol: str, tmp_path: Path) -> None:
    told: list[str] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with connected(served, tmp_path, protocol=protocol) as client:
        asked = {"message": SLOW, "provider": "echo"}
        result = await client.call_tool("chat", asked, progress_callback=tell)
    assert text_of(result) == SLOW
    assert fields_of(result)["provider"] == "echo"
    assert any("one" in message for message in told)
    assert len(told) > 2
