"""One hub for all tests that only ask it something; tests of its life start their own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.hub import HubProcess, running_hub

HTTP_TIMEOUT_S = 20


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with the demo provider only. Tests leave it as they found it."""
    env = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1", "HUB_AUTH_FAILURES_PER_MINUTE": "0"}
    with running_hub(tmp_path_factory.mktemp("hub"), env=env) as started:
        yield started


@pytest.fixture
def http(hub: HubProcess) -> Iterator[httpx.Client]:
    """A client with the hub's own key."""
    with httpx.Client(base_url=hub.url, headers=hub.headers, timeout=HTTP_TIMEOUT_S) as client:
        yield client
