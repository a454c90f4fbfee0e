"""The database is locked, stopped or hangs: answers go on, and the archive catches up by itself."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from redis import Redis

from hubsite.private_redis import PrivateRedis
from tests.asking import answer_of, client_of, error_of, eventually, make_keys
from tests.faults.rig import FAULTY, WHOLE, begun, health_of, leaving_nothing, said_in, say
from tests.hub import HubProcess, running_hub
from tests.postgres import PostgresServer

LOCKED_S = 4.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with leaving_nothing(tmp_path_factory.mktemp("database")) as place:
        yield place


def test_locked_database_holds_up_no_answer_for_long_and_gets_every_turn(folder: Path) -> None:
    with (
        running_hub(folder / "sqlite", env=FAULTY) as hub,
        client_of(hub, hub.key) as client,
        contextlib.closing(sqlite3.connect(hub.data_dir / "hub.sqlite3", isolation_level=None)) as other,
    ):
        answer_of(say(client, "one", session="locked"))
        other.execute("BEGIN EXCLUSIVE")
        locked_at = time.monotonic()
        answer_of(say(client, "two", session="locked"))
        assert time.monotonic() - locked_at < LOCKED_S
        began_at = time.monotonic()
        for word in ("three", "four"):
            answer_of(say(client, word, session="locked"))
        assert time.monotonic() - began_at < 1
        assert len(said_in(client, "locked")) == 8
        assert health_of(hub) == "healthy"
        eventually(lambda: time.monotonic() > locked_at + LOCKED_S)
        other.execute("ROLLBACK")
        eventually(lambda: other.execute("SELECT count(*) FROM chat_message").fetchone() == (8,))


@pytest.fixture(scope="module")
def hub(folder: Path, postgres: PostgresServer) -> Iterator[HubProcess]:
    postgres.execute("CREATE DATABASE alone", database="postgres")
    with running_hub(folder / "postgres", env=FAULTY | {"DATABASE_URL": postgres.url_of("alone")}) as started:
        yield started


@pytest.fixture
def client(hub: HubProcess) -> Iterator[httpx.Client]:
    with client_of(hub, hub.key) as opened:
        answer_of(say(opened, "Hi"))  # the key is known from now on
        yield opened


def archived(postgres: PostgresServer, session: str) -> int:
    """How many messages of a session the database has."""
    query = """
        SELECT count(*) FROM chat_message message JOIN chat_session session ON message.session_id = session.uid
        WHERE session.session_id = %s
    """
    with psycopg.connect(postgres.url_of("alone")) as connection:
        (count,) = connection.execute(query, [session]).fetchone() or (0,)
        return int(count)


def test_stopped_database_keeps_nobody_with_a_known_key_from_talking(
    hub: HubProcess, client: httpx.Client, postgres: PostgresServer
) -> None:
    keys = make_keys(hub, stranger={}, counted={"tokens_per_day": 1_000_000})
    with client_of(hub, keys["counted"]) as counted, client_of(hub, keys["stranger"]) as stranger:
        answer_of(say(counted, "Hi"))
        with begun(client, "[[chunks=3 delay=0.3]] one", session="stopped") as stream:
            postgres.stop()
            try:
                assert stream.rest() == WHOLE
                began_at = time.monotonic()
                for word in ("two", "three", "four"):
                    answer_of(say(client, word, session="stopped"))
                assert time.monotonic() - began_at < 3
                assert len(said_in(client, "stopped")) == 8
                assert_refused(say(stranger, "Hi"))
                answer_of(say(counted, "Hi"))
                with Redis.from_url(PrivateRedis(hub.data_dir / "redis").url) as redis:
                    redis.delete(*redis.scan_iter("hub:limit:*:filled:*"))
                assert_refused(say(counted, "Hi"))
                assert health_of(hub) == "degraded"  # it still answers, and says what it lacks
            finally:
                postgres.start()
        eventually(lambda: archived(postgres, "stopped") == 8)
        eventually(lambda: health_of(hub) == "healthy")
        # Keys nobody knows are asked for again a moment after the last time in vain.
        eventually(lambda: say(stranger, "Hi").status_code == 200)
        answer_of(say(counted, "Hi"))


def assert_refused(response: httpx.Response) -> None:
    assert (response.status_code, error_of(response)["code"]) == (503, "database_unavailable")
    assert int(response.headers["Retry-After"]) >= 1


def test_hanging_database_costs_the_first_answers_a_bounded_time(
    client: httpx.Client, postgres: PostgresServer
) -> None:
    answer_of(say(client, "one", session="hanging"))
    postgres.pause()
    try:
        # The key is looked up in vain, then the price, then the archive does not say that it has the turn.
        took_s = [seconds_for(client, word) for word in ("two", "three", "four")]
        assert max(took_s) < 10
        assert took_s[-1] < 3
    finally:
        postgres.resume()
    eventually(lambda: archived(postgres, "hanging") == 8)


def seconds_for(client: httpx.Client, word: str) -> float:
    began_at = time.monotonic()
    answer_of(say(client, word, session="hanging"))
    return time.monotonic() - began_at
