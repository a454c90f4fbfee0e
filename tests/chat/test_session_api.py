"""GET and DELETE of /v1/sessions: what they show, page by page, and that what is deleted is gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from redis import Redis

from chat.conversation import dump_head, load_head
from chat.ids import new_id
from chat.sessions import Keys, index_key
from hubsite.private_redis import PrivateRedis
from tests.asking import CHAT, SESSION, WAIT_S, answer_of, ask, begun_stream, client_of, error_of, make_keys
from tests.hub import HubProcess, running_hub

TTL_S = 7_200


@pytest.fixture(scope="module", params=["archive", "redis"])
def lister(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub whose lists come from the archive, and one that has none."""
    if request.param == "archive":
        yield request.getfixturevalue("hub")
        return
    env = {"HUB_PROVIDERS": "echo", "HUB_SESSION_ARCHIVE": "0", "HUB_SHUTDOWN_GRACE_S": "1"}
    with running_hub(tmp_path_factory.mktemp("no_archive"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def keys(lister: HubProcess) -> dict[str, str]:
    return make_keys(
        lister,
        alice={"owner": "api-alice", "session_ttl_s": TTL_S},
        reader={"owner": "api-reader", "scopes": ["chat"]},
        empty={"owner": "api-empty"},
        many={"owner": "api-many"},
    )


@pytest.fixture
def alice(lister: HubProcess, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client_of(lister, keys["alice"]) as client:
        yield client


NO_TOOLS = {"tool_calls": None, "tool_call_id": None, "files": None}


def turn(client: httpx.Client, session_id: str, text: str, **fields: Any) -> None:
    assert answer_of(client.post(CHAT, json=ask(text, **fields), headers={SESSION: session_id})) == text


def moment(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def test_session_is_shown_with_all_that_is_known_of_it(alice: httpx.Client) -> None:
    session_id, began_at = f"it-{new_id()}", datetime.now(UTC) - timedelta(milliseconds=1)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\n there"}]
    alice.post(CHAT, json=ask("", messages=messages), headers={SESSION: session_id})
    turn(alice, session_id, "And now?")
    body = alice.get(f"/v1/sessions/{session_id}").json()
    times = {name: moment(body.pop(name)) for name in ("created_at", "updated_at", "expires_at")}
    assert began_at <= times["created_at"] < times["updated_at"] <= datetime.now(UTC)
    assert times["expires_at"] - times["updated_at"] == timedelta(seconds=TTL_S)
    system, *said = body.pop("messages")
    assert body == {"session_id": session_id, "title": "Hello there", "provider": "echo", "model": "echo"}
    assert system == {
        "role": "system",
        "content": "Be brief.",
        "created_at": None,
        "provider": None,
        "model": None,
        "usage": None,
        "finish_reason": None,
        "status": "complete",
        **NO_TOOLS,
    }
    assert all(began_at <= moment(it.pop("created_at")) <= times["updated_at"] for it in said)
    ended = {"status": "complete", **NO_TOOLS}
    question = {"role": "user", "provider": None, "model": None, "usage": None, "finish_reason": None, **ended}
    answer = {"role": "assistant", "provider": "echo", "model": "echo", "finish_reason": "stop", **ended}
    assert said == [
        {**question, "content": "Hello\n there"},
        {**answer, "content": "Hello\n there", "usage": {"prompt_tokens": 12, "completion_tokens": 8}},
        {**question, "content": "And now?"},
        {**answer, "content": "And now?", "usage": {"prompt_tokens": 8, "completion_tokens": 8}},
    ]


def test_long_first_question_makes_a_short_title(alice: httpx.Client) -> None:
    session_id = f"it-{new_id()}"
    turn(alice, session_id, "word " * 1_000)
    title = alice.get(f"/v1/sessions/{session_id}").json()["title"]
    assert len(title) == 80
    assert title.endswith("…")


def test_deleted_session_is_gone_and_its_id_begins_anew(alice: httpx.Client) -> None:
    session_id = f"it-{new_id()}"
    turn(alice, session_id, "forget this")
    response = alice.delete(f"/v1/sessions/{session_id}")
    assert response.status_code == 200
    assert response.json() == {"success": True, "message": "Session deleted"}
    for gone in (alice.get(f"/v1/sessions/{session_id}"), alice.delete(f"/v1/sessions/{session_id}")):
        assert (gone.status_code, error_of(gone)["code"]) == (404, "session_not_found")
    assert session_id not in alice.get("/v1/sessions").text
    turn(alice, session_id, "something else")
    assert [it["content"] for it in alice.get(f"/v1/sessions/{session_id}").json()["messages"]] == [
        "something else"
    ] * 2


def test_deleted_text_is_nowhere_in_the_database(lister: HubProcess, alice: httpx.Client) -> None:
    session_id, secret = f"it-{new_id()}", f"secret-{new_id()}"
    turn(alice, session_id, secret)
    alice.delete(f"/v1/sessions/{session_id}")
    with closing(sqlite3.connect(lister.data_dir / "hub.sqlite3", timeout=WAIT_S)) as database:
        assert not any(secret in line for line in database.iterdump())


@pytest.mark.parametrize("session_id", ["unknown", "sess_0123"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_session_is_a_404(alice: httpx.Client, method: str, session_id: str) -> None:
    response = alice.request(method, f"/v1/sessions/{session_id}")
    assert (response.status_code, error_of(response)["code"]) == (404, "session_not_found")


@pytest.mark.parametrize("session_id", ["-a", "a%20b", "%C3%BC", "x" * 129, "a%0A", "*"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_id_that_no_session_can_have_is_refused(alice: httpx.Client, method: str, session_id: str) -> None:
    response = alice.request(method, f"/v1/sessions/{session_id}")
    assert response.status_code == 400
    assert error_of(response)["param"] == "session_id"


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/any"), ("DELETE", "/any")])
def test_sessions_need_their_scope(lister: HubProcess, keys: dict[str, str], method: str, path: str) -> None:
    with client_of(lister, keys["reader"]) as client:
        response = client.request(method, f"/v1/sessions{path}")
        assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_scope")
        assert client.post(CHAT, json=ask("hello")).status_code == 200


def test_session_is_shown_as_it_was_while_a_turn_runs(alice: httpx.Client) -> None:
    session_id = f"it-{new_id()}"
    turn(alice, session_id, "one")
    before = alice.get(f"/v1/sessions/{session_id}").json()
    with begun_stream(alice, ask("[[chunks=9 delay=0.3]] two"), X_Session_ID=session_id):
        assert alice.get(f"/v1/sessions/{session_id}").json() == before


# --- the list --------------------------------------------------------------------------------------------------------


def pages(client: httpx.Client, **params: Any) -> Iterator[dict[str, Any]]:
    """Page after page, as a client follows them."""
    after = ""
    while after is not None:
        page = client.get("/v1/sessions", params={**params, "after": after}).raise_for_status().json()
        assert page["object"] == "list"
        assert page["has_more"] is (page["next"] is not None)
        after = page["next"]
        yield page


def test_list_of_nothing_is_empty(lister: HubProcess, keys: dict[str, str]) -> None:
    with client_of(lister, keys["empty"]) as client:
        nothing = {"object": "list", "data": [], "has_more": False, "next": None}
        assert client.get("/v1/sessions").json() == nothing


def test_list_pages_through_all_sessions_the_last_used_first(lister: HubProcess, keys: dict[str, str]) -> None:
    with client_of(lister, keys["many"]) as client:
        ids = [f"s{number}" for number in range(25)]
        for session_id in ids:
            turn(client, session_id, "hello")
        turn(client, "s3", "again")
        expected = ["s3", *(it for it in reversed(ids) if it != "s3")]
        found = list(pages(client))
        assert [len(page["data"]) for page in found] == [20, 5]
        listed = [it for page in found for it in page["data"]]
        assert [it["session_id"] for it in listed] == expected
        shown = client.get("/v1/sessions/s3").json()
        assert listed[0] == {name: value for name, value in shown.items() if name != "messages"}
        for limit in (1, 24, 25, 26, 100):
            ids_of = [it["session_id"] for page in pages(client, limit=limit) for it in page["data"]]
            assert ids_of == expected


def test_sessions_of_one_millisecond_are_each_listed_once(lister: HubProcess, keys: dict[str, str]) -> None:
    """Their times are set in the store: no client is that fast."""
    with client_of(lister, keys["many"]) as client:
        for session_id in (f"s{number}" for number in range(12)):
            turn(client, session_id, "hello")
        make_simultaneous(lister, "api-many")
        found = [it["session_id"] for page in pages(client, limit=5) for it in page["data"]]
        assert len(found) >= 12
        assert len(set(found)) == len(found)
        assert {f"s{number}" for number in range(12)} <= set(found)


def make_simultaneous(hub: HubProcess, owner: str) -> None:
    """In the archive, and in Redis with its index."""
    now = datetime.now(UTC).replace(microsecond=0)
    with closing(sqlite3.connect(hub.data_dir / "hub.sqlite3", timeout=WAIT_S)) as database, database:
        moment = now.strftime("%Y-%m-%d %H:%M:%S")
        database.execute("UPDATE chat_session SET updated_at = ? WHERE owner = ?", (moment, owner))
    with closing(Redis.from_url(PrivateRedis(hub.data_dir / "redis").url)) as redis:
        ids: list[bytes] = redis.zrange(index_key(owner), 0, -1)  # type: ignore[assignment]
        for raw in ids:
            keys = Keys.of(owner, raw.decode())
            head = load_head(redis.get(keys.head) or b"")
            head = replace(head, updated_ms=int(now.timestamp() * 1_000))
            redis.set(keys.head, dump_head(head), keepttl=True)
            redis.zadd(keys.index, {head.session_id: head.updated_ms})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "x"),
        ("after", "x"),
        ("after", "-1"),
        ("after", ",a"),
        ("after", "9" * 15),
        ("after", "9" * 30),
        ("after", "253402300800000"),
    ],
)
def test_page_that_can_not_be_is_refused(alice: httpx.Client, name: str, value: str) -> None:
    response = alice.get("/v1/sessions", params={name: value})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == name


@pytest.mark.parametrize("after", ["0", "1,", "1,a,b", "253402300799999"])
def test_cursor_of_any_time_is_taken(alice: httpx.Client, after: str) -> None:
    assert alice.get("/v1/sessions", params={"after": after}).status_code == 200


def test_session_deleted_during_its_first_turn_does_not_come_back(alice: httpx.Client) -> None:
    session_id = f"first-{new_id()}"
    body = ask("[[chunks=20 delay=0.1]] private", stream=True)
    with begun_stream(alice, body, **{SESSION: session_id}) as lines:
        assert alice.delete(f"/v1/sessions/{session_id}").status_code == 200
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert error_of(alice.get(f"/v1/sessions/{session_id}"))["code"] == "session_not_found"
    turn(alice, session_id, "anew")
    assert [it["content"] for it in alice.get(f"/v1/sessions/{session_id}").json()["messages"]] == ["anew"] * 2


def test_answer_of_a_deleted_session_is_not_given_out_again(alice: httpx.Client) -> None:
    """An Idempotency-Key's kept answer is text of its session, too."""
    session_id, marks = f"kept-{new_id()}", {"Idempotency-Key": new_id()}
    headers = {SESSION: session_id, **marks}
    assert answer_of(alice.post(CHAT, json=ask("once"), headers=headers)) == "once"
    alice.delete(f"/v1/sessions/{session_id}")
    assert answer_of(alice.post(CHAT, json=ask("once"), headers=headers)) == "once"
    assert len(alice.get(f"/v1/sessions/{session_id}").json()["messages"]) == 2, "it was not answered anew"
