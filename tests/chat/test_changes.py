"""News of sessions: told by Redis itself, heard while somebody listens, and again after Redis was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from chat.changes import SessionChange, SessionChanges, read_change
from chat.conversation import Conversation, Figures, Outcome, new_conversation, now_ms
from chat.hot import HotState
from chat.ids import new_id
from chat.sessions import Sessions, after_turn
from tests.redis_server import RedisServer, running_redis

BOUND_S = 10.0
PROBER = "prober"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@asynccontextmanager
async def hub(server: RedisServer) -> AsyncIterator[tuple[Sessions, SessionChanges]]:
    hot = HotState(server.url, timeout_s=0.5)
    changes = SessionChanges(hot)
    await hot.start()
    try:
        yield Sessions(hot, lock_s=5), changes
    finally:
        await changes.stop()
        await hot.stop()


async def turn(sessions: Sessions, owner: str, session_id: str) -> None:
    held = await sessions.open(owner, session_id, wait_s=0)
    before: Conversation = held.conversation or new_conversation(owner, session_id, ttl_s=60)
    figures = Figures(new_id(), 1, owner, "ok", now_ms(), 1)
    head = after_turn(before.head, updated_ms=now_ms())
    assert await sessions.commit(held, before, Outcome(figures, head), archive=False)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not holds():  # noqa: ASYNC110 (nobody announces it)
            await asyncio.sleep(0.01)


async def until_heard(sessions: Sessions, heard: list[SessionChange]) -> None:
    """Until news come through: what happened before a listener was there is not told."""
    probe, before = new_id(), len(heard)
    async with asyncio.timeout(BOUND_S):
        while len(heard) == before:
            await turn(sessions, PROBER, probe)
            await asyncio.sleep(0.05)


def of_others(heard: list[SessionChange]) -> list[SessionChange]:
    """Without those of the probe, of which some may still come."""
    return [it for it in heard if it.owner != PROBER]


async def test_every_hub_hears_of_a_sessions_life(server: RedisServer) -> None:
    async with hub(server) as (one, _), hub(server) as (_, changes):
        heard: list[SessionChange] = []
        changes.subscribe(heard.append)
        await until_heard(one, heard)
        owner, session_id = "alice & bob: GmbH", new_id()
        await turn(one, owner, session_id)
        await turn(one, owner, session_id)
        await one.delete(owner, session_id)
        await until(lambda: len(of_others(heard)) == 3)
        assert of_others(heard) == [SessionChange(owner, session_id, kind) for kind in ("new", "changed", "deleted")]


async def test_news_come_again_after_redis_was_killed(server: RedisServer) -> None:
    async with hub(server) as (sessions, changes):
        heard: list[SessionChange] = []
        changes.subscribe(heard.append)
        await until_heard(sessions, heard)
        server.kill()
        server.start()
        await until(lambda: not sessions._hot.is_away)
        await until_heard(sessions, heard)


async def test_who_no_longer_listens_hears_nothing_and_a_broken_listener_harms_no_other(server: RedisServer) -> None:
    async with hub(server) as (sessions, changes):
        first: list[SessionChange] = []
        second: list[SessionChange] = []

        def broken(change: SessionChange) -> None:
            raise RuntimeError("a mistake")

        changes.subscribe(broken)
        leave = changes.subscribe(first.append)
        changes.subscribe(second.append)
        await until_heard(sessions, second)
        leave()
        await turn(sessions, "alice", new_id())
        await until(lambda: bool(of_others(second)))
        assert of_others(first) == []


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"hub:sessions:alice new", b"hub:sessions:alice odd s1", b"other new s1", b"a b c d"]
)
def test_what_another_version_says_is_passed_over(raw: bytes) -> None:
    assert read_change(raw) is None
