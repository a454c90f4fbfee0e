"""What each MCP client has to be told to reach this hub, and the file it reads that from.

Nothing here looks at the machine: where things are comes in, a block or a path goes out.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Block = dict[str, Any]

SERVER = "llm-mcp-hub"
DEFAULT_URL = "http://127.0.0.1:8000"
KEY_PLACEHOLDER = "YOUR_HUB_API_KEY"
# Milliseconds. Longer than the hub lets anybody wait without a word, so that it is the hub who says "still running".
GEMINI_TIMEOUT_MS, CLAUDE_CODE_TIMEOUT_MS, N8N_TIMEOUT_MS = 600_000, 900_000, 300_000


@dataclass(frozen=True, slots=True)
class Hub:
    """How this hub is reached: by a command that starts the bridge, or by HTTP.

    `url` is empty where the command finds the hub by itself; `key` where none was given.
    """

    command: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    key: str = ""

    @property
    def endpoint(self) -> str:
        return f"{self.url or DEFAULT_URL}/mcp"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine and the folder a client runs on; `platform` as sys.platform has it."""

    platform: str
    home: Path
    cwd: Path
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Client:
    """One client: the shape of its block, and where that belongs.

    `key` is its own way to name a variable, so that no secret has to stand in the file.
    """

    title: str
    place: Callable[[Machine], Path]
    section: str = "mcpServers"
    key: str = KEY_PLACEHOLDER
    url_field: str = "url"
    command_type: str = ""
    url_type: str = ""
    timeout_ms: int = 0
    inputs: tuple[Block, ...] = ()
    takes_url: bool = True
    then: str = ""

    def by_command(self, hub: Hub) -> Block:
        """The block of a client that starts a program and speaks through its pipes."""
        env = {**hub.env, **self._reach(hub)}
        entry = {"command": hub.command, "args": list(hub.args), **({"env": env} if env else {})}
        return self._block(self.command_type, entry, asks=self.key in env.values())

    def by_url(self, hub: Hub) -> Block:
        """The block of a client that speaks HTTP."""
        key = hub.key or self.key
        entry = {self.url_field: hub.endpoint, "headers": {"Authorization": f"Bearer {key}"}}
        return self._block(self.url_type, entry, asks=not hub.key)

    def _reach(self, hub: Hub) -> dict[str, str]:
        """Variables for the bridge. A hub that was named is not found by its file, and so neither is a key to it."""
        url = {"HUB_URL": hub.url} if hub.url else {}
        return {**url, "HUB_API_KEY": hub.key or self.key} if hub.url or hub.key else {}

    def _block(self, kind: str, entry: Block, *, asks: bool) -> Block:
        inputs = {"inputs": list(self.inputs)} if self.inputs and asks else {}
        typed = {"type": kind} if kind else {}
        timed = {"timeout": self.timeout_ms} if self.timeout_ms else {}
        return {**inputs, self.section: {SERVER: {**typed, **entry, **timed}}}


def _claude_desktop(machine: Machine) -> Path:
    return _application_data(machine) / "Claude" / "claude_desktop_config.json"


def _application_data(machine: Machine) -> Path:
    match machine.platform:
        case "darwin":
            return machine.home / "Library" / "Application Support"
        case "win32":
            return Path(machine.environ.get("APPDATA") or machine.home / "AppData" / "Roaming")
    return Path(machine.environ.get("XDG_CONFIG_HOME") or machine.home / ".config")


CLIENTS: Mapping[str, Client] = {
    "claude-desktop": Client(
        title="Claude Desktop",
        place=_claude_desktop,
        takes_url=False,
        then="Restart Claude Desktop (quit it, closing its window is not enough).",
    ),
    "cursor": Client(
        title="Cursor",
        place=lambda machine: machine.home / ".cursor" / "mcp.json",
        key="${env:HUB_API_KEY}",
        then="Restart Cursor, or switch the server on in its MCP settings.",
    ),
    "claude-code": Client(
        title="Claude Code",
        place=lambda machine: machine.cwd / ".mcp.json",
        key="${HUB_API_KEY}",
        command_type="stdio",
        url_type="http",
        timeout_ms=CLAUDE_CODE_TIMEOUT_MS,
        then="Start claude in this folder and allow the server; /mcp shows it.",
    ),
    "gemini-cli": Client(
        title="Gemini CLI",
        place=lambda machine: machine.home / ".gemini" / "settings.json",
        key="${HUB_API_KEY}",
        url_field="httpUrl",
        timeout_ms=GEMINI_TIMEOUT_MS,
        then="Start gemini anew; /mcp shows the server.",
    ),
    "vscode": Client(
        title="VS Code",
        place=lambda machine: machine.cwd / ".vscode" / "mcp.json",
        section="servers",
        key="${input:hub-key}",
        command_type="stdio",
        url_type="http",
        inputs=({"type": "promptString", "id": "hub-key", "description": "Key of the hub", "password": True},),
        then='Open this folder in VS Code and start the server ("MCP: List Servers").',
    ),
}
N8N = "n8n"
NAMES = (*CLIENTS, N8N)


def n8n_fields(hub: Hub) -> str:
    """What to fill into n8n's node, which has no file for it."""
    fields = {
        "Node": "MCP Client Tool",
        "Endpoint": hub.endpoint,  # with its scheme: n8n would put https:// before one without
        "Server Transport": "HTTP Streamable",
        "Authentication": "Bearer Auth",
        "Bearer Token": hub.key or KEY_PLACEHOLDER,
        "Options > Timeout": str(N8N_TIMEOUT_MS),
    }
    return "\n".join(f"{name}: {value}" for name, value in fields.items())


def claude_mcp_add(block: Block) -> str:
    """The command that makes Claude Code write such a block itself, all but the timeout."""
    entry = block[CLIENTS["claude-code"].section][SERVER]
    # The name comes first: `--env` and `--header` take every word that follows them.
    words = ["claude", "mcp", "add", SERVER]
    if "command" in entry:
        variables = [word for name, value in entry.get("env", {}).items() for word in ("--env", f"{name}={value}")]
        return shlex.join([*words, "--scope", "project", *variables, "--", entry["command"], *entry["args"]])
    header = f"Authorization: {entry['headers']['Authorization']}"
    return shlex.join([*words, entry["url"], "--scope", "project", "--transport", "http", "--header", header])
