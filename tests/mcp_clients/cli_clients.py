"""The pinned CLIs as clients of the hub: configured as their users would, asked once, with a vendor who calls a tool.

claude and gemini talk to the stand-in vendor, which is told the hub's tools, wants `chat` called and gets what came
back. codex tells both itself, through its app-server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tests.clis.dialects import DUMMY_KEY
from tests.hub import HubProcess
from tests.mcp_clients.reach import COMMAND, Way, address, bearer, stdio_env
from tests.mcp_clients.tools import RUN_S, Ended, clean_env, run, started
from tests.programs import require_cli
from tests.vendor_api import Script, VendorApi

Entry = dict[str, Any]
Ask = Callable[..., Awaitable[Any]]

NAME = "llm-mcp-hub"
MODEL = "gemini-3.8-flash"
CLAUDE_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    # Else the tools are hidden until the model searches for them.
    "ENABLE_TOOL_SEARCH": "false",
}
GEMINI_SETTINGS = {
    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False, "maxAttempts": 1},
    "privacy": {"usageStatisticsEnabled": False},
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "telemetry": {"enabled": False},
}


@dataclass(frozen=True, slots=True)
class Seen:
    """The hub's tools as the CLI knows them, and what it was told when it called `chat`."""

    tools: set[str]
    answer: str


def stdio_entry(hub: HubProcess) -> Entry:
    program, *args = COMMAND
    return {"command": program, "args": args, "env": stdio_env(hub)}


def arguments(message: str) -> dict[str, str]:
    return {"message": message, "provider": "echo"}


def calling(tool: str, message: str) -> Script:
    """A model that wants a tool called, and is content with whatever comes back."""
    return Script(text="well then", tools=(tool,), tool_input=json.dumps(arguments(message)))


def without_prefix(names: list[str], prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


# --- claude ----------------------------------------------------------------------------------------------------------


def claude_env(folder: Path, vendor: str) -> dict[str, str]:
    return clean_env(folder, {**CLAUDE_QUIET, "ANTHROPIC_API_KEY": DUMMY_KEY, "ANTHROPIC_BASE_URL": vendor})


def claude_entry(hub: HubProcess, way: Way) -> Entry:
    if way == "stdio":
        return {"type": "stdio", **stdio_entry(hub)}
    return {"type": way, "url": address(hub, way), "headers": bearer(hub.key)}


async def claude(hub: HubProcess, way: Way, folder: Path, message: str) -> Seen:
    config = folder / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {NAME: claude_entry(hub, way)}}))
    return await ask_claude(config, folder, message)


async def ask_claude(config: Path, folder: Path, message: str) -> Seen:
    prefix = f"mcp__{NAME}__"
    options = ["--mcp-config", str(config), "--strict-mcp-config", "--tools", "", "--allowedTools", f"{prefix}chat"]
    async with VendorApi(script=calling(f"{prefix}chat", message)) as vendor:
        command = [str(require_cli("claude")), "-p", *options]
        ended = await run(command, env=claude_env(folder, vendor.url), cwd=folder, text="ask the hub")
        assert ended.code == 0, ended
        first, second = vendor.chats()
    tools = [tool["name"] for tool in first.body["tools"]]
    return Seen(without_prefix(tools, prefix), json.dumps(second.body["messages"][-1]))


async def claude_lists(hub: HubProcess, way: Way, folder: Path, key: str) -> Ended:
    """Add the hub as the README says, and ask who is connected."""
    program, env = str(require_cli("claude")), claude_env(folder, "http://127.0.0.1:9")
    if way == "stdio":
        variables = [f"{name}={value}" for name, value in stdio_env(hub).items()]
        added = [NAME, "-e", *variables, "--", *COMMAND]
    else:
        added = ["--transport", way, NAME, address(hub, way), "--header", f"Authorization: Bearer {key}"]
    ended = await run([program, "mcp", "add", *added], env=env, cwd=folder)
    assert ended.code == 0, ended
    return await run([program, "mcp", "list"], env=env, cwd=folder)


# --- gemini ----------------------------------------------------------------------------------------------------------


def gemini_entry(hub: HubProcess, way: Way, key: str) -> Entry:
    if way == "stdio":
        return stdio_entry(hub)
    if way == "http":
        return {"httpUrl": address(hub, way), "headers": bearer(key)}
    # Without the type `gemini mcp list` tries Streamable HTTP alone.
    return {"url": address(hub, way), "type": "sse", "headers": bearer(key)}


def gemini_settings(folder: Path, servers: dict[str, Entry]) -> Path:
    """The settings of a folder in which gemini is started."""
    path = folder / ".gemini" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**GEMINI_SETTINGS, "mcpServers": servers}))
    return path


def _gemini(folder: Path, vendor: str) -> tuple[list[str], dict[str, str]]:
    """Its command line and environment."""
    (folder / "home").mkdir()
    env = {
        "GEMINI_API_KEY": DUMMY_KEY,
        "GEMINI_CLI_NO_RELAUNCH": "true",
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GOOGLE_GEMINI_BASE_URL": vendor,
        "TMPDIR": str(folder / "home"),
    }
    return ["node", str(require_cli("gemini"))], clean_env(folder / "home", env)


async def gemini(hub: HubProcess, way: Way, folder: Path, message: str) -> Seen:
    gemini_settings(folder, {NAME: gemini_entry(hub, way, hub.key)})
    return await ask_gemini(folder, message)


async def ask_gemini(folder: Path, message: str) -> Seen:
    prefix = f"mcp_{NAME}_"
    async with VendorApi(script=calling(f"{prefix}chat", message)) as vendor:
        program, env = _gemini(folder, vendor.url)
        # There is nobody whom it could ask before it calls a tool.
        options = ["-e", "none", "-m", MODEL, "--approval-mode", "yolo"]
        ended = await run([*program, "-p", "ask the hub", *options], env=env, cwd=folder)
        assert ended.code == 0, ended
        first, second = vendor.chats()
    tools = [it["name"] for tool in first.body["tools"] for it in tool["functionDeclarations"]]
    return Seen(without_prefix(tools, prefix), json.dumps(second.body["contents"][-1]))


async def gemini_lists(hub: HubProcess, way: Way, folder: Path, key: str) -> Ended:
    gemini_settings(folder, {NAME: gemini_entry(hub, way, key)})
    program, env = _gemini(folder, "http://127.0.0.1:9")
    return await run([*program, "mcp", "list"], env=env, cwd=folder)


# --- what the hub itself writes for them -----------------------------------------------------------------------------


async def configured_claude(hub: HubProcess, options: list[str], folder: Path, message: str) -> Seen:
    config = folder / ".mcp.json"
    _write_config(hub, "claude-code", config, options)
    return await ask_claude(config, folder, message)


async def configured_gemini(hub: HubProcess, options: list[str], folder: Path, message: str) -> Seen:
    _write_config(hub, "gemini-cli", gemini_settings(folder, {}), options)
    return await ask_gemini(folder, message)


def _write_config(hub: HubProcess, client: str, path: Path, options: list[str]) -> None:
    written = hub.run("mcp_config", client, "--write", "--yes", "--file", str(path), *options)
    assert written.returncode == 0, written.stderr


# --- codex -----------------------------------------------------------------------------------------------------------


def codex_entry(hub: HubProcess, way: Way) -> str:
    """TOML, whose strings are JSON's."""
    if way == "http":
        return f'url = "{address(hub, way)}"\nbearer_token_env_var = "HUB_KEY"\n'
    entry = stdio_entry(hub)
    variables = ", ".join(f"{name} = {json.dumps(value)}" for name, value in entry["env"].items())
    return f"command = {json.dumps(entry['command'])}\nargs = {json.dumps(entry['args'])}\nenv = {{ {variables} }}\n"


async def codex(hub: HubProcess, way: Way, folder: Path, message: str) -> Seen:
    home = folder / ".codex"
    home.mkdir()
    quiet = "check_for_update_on_startup = false\n\n[analytics]\nenabled = false\n\n"
    (home / "config.toml").write_text(f"{quiet}[mcp_servers.{NAME}]\n{codex_entry(hub, way)}")
    env = clean_env(folder, {"HUB_KEY": hub.key, "OPENAI_API_KEY": DUMMY_KEY})
    async with asyncio.timeout(RUN_S), _app_server(env, folder) as ask:
        status = await ask("mcpServerStatus/list", detail="full")
        began = await ask("thread/start", cwd=str(folder), approvalPolicy="never", ephemeral=True)
        thread = began["thread"]["id"]
        called = {"threadId": thread, "server": NAME, "tool": "chat", "arguments": arguments(message)}
        answer = await ask("mcpServer/tool/call", **called)
    (known,) = status["data"]
    return Seen(set(known["tools"]), json.dumps(answer))


@contextlib.asynccontextmanager
async def _app_server(env: dict[str, str], folder: Path) -> AsyncIterator[Ask]:
    """codex's own JSON-RPC, as a function that asks and waits for the answer."""
    numbers = count(1)
    async with started([str(require_cli("codex")), "app-server"], env=env, cwd=folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        async def ask(method: str, **params: Any) -> Any:
            number = next(numbers)
            stdin.write(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")
            async for line in stdout:
                match json.loads(line):
                    case {"id": answered, "result": result} if answered == number:
                        return result
                    case {"id": answered, "error": error} if answered == number:
                        raise AssertionError(f"{method}: {error}")
            raise AssertionError(f"codex ended without an answer to {method}")

        about = {"name": "hub-tests", "version": "1"}
        await ask("initialize", clientInfo=about, capabilities={"experimentalApi": True})
        stdin.write(b'{"method": "initialized"}\n')
        yield ask


CLIENTS: dict[str, Callable[[HubProcess, Way, Path, str], Awaitable[Seen]]] = {
    "claude": claude,
    "gemini": gemini,
    "codex": codex,
}
LISTS: dict[str, Callable[[HubProcess, Way, Path, str], Awaitable[Ended]]] = {
    "claude": claude_lists,
    "gemini": gemini_lists,
}
CONFIGURED: dict[str, Callable[[HubProcess, list[str], Path, str], Awaitable[Seen]]] = {
    "claude": configured_claude,
    "gemini": configured_gemini,
}
