"""What the codex CLI reads from a worker's folders: a home of its own with settings and a catalogue of models.

By its own catalogue the CLI gives today's models a shell, patches, a clock and helpers, whatever its switches say. A
catalogue of the hub's, the CLI's documented way to describe models, offers none; models it does not name get no tool
either. The login stays where it is: the home holds a link to it, which the CLI follows also when it renews the login.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from providers.adapters.base import WorkerFolder
from providers.events import Effort

Json = dict[str, Any]

KEY_ENV = ("OPENAI_API_KEY", "CODEX_API_KEY")
AUTH_FILE = "auth.json"
PROVIDER = "hub"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the CLI's own catalogue has it: how hard it thinks by default, which form of request it takes."""

    name: str
    effort: str
    is_lite: bool = True


# What the CLI offers by default, its own first choice first.
MODELS = (
    Model("gpt-6.1-sol", "low"),
    Model("gpt-6-astra", "low"),
    Model("gpt-6-luna", "medium"),
    Model("gpt-6-sol", "medium"),
    Model("gpt-6.1-terra", "low"),
    Model("gpt-5.6-sol", "low"),
    Model("gpt-5.6-terra", "medium"),
    Model("gpt-5.6-luna", "medium"),
    Model("gpt-5.5", "medium", is_lite=False),
)

# The least that they take.
LEAST_EFFORT = "low"

# Switched off though the catalogue has it off already, or because it looks for something of the owner's or the vendor's
# that a chat does not need. Compressed requests would be unreadable to a gateway of the owner's, incremental tools have
# the system prompt sent twice, and a vendor out of reach would be tried for ever.
FEATURES_OFF = (
    *("apps", "auth_elicitation", "api_key_model_discovery", "browser_use", "code_mode_host", "computer_use"),
    *("enable_request_compression", "goals", "hooks", "image_generation", "in_app_browser", "incremental_tools"),
    *("memories", "multi_agent", "plugins", "remote_plugin", "shell_snapshot", "shell_tool", "skill_search"),
    *("sleep_tool", "tool_suggest", "unbounded_connection_retries", "unified_exec", "view_image"),
    "workspace_dependencies",
)

SETTINGS: Json = {
    "model_provider": PROVIDER,
    "cli_auth_credentials_store": "file",
    "approval_policy": "never",
    "sandbox_mode": "read-only",
    "web_search": "disabled",
    # Neither notes of the CLI's own nor files of the machine get into a conversation.
    "include_permissions_instructions": False,
    "include_apps_instructions": False,
    "include_environment_context": False,
    "include_collaboration_mode_instructions": False,
    "project_doc_max_bytes": 0,
    "project_root_markers": [],
    # Compacting would be a second request nobody asked for.
    "model_auto_compact_token_limit": 2**62,
    "model_reasoning_summary": "none",
    # What a tool brought is the caller's; by itself the CLI cuts it to 10,000 tokens.
    "tool_output_token_limit": 2**40,
    "check_for_update_on_startup": False,
    # A thread that was dropped is to be gone, not kept for a return.
    "thread_unload_delay_secs": 0,
}

TABLES: Mapping[str, Json] = {
    "analytics": {"enabled": False},
    "feedback": {"enabled": False},
    "history": {"persistence": "none"},
    "skills": {"include_instructions": False, "bundled": {"enabled": False}},
    "cloud": {"skills": {"enabled": False}},
    "tools": {"experimental_request_user_input": {"enabled": False}, "update_plan": {"enabled": False}},
    "features": dict.fromkeys(FEATURES_OFF, False),
}


class Home:
    """The private CODEX_HOME of one CLI process, below the worker's `state`."""

    def __init__(self, folder: WorkerFolder) -> None:
        self.path = folder.state / "codex"
        self._tmp = folder.tmp

    def prepare(self, env: Mapping[str, str]) -> None:
        """Write what the CLI reads at its start. `env` is what the owner passes."""
        self.path.mkdir(mode=0o700)
        catalogue = self.path / "models.json"
        _write(catalogue, orjson.dumps({"models": [_entry(model) for model in MODELS]}))
        settings = {**SETTINGS, "model_catalog_json": str(catalogue)}
        tables = {**TABLES, "model_providers": {PROVIDER: vendor(env)}}
        _write(self.path / "config.toml", to_toml(settings, tables).encode())
        link_login(self.path, env)

    def env(self) -> dict[str, str]:
        return {
            "PATH": "/nonexistent",
            "HOME": str(self.path.parent),
            "CODEX_HOME": str(self.path),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }


def effort_of(model: str, wanted: Effort | None) -> str | None:
    """How hard a model is to think, in its own words; None leaves it to the CLI. An unknown model is told as asked."""
    if wanted in ("none", "minimal") and any(model == known.name for known in MODELS):
        return LEAST_EFFORT
    return wanted


def key_name(env: Mapping[str, str]) -> str:
    """The variable that holds the owner's API key, empty without one."""
    return next((name for name in KEY_ENV if env.get(name)), "")


def login_place(env: Mapping[str, str]) -> Path | None:
    """Where the CLI would keep a ChatGPT login of this owner's; None if he has no home."""
    if env.get("CODEX_HOME"):
        return Path(env["CODEX_HOME"], AUTH_FILE)
    return Path(env["HOME"], ".codex", AUTH_FILE) if env.get("HOME") else None


def login_file(env: Mapping[str, str]) -> Path | None:
    """The owner's ChatGPT login; None if there is none. Only looked for, never opened."""
    path = login_place(env)
    return path if path and path.is_file() else None


def link_login(home: Path, env: Mapping[str, str]) -> None:
    """Let a private home know the owner's login, unless a key makes it needless."""
    path = login_file(env)
    if path and not key_name(env):
        (home / AUTH_FILE).symlink_to(path.absolute())


def vendor(env: Mapping[str, str]) -> Json:
    """OpenAI as the CLI is to reach it: by the owner's key, else by the ChatGPT login; each request once.

    An address of the owner's own is for the key alone: a login is shown to nobody but OpenAI.
    """
    given: Json = {
        "name": "OpenAI",
        "wire_api": "responses",
        "request_max_retries": 0,
        "stream_max_retries": 0,
        # How long a vendor may be silent is the hub's to decide.
        "stream_idle_timeout_ms": 86_400_000,
        "supports_websockets": False,
    }
    if not (key := key_name(env)):
        return {**given, "requires_openai_auth": True}
    headers = {"OpenAI-Organization": "OPENAI_ORGANIZATION", "OpenAI-Project": "OPENAI_PROJECT"}
    address = {"base_url": env["OPENAI_BASE_URL"].rstrip("/")} if env.get("OPENAI_BASE_URL") else {}
    return {**given, "env_key": key, "env_http_headers": headers, **address}


def _entry(model: Model) -> Json:
    """One model in the dialect of the CLI's catalogue, without a tool, an instruction or a limit of its own."""
    return {
        "slug": model.name,
        "display_name": model.name,
        "visibility": "list",
        "supported_in_api": True,
        "priority": 1,
        "default_reasoning_level": model.effort,
        "supported_reasoning_levels": [{"effort": model.effort, "description": ""}],
        "supports_reasoning_summaries": True,
        "support_verbosity": True,
        "use_responses_lite": model.is_lite,
        "base_instructions": "",
        "shell_type": "disabled",
        "apply_patch_tool_type": None,
        "supports_search_tool": False,
        "supports_parallel_tool_calls": False,
        "experimental_supported_tools": [],
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
    }


def to_toml(settings: Json, tables: Mapping[str, Json]) -> str:
    lines = [f"{name} = {_value(value)}" for name, value in settings.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    # Texts, numbers, truth values and lists of texts are written in TOML as in JSON.
    return json.dumps(value)


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
