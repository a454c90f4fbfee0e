"""Who gets in at the WebSocket, from where, and what becomes of those who misbehave: under both servers."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.asking import eventually, make_keys, turns_of
from tests.chat.ws_client import accepts, greeted, logged_in, opened, page_headers, text_of
from tests.hub import HubProcess, running_hub

MB = 1024 * 1024
SLOW = f"[[chunks=40 delay=0.02]] {'The quick brown fox jumps over the lazy dog. ' * 8}"


@pytest.fixture(scope="module", params=["daphne", "uvicorn"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    env = {
        "HUB_PROVIDERS": "echo",
        "HUB_SHUTDOWN_GRACE_S": "1",
        "HUB_AUTH_FAILURES_PER_MINUTE": "0",
        "HUB_ALLOWED_ORIGINS": "https://tools.example.com",
    }
    with running_hub(tmp_path_factory.mktemp("ws"), env=env, server=request.param) as started:
        eventually(lambda: accepts(started))
        yield started


@pytest.fixture(scope="module")
def keys(served: HubProcess) -> dict[str, str]:
    return make_keys(served, passing={}, talker={"scopes": ["chat"]}, talkers_other={"owner": "talker"})


# --- who -------------------------------------------------------------------------------------------------------------


def test_key_in_the_first_message_lets_in(served: HubProcess) -> None:
    with opened(served) as talk:
        ready = talk.say("hello", key=served.key)
        assert (ready["type"], ready["by"], ready["owner"], ready["protocol"]) == ("ready", "key", "default", 1)
        assert talk.answer_to("Hello there")[1] == "Hello there"


def test_wrong_key_is_told_so_and_cut_off(served: HubProcess) -> None:
    with opened(served) as talk:
        assert talk.say("hello", key="hub_" + "x" * 43)["code"] == "invalid_api_key"
        assert talk.close_code() == 4401


def test_key_in_the_url_is_not_read(served: HubProcess) -> None:
    """URLs are logged everywhere."""
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{served.port}/ws/chat/?key={served.key}", proxy=None) as connection:
        connection.send(json.dumps({"type": "hello"}))
        assert json.loads(connection.recv(timeout=10))["code"] == "missing_api_key"


def test_nothing_is_answered_before_hello(served: HubProcess) -> None:
    with opened(served) as talk:
        assert talk.say("sessions")["code"] == "missing_api_key"
        assert talk.close_code() == 4401


def test_revoked_key_can_ask_nothing_more(served: HubProcess, keys: dict[str, str]) -> None:
    with greeted(served, keys["passing"]) as talk:
        assert talk.say("sessions")["type"] == "sessions"
        assert served.run("revoke_key", "passing").returncode == 0
        answers = []
        with pytest.raises(ConnectionClosed):
            while True:
                answers.append(talk.say("ping"))
        assert answers[-1].get("code") in (None, "invalid_api_key")
        assert talk.connection.close_code == 4401


def test_key_without_the_scope_hears_nothing_of_sessions(served: HubProcess, keys: dict[str, str]) -> None:
    """But it may come back for the answer it has asked for."""
    with greeted(served, keys["talker"]) as talk, greeted(served, keys["talkers_other"]) as other:
        assert talk.say("sessions")["code"] == "insufficient_scope"
        session, _ = other.answer_to("of the same owner")
        assert talk.say("resume", session=session)["code"] == "insufficient_scope"
        turn = talk.ask("still", session=session)
        assert talk.say("resume", turn=turn)["turn"] == turn
        talk.end_of(turn)
        other.hear_until(lambda it: it["type"] == "changed" and it["what"] == "changed")
        other.answer_to("and on", session=session)
        assert talk.say("ping")["type"] == "pong"
        assert not [it for it in talk.events if it["type"] == "changed" or it.get("turn") not in (turn, None)]


def test_who_is_logged_in_has_an_owner_limits_and_figures(served: HubProcess) -> None:
    with logged_in(served) as browser, opened(served, page_headers(served, browser)) as talk:
        ready = talk.say("hello")
        assert (ready["type"], ready["by"], ready["owner"], ready["scopes"]) == (
            "ready",
            "login",
            "admin",
            ["chat", "sessions"],
        )
        session, _ = talk.answer_to("from the page")
        assert [it["session_id"] for it in talk.say("sessions")["data"]] == [session]
    with greeted(served) as other:
        assert other.say("session", session=session)["code"] == "session_not_found"
    (turn,) = turns_of(served, "user_1")
    assert (turn["outcome"], turn["owner"]) == ("ok", "admin")


def test_logging_out_ends_what_the_page_may_do(served: HubProcess) -> None:
    with logged_in(served) as browser, opened(served, page_headers(served, browser)) as talk:
        assert talk.say("hello")["type"] == "ready"
        form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], "next": "/"}
        assert browser.post("/admin/logout/", data=form, headers={"Referer": served.url}).status_code == 200
        assert talk.say("ask", text="Hi")["code"] == "missing_api_key"
        assert talk.close_code() == 4401


def test_login_counts_only_on_the_hubs_own_page(served: HubProcess) -> None:
    """A browser sends its cookies from any page, and names the page."""
    with logged_in(served) as browser:
        cookie = {"Cookie": page_headers(served, browser)["Cookie"]}
    with opened(served, cookie) as talk:
        assert talk.say("hello")["code"] == "missing_api_key"


# --- from where ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:1"},  # another program's page on this machine
        {"Origin": "null"},
    ],
    ids=lambda it: str(it["Origin"]),
)
def test_page_of_somebody_else_is_refused(served: HubProcess, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(served, headers):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000"])
def test_unknown_host_is_refused(served: HubProcess, host: str) -> None:
    """DNS rebinding: a name of the attacker's that leads to this machine."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Host": host,
        "Origin": f"http://{host}",
    }
    assert httpx.get(f"{served.url}/ws/chat/", headers=upgrade).status_code == 403


def test_own_page_and_listed_ones_are_let_in(served: HubProcess) -> None:
    for origin in (served.url, "https://tools.example.com"):
        with opened(served, {"Origin": origin}) as talk:
            assert talk.say("hello", key=served.key)["type"] == "ready"


# --- what ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "1",
        '"hello"',
        "{}",
        '{"type": "dance"}',
        '{"type": 5}',
        '{"type": "stop"}',
        '{"type": "ask", "text": 1}',
    ],
)
def test_garbage_is_told_so_and_does_no_harm(served: HubProcess, text: str) -> None:
    with greeted(served) as talk:
        talk.connection.send(text)
        assert talk.hear()["code"] == "invalid_value"
        talk.connection.send(b"\x00\xff")
        assert talk.hear()["code"] == "invalid_value"
        assert talk.say("ping")["type"] == "pong"


def test_who_sends_garbage_again_and_again_is_cut_off(served: HubProcess) -> None:
    with greeted(served) as talk:
        for _ in range(20):
            talk.connection.send("{")
        assert talk.close_code() == 4400


def test_only_questions_may_be_long(served: HubProcess) -> None:
    with greeted(served) as talk:
        assert talk.say("sessions", after="x" * 100_000)["code"] == "invalid_value"
        text = "long " * 50_000
        assert talk.answer_to(text)[1] == text


def test_message_beyond_all_bounds_ends_the_connection(served: HubProcess) -> None:
    with greeted(served) as talk:
        with pytest.raises(ConnectionClosed):
            talk.say("ask", text="x" * (17 * MB))
        assert talk.connection.close_code in (1006, 1009)
    with greeted(served) as talk:
        assert talk.say("ping")["type"] == "pong"


def test_flood_of_messages_is_bounded(served: HubProcess) -> None:
    """A client that sends faster than it is answered, and reads nothing, must not grow the hub."""
    process = psutil.Process(served.pid)
    before = process.memory_info().rss
    with greeted(served) as talk:
        try:
            for _ in range(20_000):
                talk.connection.send('{"type": "providers", "filler": "' + "x" * 2_000 + '"}')
                if len(talk.events) < 1 and talk.connection.close_code is not None:
                    break
        except ConnectionClosed:
            pass
    assert process.memory_info().rss - before < 60 * MB
    with greeted(served) as talk:
        assert talk.say("ping")["type"] == "pong"


def test_attachments_are_read_as_rest_reads_them(served: HubProcess) -> None:
    png = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
    with greeted(served) as talk:
        for url in ("data:text/plain;base64,aGk=", "https://example.com/x.png", "nonsense"):
            answer = talk.say("ask", text="see", attachments=[{"url": url}], provider="echo")
            assert answer["code"] in ("invalid_value", "unsupported_parameter"), answer
            assert answer["param"] == "attachments.0.url"
        turn = talk.ask("see", attachments=[{"url": png, "name": "dot.png"}])
        assert talk.hear_until(lambda it: it.get("turn") == turn)["question"]["files"] == [
            {"type": "image/png", "name": "dot.png"}
        ]
        assert talk.end_of(turn)["code"] == "media_not_supported"  # echo can't be shown any


def test_connections_leave_nothing_behind(served: HubProcess) -> None:
    process = psutil.Process(served.pid)
    with greeted(served):
        before = process.num_fds()
    for _ in range(30):
        with greeted(served):
            pass
    eventually(lambda: process.num_fds() <= before + 2)


# --- streams ---------------------------------------------------------------------------------------------------------


def test_cut_connection_resumes_where_it_was(served: HubProcess) -> None:
    with greeted(served) as first:
        turn = first.ask(SLOW)
        first.hear_words(turn, count=3)
        had = first.events
        first.cut()
    last = had[-1]["n"]
    with greeted(served) as second:
        assert second.say("resume", turn=turn, after=last)["turn"] == turn
        second.end_of(turn)
        assert text_of(had, turn) + text_of(second.events, turn) == SLOW
        assert second.events[0]["first"] == last + 1


def test_slow_reader_holds_nobody_up_and_loses_nothing(served: HubProcess) -> None:
    """What it has not read is kept nowhere for it: when it reads, it gets the rest in larger pieces."""
    text = f"[[chunks=400 delay=0.005]] {'word ' * 400_000}"
    with greeted(served, most_unread=2) as slow, greeted(served) as quick:
        session, _ = slow.answer_to("before")
        quick.say("session", session=session)
        turn = slow.ask(text, session=session)
        quick.end_of(turn)
        assert text_of(quick.events, turn) == text
        slow.end_of(turn)
        assert text_of(slow.events, turn) == text


def test_clients_that_read_nothing_do_not_grow_the_hub(served: HubProcess) -> None:
    """Forty leave six million characters unread, each: what the system does not take is kept for none of them."""
    process = psutil.Process(served.pid)
    text = "unread " * 900_000
    with contextlib.ExitStack() as stack, greeted(served) as talk:
        session, _ = talk.answer_to("before")
        idle = [stack.enter_context(greeted(served, most_unread=1)) for _ in range(40)]
        for it in idle:
            it.say("session", session=session)
        before = process.memory_info().rss
        talk.end_of(talk.ask(text, session=session))
        # The answer itself is there several times over: in the turn, for its watchers, for Redis and the archive.
        assert process.memory_info().rss - before < 200 * MB
        for it in idle:
            it.cut()


def test_page_is_served_with_a_strict_policy(served: HubProcess) -> None:
    page = httpx.get(served.url + "/")
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert " style=" not in page.text
    for name in (
        "app.js",
        "page.css",
        "icon.svg",
        "vendor/marked.esm.js",
        "vendor/purify.es.mjs",
        "vendor/purify.LICENSE",
    ):
        assert httpx.get(f"{served.url}/static/stream/{name}").status_code == 200
