"""What a hub says of itself and its providers, at /health and /v1/providers, and to whoever listens for changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from channels_redis.core import RedisChannelLayer

from tests.asking import CHAT, WAIT_S, ask, begun_stream, client_of, error_of, eventually
from tests.hub import HubProcess, running_hub

# Two providers of one kind of worker would need a row; the second one here is not installed.
ENV = {"HUB_PROVIDERS": "echo,gemini", "HUB_ECHO_CEILING": "1", "HUB_GEMINI_BIN": "/nonexistent/gemini"}
SLOW = "[[chunks=50 delay=1]]"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running_hub(tmp_path_factory.mktemp("hub"), env=ENV) as started:
        yield started


@pytest.fixture
def client(hub: HubProcess) -> Iterator[httpx.Client]:
    with client_of(hub, hub.key) as opened:
        eventually(lambda: state_of(opened, "echo")["state"] == "ready")
        yield opened


def state_of(client: httpx.Client, name: str) -> dict[str, object]:
    return dict(client.get("/health").json()["states"][name])


def test_health_tells_the_state_of_each_part_and_nothing_that_is_secret(hub: HubProcess, client: httpx.Client) -> None:
    response = httpx.get(f"{hub.url}/health")
    body = response.json()
    assert response.status_code == 200
    assert set(body) == {"status", "version", "providers", "states", "redis", "database"}
    assert (body["status"], body["redis"], body["database"]) == ("healthy", "up", "up")
    assert body["providers"] == {"echo": "up", "gemini": "down"}
    assert body["states"]["gemini"]["state"] == "not_installed"
    assert body["states"]["echo"]["until"] is None
    assert time.time() - 3_600 < body["states"]["echo"]["since"] <= time.time()
    for hidden in (hub.key, str(hub.data_dir), "/nonexistent"):
        assert hidden not in response.text


def test_a_busy_provider_is_up_and_says_so(client: httpx.Client) -> None:
    with begun_stream(client, ask(SLOW)):
        eventually(lambda: state_of(client, "echo")["state"] == "busy")
        assert client.get("/health").json()["providers"]["echo"] == "up"
        listed = client.get("/v1/providers/echo").json()
        assert (listed["status"], listed["load"]) == ("available", 1.0)
    eventually(lambda: state_of(client, "echo")["state"] == "ready")


def test_a_provider_is_shown_with_all_that_is_known_of_it(client: httpx.Client) -> None:
    echo, gemini = client.get("/v1/providers").json()["providers"]
    assert echo == client.get("/v1/providers/echo").json()
    assert (echo["name"], echo["status"], echo["state"], echo["mend"], echo["why"]) == (
        *("echo", "available", "ready", "", ""),
    )
    assert (echo["aliases"], echo["windows"], echo["until"], echo["load"]) == ({}, [], None, 0)
    assert echo["context_tokens"] > 0
    assert (gemini["status"], gemini["state"]) == ("unavailable", "not_installed")
    assert gemini["mend"] == "uv run manage.py install_cli gemini"
    assert gemini["why"]


def test_an_unknown_provider_is_refused_as_such(client: httpx.Client) -> None:
    response = client.get("/v1/providers/nobody")
    assert error_of(response)["code"] == "provider_not_found"


async def test_a_change_of_state_is_told_on_the_channel_layer_within_a_second(
    hub: HubProcess, client: httpx.Client
) -> None:
    layer = RedisChannelLayer(hosts=[hub.redis_url], prefix="hub:channel")
    listener = await layer.new_channel()
    await layer.group_add("providers", listener)
    try:
        with begun_stream(client, ask(SLOW)):
            async with asyncio.timeout(WAIT_S):
                message = await layer.receive(listener)
        assert (message["type"], message["name"], message["state"]) == ("provider.state", "echo", "busy")
        assert message["since"] <= time.time()
        assert message["until"] is None
    finally:
        await layer.group_discard("providers", listener)
        await layer.close_pools()


def test_a_program_that_is_installed_while_the_hub_runs_is_found_by_itself(tmp_path: Path) -> None:
    binary = tmp_path / "gemini"
    with running_hub(tmp_path, env=ENV | {"HUB_GEMINI_BIN": str(binary)}) as hub, client_of(hub, hub.key) as client:
        assert state_of(client, "gemini")["state"] == "not_installed"
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
        eventually(lambda: state_of(client, "gemini")["state"] != "not_installed")
        assert client.post(CHAT, json=ask("Hi")).status_code == 200
