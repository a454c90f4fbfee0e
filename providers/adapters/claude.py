"""Anthropic's `claude` (Claude Code) as a provider: warm stream-json processes, set up per turn over their pipe."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from pathlib import Path

import orjson

from providers.adapters.base import Adapter, AdapterInfo, Driver, Launch, LoginState, Program, WorkerFolder
from providers.adapters.claude_driver import ClaudeDriver
from providers.events import Turn
from providers.probe import probe
from providers.process import Process

# Pure chat: no tool, file, command, MCP server, setting, hook or memory of the user is there. `--restricted` also
# closes the socket by which the owner's other sessions could speak into a conversation.
FLAGS = (
    *("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
    *("--include-partial-messages", "--tools", "", "--strict-mcp-config", "--setting-sources", ""),
    *("--disable-slash-commands", "--no-session-persistence", "--permission-mode", "dontAsk", "--restricted"),
)

QUIET_ENV = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
}

# Only macOS keeps the login where another program has to fetch it. Elsewhere there is none to be found: with a git it
# would look into the repository the data folder lies in.
WORKER_PATH = "/usr/bin:/bin" if sys.platform == "darwin" else "/nonexistent"

PROBE_ENV = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **QUIET_ENV}

# Errors at once and undisguised, no other model than the one asked for: retries and fallbacks are the hub's to decide.
# Without DISABLE_ATTACHMENTS a text such as `@/path` makes the CLI send that file upstream, whatever tool flags say.
HONEST_ENV = {
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",
    "CLAUDE_CODE_DISABLE_MODEL_ACCESS_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "DISABLE_AUTO_COMPACT": "1",
    # The caller's tools as they are, all of them in the request.
    "CLAUDE_CODE_MAX_MCP_DESCRIPTION_LENGTH": "10000000",
    "ENABLE_TOOL_SEARCH": "false",
}

# With one of these the login files of the owner's HOME are not needed, so the process gets an empty HOME instead.
LOGIN_ENV = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


class ClaudeAdapter(Adapter):
    info = AdapterInfo(
        name="claude",
        title="Claude Code",
        program="claude",
        tested_version="2.1.330",
        default_model="sonnet",
        ceiling=8,
        can_keep=True,
        reports_cost=True,
        has_tools=True,
        has_json=True,
        media=("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"),
        models=("sonnet", "opus", "haiku", "fable"),
        small_model="haiku",
        installed=("node_modules/@anthropic-ai/claude-code-*/claude", "claude_agent_sdk/_bundled/claude"),
        model_prefixes=("claude-",),
        pass_env=("HOME", *LOGIN_ENV, "ANTHROPIC_BASE_URL", "CLAUDE_CONFIG_DIR"),
        secret_env=LOGIN_ENV,
        mend_install="uv run manage.py install_cli claude",
        mend_login="run `claude` once and log in, or set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN "
        "(from `claude setup-token`) for the hub",
    )

    def launch(self, folder: WorkerFolder) -> Launch:
        return Launch(argv=(str(self.program.path), *FLAGS), env=self._env(folder))

    def _env(self, folder: WorkerFolder) -> dict[str, str]:
        given = self.program.env
        private_home = {"HOME": str(folder.state)} if has_login_env(given) else {}
        base = {"PATH": WORKER_PATH, "LANG": "C.UTF-8", "TERM": "dumb", "TMPDIR": str(folder.tmp)}
        return {**base, **given, **private_home, **QUIET_ENV, **HONEST_ENV}

    def driver(self, process: Process, folder: WorkerFolder) -> Driver:
        return ClaudeDriver(
            process,
            default_model=self.info.default_model,
            mend_login=self.info.mend_login,
            may_reuse=self.program.may_reuse,
        )

    def binding(self, turn: Turn) -> Hashable:
        # The first system prompt of a process stays for good, and so does the first JSON schema.
        return (turn.owner, turn.system, turn.json_schema)

    @classmethod
    async def version(cls, program: Program) -> str:
        output = await probe((str(program.path), "--version"), {**PROBE_ENV, **program.env})
        return output.decode(errors="replace").split(" ")[0].strip()

    @classmethod
    async def login_state(cls, program: Program) -> LoginState:
        if has_login_env(program.env):
            return "ready"
        # The CLI itself looks whether it has credentials; it neither uses the network nor spends a token for that. A
        # key out of the owner's settings does not count: the workers do not read them.
        argv = (str(program.path), "--setting-sources", "", "auth", "status", "--json")
        output = await probe(argv, {**PROBE_ENV, **program.env})
        try:
            is_logged_in = orjson.loads(output)["loggedIn"]
        except (ValueError, KeyError, TypeError):
            return "unknown"
        return "ready" if is_logged_in else "needs_login"

    @classmethod
    def login_files(cls, env: Mapping[str, str]) -> tuple[Path, ...]:
        place = env.get("CLAUDE_CONFIG_DIR") or (f"{env['HOME']}/.claude" if env.get("HOME") else "")
        return (Path(place, ".credentials.json"),) if place and not has_login_env(env) else ()


def has_login_env(env: Mapping[str, str]) -> bool:
    return any(env.get(name) for name in LOGIN_ENV)


ADAPTER = ClaudeAdapter
