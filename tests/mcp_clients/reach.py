"""How every client is told of a hub: an address and a key, or a command to start."""

from __future__ import annotations

import sys
from typing import Literal

from mcpbridge.discovery import has_discovery
from tests.hub import ROOT, HubProcess

Way = Literal["http", "sse", "stdio"]

TOOLS = {"chat", "get_session", "list_providers"}
COMMAND = [sys.executable, str(ROOT / "manage.py"), "run_mcp"]


def address(hub: HubProcess, way: Way) -> str:
    return f"{hub.url}/{'mcp' if way == 'http' else 'sse'}"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def stdio_env(hub: HubProcess) -> dict[str, str]:
    """What COMMAND has to know to be a bridge to this hub.

    The hub command leaves a note of its address in the data folder; where another server runs the hub nobody does.
    """
    folder = {"HUB_DATA_DIR": str(hub.data_dir)}
    return folder if has_discovery(hub.data_dir) else {**folder, "HUB_URL": hub.url, "HUB_API_KEY": hub.key}
