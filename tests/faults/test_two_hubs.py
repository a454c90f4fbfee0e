"""Two hubs, each with its own data folder, share Redis and PostgreSQL: for callers they are one."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.asking import answer_of, client_of, error_of, eventually, make_keys
from tests.faults.rig import FAULTY, WHOLE, Rest, begun, leaving_nothing, said_in, say, until_healthy
from tests.hub import HubProcess
from tests.postgres import PostgresServer
from tests.redis_server import RedisServer, running_redis

LOCK_S = 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with leaving_nothing(tmp_path_factory.mktemp("two")) as place:
        yield place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RedisServer]:
    with running_redis(folder / "server", port=0) as started:
        yield started


@pytest.fixture(scope="module")
def hubs(folder: Path, server: RedisServer, postgres: PostgresServer) -> Iterator[list[HubProcess]]:
    """Both are started at once, on an empty database."""
    postgres.execute("CREATE DATABASE two", database="postgres")
    env = FAULTY | {
        "REDIS_URL": server.url,
        "DATABASE_URL": postgres.url_of("two"),
        "HUB_SESSION_LOCK_S": str(LOCK_S),
    }
    both = [HubProcess(folder / name, env=env) for name in ("first", "second")]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(HubProcess.start, both))
        yield both
    finally:
        for hub in both:
            hub.close()


@pytest.fixture(scope="module")
def keys(hubs: list[HubProcess]) -> dict[str, str]:
    return make_keys(
        hubs[0],
        alice={},
        hurried={"requests_per_minute": 20},
        narrow={"concurrent_turns": 2},
        patient={"concurrent_turns": 2},
        lost={},
    )


@contextlib.contextmanager
def clients_of(hubs: list[HubProcess], key: str) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A client of each hub, with one key."""
    first, second = hubs
    with client_of(first, key) as one, client_of(second, key) as two:
        yield one, two


@pytest.fixture
def clients(hubs: list[HubProcess], keys: dict[str, str]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with clients_of(hubs, keys["alice"]) as both:
        yield both


def test_own_key_of_each_hub_is_good_at_both(hubs: list[HubProcess]) -> None:
    """The second hub's first run must not take the first one's for a key whose file was lost."""
    for of in hubs:
        for at in hubs:
            with client_of(at, of.key) as client:
                answer_of(say(client, "Hi"))


def test_session_goes_on_at_whichever_hub_is_asked(clients: tuple[httpx.Client, httpx.Client]) -> None:
    words = [f"turn {number}" for number in range(4)]
    for number, word in enumerate(words):
        answer_of(say(clients[number % 2], word, session="shared"))
    for client in clients:
        assert said_in(client, "shared") == [text for word in words for text in (word, word)]


def test_turns_of_one_session_wait_for_each_other_across_hubs(clients: tuple[httpx.Client, httpx.Client]) -> None:
    questions = [f"[[chunks=2 delay=0.1]] {number}" for number in range(8)]
    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(say, clients[number % 2], question, session="queue")
            for number, question in enumerate(questions)
        ]
        assert [answer_of(it.result()) for it in asked] == questions
    said = said_in(clients[0], "queue")
    assert said[::2] == said[1::2]
    assert sorted(said[::2]) == questions


def test_request_limit_is_exact_over_both_hubs(hubs: list[HubProcess], keys: dict[str, str]) -> None:
    with clients_of(hubs, keys["hurried"]) as clients, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(clients[number % 2].get, "/v1/models") for number in range(40)]
        assert Counter(it.result().status_code for it in asked) == {200: 20, 429: 20}


def is_refused(response: httpx.Response) -> bool:
    if response.status_code == 200:
        return False
    assert (response.status_code, error_of(response)["code"]) == (429, "rate_limit_exceeded")
    return True


def test_concurrent_turns_are_limited_over_both_hubs(hubs: list[HubProcess], keys: dict[str, str]) -> None:
    with clients_of(hubs, keys["narrow"]) as (one, two):
        slow = f"[[chunks=2 delay={2 * LOCK_S}]]"
        with begun(one, slow, session="a") as first, begun(two, slow, session="b") as second:
            assert is_refused(say(one, "Hi"))
            assert is_refused(say(two, "Hi"))
            # Longer than a lease.
            assert [first.rest(), second.rest()] == [WHOLE, WHOLE]
        answer_of(say(one, "Hi"))
        answer_of(say(two, "Hi"))


def test_turn_that_waits_for_its_session_keeps_its_place(
    hubs: list[HubProcess], keys: dict[str, str], server: RedisServer
) -> None:
    """Also for longer than a lease: else its key would soon have more turns than it may."""
    with clients_of(hubs, keys["patient"]) as (one, two), ThreadPoolExecutor() as pool:
        with begun(one, f"[[chunks=2 delay={3 * LOCK_S}]]", session="busy") as running:
            waiting = pool.submit(say, two, "next", session="busy")
            with Redis.from_url(server.url) as redis:
                eventually(lambda: [redis.zcard(it) for it in redis.scan_iter("hub:limit:*:turns")] == [2])
            ends_at = time.monotonic() + 2 * LOCK_S
            while time.monotonic() < ends_at:
                assert is_refused(say(one, "Hi"))
            assert running.rest() == WHOLE
        answer_of(waiting.result())


def test_revoked_key_is_refused_by_both_hubs_within_a_second(hubs: list[HubProcess], keys: dict[str, str]) -> None:
    with clients_of(hubs, keys["lost"]) as clients:
        assert [client.get("/v1/models").status_code for client in clients] == [200, 200]
        assert hubs[1].run("revoke_key", "lost").returncode == 0
        eventually(lambda: all(client.get("/v1/models").status_code == 401 for client in clients), within_s=1)


def test_hub_that_slept_through_its_lock_does_not_write_over_the_other(
    hubs: list[HubProcess], clients: tuple[httpx.Client, httpx.Client]
) -> None:
    """A machine that was suspended, or a process that was stopped: its turn ends with an error."""
    answer_of(say(clients[0], "one", session="slept"))
    with begun(clients[0], "[[chunks=3 delay=0.3]] two", session="slept") as stream:
        hubs[0].send_signal(signal.SIGSTOP)
        try:
            answer_of(say(clients[1], "three", session="slept"))
        finally:
            hubs[0].send_signal(signal.SIGCONT)
        assert stream.rest() == Rest(is_whole=False, code="session_conflict")
    for client in clients:
        assert said_in(client, "slept") == ["one", "one", "three", "three"]
    answer_of(say(clients[0], "four", session="slept"))


def test_both_hubs_heal_when_their_redis_was_killed(
    hubs: list[HubProcess], clients: tuple[httpx.Client, httpx.Client], server: RedisServer
) -> None:
    answer_of(say(clients[0], "one", session="healed"))
    server.kill()
    for client in clients:
        assert say(client, "two", session="healed").status_code == 503
    server.start()
    until_healthy(*hubs)
    answer_of(say(clients[1], "two", session="healed"))
    assert said_in(clients[0], "healed") == ["one", "one", "two", "two"]
