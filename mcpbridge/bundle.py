"""The bundle for Claude Desktop (.mcpb): a zip of a manifest, an icon and a bridge that needs nothing but Node.

It holds no engine and no key: Claude Desktop asks for the hub's address and a key, and keeps the key in its keychain.
"""

from __future__ import annotations

import inspect
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcpbridge import prompts
from mcpbridge.clients import DEFAULT_URL
from mcpbridge.server import DESCRIPTION, NAME, TITLE
from mcpbridge.session_tool import get_session
from mcpbridge.tools import chat, list_providers

FOLDER = Path(__file__).resolve().parent / "mcpb"
MANIFEST_VERSION = "0.3"
ENTRY = "server/index.js"
ICON = "icon.png"
LEAST_NODE = ">=18.0.0"
# The same input makes the same file, byte for byte. A zip knows no earlier time.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
READABLE = 0o100644 << 16
UNIX = 3

LONG_DESCRIPTION = (
    "Ask Claude, Gemini, ChatGPT and other models through the command-line programs you are logged in to. The hub that "
    "runs them has to be started on this machine or another; this bundle connects Claude Desktop with it."
)
PROMPT_TEXTS = {
    "summarize": "Summarize the following text, or the conversation with this session id:\n\n"
    "${arguments.text}${arguments.session_id}",
    "translate": "Translate the following text into ${arguments.language}:\n\n${arguments.text}",
    "code_review": "Review the following ${arguments.language} code. Look at ${arguments.focus} above all.\n\n"
    "${arguments.code}",
}


def build_bundle(version: str) -> bytes:
    """The whole file."""
    parts = {
        "manifest.json": json.dumps(manifest(version), indent=2, ensure_ascii=False).encode() + b"\n",
        ENTRY: (FOLDER / "server.js").read_bytes(),
        ICON: (FOLDER / ICON).read_bytes(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in parts.items():
            bundle.writestr(_info(name), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, TIMESTAMP)
    info.external_attr = READABLE
    info.create_system = UNIX
    return info


def manifest(version: str) -> dict[str, Any]:
    """What Claude Desktop reads before it starts anything."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": NAME,
        "display_name": TITLE,
        "version": version,
        "description": DESCRIPTION,
        "long_description": LONG_DESCRIPTION,
        "author": {"name": TITLE},
        "icon": ICON,
        "server": _server(),
        "tools": [_described(it) for it in (chat, list_providers, get_session)],
        "prompts": [_prompt(it) for it in (prompts.summarize, prompts.translate, prompts.code_review)],
        "keywords": ["claude", "gemini", "codex", "chatgpt", "llm"],
        "license": "MIT",
        "compatibility": {"platforms": ["darwin", "win32", "linux"], "runtimes": {"node": LEAST_NODE}},
        "user_config": _user_config(),
    }


def _server() -> dict[str, Any]:
    config = {
        "command": "node",
        "args": [f"${{__dirname}}/{ENTRY}"],
        "env": {"HUB_URL": "${user_config.hub_url}", "HUB_API_KEY": "${user_config.api_key}"},
    }
    return {"type": "node", "entry_point": ENTRY, "mcp_config": config}


def _user_config() -> dict[str, Any]:
    return {
        "hub_url": {
            "type": "string",
            "title": "Address of the hub",
            "description": "Where the hub runs, as it says when it starts",
            "default": DEFAULT_URL,
            "required": True,
        },
        "api_key": {
            "type": "string",
            "title": "API key",
            "description": "Made by: uv run manage.py create_key claude-desktop",
            "sensitive": True,
            "required": True,
        },
    }


def _described(function: Callable[..., Any]) -> dict[str, Any]:
    return {"name": function.__name__, "description": (inspect.getdoc(function) or "").split("\n")[0]}


def _prompt(function: Callable[..., Any]) -> dict[str, Any]:
    arguments = list(inspect.signature(function).parameters)
    return {**_described(function), "arguments": arguments, "text": PROMPT_TEXTS[function.__name__]}
