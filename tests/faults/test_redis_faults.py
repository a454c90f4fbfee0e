"""The server behind REDIS_URL dies, hangs, forgets or fills up: the hub stays honest, and heals by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.asking import answer_of, client_of, error_of, eventually
from tests.faults.rig import (
    FAULTY,
    REDIS_TIMEOUT_S,
    WHOLE,
    Rest,
    begun,
    health_of,
    leaving_nothing,
    said_in,
    say,
    until_healthy,
)
from tests.hub import HubProcess, running_hub
from tests.redis_server import RedisServer, running_redis

UNAVAILABLE = "session_store_unavailable"
SLOW = "[[chunks=3 delay=0.3]]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with leaving_nothing(tmp_path_factory.mktemp("redis")) as place:
        yield place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RedisServer]:
    with running_redis(folder / "server", port=0) as started:
        yield started


@pytest.fixture(scope="module")
def shared_hub(folder: Path, server: RedisServer) -> Iterator[HubProcess]:
    with running_hub(folder / "hub", env=FAULTY | {"REDIS_URL": server.url}) as started:
        yield started


@pytest.fixture
def hub(shared_hub: HubProcess) -> Iterator[HubProcess]:
    """A hub that heals from each fault without a restart."""
    until_healthy(shared_hub)
    pid = shared_hub.pid
    yield shared_hub
    until_healthy(shared_hub)
    assert shared_hub.pid == pid


@pytest.fixture
def client(hub: HubProcess) -> Iterator[httpx.Client]:
    with client_of(hub, hub.key) as opened:
        yield opened


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(server.url) as opened:
        yield opened


def assert_refused(response: httpx.Response) -> None:
    assert (response.status_code, error_of(response)["code"]) == (503, UNAVAILABLE)
    assert int(response.headers["Retry-After"]) >= 1


# --- it dies ---------------------------------------------------------------------------------------------------------


def test_turn_outlives_a_server_that_is_killed_and_comes_back(client: httpx.Client, server: RedisServer) -> None:
    answer_of(say(client, "one", session="back"))
    question = f"{SLOW} two"
    with begun(client, question, session="back") as stream:
        server.kill()
        server.start()
        assert stream.rest() == WHOLE
    assert said_in(client, "back") == ["one", "one", question, question]


def test_without_a_server_turns_fail_honestly_or_go_without_a_session(
    hub: HubProcess, client: httpx.Client, server: RedisServer
) -> None:
    """A turn whose end can't be written says so and leaves nothing; one without a session needs no Redis."""
    answer_of(say(client, "one", session="away"))
    with ThreadPoolExecutor() as pool, begun(client, f"{SLOW} two", session="away") as stream:
        whole = pool.submit(say, client, SLOW, session="away-too")
        with Redis.from_url(server.url) as redis:
            eventually(lambda: redis.exists("hub:session:default:away-too:lock"))
        server.kill()
        eventually(lambda: health_of(hub) == "degraded")
        assert_refused(say(client, "three", session="away"))
        assert_refused(client.get("/v1/sessions/away"))
        assert_refused(client.delete("/v1/sessions/away"))
        alone = say(client, "alone")
        assert answer_of(alone) == "alone"
        assert "X-Session-ID" not in alone.headers
        assert stream.rest() == Rest(is_whole=False, code=UNAVAILABLE)
        assert_refused(whole.result())
    server.start()
    until_healthy(hub)
    assert said_in(client, "away") == ["one", "one"]
    assert said_in(client, "away-too") == []
    # At once: the lock of the turn that failed does not have to run out.
    began_at = time.monotonic()
    assert answer_of(say(client, "four", session="away")) == "four"
    assert time.monotonic() - began_at < 5
    assert said_in(client, "away") == ["one", "one", "four", "four"]


def test_hub_started_without_its_server_serves_and_finds_it_later(folder: Path) -> None:
    late = RedisServer(folder / "late", port=0)
    with running_hub(folder / "early", env=FAULTY | {"REDIS_URL": late.url}) as hub, client_of(hub, hub.key) as client:
        assert health_of(hub) == "degraded"
        assert answer_of(say(client, "alone")) == "alone"
        assert_refused(say(client, "Hi", session="s"))
        try:
            late.start()
            until_healthy(hub)
            assert answer_of(say(client, "Hi", session="s")) == "Hi"
        finally:
            late.close()


# --- it hangs --------------------------------------------------------------------------------------------------------


def test_hanging_server_costs_the_first_requests_its_timeout_and_later_ones_nothing(
    hub: HubProcess, client: httpx.Client, server: RedisServer
) -> None:
    answer_of(say(client, "one", session="slow"))
    server.pause()
    try:
        began_at = time.monotonic()
        with ThreadPoolExecutor() as pool:
            first = [pool.submit(say, client, "two", session="slow") for _ in range(4)]
            for one in first:
                assert_refused(one.result())
        # A turn asks Redis more than once, but waits for it only once; the client tries twice.
        assert time.monotonic() - began_at < 3 * REDIS_TIMEOUT_S
        assert health_of(hub) == "degraded"
        began_at = time.monotonic()
        for _ in range(5):
            assert_refused(say(client, "three", session="slow"))
            assert answer_of(say(client, "alone")) == "alone"
        assert time.monotonic() - began_at < 2 * REDIS_TIMEOUT_S
    finally:
        server.resume()
    until_healthy(hub)
    assert answer_of(say(client, "four", session="slow")) == "four"
    assert said_in(client, "slow") == ["one", "one", "four", "four"]


def test_session_a_hanging_server_was_asked_to_open_is_free_when_it_goes_on(
    hub: HubProcess, client: httpx.Client, server: RedisServer
) -> None:
    """What a server was asked while it hung it does afterwards; the lock it gives then has no owner any more."""
    sessions = [f"asked-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(sessions)) as pool:
        asked = [pool.submit(say, client, "[[chunks=2 delay=0.1]]", session=name) for name in sessions]
        with Redis.from_url(server.url) as redis:
            eventually(lambda: redis.exists("hub:session:default:asked-0:lock"))
        server.pause()
        try:
            eventually(lambda: health_of(hub) == "degraded")
        finally:
            server.resume()
        for one in asked:
            one.result()
    until_healthy(hub)
    began_at = time.monotonic()
    for name in sessions:
        answer_of(say(client, "next", session=name))
    assert time.monotonic() - began_at < 5


# --- it forgets ------------------------------------------------------------------------------------------------------


def test_session_the_server_has_forgotten_goes_on_from_the_archive(client: httpx.Client, redis: Redis) -> None:
    answer_of(say(client, "one", session="kept"))
    redis.flushall()
    redis.script_flush()
    assert said_in(client, "kept") == ["one", "one"]
    answer_of(say(client, "two", session="kept"))
    redis.flushall()
    answer_of(say(client, "three", session="kept"))
    assert said_in(client, "kept") == ["one", "one", "two", "two", "three", "three"]


def test_turn_during_which_the_server_forgets_is_stored_with_all_before_it(client: httpx.Client, redis: Redis) -> None:
    answer_of(say(client, "one", session="kept-too"))
    question = f"{SLOW} two"
    with begun(client, question, session="kept-too") as stream:
        redis.flushall()
        assert stream.rest() == WHOLE
    assert redis.llen("hub:session:default:kept-too:messages") == 4
    assert said_in(client, "kept-too") == ["one", "one", question, question]


# --- it is full ------------------------------------------------------------------------------------------------------


def test_full_server_takes_no_turns_but_shows_what_it_has(hub: HubProcess, client: httpx.Client, redis: Redis) -> None:
    answer_of(say(client, "one", session="full"))
    with begun(client, f"{SLOW} two", session="full") as stream:
        redis.config_set("maxmemory", "1")
        try:
            assert_refused(say(client, "three", session="full-too"))
            assert said_in(client, "full") == ["one", "one"]
            assert answer_of(say(client, "alone")) == "alone"
            assert stream.rest() == Rest(is_whole=False, code=UNAVAILABLE)
            assert said_in(client, "full") == ["one", "one"]
            assert said_in(client, "full-too") == []
        finally:
            redis.config_set("maxmemory", "0")
    assert answer_of(say(client, "four", session="full")) == "four"
    assert said_in(client, "full") == ["one", "one", "four", "four"]


# --- without an archive ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forgetful(folder: Path, server: RedisServer) -> Iterator[HubProcess]:
    env = FAULTY | {"REDIS_URL": f"{server.url}/1", "HUB_SESSION_ARCHIVE": "false"}
    with running_hub(folder / "forgetful", env=env) as started:
        yield started


def test_without_an_archive_a_forgotten_session_begins_anew(forgetful: HubProcess, redis: Redis) -> None:
    with client_of(forgetful, forgetful.key) as client:
        answer_of(say(client, "one", session="lost"))
        redis.flushall()
        assert said_in(client, "lost") == []
        answer_of(say(client, "two", session="lost"))
        assert said_in(client, "lost") == ["two", "two"]


def test_without_an_archive_a_running_turn_saves_what_the_server_forgets(forgetful: HubProcess, redis: Redis) -> None:
    with client_of(forgetful, forgetful.key) as client:
        answer_of(say(client, "one", session="saved"))
        question = f"{SLOW} two"
        with begun(client, question, session="saved") as stream:
            redis.flushall()
            assert stream.rest() == WHOLE
        assert said_in(client, "saved") == ["one", "one", question, question]


def test_without_an_archive_no_text_is_in_the_databases_files(forgetful: HubProcess, server: RedisServer) -> None:
    """Neither of turns that end well nor of those that fail, with Redis or without."""
    marker = "words-for-nobody-else"
    with client_of(forgetful, forgetful.key) as client:
        answer_of(say(client, marker, session=marker))
        answer_of(say(client, marker))
        with begun(client, f"{SLOW} {marker}", session=marker) as stream:
            server.kill()
            answer_of(say(client, marker))
            server.start()
            assert stream.rest() == WHOLE
        until_healthy(forgetful)
        with begun(client, f"[[do=crash]] {marker}", session=marker) as stream:
            assert not stream.rest().is_whole
        assert len(said_in(client, marker)) == 4
    files = list(forgetful.data_dir.glob("hub.sqlite3*"))
    assert "hub.sqlite3-wal" in [it.name for it in files]
    assert [it.name for it in files if marker.encode() in it.read_bytes()] == []
    with Redis.from_url(f"{server.url}/1") as redis:
        # A turn's figures may wait there for the database, its words may not.
        assert not [it for it in redis.hvals("hub:unarchived") if marker.encode() in it]
