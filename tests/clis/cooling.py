"""What a hub's vendors have said of their limits, forgotten between tests."""

from __future__ import annotations

import asyncio
import json

import httpx
from redis import Redis

from hubsite.shared_board import NOTES, POLL_S, read_cooldowns
from tests.hub import HubProcess

WAIT_S = 10.0


async def state_of(hub: HubProcess, name: str) -> str:
    """A provider's state as anybody may see it."""
    async with httpx.AsyncClient(base_url=hub.url, timeout=WAIT_S) as client:
        return str((await client.get("/health")).json()["states"][name]["state"])


async def until_state(hub: HubProcess, name: str, *states: str, within_s: float = WAIT_S) -> None:
    async with asyncio.timeout(within_s):
        while await state_of(hub, name) not in states:  # noqa: ASYNC110 (the hub is another process)
            await asyncio.sleep(0.05)


async def thaw(hub: HubProcess) -> None:
    """Take all cooldowns back, as another hub of this Redis would, until this one has told and seen it."""
    async with asyncio.timeout(WAIT_S), httpx.AsyncClient(base_url=hub.url, timeout=WAIT_S) as client:
        with Redis.from_url(hub.redis_url) as redis:
            while ((held := redis.hgetall(NOTES)) and read_cooldowns(held)) or await _is_cooling(client):
                if held:
                    redis.hset(NOTES, mapping={place: _taken_back(raw) for place, raw in held.items()})
                await asyncio.sleep(2 * POLL_S + 0.2)


async def _is_cooling(client: httpx.AsyncClient) -> bool:
    states = (await client.get("/health")).json()["states"].values()
    return any(it["state"] == "cooling_down" for it in states)


def _taken_back(raw: bytes) -> str:
    return json.dumps({**json.loads(raw), "is_over": True})
