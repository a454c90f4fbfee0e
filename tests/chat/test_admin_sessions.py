"""Sessions in admin: found, read, exported and erased, from the archive or, where that is off, from Redis."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connections
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client
from django.utils import timezone
from model_bakery import baker
from pytest_django import Settings
from redis import Redis

from chat.admin import live, paging
from chat.conversation import StoredMessage, dump_head, dump_message, new_conversation, now_ms
from chat.models import ApiKey, Message, Session, TurnRecord
from chat.sessions import Keys
from tests.chat.administrators import HOSTILE, everything_stored, guest, queries_of, root, said, text_of, words_of
from tests.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.django_db

LIST, LIVE = "/admin/chat/session/", "/admin/chat/session/live/"
SECRET_TEXT = "the merger is on Friday"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def redis(server: RedisServer, settings: Settings) -> Iterator[Redis]:
    """The hub's Redis, empty."""
    settings.HUB_REDIS_LOCATION = server.url
    with Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def no_redis(settings: Settings) -> None:
    settings.HUB_REDIS_LOCATION = "unix:///nowhere/redis.sock"


def archived(session_id: str = "talk", *, owner: str = "alice", age_s: float = 0, **values: Any) -> Session:
    then = timezone.now() - timedelta(seconds=age_s)
    times = {"created_at": then, "updated_at": then, "expires_at": then + timedelta(hours=1)}
    row: Session = baker.make(Session, session_id=session_id, owner=owner, revision=1, **{**times, **values})
    return row


def add(row: Session, role: str, text: str, place: int, **values: Any) -> Message:
    said_by = {"provider": "claude", "model": "sonnet"} if role == "assistant" else {}
    content = json.dumps([text])
    base = {
        "turn_id": f"{row.session_id}-{place // 2}",
        "index": place % 2,
        "position": place,
        "revision": place // 2 + 1,
    }
    message: Message = baker.make(Message, session=row, role=role, content=content, **{**base, **said_by, **values})
    return message


def conversation(row: Session, turns: int) -> None:
    for turn in range(turns):
        add(row, "user", f"question {turn}", 2 * turn)
        add(row, "assistant", f"answer {turn}", 2 * turn + 1)


def page_of(row: Session) -> str:
    return f"{LIST}{row.pk}/change/"


def found(client: Client, **asked: str) -> list[str]:
    """The session ids a list shows."""
    return [row.session_id for row in client.get(f"{LIST}?{urlencode(asked)}").context["cl"].result_list]


def erase(client: Client, *rows: Session, confirmed: bool = True) -> Any:
    data = {"action": "erase", "_selected_action": [row.pk for row in rows]}
    return client.post(LIST, {**data, "confirmed": "yes"} if confirmed else data)


def put_live(
    redis: Redis, session_id: str, *texts: str, owner: str = "alice", age_s: float = 0, uid: str = "", **values: Any
) -> str:
    """A session in Redis, as the hub writes it; its uid."""
    head = new_conversation(owner, session_id, ttl_s=3_600).head
    used_ms = now_ms() - int(age_s * 1_000)
    head = replace(
        head, updated_ms=used_ms, uid=uid or head.uid, revision=1, provider="claude", model="sonnet", **values
    )
    keys = Keys.of(owner, session_id)
    redis.set(keys.head, dump_head(head), px=3_600_000)
    for place, text in enumerate(texts):
        tokens = (11, 22) if place % 2 else None
        stored = StoredMessage("assistant" if place % 2 else "user", (text,), "turn", used_ms, tokens=tokens)
        redis.rpush(keys.messages, dump_message(stored))
    redis.zadd(keys.index, {session_id: used_ms})
    return head.uid


def live_url(name: str, session_id: str, owner: str = "alice") -> str:
    return f"{LIVE}{name}/?{urlencode({'owner': owner, 'session_id': session_id})}"


# --- finding ---------------------------------------------------------------------------------------------------------


def test_search_finds_by_how_id_or_title_begins_and_by_owner() -> None:
    archived("sess_1", title="Weather in Paris", owner="bob")
    archived("sess_2", title="The weather")
    archived("other", title="100% sure")
    client = root()
    asked = {"sess_": ["sess_2", "sess_1"], "weather": ["sess_1"], "bob": ["sess_1"], "%": [], "100%": ["other"]}
    assert {word: found(client, q=word) for word in asked} == asked


def test_filters_tell_sessions_apart() -> None:
    archived("alive", provider="claude")
    archived("over", provider="gemini", expires_at=timezone.now())
    archived("erased", owner="bob", deleted_at=timezone.now())
    baker.make(ApiKey, owner="bob")
    client = root()
    assert [found(client, state=it) for it in ("live", "expired", "deleted")] == [["alive"], ["over"], ["erased"]]
    assert found(client, provider="gemini") == ["over"]
    assert found(client, owner="bob") == ["erased"]
    yesterday = {"updated_at__lt": str(timezone.now() - timedelta(days=1))}
    assert found(client, **yesterday) == []


def test_list_takes_the_same_queries_for_any_number_of_sessions() -> None:
    client = root()
    archived()
    few = queries_of(client, LIST)
    for number in range(120):
        archived(f"sess_{number}")
    assert queries_of(client, LIST) == few <= 7
    assert queries_of(client, f"{LIST}?p=2") == few


def test_large_table_is_neither_counted_nor_paged_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_COUNTED", 3)
    for number in range(4):
        archived(f"sess_{number}")
    client = root()
    assert "more than 3 sessions" in words_of(client.get(LIST))
    assert "more than 3 found" in words_of(client.get(f"{LIST}?q=sess"))
    assert "1 session " in words_of(client.get(f"{LIST}?q=sess_1"))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_transcript_reads_like_the_conversation() -> None:
    row = archived(title="Weather", system=json.dumps("Be brief."), provider="claude", model="sonnet")
    add(row, "user", "first\n  indented", 0)
    add(row, "assistant", "fine", 1)
    add(row, "user", "and then", 2, replaced_at=timezone.now())
    add(row, "user", "or rather", 2, revision=3, turn_id="talk-3", index=0)
    add(row, "assistant", "half an ans", 3, revision=3, turn_id="talk-3", is_partial=True)
    baker.make(TurnRecord, id=f"{row.session_id}-0", input_tokens=123, output_tokens=45)
    page = root().get(page_of(row))
    words = words_of(page)
    places = [words.index(it) for it in ("Be brief.", "indented", "fine", "and then", "or rather", "half an ans")]
    assert places == sorted(places)
    assert ">first\n  indented</div>" in text_of(page)
    for shown in ("System prompt (9 characters)", "claude, sonnet 123 tokens in, 45 out", "replaced", "partial"):
        assert shown in words
    assert (words.count("tokens in"), words.count("replaced"), words.count("partial:")) == (1, 1, 1)


def test_transcript_has_a_hundred_messages_a_page() -> None:
    row = archived()
    conversation(row, 125)
    client = root()
    pages = [words_of(client.get(f"{page_of(row)}?page={number}")) for number in (1, 2, 3)]
    assert [page.count("question ") for page in pages] == [50, 50, 25]
    assert "Page 3 of 3" in pages[2]
    assert "answer 124" in pages[2]
    assert "Page 1 of 3" in words_of(client.get(f"{page_of(row)}?page=x"))


def test_transcript_takes_the_same_queries_for_any_length() -> None:
    client, short, long = root(), archived(), archived("long")
    conversation(short, 1)
    conversation(long, 70)
    assert queries_of(client, page_of(short)) == queries_of(client, page_of(long)) <= 6


def test_long_text_is_folded_and_a_huge_one_cut() -> None:
    row = archived()
    add(row, "user", "x" * 3_000, 0)
    add(row, "assistant", "y" * 60_000, 1)
    page = text_of(root().get(page_of(row)))
    assert page.count("<details>") == 2
    assert "3000 characters" in page
    assert "10000 more characters are in the" in page
    assert page.count("y") < 51_000


def test_hostile_texts_are_shown_as_text() -> None:
    row = archived(title=HOSTILE, owner=HOSTILE, system=json.dumps(HOSTILE), provider=HOSTILE, model=HOSTILE)
    add(row, "assistant", HOSTILE, 0, provider=HOSTILE)
    add(row, "user", HOSTILE * 100, 1)
    client = root()
    for page in (client.get(LIST), client.get(page_of(row)), erase(client, row, confirmed=False)):
        assert "<script>alert" not in text_of(page)
        assert HOSTILE in words_of(page)


def test_session_that_is_gone_leads_back_to_the_list() -> None:
    client = root()
    for url in (f"{LIST}gone/change/", f"{LIST}gone/export/", f"{LIST}gone/delete/"):
        assert client.get(url)["Location"] == LIST


# --- exporting -------------------------------------------------------------------------------------------------------


def test_export_is_the_whole_conversation_as_a_json_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.admin.transcript.EXPORTED_AT_ONCE", 3)
    row = archived("my:talk", title=HOSTILE, system=json.dumps("Be brief."))
    conversation(row, 5)
    add(row, "user", "\0 and <b>", 10, replaced_at=timezone.now())
    baker.make(TurnRecord, id=f"{row.session_id}-0", input_tokens=123, output_tokens=45)
    response = root().get(f"{LIST}{row.pk}/export/")
    assert response["Content-Disposition"] == 'attachment; filename="session-my-talk.json"'
    assert response["Content-Type"] == "application/json"
    assert "no-store" in response["Cache-Control"]
    body = json.loads(text_of(response))
    assert (body["session_id"], body["title"], body["system"]) == ("my:talk", HOSTILE, "Be brief.")
    assert [it["text"] for it in body["messages"]][-2:] == ["answer 4", "\0 and <b>"]
    assert len(body["messages"]) == 11
    assert body["messages"][1]["tokens"] == [123, 45]
    assert body["messages"][10]["replaced_at"]


def test_export_of_an_empty_session_is_json_as_well() -> None:
    assert json.loads(text_of(root().get(f"{LIST}{archived().pk}/export/")))["messages"] == []


@pytest.mark.django_db(transaction=True)
async def test_export_is_sent_while_it_is_read(async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ASGI, Django would read all of a synchronous iterator first."""
    monkeypatch.setattr("chat.admin.transcript.EXPORTED_AT_ONCE", 3)
    row = await sync_to_async(archived)()
    await sync_to_async(conversation)(row, 5)
    user = await sync_to_async(User.objects.create_superuser)("root", password=None)
    await async_client.aforce_login(user)
    response: Any = await async_client.get(f"{LIST}{row.pk}/export/")
    assert isinstance(response, StreamingHttpResponse)
    assert response.is_async
    pieces = [piece async for piece in response]
    assert len(pieces) == 6
    assert len(json.loads(b"".join(pieces))["messages"]) == 10
    await sync_to_async(connections.close_all)()


# --- erasing ---------------------------------------------------------------------------------------------------------


def test_erasing_is_asked_for_twice_and_leaves_no_text_anywhere(redis: Redis) -> None:
    row = archived(title=SECRET_TEXT, system=json.dumps(SECRET_TEXT))
    add(row, "user", SECRET_TEXT, 0)
    turn = baker.make(TurnRecord, session_uid=row.pk)
    put_live(redis, "talk", SECRET_TEXT, uid=row.pk, title=SECRET_TEXT)
    client = root()
    erase(client, row, confirmed=False)
    assert Message.objects.count() == 1
    erase(client, row)
    assert SECRET_TEXT not in everything_stored()
    keys = Keys.of("alice", "talk")
    assert redis.keys() == [keys.deleted.encode()]
    assert redis.smembers(keys.deleted) == {row.pk.encode()}
    row.refresh_from_db()
    assert row.deleted_at is not None
    assert TurnRecord.objects.get() == turn
    assert "The text was erased" in words_of(client.get(page_of(row)))


def test_erasing_is_written_down_without_the_title(redis: Redis) -> None:
    row = archived("talk", title=SECRET_TEXT)
    erase(root(), row)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.object_repr, entry.is_deletion()) == (row.pk, "talk", True)


def test_session_only_the_archive_knows_leaves_a_mark_against_a_running_turn(redis: Redis) -> None:
    row = archived()
    erase(root(), row)
    assert redis.smembers(Keys.of("alice", "talk").deleted) == {row.pk.encode()}


def test_all_conversations_of_an_id_are_erased_and_no_others(redis: Redis) -> None:
    earlier, later = archived(age_s=9), archived()
    others = [archived(owner="bob"), archived("other")]
    put_live(redis, "talk", owner="bob")
    response = erase(root(), earlier)
    assert "1 conversation was erased" in said(response)
    assert set(Session.objects.filter(deleted_at=None)) == set(others)
    assert set(Session.objects.exclude(deleted_at=None)) == {earlier, later}
    assert redis.exists(Keys.of("bob", "talk").head)


def test_nothing_is_erased_while_redis_is_away(no_redis: None) -> None:
    """The text would stay there, and a running turn could bring the conversation back."""
    row = archived()
    add(row, "user", SECRET_TEXT, 0)
    response = erase(root(), row)
    assert "Redis can't be asked" in said(response)
    assert Message.objects.exists()
    row.refresh_from_db()
    assert row.deleted_at is None


def test_too_many_at_a_time_are_refused(monkeypatch: pytest.MonkeyPatch, redis: Redis) -> None:
    monkeypatch.setattr("chat.admin.base.MOST_AT_ONCE", 2)
    rows = [archived(f"sess_{number}") for number in range(3)]
    assert "at most 2" in said(erase(root(), *rows))
    assert Session.objects.filter(deleted_at=None).count() == 3


def test_delete_page_asks_the_same_question(redis: Redis) -> None:
    row, client = archived(), root()
    page = text_of(client.post(f"{LIST}{row.pk}/delete/", {"post": "yes", "confirmed": "yes"}))
    assert 'name="action" value="erase"' in page
    assert Session.objects.filter(deleted_at=None).exists()


# --- who may ---------------------------------------------------------------------------------------------------------


def test_viewer_reads_and_can_do_nothing(redis: Redis) -> None:
    row, client = archived(), guest("view_session")
    add(row, "user", "hello there", 0)
    put_live(redis, "talk", "hello there")
    for url in (page_of(row), live_url("show", "talk")):
        page = text_of(client.get(url))
        assert "hello there" in page
        assert "chat-danger" not in page
    assert client.get(f"{LIST}{row.pk}/export/").status_code == 200
    erase(client, row)
    assert client.post(f"{LIST}{row.pk}/delete/", {"confirmed": "yes"}).status_code == 403
    assert client.post(live_url("erase", "talk"), {"confirmed": "yes"}).status_code == 403
    assert Session.objects.filter(deleted_at=None).exists()
    assert redis.exists(Keys.of("alice", "talk").head)


def test_who_has_no_permission_reads_nothing(redis: Redis) -> None:
    row, client = archived(), guest("view_price")
    put_live(redis, "talk", "hello there")
    urls = [LIST, page_of(row), f"{LIST}{row.pk}/export/", LIVE, live_url("show", "talk"), live_url("export", "talk")]
    assert [client.get(url).status_code for url in urls] == [403] * len(urls)


def test_nobody_adds_or_changes_history() -> None:
    row, client = archived(title="as it was"), root()
    assert client.post(f"{LIST}add/", {"title": "invented"}).status_code == 403
    client.post(page_of(row), {"title": "rewritten"})
    assert [it.title for it in Session.objects.all()] == ["as it was"]


# --- live sessions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def archive_off(settings: Settings) -> None:
    settings.HUB_SESSION_ARCHIVE = False
    for owner in ("alice", "bob"):
        baker.make(ApiKey, owner=owner)


def test_without_an_archive_the_list_says_so_and_shows_what_is_in_redis(archive_off: None, redis: Redis) -> None:
    put_live(redis, "older", age_s=60, title=HOSTILE)
    put_live(redis, "newer", title="Weather", owner="bob")
    put_live(redis, "expired")
    redis.delete(Keys.of("alice", "expired").head)
    page = root().get(LIST)
    words = words_of(page)
    assert "The archive is off" in words
    assert [about.session_id for about, _ in page.context["rows"]] == ["newer", "older"]
    assert "Weather newer bob claude sonnet" in words
    assert "<script>alert" not in text_of(page)


def test_live_sessions_are_found_by_beginning_and_owner(archive_off: None, redis: Redis) -> None:
    put_live(redis, "sess_1", title="Weather")
    put_live(redis, "sess_2", owner="bob")
    client = root()
    asked = {"q=sess_1": ["sess_1"], "q=weath": ["sess_1"], "owner=bob": ["sess_2"], "owner=carol": []}
    pages = {query: client.get(f"{LIVE}?{query}").context["rows"] for query in asked}
    assert {query: [about.session_id for about, _ in rows] for query, rows in pages.items()} == asked


def test_many_live_sessions_are_listed_up_to_a_bound(
    archive_off: None, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_LISTED", 130)
    for number in range(140):
        put_live(redis, f"sess_{number:03}", age_s=number)
    pages = [shown.context["page"] for shown in map(root().get, (LIVE, f"{LIVE}?page=2"))]
    assert [len(page) for page in pages] == [100, 30]


def test_live_transcript_and_export(archive_off: None, redis: Redis) -> None:
    put_live(redis, "talk", *(f"text {number}" for number in range(120)), system="Be brief.")
    client = root()
    page = words_of(client.get(f"{live_url('show', 'talk')}&page=2"))
    assert "text 119" in page
    assert "Page 2 of 2" in page
    assert page.count("11 tokens in, 22 out") == 10
    links = re.findall(r'href="([^"]+page=1)"', text_of(client.get(f"{live_url('show', 'talk')}&page=2")))
    assert "text 0 " in words_of(client.get(f"{LIVE}show/{html.unescape(links[0])}"))
    body = json.loads(text_of(client.get(live_url("export", "talk"))))
    assert [it["text"] for it in body["messages"]] == [f"text {number}" for number in range(120)]
    assert (body["session_id"], body["system"]) == ("talk", "Be brief.")


def test_live_session_is_erased_and_marked(archive_off: None, redis: Redis) -> None:
    uid, client = put_live(redis, "talk", SECRET_TEXT), root()
    client.get(live_url("erase", "talk"))
    client.post(live_url("erase", "talk"))
    assert redis.exists(Keys.of("alice", "talk").head)
    response = client.post(live_url("erase", "talk"), {"confirmed": "yes"})
    assert "1 conversation was erased" in said(response)
    keys = Keys.of("alice", "talk")
    assert {it: redis.smembers(it) for it in redis.scan_iter()} == {keys.deleted.encode(): {uid.encode()}}
    assert not Session.objects.exists()
    assert LogEntry.objects.get().object_repr == "talk"
    assert client.get(live_url("show", "talk"))["Location"] == LIST


def test_live_list_says_that_redis_is_away(archive_off: None, no_redis: None) -> None:
    client = root()
    assert "Redis can't be asked" in words_of(client.get(LIST))
    assert "Redis can't be asked" in said(client.get(live_url("show", "talk")))


def test_archive_that_was_switched_off_is_still_shown(archive_off: None) -> None:
    archived("from-before")
    words = words_of(root().get(LIST))
    assert "The archive is off" in words
    assert "from-before" in words
