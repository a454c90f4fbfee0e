"""What the gemini CLI reads from and leaves in a worker's folders.

The caller's text never passes the CLI's prompt, which would take a leading `/` or `$` for a command. The prompt is a
placeholder; a BeforeModel hook, the CLI's documented way to rewrite a request, puts the turn's messages in its place
in their true roles. It refuses the request if they are not there, and leaves the request it saw as a receipt.
Conversations with more than texts go by the turn's settings instead, see gemini_body; the hook guards them likewise.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from providers.adapters.base import WorkerFolder
from providers.adapters.gemini_body import is_rich, vendor_names
from providers.adapters.gemini_generation import generation
from providers.adapters.gemini_record import Recorded, read_record
from providers.adapters.gemini_text import NOTHING, system_text, without_variables
from providers.errors import ProtocolBroken
from providers.events import Message, Sampling, Turn

Json = dict[str, Any]

# What the CLI itself offers, newest first, and what it still serves by name. Its overrides match the final name,
# so the sampling is written for all of these: some names are redirected (gemini-3-pro-preview to 3.1).
MODELS = (
    "gemini-3.8-flash",
    "gemini-3.5-flash-lite",
    "gemini-3.1-pro-preview",
    "gemini-3-flash-preview",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
)
REDIRECTED_TO = ("gemini-3.1-pro-preview-customtools",)

# Run in the session's folder. noclobber lets it run once per turn: a second request for the same turn is refused.
HOOK = "set -C; cat > .gemini/receipt.json && exec cat .gemini/messages.json || exit 2"
# Longer than any turn may take, because the CLI would go on with the bare placeholder.
HOOK_TIMEOUT_MS = 3_600_000

# The CLI never frees the settings of a session; with more than these it is replaced.
MAX_HELD_BYTES = 32 * 1024 * 1024

# What the CLI writes while it works; its settings and a refreshed login beside them stay.
LEFT_BEHIND = ("tmp", "history", "projects.json")


def base_settings(auth: str) -> Json:
    """Settings of the whole process: a chat without tools, one request per turn, errors at once."""
    return {
        "security": {"auth": {"selectedType": auth}, "folderTrust": {"enabled": False}},
        "general": {
            "enableAutoUpdate": False,
            "enableAutoUpdateNotification": False,
            "maxAttempts": 1,
            "retryFetchErrors": False,
        },
        "model": {"maxSessionTurns": 1, "disableLoopDetection": True},
        "tools": {"core": []},
        "mcp": {"allowed": []},
        "skills": {"enabled": False},
        "experimental": {"enableAgents": False},
        "ide": {"enabled": False},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        # Without the marker it would look for GEMINI.md files in every folder above.
        "context": {
            "fileName": "NONE.md",
            "memoryBoundaryMarkers": [".gemini"],
            "includeDirectoryTree": False,
            "discoveryMaxDirs": 0,
        },
        "hooksConfig": {"enabled": True, "notifications": False},
        "hooks": {"BeforeModel": [{"matcher": "*", "hooks": [_hook()]}]},
    }


def _hook() -> Json:
    # bash reads its start-up files at shell level 0 when its input is a socket, which Node's pipes are.
    return {"type": "command", "name": "hub", "command": HOOK, "timeout": HOOK_TIMEOUT_MS, "env": {"SHLVL": "1"}}


def turn_settings(model: str, sampling: Sampling, generation: Json | None = None) -> Json:
    """Model, sampling and further generation settings of one turn, in the dialect of the CLI's settings files."""
    config: Json = {
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "maxOutputTokens": sampling.max_tokens,
        "stopSequences": [without_variables(text) for text in sampling.stop] or None,
    }
    given = {name: value for name, value in config.items() if value is not None}
    names = dict.fromkeys((model, *MODELS, *REDIRECTED_TO)) if given else {}
    overrides: list[Json] = [_override({"model": name}, given) for name in names]
    if generation:
        # Whatever the model's name in the end: written once for each, a conversation would be there ten times.
        overrides.append(_override({"overrideScope": "core"}, generation))
    return {"model": {"name": model}, "modelConfigs": {"customOverrides": overrides}}


def _override(match: Json, config: Json) -> Json:
    return {"match": match, "modelConfig": {"generateContentConfig": config}}


def hook_answer(turn: Turn) -> bytes:
    """The turn's messages as the hook hands them to the CLI; nothing where they go by the settings.

    Pure ASCII, because the CLI decodes the hook's output piece by piece and would tear longer characters apart.
    """
    roles = {"user": "user", "assistant": "model"}
    said = (Message("user", ()),) if is_rich(turn) else turn.messages
    messages = [{"role": roles[message.role], "content": message.text or NOTHING} for message in said]
    answer = {"hookEventName": "BeforeModel", "llm_request": {"messages": messages}}
    return json.dumps({"hookSpecificOutput": answer}, ensure_ascii=True).encode()


@dataclass(frozen=True, slots=True)
class TurnFolder:
    """One session's folder. A new one per turn: the CLI caches the settings of a folder for 10 s."""

    cwd: Path
    chats: Path
    record: Path = Path("/nonexistent")
    names: Mapping[str, str] = field(default_factory=dict)

    def actual_model(self) -> str:
        """The model the CLI asks, from the receipt. Raises ProtocolBroken if the messages were not fetched."""
        try:
            return str(orjson.loads((self.cwd / ".gemini/receipt.json").read_bytes())["llm_request"]["model"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ProtocolBroken("the gemini CLI did not fetch the messages of the turn") from exc

    def token_counts(self) -> Json:
        """The CLI's own record of the answer's tokens; empty if it kept none."""
        lines = [line for path in self.chats.glob("*.jsonl") for line in path.read_bytes().splitlines()]
        for line in reversed(lines):
            match _loads(line):
                case {"type": "gemini", "tokens": dict(tokens)}:
                    return tokens
        return {}

    def recorded(self) -> Recorded:
        """The answer as the CLI recorded it; an empty one if it did not come to its end."""
        return read_record(self.record.read_bytes() if self.record.exists() else b"", self.names)


class Home:
    """The private home of one CLI process, below the worker's `state`; sessions live below its `cwd`."""

    def __init__(self, folder: WorkerFolder) -> None:
        self.cwd = folder.cwd
        self._tmp = folder.tmp
        self._home = folder.state / "home"
        self._bin = folder.state / "bin"
        self._system = folder.state / "system.md"
        self.record = folder.state / "responses.jsonl"
        self._settings = self._home / ".gemini/settings.json"
        self._turns = 0
        self._held_bytes = 0

    def prepare(self, *, auth: str, tools: Mapping[str, Path]) -> None:
        """Write what the CLI reads at its start."""
        self._settings.parent.mkdir(parents=True, mode=0o700)
        _write(self._settings, orjson.dumps(base_settings(auth)))
        _write(self._system, NOTHING.encode())
        self._record_nothing()
        _make_session_folder(self.cwd)
        # The hook's two programs are all it can start: without a git it also skips two calls of it per session.
        self._bin.mkdir(mode=0o700)
        for name, path in tools.items():
            (self._bin / name).symlink_to(path)

    def env(self) -> dict[str, str]:
        home = str(self._home)
        return {
            "PATH": str(self._bin),
            "HOME": home,
            "GEMINI_CLI_HOME": home,
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            # A file that does not exist, also as the folder for defaults: settings of the machine have no say here.
            "GEMINI_CLI_SYSTEM_SETTINGS_PATH": str(self._home / "none/settings.json"),
            "GEMINI_SYSTEM_MD": str(self._system),
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            # Otherwise it runs as a child of itself, twice the memory, and survives its own termination signal.
            "GEMINI_CLI_NO_RELAUNCH": "true",
            # Otherwise a login that has run out opens a browser on this machine.
            "NO_BROWSER": "true",
        }

    def write_turn(self, turn: Turn, model: str) -> TurnFolder:
        self._turns += 1
        name = f"t{self._turns}"
        cwd = self.cwd / name
        _make_session_folder(cwd)
        if is_rich(turn):
            self.record.unlink(missing_ok=True)
        settings = turn_settings(model, turn.sampling, generation(turn, model))
        self._write_settings(cwd / ".gemini/settings.json", settings)
        _write(cwd / ".gemini/messages.json", hook_answer(turn))
        _write(self._system, system_text(turn.system).encode(errors="replace"))
        names = {told: own for own, told in vendor_names(turn).items()}
        return TurnFolder(cwd, self._home / ".gemini/tmp" / name / "chats", self.record, names)

    def _record_nothing(self) -> None:
        """Let the CLI, which records all answers or none, record into the void: of a plain one the pipe tells all."""
        if not self.record.is_symlink():
            self.record.unlink(missing_ok=True)
            self.record.symlink_to(os.devnull)

    def _write_settings(self, path: Path, settings: Json) -> None:
        # ASCII with escapes, because a caller's text may hold what is no character at all.
        data = json.dumps(settings, ensure_ascii=True, separators=(",", ":")).encode()
        self._held_bytes += len(data)
        _write(path, data)

    def wipe(self) -> bool:
        """Remove all that turns have left; False if something is still there, or the process holds too much."""
        _write(self._system, NOTHING.encode())
        left = [self._home / ".gemini" / name for name in LEFT_BEHIND]
        left += [path for path in self.cwd.iterdir() if path.name != ".gemini"]
        left += self._tmp.iterdir()
        for path in left:
            _remove(path)
        self._record_nothing()
        return self._held_bytes <= MAX_HELD_BYTES and not any(path.exists() for path in left)


def _make_session_folder(cwd: Path) -> None:
    settings = cwd / ".gemini"
    settings.mkdir(parents=True, mode=0o700)
    # The CLI loads the first .env it finds on the way up: without this one it would be the hub's.
    _write(settings / ".env", b"")


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _loads(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError:
        return None
