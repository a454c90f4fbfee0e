"""Turns watched from another hub of the same Redis, and what is left of those whose hub was killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.asking import eventually
from tests.chat.ws_client import greeted, text_of
from tests.hub import HubProcess
from tests.redis_server import RedisServer, running_redis

TEXT = "The quick brown fox jumps over the lazy dog. " * 8
SLOW = f"[[chunks=60 delay=0.03]] {TEXT}"
ENDLESS = f"[[chunks=2000 delay=0.05]] {TEXT * 20}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def hubs(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubProcess, HubProcess]]:
    """Each with its own database and key: the keys' owner, and with it all that is in Redis, is the same."""
    folder = tmp_path_factory.mktemp("two")
    env = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1", "REDIS_URL": server.url}
    both = HubProcess(folder / "first", env=env), HubProcess(folder / "second", env=env)
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(HubProcess.start, both))
        yield both
    finally:
        for hub in both:
            hub.close()


def test_cut_connection_resumes_at_the_other_hub(hubs: tuple[HubProcess, HubProcess]) -> None:
    """As behind a balancer."""
    with greeted(hubs[0]) as here:
        turn = here.ask(SLOW)
        here.hear_words(turn, count=3)
        had = here.events
        here.cut()
    with greeted(hubs[1]) as there:
        assert there.say("resume", turn=turn, after=had[-1]["n"])["turn"] == turn
        assert there.end_of(turn)["type"] == "finished"
        assert text_of(had, turn) + text_of(there.events, turn) == SLOW


def test_window_at_the_other_hub_sees_the_answer_live_and_can_stop_it(hubs: tuple[HubProcess, HubProcess]) -> None:
    with greeted(hubs[0]) as here, greeted(hubs[1]) as there:
        session, _ = here.answer_to("before")
        there.say("session", session=session)
        turn = here.ask(ENDLESS, session=session)
        there.hear_words(turn, count=3)
        assert not any(it["type"] == "stopped" for it in here.events)
        assert there.say("stop", turn=turn)["type"] == "ok"
        for talk in (here, there):
            end = talk.end_of(turn)
            assert (end["type"], end["by"]) == ("stopped", "caller")
        assert ENDLESS.startswith(text_of(there.events, turn))
        assert text_of(here.events, turn) == text_of(there.events, turn)


def test_answer_streams_on_while_redis_is_away(hubs: tuple[HubProcess, HubProcess], server: RedisServer) -> None:
    with greeted(hubs[0]) as here:
        turn = here.ask(SLOW)
        here.hear_words(turn, count=2)
        server.kill()
        here.hear_words(turn, count=10)
        server.start()
        assert here.end_of(turn)["type"] == "finished"
        assert text_of(here.events, turn) == SLOW
    with greeted(hubs[1]) as there:  # what could not be stored meanwhile was stored later
        eventually(lambda: there.say("resume", turn=turn)["type"] == "resumed")
        there.end_of(turn)
        assert text_of(there.events, turn) == SLOW


def test_page_can_ask_while_redis_is_away(hubs: tuple[HubProcess, HubProcess], server: RedisServer) -> None:
    """It names its turns, so that one it asks for again is not taken twice; what Redis knows of them has to wait."""
    with greeted(hubs[0]) as here:
        server.kill()
        turn = here.ask("hello", turn="client_while_it_is_away")
        assert here.end_of(turn)["type"] == "finished"
        assert text_of(here.events, turn) == "hello"
        server.start()
    with greeted(hubs[1]) as there:
        eventually(lambda: there.say("resume", turn=turn)["type"] == "resumed")


def test_turn_of_a_killed_hub_is_told_to_have_ended(hubs: tuple[HubProcess, HubProcess]) -> None:
    with greeted(hubs[0]) as here, greeted(hubs[1]) as there:
        turn = here.ask(ENDLESS)
        session = here.session_of(turn)
        eventually(lambda: there.say("session", session=session)["type"] == "session")
        there.hear_words(turn, count=2)
        hubs[0].stop(signal.SIGKILL)
        end = there.end_of(turn)
        assert (end["type"], end["by"]) == ("stopped", "hub")
    hubs[0].start()
    with greeted(hubs[0]) as again:
        again.say("resume", turn=turn)
        assert again.end_of(turn)["by"] == "hub"
        assert again.answer_to("next")[1] == "next"
