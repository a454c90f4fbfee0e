"""Sessions: what a conversation remembers, whose it is, how long it lives, and one turn of it at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from chat.conversation import Conversation, Figures, Head, Outcome, StoredMessage, new_conversation, now_ms
from chat.errors import SessionBusy, SessionLost
from chat.hot import HotState
from chat.ids import new_id
from chat.sessions import Keys, Sessions, after_turn
from tests.asking import (
    CHAT,
    SESSION,
    WAIT_S,
    answer_of,
    ask,
    begun_stream,
    client_of,
    error_of,
    eventually,
    make_keys,
    session_of,
    streamed_text,
    turns_of,
)
from tests.clis.dialects import DIALECTS, Upstream
from tests.hub import HubProcess, running_hub
from tests.programs import require_cli
from tests.redis_server import RedisServer, running_redis
from tests.vendor_api import Script, VendorApi

MB = 1024 * 1024
SLOW = "[[chunks=40 delay=0.25]] a long answer that nobody hears to its end"
CRASH = "[[do=crash]] never answered"

Said = list[tuple[str, str]]


def said(client: httpx.Client, session_id: str) -> Said:
    """The conversation as it is shown."""
    response = client.get(f"/v1/sessions/{session_id}")
    assert response.status_code == 200, response.text
    return [(message["role"], message["content"]) for message in response.json()["messages"]]


def exchange(*texts: str) -> Said:
    """Questions with their answers, which echo repeats."""
    return [it for text in texts for it in (("user", text), ("assistant", text))]


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def follow_up(client: httpx.Client, session_id: str, text: str, **fields: Any) -> httpx.Response:
    return client.post(CHAT, json=ask(text, **fields), headers={SESSION: session_id})


def a_session(client: httpx.Client, *texts: str) -> str:
    """A new session with some turns in it."""
    session_id = f"it-{new_id()}"
    for text in texts:
        assert answer_of(follow_up(client, session_id, text)) == text
    return session_id


@pytest.fixture(scope="module")
def keys(hub: HubProcess) -> dict[str, str]:
    return make_keys(
        hub,
        alice={"owner": "sessions-alice"},
        alices_other={"owner": "sessions-alice"},
        bob={"owner": "sessions-bob"},
        brief={"owner": "sessions-brief", "session_ttl_s": 1},
        retrying={"owner": "sessions-retrying"},
    )


@pytest.fixture
def alice(hub: HubProcess, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client_of(hub, keys["alice"]) as client:
        yield client


@pytest.fixture
def bob(hub: HubProcess, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client_of(hub, keys["bob"]) as client:
        yield client


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub without an archive that makes nobody wait, with short and small sessions."""
    env = {
        "HUB_PROVIDERS": "echo",
        "HUB_SESSION_ARCHIVE": "0",
        "HUB_SESSION_BUSY": "refuse",
        "HUB_SESSION_TTL_S": "1",
        "HUB_SESSION_MAX_CHARS": "1024",
        "HUB_SHUTDOWN_GRACE_S": "1",
    }
    with running_hub(tmp_path_factory.mktemp("refusing"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def on_redis(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub on a Redis that tests may hold up, with little patience for it and for running turns."""
    env = {
        "HUB_PROVIDERS": "echo",
        "REDIS_URL": redis_server.url,
        "HUB_REDIS_TIMEOUT_S": "0.4",
        "HUB_SESSION_WAIT_S": "0.5",
        "HUB_SHUTDOWN_GRACE_S": "1",
    }
    with running_hub(tmp_path_factory.mktemp("on_redis"), env=env) as started:
        yield started


# --- which session a turn belongs to ---------------------------------------------------------------------------------


def test_request_without_an_id_begins_a_session_of_its_own(alice: httpx.Client) -> None:
    first, second = (alice.post(CHAT, json=ask(text)) for text in ("one", "two"))
    assert session_of(first) != session_of(second)
    assert said(alice, session_of(first)) == exchange("one")
    assert said(alice, session_of(second)) == exchange("two")


def test_empty_id_is_none(alice: httpx.Client) -> None:
    response = follow_up(alice, "", "hello")
    assert said(alice, session_of(response)) == exchange("hello")


def test_stream_names_its_session_and_is_remembered(alice: httpx.Client) -> None:
    response = alice.post(CHAT, json=ask("hello", stream=True))
    assert streamed_text(response) == "hello"
    assert said(alice, session_of(response)) == exchange("hello")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("question", ["[[chunks=0]]", "[[chunks=x]]"])
def test_error_after_admission_names_the_session(alice: httpx.Client, question: str, stream: bool) -> None:
    response = alice.post(CHAT, json=ask(question, stream=stream))
    assert response.status_code == 400
    assert session_of(response).startswith("sess_")
    given = follow_up(alice, "my-own", question, stream=stream)
    assert session_of(given) == "my-own"


def test_follow_up_adds_to_the_history(alice: httpx.Client) -> None:
    session_id = session_of(alice.post(CHAT, json=ask("one")))
    for text in ("two", "three"):
        response = follow_up(alice, session_id, text)
        assert answer_of(response) == text
        assert session_of(response) == session_id
    assert said(alice, session_id) == exchange("one", "two", "three")


@pytest.mark.parametrize("session_id", ["a", "7", "A.b_c:d-e", "x" * 128, "sess_01"])
def test_caller_may_choose_an_id(alice: httpx.Client, session_id: str) -> None:
    response = follow_up(alice, session_id, "hello")
    assert answer_of(response) == "hello"
    assert session_of(response) == session_id
    assert said(alice, session_id)[-2:] == exchange("hello")
    assert alice.delete(f"/v1/sessions/{session_id}").status_code == 200


@pytest.mark.parametrize("session_id", ["-a", ".", "_a", "a b", "a/b", "a,b", "x" * 129, "ü", "a%", "*", "a\tb"])
def test_id_that_is_none_is_refused(hub: HubProcess, alice: httpx.Client, session_id: str) -> None:
    response = alice.post(CHAT, json=ask("hello"), headers=[(SESSION.encode(), session_id.encode())])
    assert response.status_code == 400
    assert error_of(response)["param"] == SESSION
    assert error_of(response)["code"] == "invalid_value"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_history_that_comes_again_is_not_remembered_twice(alice: httpx.Client, stream: bool) -> None:
    """Agents send their whole history each time."""
    session_id = a_session(alice, "one")
    messages = [message("user", "one"), message("assistant", "one"), message("user", "two")]
    follow_up(alice, session_id, "", messages=messages, stream=stream)
    messages += [message("assistant", "two"), message("user", "three")]
    follow_up(alice, session_id, "", messages=messages, stream=stream)
    assert said(alice, session_id) == exchange("one", "two", "three")


def test_mode_decides_what_becomes_of_a_history(alice: httpx.Client) -> None:
    session_id = a_session(alice, "one")
    body = ask("", messages=[message("user", "one"), message("assistant", "one"), message("user", "two")])
    alice.post(CHAT, json=body, headers={SESSION: session_id, "X-Session-Mode": "append"})
    assert said(alice, session_id) == exchange("one", "one", "two")
    alice.post(CHAT, json=body, headers={SESSION: session_id, "X-Session-Mode": "Replace"})
    assert said(alice, session_id) == exchange("one", "two")


def test_unknown_mode_is_refused(alice: httpx.Client) -> None:
    response = alice.post(CHAT, json=ask("hello"), headers={"X-Session-Mode": "forget"})
    assert response.status_code == 400
    assert error_of(response)["param"] == "X-Session-Mode"


def test_system_prompt_stays_until_another_comes(alice: httpx.Client) -> None:
    session_id = f"it-{new_id()}"
    for system in ("Be brief.", "", "Be long."):
        begin = [message("system", system)] if system else []
        follow_up(alice, session_id, "", messages=[*begin, message("user", "hello")])
        assert said(alice, session_id)[0] == ("system", system or "Be brief.")
    assert said(alice, session_id)[1:] == exchange("hello", "hello", "hello")


# --- whose it is -----------------------------------------------------------------------------------------------------


def test_keys_of_one_owner_share_their_sessions(hub: HubProcess, alice: httpx.Client, keys: dict[str, str]) -> None:
    session_id = a_session(alice, "one")
    with client_of(hub, keys["alices_other"]) as other:
        assert answer_of(follow_up(other, session_id, "two")) == "two"
        assert said(other, session_id) == exchange("one", "two")
        assert other.delete(f"/v1/sessions/{session_id}").status_code == 200
    assert alice.get(f"/v1/sessions/{session_id}").status_code == 404


def test_session_is_nowhere_for_another_owner(alice: httpx.Client, bob: httpx.Client) -> None:
    session_id = a_session(alice, "my secret")
    for response in (bob.get(f"/v1/sessions/{session_id}"), bob.delete(f"/v1/sessions/{session_id}")):
        assert response.status_code == 404
        assert error_of(response)["code"] == "session_not_found"
        assert "secret" not in response.text
    assert session_id not in bob.get("/v1/sessions").text
    assert said(alice, session_id) == exchange("my secret")


def test_same_id_of_another_owner_is_another_session(alice: httpx.Client, bob: httpx.Client) -> None:
    session_id = a_session(alice, "from alice")
    assert answer_of(follow_up(bob, session_id, "from bob")) == "from bob"
    assert said(bob, session_id) == exchange("from bob")
    assert bob.delete(f"/v1/sessions/{session_id}").status_code == 200
    assert said(alice, session_id) == exchange("from alice")


# --- how long it lives -----------------------------------------------------------------------------------------------


def test_only_turns_lengthen_a_sessions_life(alice: httpx.Client) -> None:
    session_id = a_session(alice, "one")
    first = alice.get(f"/v1/sessions/{session_id}").json()
    assert alice.get(f"/v1/sessions/{session_id}").json()["expires_at"] == first["expires_at"]
    alice.get("/v1/sessions")
    follow_up(alice, session_id, CRASH)
    assert alice.get(f"/v1/sessions/{session_id}").json()["expires_at"] == first["expires_at"]
    follow_up(alice, session_id, "two")
    assert alice.get(f"/v1/sessions/{session_id}").json()["expires_at"] > first["expires_at"]


def expires(client: httpx.Client, began_at: float) -> None:
    """A session of a second ends after a second, whoever looks at it, and its id then names a new one."""
    session_id = a_session(client, "one")
    began_at = time.monotonic()
    eventually(lambda: client.get(f"/v1/sessions/{session_id}").status_code == 404, within_s=5)
    assert time.monotonic() - began_at > 0.5
    assert session_id not in client.get("/v1/sessions").text
    follow_up(client, session_id, "two")
    assert said(client, session_id) == exchange("two")


def test_key_may_shorten_its_sessions_lives(hub: HubProcess, keys: dict[str, str]) -> None:
    with client_of(hub, keys["brief"]) as client:
        expires(client, time.monotonic())


def test_session_expires_without_an_archive_too(refusing: HubProcess) -> None:
    with client_of(refusing, refusing.key) as client:
        expires(client, time.monotonic())


# --- one turn at a time ----------------------------------------------------------------------------------------------


def test_second_turn_waits_for_the_first_and_follows_it(alice: httpx.Client) -> None:
    session_id = a_session(alice, "one")
    two = "[[chunks=4 delay=0.2]] two"
    with ThreadPoolExecutor(1) as pool, begun_stream(alice, ask(two), X_Session_ID=session_id) as rest:
        third = pool.submit(follow_up, alice, session_id, "three")
        assert [line for line in rest if line][-1] == "data: [DONE]"
        assert answer_of(third.result(WAIT_S)) == "three"
    assert said(alice, session_id) == exchange("one", two, "three")


def test_turns_asked_at_once_are_all_remembered(alice: httpx.Client) -> None:
    session_id = f"it-{new_id()}"
    texts = [f"number {number}" for number in range(6)]
    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(pool.map(lambda text: follow_up(alice, session_id, text), texts))
    assert [answer_of(it) for it in answers] == texts
    shown = said(alice, session_id)
    assert shown == exchange(*(text for role, text in shown if role == "user"))
    assert sorted(text for role, text in shown if role == "user") == texts


def test_busy_session_is_refused_at_once_where_nobody_waits(refusing: HubProcess) -> None:
    with client_of(refusing, refusing.key) as client:
        with begun_stream(client, ask(SLOW), X_Session_ID="busy"):
            began_at = time.monotonic()
            for stream in (False, True):
                response = follow_up(client, "busy", "two", stream=stream)
                assert (response.status_code, error_of(response)["code"]) == (409, "session_busy")
                assert int(response.headers["Retry-After"]) >= 1
                assert response.headers["X-Should-Retry"] == "true"
            assert time.monotonic() - began_at < 2
        eventually(lambda: follow_up(client, "busy", "three").status_code == 200, within_s=2)


def test_wait_for_a_busy_session_has_an_end(on_redis: HubProcess) -> None:
    with client_of(on_redis, on_redis.key) as client, begun_stream(client, ask(SLOW), X_Session_ID="busy"):
        began_at = time.monotonic()
        response = follow_up(client, "busy", "two")
        assert (response.status_code, error_of(response)["code"]) == (409, "session_busy")
        assert "0.5 s" in error_of(response)["message"]
        assert 0.4 < time.monotonic() - began_at < 3


def test_client_that_leaves_the_line_lets_the_next_one_come(alice: httpx.Client) -> None:
    session_id = a_session(alice, "one")
    two = "[[chunks=4 delay=0.25]] two"
    with begun_stream(alice, ask(two), X_Session_ID=session_id) as rest:
        with pytest.raises(httpx.ReadTimeout):
            alice.post(CHAT, json=ask("given up"), headers={SESSION: session_id}, timeout=0.3)
        assert [line for line in rest if line][-1] == "data: [DONE]"
    assert answer_of(follow_up(alice, session_id, "three")) == "three"
    assert said(alice, session_id) == exchange("one", two, "three")


# --- turns that come to no good end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(), ("one",)], ids=["first", "later"])
def test_cancelled_answer_is_shown_as_incomplete_and_the_next_turn_follows_at_once(
    alice: httpx.Client, before: tuple[str, ...]
) -> None:
    session_id = a_session(alice, *before)
    with begun_stream(alice, ask(SLOW), X_Session_ID=session_id):
        pass
    began_at = time.monotonic()
    assert answer_of(follow_up(alice, session_id, "next")) == "next"
    assert time.monotonic() - began_at < 2
    messages = alice.get(f"/v1/sessions/{session_id}").json()["messages"]
    states = [it["status"] for it in messages]
    assert states == ["complete"] * 2 * len(before) + ["incomplete"] * 2 + ["complete"] * 2
    question, partial = messages[-4:-2]
    assert question["content"] == SLOW
    assert partial["content"]
    assert SLOW.startswith(partial["content"])


def test_failed_turn_leaves_the_session_as_it_was(alice: httpx.Client) -> None:
    session_id = a_session(alice, "one")
    before = alice.get(f"/v1/sessions/{session_id}").json()
    for question, stream in ((CRASH, False), ("[[do=garbage]]", False), ("[[chunks=0]]", True)):
        assert follow_up(alice, session_id, question, stream=stream).status_code >= 400
    assert "error" in follow_up(alice, session_id, CRASH, stream=True).text
    assert alice.get(f"/v1/sessions/{session_id}").json() == before


def test_first_turn_that_fails_leaves_no_session(alice: httpx.Client) -> None:
    response = alice.post(CHAT, json=ask(CRASH))
    assert response.status_code == 502
    assert alice.get(f"/v1/sessions/{session_of(response)}").status_code == 404


def test_question_repeated_after_a_failure_is_remembered_once(hub: HubProcess, keys: dict[str, str]) -> None:
    with client_of(hub, keys["retrying"]) as client:
        session_id = a_session(client, "one")
        body = ask("two", provider="echo", model="nothing")
        assert client.post(CHAT, json=body, headers={SESSION: session_id}).status_code == 404
        assert follow_up(client, session_id, CRASH).status_code == 502
        assert answer_of(follow_up(client, session_id, "two")) == "two"
        assert said(client, session_id) == exchange("one", "two")
    outcomes = [turn["outcome"] for turn in turns_of(hub, keys["retrying"])]
    assert outcomes == ["ok", "model_not_found", "worker_crashed", "ok"]


def test_session_deleted_under_a_running_turn_stays_deleted(alice: httpx.Client) -> None:
    session_id = a_session(alice, "one")
    with begun_stream(alice, ask("[[chunks=4 delay=0.2]] two"), X_Session_ID=session_id) as rest:
        assert alice.delete(f"/v1/sessions/{session_id}").status_code == 200
        assert [line for line in rest if line][-1] == "data: [DONE]"
    assert alice.get(f"/v1/sessions/{session_id}").status_code == 404
    assert answer_of(follow_up(alice, session_id, "three")) == "three"
    assert said(alice, session_id) == exchange("three")


def test_turn_whose_end_redis_took_in_silence_is_remembered_once(
    on_redis: HubProcess, redis_server: RedisServer
) -> None:
    """Redis hangs just then, and does what it was asked to when it goes on; nobody hears of it."""
    with client_of(on_redis, on_redis.key) as client:
        session_id = a_session(client, "one")
        two = "[[chunks=2 delay=0.3]] two"
        with begun_stream(client, ask(two), X_Session_ID=session_id) as rest:
            redis_server.pause()
            try:
                eventually(lambda: "redis is away" in on_redis.log.read_text())
            finally:
                redis_server.resume()
            assert [line for line in rest if line][-1] == "data: [DONE]"
        eventually(lambda: on_redis.log.read_text().rindex("redis is there") > on_redis.log.read_text().rindex("away"))
        assert said(client, session_id) == exchange("one", two)
        assert answer_of(follow_up(client, session_id, "three")) == "three"


def test_size_is_what_the_session_holds_not_what_it_has_held(refusing: HubProcess) -> None:
    """An agent that replaces the history with each turn may go on for ever."""
    history = [message("user", "q" * 300), message("assistant", "a" * 300), message("user", "next")]
    with client_of(refusing, refusing.key, **{SESSION: "replaced", "X-Session-Mode": "replace"}) as client:
        for _ in range(4):
            assert answer_of(client.post(CHAT, json=ask("", messages=history))) == "next"
    with client_of(refusing, refusing.key) as client:
        assert answer_of(follow_up(client, "replaced", "x" * 600)) == "x" * 600
        response = follow_up(client, "replaced", "one more")
        assert (response.status_code, error_of(response)["code"]) == (413, "session_too_large")


def test_session_of_thousands_of_messages_works(alice: httpx.Client) -> None:
    """20 MB in 2,000 messages, sent in two requests, which is as much as fits."""
    session_id = f"it-{new_id()}"
    text = "x" * (20 * MB // 2_000 - 10)
    began_at = time.monotonic()
    for part in range(2):
        pairs = range(500 * part, 500 * (part + 1) - 1)
        history = [message(role, f"{number} {text}") for number in pairs for role in ("user", "assistant")]
        messages = [*history, message("user", f"last {part} {text}")]
        headers = {SESSION: session_id, "X-Session-Mode": "append"}
        response = alice.post(CHAT, json=ask("", messages=messages), headers=headers)
        assert response.status_code == 200, response.text
    seeded_at = time.monotonic()
    assert answer_of(follow_up(alice, session_id, "and now?")) == "and now?"
    assert time.monotonic() - seeded_at < 5
    shown = said(alice, session_id)
    assert len(shown) == 2_002
    assert shown[0][1] == f"0 {text}"
    assert shown[-2:] == exchange("and now?")
    assert alice.delete(f"/v1/sessions/{session_id}").status_code == 200
    assert time.monotonic() - began_at < 20


# --- what the provider is given --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def hub_with_claude(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[HubProcess, VendorApi]]:
    """A hub with the real claude, whose vendor is the stand-in, and echo beside it."""
    program = require_cli("claude")
    async with VendorApi() as vendor:
        env = {"HUB_PROVIDERS": "claude,echo", "HUB_CLAUDE_BIN": str(program), "HUB_SHUTDOWN_GRACE_S": "1"}
        hub = HubProcess(tmp_path_factory.mktemp("claude"), env={**env, **DIALECTS["claude"].env(vendor.url)})
        try:
            await asyncio.to_thread(hub.start)
            yield hub, vendor
        finally:
            await asyncio.to_thread(hub.close)


def upstream(vendor: VendorApi) -> Upstream:
    return DIALECTS["claude"].read(vendor.chats()[-1])


async def test_provider_is_given_the_whole_conversation_whoever_answered_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """System prompt and history are inherited, by another provider too; a cancelled answer is not among them."""
    async with (
        hub_with_claude(tmp_path_factory) as (hub, vendor),
        httpx.AsyncClient(base_url=hub.url, headers=hub.headers, timeout=30) as client,
    ):
        vendor.next(Script(text="first answer"))
        messages = [message("system", "You are a pirate."), message("user", "first question")]
        first = await client.post(CHAT, json={"model": "claude", "messages": messages})
        assert answer_of(first) == "first answer"
        client.headers[SESSION] = session_of(first)
        assert answer_of(await client.post(CHAT, json=ask("second question"))) == "second question"

        vendor.next(Script(text="never heard to its end", chunks=20, delay_s=0.3))
        body = {"model": "claude", "messages": [message("user", "given up")], "stream": True}
        async with client.stream("POST", CHAT, json=body) as response:
            async for line in response.aiter_lines():
                if '"content":"' in line and '"role"' not in line:
                    break
        await vendor.wait_for_abort()

        vendor.next(Script(text="last answer"))
        last = {"model": "claude", "messages": [message("user", "last question")]}
        assert answer_of(await client.post(CHAT, json=last)) == "last answer"
        seen = upstream(vendor)
        assert seen.system == "You are a pirate."
        assert [(it.role, it.text) for it in seen.messages] == [
            ("user", "first question"),
            ("assistant", "first answer"),
            *exchange("second question"),
            ("user", "last question"),
        ]
        shown = (await client.get(f"/v1/sessions/{session_of(first)}")).json()["messages"]
    assert [(it["provider"], it["status"]) for it in shown if it["role"] == "assistant"] == [
        ("claude", "complete"),
        ("echo", "complete"),
        ("claude", "incomplete"),
        ("claude", "complete"),
    ]


# --- the lock and the end of a turn, in Redis ------------------------------------------------------------------------


@pytest.fixture
async def hot(redis_server: RedisServer) -> AsyncIterator[HotState]:
    hot = HotState(redis_server.url, timeout_s=2)
    await hot.start()
    yield hot
    await hot.stop()


@pytest.fixture
def sessions(hot: HotState) -> Sessions:
    return Sessions(hot, lock_s=15)


def ended(before: Conversation, text: str) -> Outcome:
    """A turn that adds a question and its answer to a conversation."""
    turn_id = new_id()
    head = before.head
    figures = Figures(turn_id=turn_id, key_id=1, owner=head.owner, outcome="ok", started_ms=now_ms(), total_ms=1)
    messages = (
        StoredMessage("user", (text,), turn_id, now_ms()),
        StoredMessage("assistant", (text,), turn_id, now_ms()),
    )
    return Outcome(figures, after_turn(head, updated_ms=now_ms()), len(before.messages), messages)


async def stored(sessions: Sessions, session_id: str) -> list[str]:
    found = await sessions.get("alice", session_id)
    return [] if found is None else [it.as_message().text for it in found.messages]


async def with_one_turn(sessions: Sessions, session_id: str) -> Conversation:
    before = new_conversation("alice", session_id, ttl_s=60)
    held = await sessions.open("alice", session_id, wait_s=0)
    assert held.conversation is None
    assert await sessions.commit(held, before, ended(before, "one"), archive=False)
    found = await sessions.get("alice", session_id)
    assert found is not None
    return found


async def test_turns_come_in_the_order_they_asked(sessions: Sessions) -> None:
    session_id, order = new_id(), list[int]()

    async def take_turn(number: int) -> None:
        held = await sessions.open("alice", session_id, wait_s=WAIT_S)
        order.append(number)
        sessions.release(held)

    first = await sessions.open("alice", session_id, wait_s=0)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(take_turn(number))
        await asyncio.sleep(0)
        sessions.release(first)
    assert order == list(range(20))


async def test_two_hubs_never_hold_one_session_at_once(redis_server: RedisServer, sessions: Sessions) -> None:
    other_hot = HotState(redis_server.url, timeout_s=2)
    await other_hot.start()
    other, session_id, inside = Sessions(other_hot, lock_s=15), new_id(), 0

    async def take_turn(hub: Sessions) -> None:
        nonlocal inside
        held = await hub.open("alice", session_id, wait_s=WAIT_S)
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        inside -= 1
        hub.release(held)

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(take_turn((sessions, other)[number % 2]))
    await other_hot.stop()


async def test_lock_of_a_killed_hub_comes_free_by_itself(hot: HotState) -> None:
    sessions, session_id = Sessions(hot, lock_s=0.3), new_id()
    await sessions.open("alice", session_id, wait_s=0)
    with pytest.raises(SessionBusy):
        await sessions.open("alice", session_id, wait_s=0)
    await sessions.open("alice", session_id, wait_s=WAIT_S)


async def test_lock_that_is_renewed_holds_and_is_not_another_turns(sessions: Sessions) -> None:
    session_id = new_id()
    held = await sessions.open("alice", session_id, wait_s=0)
    assert await sessions.renew(held.keys, held.token)
    assert not await sessions.renew(held.keys, "another turn's")
    with pytest.raises(SessionBusy):
        await sessions.open("alice", session_id, wait_s=0.1)


async def test_request_that_is_cancelled_while_it_takes_the_lock_leaves_it(sessions: Sessions, hot: HotState) -> None:
    session_id = new_id()
    for pause in range(6):
        taking = asyncio.ensure_future(sessions.open("alice", session_id, wait_s=WAIT_S))
        for _ in range(pause):
            await asyncio.sleep(0)
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            sessions.release(await taking)
    async with asyncio.timeout(2):
        await sessions.open("alice", session_id, wait_s=WAIT_S)


async def test_lock_taken_while_redis_hung_is_known_as_ones_own(redis_server: RedisServer) -> None:
    """The store's client asks a second time when the first answer does not come; Redis may hear both."""
    hot = HotState(redis_server.url, timeout_s=0.5)
    await hot.start()
    sessions, session_id = Sessions(hot, lock_s=15), new_id()
    await sessions.open("alice", new_id(), wait_s=0)
    redis_server.pause()
    try:
        taking = asyncio.ensure_future(sessions.open("alice", session_id, wait_s=WAIT_S))
        await asyncio.wait({taking}, timeout=0.7)
    finally:
        redis_server.resume()
    async with asyncio.timeout(2):
        held = await taking
    assert held.conversation is None
    await hot.stop()


async def test_end_of_a_turn_may_be_written_again(sessions: Sessions) -> None:
    """Where the answer of Redis got lost, nobody knows that the turn is already there."""
    session_id = new_id()
    before = await with_one_turn(sessions, session_id)
    held = await sessions.open("alice", session_id, wait_s=0)
    outcome = ended(before, "two")
    assert await sessions.commit(held, before, outcome, archive=False)
    assert await sessions.commit(held, before, outcome, archive=False)
    assert await stored(sessions, session_id) == ["one", "one", "two", "two"]
    await sessions.open("alice", session_id, wait_s=0)


async def test_repeated_end_does_not_take_another_turns_lock(sessions: Sessions) -> None:
    session_id = new_id()
    before = await with_one_turn(sessions, session_id)
    held = await sessions.open("alice", session_id, wait_s=0)
    outcome = ended(before, "two")
    assert await sessions.commit(held, before, outcome, archive=False)
    await sessions.open("alice", session_id, wait_s=0)
    assert await sessions.commit(held, before, outcome, archive=False)
    with pytest.raises(SessionBusy):
        await sessions.open("alice", session_id, wait_s=0)


async def test_turn_that_lost_its_session_to_another_leaves_no_trace(sessions: Sessions, hot: HotState) -> None:
    session_id = new_id()
    before = await with_one_turn(sessions, session_id)
    slow = await sessions.open("alice", session_id, wait_s=0)
    await hot.redis.delete(slow.keys.lock)  # its hub was paused for longer than the lock holds
    fast = await sessions.open("alice", session_id, wait_s=0)
    with pytest.raises(SessionLost):
        await sessions.commit(slow, before, ended(before, "slow"), archive=False)
    assert await sessions.commit(fast, before, ended(before, "fast"), archive=False)
    with pytest.raises(SessionLost):
        await sessions.commit(slow, before, ended(before, "slow"), archive=False)
    assert await stored(sessions, session_id) == ["one", "one", "fast", "fast"]


async def test_two_first_turns_do_not_mix(sessions: Sessions, hot: HotState) -> None:
    session_id = new_id()
    slow = await sessions.open("alice", session_id, wait_s=0)
    begun = new_conversation("alice", session_id, ttl_s=60)
    await hot.redis.delete(slow.keys.lock)
    await with_one_turn(sessions, session_id)
    with pytest.raises(SessionLost):
        await sessions.commit(slow, begun, ended(begun, "slow"), archive=False)
    assert await stored(sessions, session_id) == ["one", "one"]


async def test_conversation_that_redis_lost_meanwhile_is_written_whole(sessions: Sessions, hot: HotState) -> None:
    session_id = new_id()
    before = await with_one_turn(sessions, session_id)
    held = await sessions.open("alice", session_id, wait_s=0)
    await hot.redis.flushall()
    assert await sessions.commit(held, before, ended(before, "two"), archive=False)
    assert await stored(sessions, session_id) == ["one", "one", "two", "two"]


async def test_deleted_session_does_not_come_back_but_its_id_does(sessions: Sessions) -> None:
    session_id = new_id()
    before = await with_one_turn(sessions, session_id)
    held = await sessions.open("alice", session_id, wait_s=0)
    assert await sessions.delete("alice", session_id) == before.head.uid
    assert not await sessions.commit(held, before, ended(before, "two"), archive=False)
    assert await stored(sessions, session_id) == []
    assert (await with_one_turn(sessions, session_id)).head.uid != before.head.uid


async def test_long_conversation_is_written_in_one_step(sessions: Sessions) -> None:
    """Lua's unpack takes some thousand values, not more."""
    session_id = new_id()
    before = new_conversation("alice", session_id, ttl_s=60)
    one = ended(before, "x")
    outcome = replace(one, messages=one.messages * 5_000)
    held = await sessions.open("alice", session_id, wait_s=0)
    assert await sessions.commit(held, before, outcome, archive=False)
    assert len(await stored(sessions, session_id)) == 10_000


async def test_list_forgets_what_has_expired(sessions: Sessions, hot: HotState) -> None:
    await hot.redis.flushall()
    ids = [f"s{number:02}" for number in range(12)]  # those of one millisecond are listed by their names
    for session_id in ids:
        await with_one_turn(sessions, session_id)
    for session_id in ids[::2]:
        await hot.redis.delete(Keys.of("alice", session_id).head)
    heads: list[Head] = await sessions.page("alice", before_ms=None, limit=5)
    assert [head.session_id for head in heads] == sorted(ids[1::2], key=ids.index, reverse=True)[:5]
    assert len(await sessions.page("alice", before_ms=None, limit=50)) == 6
