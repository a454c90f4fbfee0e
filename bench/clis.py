"""The CLIs under measurement: where they are, and how a person would run them for one request.

Raw runs see an environment made for them, with dummy keys and a new HOME, and reach the stand-in vendor only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.adapters.base import Program
from providers.adapters.claude import QUIET_ENV
from providers.programs import NETWORK_ENV, find_program
from providers.registry import adapters_by_name

CLIS_FOLDER = Path(__file__).resolve().parent.parent / "var" / "clis"

CLAUDE_MODEL = "sonnet"
# Named, because the CLI's "auto" first asks another model which one to take.
GEMINI_MODEL = "gemini-2.5-flash"
MODELS = {"claude": CLAUDE_MODEL, "gemini": GEMINI_MODEL}

CLAUDE_DEFAULT = ("-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages", "--model")
CLAUDE_MINIMAL = (
    *("--tools", "", "--strict-mcp-config", "--setting-sources", "", "--disable-slash-commands"),
    *("--no-session-persistence", "--system-prompt", "Answer briefly."),
)
# Keeps it from reporting usage and looking for updates: everything else is as a fresh installation has it.
GEMINI_SETTINGS = {
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
    "security": {"auth": {"selectedType": "gemini-api-key"}},
}


@dataclass(frozen=True, slots=True)
class RawCli:
    """A command line that answers one request from its standard input. `files` are written into its HOME."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, str]
    text_of: Callable[[dict[str, Any]], str]


def find_cli(name: str) -> Path | None:
    """HUB_<NAME>_BIN, else the pinned program of this checkout."""
    info = adapters_by_name()[name].info
    return find_program(info, override=os.environ.get(f"HUB_{name.upper()}_BIN", ""), clis_folder=CLIS_FOLDER, path="")


async def version_of(name: str, path: Path) -> str:
    return await adapters_by_name()[name].version(Program(path, {}))


def raw_clis(name: str, path: Path, vendor_url: str) -> list[RawCli]:
    """The ways to run a CLI raw; the gates are measured against the first."""
    if name == "claude":
        env = {**QUIET_ENV, "ANTHROPIC_BASE_URL": vendor_url, "ANTHROPIC_API_KEY": "dummy"}
        default = (str(path), *CLAUDE_DEFAULT, CLAUDE_MODEL)
        return [
            RawCli("raw", default, env, {}, _claude_text),
            RawCli("raw minimal", (*default, *CLAUDE_MINIMAL), env, {}, _claude_text),
        ]
    env = {"GOOGLE_GEMINI_BASE_URL": vendor_url, "GEMINI_API_KEY": "dummy", "GEMINI_CLI_TRUST_WORKSPACE": "true"}
    runner = ("node",) if path.suffix == ".js" else ()
    argv = (*runner, str(path), "-p", "", "-m", GEMINI_MODEL, "-o", "stream-json")
    return [RawCli("raw", argv, env, {".gemini/settings.json": json.dumps(GEMINI_SETTINGS)}, _gemini_text)]


def hub_env(name: str, path: Path | None, vendor_url: str) -> dict[str, str]:
    """The hub's settings for one provider that talks to the stand-in.

    Every other variable the CLI could see is emptied: a developer's `.env` must not lead it to the real vendor.
    """
    emptied = dict.fromkeys((*adapters_by_name()[name].info.pass_env, *NETWORK_ENV), "")
    emptied.pop("HOME", None)
    vendors = {
        "claude": {"ANTHROPIC_BASE_URL": vendor_url, "ANTHROPIC_API_KEY": "dummy"},
        "gemini": {"GOOGLE_GEMINI_BASE_URL": vendor_url, "GEMINI_API_KEY": "dummy"},
    }
    program = {f"HUB_{name.upper()}_BIN": str(path)} if path else {}
    return {**emptied, **vendors.get(name, {}), **program, "HUB_PROVIDERS": name}


def _claude_text(line: dict[str, Any]) -> str:
    match line:
        case {"type": "stream_event", "event": {"delta": {"type": "text_delta", "text": str(text)}}}:
            return text
    return ""


def _gemini_text(line: dict[str, Any]) -> str:
    match line:
        case {"type": "message", "role": "assistant", "content": str(text)}:
            return text
    return ""
