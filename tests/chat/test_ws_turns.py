"""Turns over the WebSocket: streamed, cut and resumed, seen from two windows, stopped, limited, left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from tests.asking import CHAT, SESSION, answer_of, ask, client_of, eventually, make_keys, turns_of
from tests.chat.ws_client import accepts, greeted, text_of
from tests.hub import HubProcess, running_hub

UNWATCHED_S = 1.0
TEXT = "The quick brown fox jumps over the lazy dog. " * 8
SLOW = f"[[chunks=40 delay=0.02]] {TEXT}"
ENDLESS = f"[[chunks=2000 delay=0.05]] {TEXT * 20}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {"HUB_PROVIDERS": "echo", "HUB_SHUTDOWN_GRACE_S": "1", "HUB_STREAM_UNWATCHED_S": f"{UNWATCHED_S}"}
    with running_hub(tmp_path_factory.mktemp("turns"), env=env) as started:
        eventually(lambda: accepts(started))
        yield started


@pytest.fixture(scope="module")
def keys(served: HubProcess) -> dict[str, str]:
    return make_keys(
        served,
        leaver={},
        hesitant={},
        alice={},
        bob={},
        narrow={"concurrent_turns": 1},
        hurried={"requests_per_minute": 3},
    )


def test_answer_streams_with_all_that_is_known_of_it(served: HubProcess) -> None:
    with greeted(served) as talk:
        turn = talk.ask(SLOW)
        end = talk.end_of(turn)
        assert text_of(talk.events, turn) == SLOW
        mine = [it for it in talk.events if it.get("turn") == turn]
        assert [it["type"] for it in mine if it["type"] != "delta"] == ["asked", "admitted", "started", "finished"]
        started = mine[2]
        assert (started["provider"], started["model"], started["route"]) == ("echo", "echo", "echo; named")
        assert [it["code"] for it in started["attempts"]] == ["ok"]
        assert end["usage"]["completion_tokens"] == 40
        timing = end["timing"]
        assert 0 <= timing["first_token_ms"] <= timing["total_ms"]
        assert timing["tokens_per_s"] > 1


def test_text_comes_in_at_most_twenty_frames_a_second(served: HubProcess) -> None:
    """40 pieces within 0.8 s."""
    with greeted(served) as talk:
        turn = talk.ask(SLOW)
        end = talk.end_of(turn)
        frames = [it for it in talk.events if it.get("turn") == turn and it["type"] == "delta"]
        assert 5 <= len(frames) <= end["timing"]["total_ms"] / 50 + 2


def test_conversation_goes_on_and_is_listed(served: HubProcess) -> None:
    with greeted(served) as talk:
        session, _ = talk.answer_to("one")
        assert talk.answer_to("two", session=session)[0] == session
        found = talk.say("session", session=session)
        assert [it["content"] for it in found["messages"]] == ["one", "one", "two", "two"]
        assert found["live"] is None
        assert session in [it["session_id"] for it in talk.say("sessions")["data"]]


def test_rest_and_websocket_share_conversations(served: HubProcess) -> None:
    with greeted(served) as talk, client_of(served, served.key) as client:
        session, _ = talk.answer_to("over the socket")
        answer_of(client.post(CHAT, json=ask("over REST"), headers={SESSION: session}))
        changed = talk.hear_until(lambda it: it["type"] == "changed" and it["what"] == "changed")
        assert changed["session"] == session
        assert len(talk.say("session", session=session)["messages"]) == 4


def test_answer_that_ended_meanwhile_is_told_to_its_end(served: HubProcess) -> None:
    with greeted(served) as first:
        turn = first.ask("a short one")
        first.hear_words(turn)
        session = first.session_of(turn)
        first.end_of(turn)
    with greeted(served) as second:
        second.say("resume", turn=turn)
        second.end_of(turn)
        assert text_of(second.events, turn) == "a short one"
        second.events.clear()
        # Of one who had it all, at least the end.
        last = second.say("resume", session=session, after=10_000)["last"]
        assert second.end_of(turn)["n"] == last


def test_opened_session_shows_the_answer_that_runs_in_it(served: HubProcess) -> None:
    """As after a reload of the page."""
    with greeted(served) as first, greeted(served) as second:
        session, _ = first.answer_to("before")
        turn = first.ask(SLOW, session=session)
        first.hear_words(turn, count=2)
        found = second.say("session", session=session)
        assert found["live"] == turn
        assert [it["content"] for it in found["messages"]] == ["before", "before"]
        second.end_of(turn)
        assert text_of(second.events, turn) == SLOW
        assert next(it for it in second.events if it.get("turn") == turn)["question"]["text"] == SLOW
        assert len(second.say("session", session=session)["messages"]) == 4


def test_second_window_sees_the_next_answer_live(served: HubProcess) -> None:
    with greeted(served) as first, greeted(served) as second:
        session, _ = first.answer_to("before")
        second.say("session", session=session)
        turn = first.ask(SLOW, session=session)
        second.hear_words(turn, count=2)
        assert not any(it["type"] == "finished" for it in second.events)
        second.end_of(turn)
        assert text_of(second.events, turn) == SLOW


def test_two_answers_on_one_connection_are_kept_apart(served: HubProcess) -> None:
    with greeted(served) as talk:
        turns = {talk.ask(f"{SLOW} {number}"): f"{SLOW} {number}" for number in range(3)}
        for turn in turns:
            talk.end_of(turn)
        assert {turn: text_of(talk.events, turn) for turn in turns} == turns
        assert len({talk.session_of(turn) for turn in turns}) == 3


def test_stopped_turn_says_so_and_keeps_what_was_said(served: HubProcess) -> None:
    with greeted(served) as talk:
        turn = talk.ask(ENDLESS)
        talk.hear_words(turn, count=2)
        assert talk.say("stop", turn=turn)["type"] == "ok"
        end = talk.end_of(turn)
        assert (end["type"], end["by"]) == ("stopped", "caller")
        stored = talk.say("session", session=talk.session_of(turn))["messages"][-1]
        assert stored["status"] == "incomplete"
        assert ENDLESS.startswith(stored["content"])


def test_turn_goes_on_while_its_page_is_away_and_ends_when_nobody_comes_back(
    served: HubProcess, keys: dict[str, str]
) -> None:
    key = keys["leaver"]
    with greeted(served, key) as talk:
        turn = talk.ask(ENDLESS)
        talk.hear_words(turn)
    left_at = time.monotonic()
    with greeted(served, key) as other:  # there, but not looking
        eventually(lambda: turns_of(served, key) != [])
        assert time.monotonic() - left_at >= UNWATCHED_S
        other.say("resume", turn=turn)
        end = other.end_of(turn)
        assert (end["type"], end["by"]) == ("stopped", "unwatched")
    assert [it["outcome"] for it in turns_of(served, key)] == ["cancelled"]


def test_watched_turn_lives_longer_than_an_unwatched_one(served: HubProcess) -> None:
    with greeted(served) as talk:
        began = time.monotonic()
        turn = talk.ask(f"[[chunks=30 delay=0.1]] {TEXT}")
        assert talk.end_of(turn)["type"] == "finished"
        assert time.monotonic() - began > 2 * UNWATCHED_S


def test_same_question_sent_again_is_taken_once(served: HubProcess, keys: dict[str, str]) -> None:
    """A client that lost the hub's answer can't know whether it was heard."""
    key = keys["hesitant"]
    name = "client_0123456789abcdef"
    with greeted(served, key) as first, greeted(served, key) as second:
        assert first.ask(SLOW, turn=name) == second.ask(SLOW, turn=name) == name
        assert first.end_of(name)["type"] == second.end_of(name)["type"] == "finished"
        assert text_of(second.events, name) == SLOW
    assert len(turns_of(served, key)) == 1


def test_same_question_sent_twice_at_once_is_taken_once(served: HubProcess, keys: dict[str, str]) -> None:
    key, before = keys["hesitant"], len(turns_of(served, keys["hesitant"]))
    with greeted(served, key) as first, greeted(served, key) as second, ThreadPoolExecutor(2) as threads:
        for number in range(8):
            name = f"client_at_once_{number:04}"
            asked = threads.map(lambda talk, name=name: talk.ask(TEXT, turn=name), (first, second))
            assert list(asked) == [name] * 2
            assert first.end_of(name)["type"] == second.end_of(name)["type"] == "finished"
    eventually(lambda: len(turns_of(served, key)) >= before + 8)
    assert len(turns_of(served, key)) == before + 8


def test_nobody_sees_or_touches_another_owners_turn(served: HubProcess, keys: dict[str, str]) -> None:
    with greeted(served, keys["alice"]) as alice, greeted(served, keys["bob"]) as bob:
        turn = alice.ask(SLOW)
        session = alice.session_of(turn)
        for told in (
            bob.say("resume", turn=turn),
            bob.say("stop", turn=turn),
            bob.say("resume", session=session),
            bob.say("session", session=session),
            bob.say("delete", session=session),
        ):
            assert told["code"] in ("response_not_found", "session_not_found")
        # A session of his own may have the same name; he is told of nothing that happens in hers.
        bob.answer_to("mine", session=session)
        alice.end_of(turn)
        assert alice.say("session", session=session)["messages"][0]["content"] == SLOW
        assert {it.get("turn") for it in bob.events if it["type"] == "delta"}.isdisjoint({turn})


def test_limits_of_the_key_hold(served: HubProcess, keys: dict[str, str]) -> None:
    with greeted(served, keys["narrow"]) as talk:
        running = talk.ask(ENDLESS)
        talk.hear_words(running)
        refused = talk.end_of(talk.ask("Hi"))
        assert (refused["type"], refused["code"], refused["status"]) == ("error", "rate_limit_exceeded", 429)
        assert refused["retry_after"] >= 1
        talk.say("stop", turn=running)
        talk.end_of(running)
    with greeted(served, keys["hurried"]) as talk:
        codes = [talk.say("sessions").get("code") for _ in range(5)]
        assert codes == [None, None, None, "rate_limit_exceeded", "rate_limit_exceeded"]


def test_errors_have_the_codes_of_rest(served: HubProcess) -> None:
    with greeted(served) as talk, client_of(served, served.key) as client:
        for fields in ({"provider": "nobody"}, {"model": "no-such-model"}):
            turn = talk.ask("Hi", **{"provider": "echo", **fields})
            told = talk.end_of(turn)
            rest = client.post(
                CHAT, json={"messages": [{"role": "user", "content": "Hi"}], "provider": "echo", **fields}
            )
            assert (told["status"], told["code"], told["message"]) == (
                rest.status_code,
                rest.json()["error"]["code"],
                rest.json()["error"]["message"],
            )
        crashed = talk.end_of(talk.ask("[[chunks=3 delay=0.1 do=crash]] Hi"))
        assert (crashed["type"], crashed["status"]) == ("error", 502)
        assert talk.say("ask", text="Hi", session="no good name")["code"] == "invalid_value"
        assert talk.say("ask", text=" ")["param"] == "text"


def test_deleted_conversation_leaves_no_word_in_redis(served: HubProcess) -> None:
    secret = "Zeppelin-4711"
    with greeted(served) as talk, Redis.from_url(served.redis_url) as redis:
        session, _ = talk.answer_to(f"{secret} once")
        running = talk.ask(f"{ENDLESS} {secret}", session=session)
        talk.hear_words(running, count=3)
        assert holds(redis, secret)
        assert talk.say("delete", session=session)["type"] == "ok"
        assert talk.end_of(running)["by"] == "deleted"
        eventually(lambda: not holds(redis, secret))
        assert talk.say("resume", session=session)["code"] == "response_not_found"


def holds(redis: Redis, text: str) -> bool:
    """Whether any log of a turn, or anything else that is stored, has this text."""
    found = []
    for name in redis.scan_iter():
        match redis.type(name):
            case b"stream":
                found.append(repr(redis.xrange(name)))
            case b"string":
                found.append(repr(redis.get(name)))
            case b"list":
                found.append(repr(redis.lrange(name, 0, -1)))
            case b"hash":
                found.append(repr(redis.hgetall(name)))
    return any(text in it for it in found)
