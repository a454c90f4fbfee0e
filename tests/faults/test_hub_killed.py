"""The hub, its private Redis server or that one's keeper is killed: what was remembered stays, nothing stays behind."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from redis import Redis

from chat.archive import LEFT_BEHIND_MS
from chat.sessions import UNARCHIVED
from hubsite.private_redis import PrivateRedis
from tests.asking import answer_of, client_of, eventually, make_keys
from tests.faults.rig import FAULTY, WHOLE, begun, leaving_nothing, processes_in, said_in, say, until_healthy
from tests.hub import HubProcess, is_gone, running_hub

LOCK_S = 2.0
GONE_S = 2.0
SLOW = "[[chunks=3 delay=0.3]]"
ENDLESS = "[[chunks=2 delay=60]]"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with leaving_nothing(tmp_path_factory.mktemp("killed")) as folder:
        env = FAULTY | {"HUB_SESSION_LOCK_S": str(LOCK_S)}
        with running_hub(folder / "hub", env=env) as started:
            yield started


@pytest.fixture
def client(hub: HubProcess) -> Iterator[httpx.Client]:
    until_healthy(hub)
    with client_of(hub, hub.key) as opened:
        yield opened


def redis_processes(hub: HubProcess) -> tuple[psutil.Process, psutil.Process]:
    """The private server's keeper, and the server."""
    found = processes_in(hub.data_dir / "redis")
    (keeper,) = [it for it in found if any("redis_keeper" in word for word in it.cmdline())]
    (server,) = [it for it in found if it != keeper]
    return keeper, server


@pytest.mark.parametrize("victim", ["server", "keeper"])
def test_turn_outlives_the_private_server_and_its_keeper(hub: HubProcess, client: httpx.Client, victim: str) -> None:
    answer_of(say(client, "one", session=victim))
    question = f"{SLOW} two"
    with begun(client, question, session=victim) as stream:
        keeper, server = redis_processes(hub)
        (server if victim == "server" else keeper).kill()
        assert stream.rest() == WHOLE
    assert said_in(client, victim) == ["one", "one", question, question]
    assert redis_processes(hub)[1] != server


def kill(hub: HubProcess) -> None:
    assert hub.stop(signal.SIGKILL) == -signal.SIGKILL


def test_killed_hub_takes_its_redis_along_and_the_next_one_goes_on_where_it_was(hub: HubProcess) -> None:
    """Lock and place of a turn that was under way come free by themselves."""
    key = make_keys(hub, single={"concurrent_turns": 1})["single"]
    with client_of(hub, key) as client:
        answer_of(say(client, "one", session="killed"))
        redis = redis_processes(hub)
        with contextlib.suppress(httpx.TransportError), begun(client, f"{ENDLESS} two", session="killed"):
            kill(hub)
        killed_at = time.monotonic()
    eventually(lambda: all(map(is_gone, redis)), within_s=GONE_S)
    hub.start()
    with client_of(hub, key) as client:
        assert said_in(client, "killed") == ["one", "one"]
        # Refused for as long as the place is taken, then held up by nothing else.
        eventually(lambda: say(client, "three", session="killed").status_code == 200)
        assert time.monotonic() - killed_at < LOCK_S + 3
        assert said_in(client, "killed") == ["one", "one", "three", "three"]


def test_hub_killed_before_its_turn_was_archived_leaves_it_to_the_next(hub: HubProcess) -> None:
    """While another program holds the database's lock a turn is in Redis alone."""
    database = hub.data_dir / "hub.sqlite3"
    with client_of(hub, hub.key) as client:
        answer_of(say(client, "one", session="unwritten"))
        eventually(lambda: archived(database, "unwritten") == ["one", "one"])
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            answer_of(say(client, "two", session="unwritten"))
            kill(hub)
            other.execute("ROLLBACK")
        assert archived(database, "unwritten") == ["one", "one"]
    make_older(PrivateRedis(hub.data_dir / "redis"))
    hub.start()
    eventually(lambda: archived(database, "unwritten") == ["one", "one", "two", "two"])
    with client_of(hub, hub.key) as client:
        assert said_in(client, "unwritten") == ["one", "one", "two", "two"]


def archived(database: Path, session: str) -> list[str]:
    query = """
        SELECT json_extract(message.content, '$[0]')
        FROM chat_message message JOIN chat_session session ON message.session_id = session.uid
        WHERE session.session_id = ? ORDER BY message.position
    """
    with contextlib.closing(sqlite3.connect(database)) as reader:
        return [text for (text,) in reader.execute(query, (session,))]


def make_older(private: PrivateRedis) -> None:
    """Let the turns that wait for the database look as if they had done so for long: a turn's id begins with its time.

    A hub leaves younger ones to the hub they belong to.
    """
    private.attach()
    try:
        with Redis.from_url(private.url) as redis:
            for turn_id, record in redis.hgetall(UNARCHIVED).items():
                older = b"%012x%s" % (int(turn_id[:12], 16) - 10 * LEFT_BEHIND_MS, turn_id[12:])
                redis.hset(UNARCHIVED, older, record.replace(turn_id, older))
                redis.hdel(UNARCHIVED, turn_id)
    finally:
        private.detach()
