"""Hubs for the tests of the MCP door: one that is asked under each server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.asking import make_keys
from tests.hub import HubProcess, running_hub

MCP_ENV = {
    "HUB_PROVIDERS": "echo",
    "HUB_SHUTDOWN_GRACE_S": "1",
    "HUB_AUTH_FAILURES_PER_MINUTE": "0",
    "HUB_SILENCE_TIMEOUT_S": "2",
    "HUB_ALLOWED_ORIGINS": "https://tools.example",
}


@pytest.fixture(scope="session", params=["daphne", "uvicorn"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that serves MCP, under each server."""
    server = str(request.param)
    with running_hub(tmp_path_factory.mktemp(f"mcp_{server}"), env=MCP_ENV, server=server) as started:
        yield started


@pytest.fixture(scope="session")
def keys(served: HubProcess) -> dict[str, str]:
    """Alice has two keys, Bob one of his own; nobody else uses that of many."""
    return make_keys(
        served,
        alice={"owner": "alice"},
        alices_other={"owner": "alice", "scopes": ["chat", "sessions"]},
        bob={"owner": "bob"},
        many={"owner": "many"},
        talker={"owner": "alice", "scopes": ["mcp", "chat"]},
        reader={"owner": "alice", "scopes": ["mcp", "sessions"]},
        admin={"owner": "admin", "scopes": ["admin"]},
        few={"owner": "few", "requests_per_minute": 3},
        narrow={"owner": "narrow", "allowed_providers": ["claude"]},
    )
