"""The MCP Inspector, which the protocol's authors test servers with, over every transport."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hub import HubProcess
from tests.mcp_clients.reach import COMMAND, TOOLS, Way, address, bearer, stdio_env
from tests.mcp_clients.tools import Ended, argv, clean_env, run

INSPECTOR = "@modelcontextprotocol/inspector"
# What the inspector ends with when a server wants a login.
NO_LOGIN = 3

ways = pytest.mark.parametrize("way", ["http", "sse", "stdio"])
eras = pytest.mark.parametrize("era", ["legacy", "modern"])


def starting(env: dict[str, str], *options: str) -> list[str]:
    """How the inspector is told of a command."""
    variables = [option for name, value in env.items() for option in ("-e", f"{name}={value}")]
    return [*COMMAND, *options, "--transport", "stdio", *variables]


def reach(hub: HubProcess, way: Way, key: str) -> list[str]:
    """How it is told of a hub."""
    if way == "stdio":
        return starting(stdio_env(hub))
    ((name, value),) = bearer(key).items()
    return ["--server-url", address(hub, way), "--transport", way, "--header", f"{name}: {value}"]


async def inspect(hub: HubProcess, way: Way, home: Path, method: str, *options: str, key: str = "") -> Ended:
    return await inspect_target(reach(hub, way, key or hub.key), home, method, *options)


async def inspect_target(target: list[str], home: Path, method: str, *options: str) -> Ended:
    command = argv(INSPECTOR, "--cli", *target, "--method", method, *options, "--format", "json", "--quiet")
    return await run(command, env=clean_env(home), cwd=home)


@ways
@eras
async def test_the_tools_are_portable(served: HubProcess, way: Way, era: str, tmp_path: Path) -> None:
    """With `--strict` the inspector judges every schema by what the known clients and models can read."""
    ended = await inspect(served, way, tmp_path, "tools/list", "--strict", "--protocol-era", era)
    assert {tool["name"] for tool in ended.result["tools"]} == TOOLS


@ways
async def test_chat_answers(served: HubProcess, way: Way, tmp_path: Path) -> None:
    options = ["--tool-name", "chat", "--tool-arg", "message=hello there", "provider=echo"]
    result = (await inspect(served, way, tmp_path, "tools/call", *options)).result
    assert result["content"][0] == {"type": "text", "text": "hello there"}
    assert result["structuredContent"]["provider"] == "echo"


@ways
async def test_the_providers_are_listed(served: HubProcess, way: Way, tmp_path: Path) -> None:
    result = (await inspect(served, way, tmp_path, "tools/call", "--tool-name", "list_providers")).result
    assert [it["name"] for it in result["structuredContent"]["providers"]] == ["echo"]


@ways
async def test_a_resource_is_read(served: HubProcess, way: Way, tmp_path: Path) -> None:
    (read,) = (await inspect(served, way, tmp_path, "resources/read", "--uri", "provider://list")).result["contents"]
    assert [it["name"] for it in json.loads(read["text"])["providers"]] == ["echo"]


@ways
async def test_a_prompt_is_filled_in(served: HubProcess, way: Way, tmp_path: Path) -> None:
    options = ["--prompt-name", "translate", "--prompt-args", "text=good morning", "language=German"]
    (message,) = (await inspect(served, way, tmp_path, "prompts/get", *options)).result["messages"]
    assert "German" in message["content"]["text"]
    assert "good morning" in message["content"]["text"]


@pytest.mark.parametrize("way", ["http", "sse"])
async def test_a_wrong_key_is_refused(served: HubProcess, way: Way, tmp_path: Path) -> None:
    ended = await inspect(served, way, tmp_path, "tools/list", key="hub_wrong")
    assert ended.code == NO_LOGIN, ended


async def test_a_hub_in_the_clients_own_process_is_no_different(tmp_path: Path) -> None:
    """`run_mcp` with an engine of its own, where no hub runs."""
    target = starting({"HUB_DATA_DIR": str(tmp_path / "data"), "HUB_PROVIDERS": "echo"}, "--mode", "embedded")
    listed = await inspect_target(target, tmp_path, "tools/list", "--strict")
    assert {tool["name"] for tool in listed.result["tools"]} == TOOLS
    options = ["--tool-name", "chat", "--tool-arg", "message=hello there", "provider=echo"]
    answer = (await inspect_target(target, tmp_path, "tools/call", *options)).result
    assert answer["content"][0] == {"type": "text", "text": "hello there"}
