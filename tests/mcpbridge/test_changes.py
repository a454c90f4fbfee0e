"""Clients hear of changed resources: of their owner's conversations, and of providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mcp.types import ResourceListChangedNotification, ResourceUpdatedNotification

from tests.asking import CHAT, SESSION, ask, client_of
from tests.hub import HubProcess
from tests.mcpbridge.wire import WAIT_S, chat, connected

# What the older eras have instead of streams is deprecated in the client.
pytestmark = pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")

handshakes = pytest.mark.parametrize("way", [("http", "legacy"), ("sse", "legacy")], ids=["http", "sse"])
moderns = pytest.mark.parametrize("way", [("http", "auto"), ("sse", "auto")], ids=["http", "sse"])


class Heard:
    """What a client of the older eras was told."""

    def __init__(self) -> None:
        self.updated: list[str] = []
        self.lists = 0
        self._news = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        match message:
            case ResourceUpdatedNotification(params=params):
                self.updated.append(str(params.uri))
            case ResourceListChangedNotification():
                self.lists += 1
        self._news.set()

    async def until_told_of(self, uri: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while uri not in self.updated:
                self._news.clear()
                await self._news.wait()

    async def until(self, *, updated: list[str], lists: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.updated != updated or self.lists != lists:
                self._news.clear()
                await self._news.wait()


@handshakes
async def test_older_clients_hear_of_what_they_subscribed_to_and_of_new_sessions(
    served: HubProcess, keys: dict[str, str], way: tuple[str, str]
) -> None:
    heard, bobs = Heard(), Heard()
    session_id = f"watched-{'-'.join(way)}"
    uri = f"session://{session_id}"
    async with (
        connected(served, key=keys["alice"], way=way, message_handler=heard) as alice,
        connected(served, key=keys["bob"], way=way, message_handler=bobs) as bob,
    ):
        await alice.subscribe_resource(uri)
        await bob.subscribe_resource(uri)
        with client_of(served, keys["alices_other"]) as rest:
            await asyncio.to_thread(rest.post, CHAT, json=ask("one"), headers={SESSION: session_id})
            await heard.until(updated=[uri], lists=1)
            await asyncio.to_thread(rest.post, CHAT, json=ask("two"), headers={SESSION: session_id})
            await heard.until(updated=[uri, uri], lists=1)
            await alice.unsubscribe_resource(uri)
            await asyncio.to_thread(rest.delete, f"/v1/sessions/{session_id}")
            await heard.until(updated=[uri, uri], lists=2)
        # Bob's own news come after all that, so none of Alice's is still to come.
        await chat(bob, "bob's", session_id=session_id)
        await bobs.until(updated=[uri], lists=1)


@moderns
async def test_clients_of_2026_listen_to_a_stream(
    served: HubProcess, keys: dict[str, str], way: tuple[str, str]
) -> None:
    session_id = f"listened-{'-'.join(way)}"
    uri = f"session://{session_id}"
    async with (
        connected(served, key=keys["alice"], way=way) as alice,
        connected(served, key=keys["bob"], way=way) as bob,
        alice.listen(resources_list_changed=True, resource_subscriptions=[uri]) as news,
        bob.listen(resources_list_changed=True, resource_subscriptions=[uri]) as bobs,
    ):
        await chat(alice, "one", session_id=session_id)
        assert await next_of(news, 2) == ["ResourceUpdated", "ResourcesListChanged"]
        await chat(alice, "two", session_id=session_id)
        assert await next_of(news, 1) == ["ResourceUpdated"]
        await chat(bob, "bob's", session_id=session_id)
        assert await next_of(bobs, 2) == ["ResourceUpdated", "ResourcesListChanged"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await anext(bobs)


async def next_of(news: AsyncIterator[Any], count: int) -> list[str]:
    """The next events by their kind; one of a kind that was not read yet stands for all of it."""
    async with asyncio.timeout(WAIT_S):
        return sorted([type(await anext(news)).__name__ for _ in range(count)])


async def test_changed_provider_is_told(served: HubProcess, keys: dict[str, str]) -> None:
    heard = Heard()
    async with connected(served, way=("http", "legacy"), message_handler=heard) as client:
        await client.subscribe_resource("provider://echo")
        with client_of(served, keys["admin"]) as rest:
            for act in ("drain", "undrain"):
                answer = await asyncio.to_thread(rest.post, f"/v1/admin/providers/echo/{act}")
                assert answer.status_code == 200, answer.text
        await heard.until_told_of("provider://echo")
