"""The archive on both real databases: what it keeps, and what it does when database, hub or order fail it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from io import StringIO
from pathlib import Path
from random import Random
from typing import TypeVar

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from chat import archive as archive_module
from chat.archive import Archive
from chat.archive_writer import find_conversation, write_outcomes
from chat.conversation import (
    Conversation,
    Figures,
    Head,
    Outcome,
    StoredMessage,
    dump_outcome,
    load_outcome,
    new_conversation,
    now_ms,
)
from chat.errors import DatabaseUnavailable
from chat.hot import HotState
from chat.ids import new_id
from chat.models import ApiKey, Message, Session, TurnRecord
from chat.sessions import UNARCHIVED, Sessions, after_turn
from hubsite.database_settings import read_database
from hubsite.env import Env
from providers.events import Role
from tests.postgres import PostgresServer, running_postgres
from tests.redis_server import RedisServer, running_redis

T = TypeVar("T")
ALICE, BOB = "alice", "bob"
KEY_ID = 1
WAIT_S = 10.0
TABLES = "chat_message, chat_session, chat_turnrecord, chat_apikey"


class Database:
    """A database as the hub has it, with the faults it may have."""

    def __init__(self, *, sqlite: Path | None = None, postgres: PostgresServer | None = None) -> None:
        self.sqlite = sqlite
        self.postgres = postgres

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Another program holds what a writer needs."""
        if self.sqlite:
            with contextlib.closing(sqlite3.connect(self.sqlite, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                yield
                other.execute("ROLLBACK")
        elif self.postgres:
            with psycopg.connect(self.postgres.url) as blocker:
                blocker.execute("LOCK TABLE chat_turnrecord IN SHARE ROW EXCLUSIVE MODE")
                yield
                blocker.rollback()

    def bytes_hold(self, text: str) -> bool:
        """Whether a text is anywhere in the database's files, its journals too."""
        if self.postgres:
            self.postgres.execute("CHECKPOINT")
            return any(text.encode() in it.read_bytes() for it in self.postgres.data.rglob("*") if it.is_file())
        assert self.sqlite
        return any(text.encode() in it.read_bytes() for it in self.sqlite.parent.glob(f"{self.sqlite.name}*"))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that writes no file: turns are waited for."""
    with running_redis(tmp_path_factory.mktemp("redis"), extra=("--appendonly", "no")) as server:
        yield server


@pytest.fixture(scope="module")
def durable_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("durable")) as server:
        yield server


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker) -> Iterator[PostgresServer]:
    folder = tmp_path_factory.mktemp("postgres")
    with running_postgres(folder) as server:
        with using_database(django_db_blocker, folder, url=server.url):
            call_command("migrate", verbosity=0)
        yield server


@pytest.fixture(scope="module")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker) -> Path:
    folder = tmp_path_factory.mktemp("sqlite")
    with using_database(django_db_blocker, folder):
        call_command("migrate", verbosity=0)
    return folder / "hub.sqlite3"


@contextlib.contextmanager
def using_database(blocker: DjangoDbBlocker, folder: Path, *, url: str = "") -> Iterator[None]:
    """Have Django use the database the hub would with this data folder and DATABASE_URL."""
    configs = connections.configure_settings({"default": read_database(Env({"DATABASE_URL": url}), folder)})
    before, connection_before = connections.settings["default"], connections["default"]
    connections.settings["default"] = configs["default"]
    del connections["default"]
    try:
        with blocker.unblock():
            yield
    finally:
        connections["default"].close()
        connections.settings["default"] = before
        connections["default"] = connection_before


def make_key() -> None:
    ApiKey.objects.create(pk=KEY_ID, name="n8n", owner=ALICE, prefix="hub_1", digest="1")


@pytest.fixture
def sqlite_database(empty_sqlite: Path, tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Database]:
    shutil.copy(empty_sqlite, tmp_path / "hub.sqlite3")
    with using_database(django_db_blocker, tmp_path):
        make_key()
        yield Database(sqlite=tmp_path / "hub.sqlite3")


@pytest.fixture
def postgres_database(
    postgres: PostgresServer, tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> Iterator[Database]:
    postgres.execute(f"TRUNCATE {TABLES} CASCADE")
    with using_database(django_db_blocker, tmp_path, url=postgres.url):
        make_key()
        yield Database(postgres=postgres)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


@contextlib.asynccontextmanager
async def running_hot(server: RedisServer) -> AsyncIterator[HotState]:
    hot = HotState(server.url, timeout_s=2)
    await hot.start()
    await hot.redis.flushall()
    yield hot
    await hot.stop()


@pytest.fixture
async def hot(redis_server: RedisServer) -> AsyncIterator[HotState]:
    async with running_hot(redis_server) as hot:
        yield hot


@pytest.fixture
async def durable_hot(durable_redis: RedisServer) -> AsyncIterator[HotState]:
    async with running_hot(durable_redis) as hot:
        yield hot


@contextlib.asynccontextmanager
async def running_archive(hot: HotState, *, keeps_conversations: bool = True) -> AsyncIterator[Archive]:
    archive = Archive(hot, keeps_conversations=keeps_conversations)
    await archive.start()
    try:
        yield archive
    finally:
        await archive.stop()


@pytest.fixture
async def archive(database: Database, hot: HotState) -> AsyncIterator[Archive]:
    async with running_archive(hot) as archive:
        yield archive


# --- turns to write --------------------------------------------------------------------------------------------------


def begun(session_id: str = "s1", *, owner: str = ALICE, ttl_s: int = 3_600) -> Head:
    return new_conversation(owner, session_id, ttl_s=ttl_s).head


def said(role: Role, text: str, turn_id: str, *, is_partial: bool = False) -> StoredMessage:
    is_answer = role == "assistant"
    names = ("echo", "echo-1") if is_answer else ("", "")
    return StoredMessage(
        *(role, (text,), turn_id, now_ms(), *names),
        is_partial=is_partial,
        tokens=(7, 5) if is_answer else None,
        reason="length" if is_answer else "stop",
    )


def figures_of(owner: str = ALICE, *, key_id: int = KEY_ID, turn_id: str = "") -> Figures:
    return Figures(
        turn_id=turn_id or new_id(),
        key_id=key_id,
        owner=owner,
        outcome="ok",
        started_ms=now_ms(),
        total_ms=12,
        input_tokens=7,
        output_tokens=5,
        cost_usd=0.25,
    )


def turn(head: Head, text: str, *, keep: int, is_partial: bool = False, turn_id: str = "") -> Outcome:
    """A question and its answer; `head` is the session's before."""
    figures = replace(figures_of(head.owner, turn_id=turn_id), session_uid=head.uid)
    messages = (
        said("user", f"{text}?", figures.turn_id, is_partial=is_partial),
        said("assistant", f"{text}!", figures.turn_id, is_partial=is_partial),
    )
    return Outcome(figures, after_turn(head, updated_ms=now_ms(), title=head.title or text), keep, messages)


def turns(head: Head, *keeps: int) -> list[Outcome]:
    """Turns of one session, one after the other."""
    outcomes: list[Outcome] = []
    for number, keep in enumerate(keeps):
        outcomes.append(turn(head_after(outcomes, head), f"{number}", keep=keep))
    return outcomes


def head_after(outcomes: Sequence[Outcome], head: Head) -> Head:
    return (outcomes[-1].head or head) if outcomes else head


def result_of(outcomes: Sequence[Outcome]) -> Conversation:
    """What has to be in the archive after these turns."""
    messages: tuple[StoredMessage, ...] = ()
    for outcome in outcomes:
        messages = (*messages[: outcome.keep], *outcome.messages)
    head = outcomes[-1].head
    assert head is not None
    return Conversation(head, messages)


def texts(conversation: Conversation | None) -> list[str]:
    return [it.as_message().text for it in conversation.messages] if conversation else []


def aged(outcome: Outcome) -> Outcome:
    """The same turn with an id of an hour ago."""
    old = f"{now_ms() - 3_600_000:012x}" + outcome.figures.turn_id[12:]
    messages = tuple(replace(it, turn_id=old) for it in outcome.messages)
    return replace(outcome, figures=replace(outcome.figures, turn_id=old), messages=messages)


async def leave(hot: HotState, *outcomes: Outcome) -> None:
    """What a hub that was killed leaves in Redis."""
    for outcome in outcomes:
        await hot.redis.hset(UNARCHIVED, outcome.figures.turn_id, dump_outcome(outcome))


async def asking(question: Callable[[], T]) -> T:
    """The answer to a question to the database, on a thread and a connection of its own."""

    def work() -> T:
        try:
            return question()
        finally:
            connection.close()

    return await asyncio.to_thread(work)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the database shows it."""
    async with asyncio.timeout(WAIT_S):
        is_true = False
        while not is_true:
            await asyncio.sleep(0.01)
            is_true = await asking(condition)


async def until_redis_holds(hot: HotState, *turn_ids: str) -> None:
    """Wait until these turns, and no other, are left in Redis for the database."""
    async with asyncio.timeout(WAIT_S):
        left: set[str] | None = None
        while left != set(turn_ids):
            await asyncio.sleep(0.01)
            left = {it.decode() for it in await hot.redis.hkeys(UNARCHIVED) if isinstance(it, bytes)}


def is_recorded(*outcomes: Outcome) -> bool:
    ids = [it.figures.turn_id for it in outcomes]
    return TurnRecord.objects.filter(pk__in=ids).count() == len(ids)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of seconds are tenths of them here."""
    for name, seconds in {"SAVE_WAIT_S": 0.3, "ANSWER_WAIT_S": 0.3, "STOP_WAIT_S": 0.3, "RETRY_S": 0.05}.items():
        monkeypatch.setattr(archive_module, name, seconds)


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_conversation_comes_back_as_it_was(archive: Archive) -> None:
    """Head and messages to the letter: the next turn checks the revision, Redis takes the rest over."""
    head = replace(begun(), system="Be brief.\0", provider="echo", model="echo-1", chars=17)
    outcomes = turns(head, 0, 2, 4)
    for outcome in outcomes:
        await archive.save(outcome)
    assert await archive.find(ALICE, "s1") == result_of(outcomes)


ODD_TEXTS = [
    "",
    "\0",
    "a\0b",
    "\x01\x1f\x7f",
    "\u2028\u2029\ufeff",
    "\uffff\U0010ffff",
    "'\"\\%s{}",
    "e\u0301 🧵",
    "\r\n\t",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
async def test_any_text_comes_back_unchanged(archive: Archive, text: str) -> None:
    head = replace(begun(), system=text)
    outcome = turn(head, text, keep=0)
    await archive.save(outcome)
    found = await archive.find(ALICE, "s1")
    assert found is not None
    assert found.messages == outcome.messages
    assert found.head.system == text


async def test_names_with_odd_characters_or_of_any_length_cost_no_turn(archive: Archive) -> None:
    figures = replace(figures_of(), model="m\0" * 300, provider="p" * 99, route="\ud800", request_id="r" * 999)
    await archive.save(Outcome(replace(figures, input_tokens=2**70, output_tokens=-1, cost_usd=1e30)))
    record = await asking(lambda: TurnRecord.objects.get(pk=figures.turn_id))
    assert (record.model[:2], len(record.model), record.route) == ("m\ufffd", 200, "?")
    assert (record.input_tokens, record.output_tokens, record.cost_usd) == (2**31 - 1, 0, Decimal(999_999))


async def test_turn_of_a_key_that_was_deleted_counts_nevertheless(archive: Archive) -> None:
    known, unknown = figures_of(), figures_of(key_id=KEY_ID + 1)
    await asyncio.gather(archive.save(Outcome(known)), archive.save(Outcome(unknown)))
    keys = await asking(lambda: dict(TurnRecord.objects.values_list("pk", "key_id")))
    assert keys == {known.turn_id: KEY_ID, unknown.turn_id: None}


async def test_cancelled_answer_is_kept_and_marked(archive: Archive) -> None:
    head = begun()
    first = turn(head, "first", keep=0)
    stopped = turn(head_after([first], head), "stopped", keep=2, is_partial=True)
    for outcome in (first, stopped):
        await archive.save(outcome)
    found = await archive.find(ALICE, "s1")
    assert found is not None
    assert [it.is_partial for it in found.messages] == [False, False, True, True]
    assert found.places == [0, 1]


async def test_branch_keeps_what_it_replaces(archive: Archive) -> None:
    outcomes = turns(begun(), 0, 2, 2)
    for outcome in outcomes:
        await archive.save(outcome)
    assert texts(await archive.find(ALICE, "s1")) == ["0?", "0!", "2?", "2!"]
    replaced = await asking(lambda: list(Message.objects.exclude(replaced_at=None).values_list("content", flat=True)))
    assert replaced == ['["1?"]', '["1!"]']


async def test_session_of_another_owner_or_time_is_not_found(archive: Archive) -> None:
    await archive.save(turn(begun("over", ttl_s=0), "x", keep=0))
    await archive.save(turn(begun("s1"), "x", keep=0))
    assert await archive.find(ALICE, "over") is None
    assert await archive.find(BOB, "s1") is None
    assert await archive.find(ALICE, "s2") is None


async def test_newest_of_an_ids_sessions_is_found_and_listed(archive: Archive) -> None:
    old, new = begun(), begun()
    await archive.save(turn(old, "old", keep=0))
    await archive.save(turn(replace(new, updated_ms=0), "new", keep=0))
    await asking(lambda: Session.objects.filter(pk=old.uid).update(updated_at=timezone.now() - timedelta(minutes=1)))
    assert texts(await archive.find(ALICE, "s1")) == ["new?", "new!"]
    assert [it.uid for it in await archive.page(ALICE, before_ms=None, limit=9)] == [new.uid]


async def test_page_lists_live_sessions_newest_first(archive: Archive) -> None:
    start = now_ms()
    for number in range(5):
        outcome = turn(begun(f"s{number}", ttl_s=0 if number == 3 else 3_600), "x", keep=0)
        assert outcome.head is not None
        await archive.save(replace(outcome, head=replace(outcome.head, updated_ms=start + number - 5)))
    await archive.save(turn(begun("other", owner=BOB), "x", keep=0))
    await archive.delete(ALICE, "s1")

    async def page(before_ms: int | None, limit: int) -> list[str]:
        return [it.session_id for it in await archive.page(ALICE, before_ms=before_ms, limit=limit)]

    assert await page(None, 9) == ["s4", "s2", "s0"]
    assert await page(None, 2) == ["s4", "s2"]
    assert await page(start - 3, 9) == ["s2", "s0"]
    assert await page(start - 4, 9) == ["s0"]


# --- order and repetition --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keeps", [(0, 2, 4, 6), (0, 2, 2, 4), (0, 2, 4, 1), (0, 0, 0, 2), (0, 2, 0, 2)], ids=lambda it: f"keeps{it}"
)
async def test_turns_may_come_in_any_order(database: Database, keeps: tuple[int, ...]) -> None:
    """Several hubs write, and what one of them left behind may come last."""

    def write_in_any_order() -> None:
        for order in itertools.permutations(range(len(keeps))):
            outcomes = turns(begun(f"s{order}"), *keeps)
            for number in order:
                write_outcomes([outcomes[number]])
            assert find_conversation(ALICE, f"s{order}") == result_of(outcomes), order

    await asking(write_in_any_order)


async def test_turns_of_one_session_may_share_a_group_in_any_order(database: Database) -> None:
    def write_in_any_order() -> None:
        for order in itertools.permutations(range(4)):
            outcomes = turns(begun(f"s{order}"), 0, 2, 2, 3)
            write_outcomes([outcomes[number] for number in order])
            assert find_conversation(ALICE, f"s{order}") == result_of(outcomes), order

    await asking(write_in_any_order)


async def test_old_record_written_again_changes_nothing(database: Database) -> None:
    outcomes = turns(begun(), 0, 2, 1, 3)

    def write_again() -> list[object]:
        write_outcomes(outcomes)
        before = snapshot()
        for some in ([outcomes[0]], outcomes[1:3], outcomes, outcomes[::-1]):
            write_outcomes([load_outcome(dump_outcome(it)) for it in some])
        assert snapshot() == before
        return before

    assert len(await asking(write_again)) == 1 + 8 + 4


def snapshot() -> list[object]:
    return [*Session.objects.values(), *Message.objects.order_by("pk").values(), *TurnRecord.objects.values()]


async def test_of_two_turns_with_one_revision_the_first_holds(database: Database) -> None:
    """After a loss of Redis two hubs may each have gone on from the same turn."""
    first, second = turns(begun(), 0, 2)
    other = turn(head_after([first], begun()), "other", keep=0)

    def write() -> list[str]:
        write_outcomes([first, second])
        write_outcomes([other])
        return texts(find_conversation(ALICE, "s1"))

    assert await asking(write) == ["0?", "0!", "1?", "1!"]


async def test_gap_of_a_lost_turn_is_closed_for_good(database: Database) -> None:
    """The next turn counts places in what was found; a turn that turns up after all has lost its own."""
    outcomes = turns(begun(), 0, 2, 4)

    def write() -> list[str]:
        write_outcomes([outcomes[0], outcomes[2]])
        found = find_conversation(ALICE, "s1")
        assert found is not None
        assert texts(found) == ["0?", "0!", "2?", "2!"]
        write_outcomes([turn(found.head, "3", keep=4)])
        write_outcomes([outcomes[1]])
        return texts(find_conversation(ALICE, "s1"))

    assert await asking(write) == ["0?", "0!", "2?", "2!", "3?", "3!"]


async def test_hubs_that_write_the_same_turns_at_once_agree(database: Database) -> None:
    """Each in an order and in groups of its own; none may lock what another waits for and wait for the other."""
    conversations = [turns(begun(f"s{number}"), 0, 2, 2) for number in range(40)]
    outcomes = [it for conversation in conversations for it in conversation]

    def write(size: int) -> None:
        mine = Random(size).sample(outcomes, len(outcomes))
        for start in range(0, len(mine), size):
            assert write_outcomes(mine[start : start + size]) == set()

    async with asyncio.timeout(WAIT_S * 3):
        await asyncio.gather(*(asking(partial(write, size)) for size in (20, 25, 30, 40, 60)))
    for number, conversation in enumerate(conversations):
        assert await asking(partial(find_conversation, ALICE, f"s{number}")) == result_of(conversation)
    assert await asking(Message.objects.count) == len(outcomes) * 2


async def test_hubs_that_write_the_same_failed_turns_at_once_agree(database: Database) -> None:
    outcomes = [Outcome(figures_of()) for _ in range(400)]

    def write(seed: int) -> None:
        assert write_outcomes(Random(seed).sample(outcomes, len(outcomes))) == set()

    async with asyncio.timeout(WAIT_S * 3):
        await asyncio.gather(*(asking(partial(write, seed)) for seed in range(6)))
    assert await asking(lambda: is_recorded(*outcomes))


# --- groups ----------------------------------------------------------------------------------------------------------


async def test_turns_that_end_together_share_transactions(
    archive: Archive, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []

    def write(outcomes: Sequence[Outcome]) -> set[str]:
        groups.append(len(outcomes))
        return write_outcomes(outcomes)

    monkeypatch.setattr(archive_module, "write_outcomes", write)
    outcomes = [turn(begun(f"s{number}"), "x", keep=0) for number in range(100)]
    await asyncio.gather(*(archive.save(it) for it in outcomes))
    assert await asking(lambda: is_recorded(*outcomes))
    assert sum(groups) == 100
    assert len(groups) <= 3


async def test_hundred_turns_are_a_handful_of_statements(database: Database) -> None:
    def statements() -> list[str]:
        write_outcomes([turn(begun(f"a{number}"), "x", keep=0) for number in range(100)])
        with CaptureQueriesContext(connection) as queries:
            write_outcomes([turn(begun(f"s{number}"), "x", keep=0) for number in range(100)])
        return [it["sql"] for it in queries]

    found = await asking(statements)
    for table in TABLES.split(", ")[:3]:
        assert 1 <= len([it for it in found if f'"{table}"' in it]) <= 5, table


async def test_one_bad_turn_costs_the_others_of_its_group_nothing(archive: Archive) -> None:
    """Half a character can't be written as UTF-8; no other may wait for that."""
    good = [turn(begun(f"s{number}"), "x", keep=0) for number in range(10)]
    bad = turn(begun("bad"), "\ud800", keep=0)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(archive.save(it) for it in [*good[:5], bad, *good[5:]]))
    assert await asking(lambda: is_recorded(*good))
    assert not await asking(lambda: is_recorded(bad))


# --- a database that is locked or away -------------------------------------------------------------------------------


async def test_locked_database_holds_no_client_for_longer_than_the_bound(
    archive: Archive, database: Database, hot: HotState
) -> None:
    outcome = turn(begun(), "x", keep=0)
    await leave(hot, outcome)
    with database.locked():
        began = time.monotonic()
        await archive.save(outcome)
        assert archive_module.SAVE_WAIT_S <= time.monotonic() - began < archive_module.SAVE_WAIT_S + 1
        began = time.monotonic()
        await archive.save(turn(begun("s2"), "x", keep=0))
        assert time.monotonic() - began < 0.5, "the next client waited for a database that is known to be locked"
    await until(lambda: is_recorded(outcome))
    await until_redis_holds(hot)


@pytest.mark.usefixtures("impatient")
async def test_session_with_turns_that_wait_for_the_database_is_not_half_found(
    archive: Archive, database: Database
) -> None:
    first, second = turns(begun(), 0, 2)
    await archive.save(first)
    with database.locked():
        await archive.save(second)
        with pytest.raises(DatabaseUnavailable):
            await archive.find(ALICE, "s1")
    assert texts(await archive.find(ALICE, "s1")) == ["0?", "0!", "1?", "1!"]


@pytest.mark.usefixtures("impatient")
async def test_stopped_database_is_told_and_made_up_for(
    postgres_database: Database, postgres: PostgresServer, hot: HotState, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = turns(begun(), 0, 2, 4, 6)
    caplog.set_level(logging.INFO, "chat.archive")
    async with running_archive(hot) as archive:
        await archive.save(outcomes[0])
        postgres.stop()
        try:
            for outcome in outcomes[1:]:
                await leave(hot, outcome)
                await archive.save(outcome)
            for question in (
                archive.find(ALICE, "s2"),
                archive.page(ALICE, before_ms=None, limit=9),
                archive.delete(ALICE, "s2"),
            ):
                with pytest.raises(DatabaseUnavailable) as raised:
                    await question
                assert raised.value.retry_after_s
        finally:
            postgres.start()
        await until_redis_holds(hot)
        assert await archive.find(ALICE, "s1") == result_of(outcomes)
    assert [it.levelname for it in caplog.records] == ["WARNING", "INFO"]


async def test_connection_closed_while_idle_is_no_trouble(
    postgres_database: Database, postgres: PostgresServer, hot: HotState, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_archive(hot) as archive:
        await archive.save(turn(begun("s1"), "x", keep=0))
        await archive.find(ALICE, "s1")
        postgres.kill()
        postgres.start()
        outcome = turn(begun("s2"), "x", keep=0)
        await archive.save(outcome)
        assert await asking(lambda: is_recorded(outcome))
        assert await archive.find(ALICE, "s2") == result_of([outcome])
    assert caplog.records == []


@pytest.mark.usefixtures("impatient")
async def test_hanging_database_holds_up_nobody(
    postgres_database: Database, postgres: PostgresServer, hot: HotState
) -> None:
    outcome = turn(begun(), "x", keep=0)
    async with running_archive(hot) as archive:
        await archive.save(turn(begun("s0"), "x", keep=0))
        postgres.pause()
        try:
            async with asyncio.timeout(WAIT_S):
                await archive.save(outcome)
                with pytest.raises(DatabaseUnavailable):
                    await archive.page(ALICE, before_ms=None, limit=9)
        finally:
            postgres.resume()
        await until(lambda: is_recorded(outcome))


@pytest.mark.usefixtures("impatient")
async def test_turn_without_a_session_outlives_hub_and_trouble(database: Database, hot: HotState) -> None:
    """A failed turn is not in Redis; where the database takes nothing either, it is put there."""
    outcome = aged(Outcome(replace(figures_of(), outcome="no_provider_ready")))
    with database.locked():
        async with running_archive(hot) as killed:
            await killed.save(outcome)
        assert await hot.redis.hkeys(UNARCHIVED) == [outcome.figures.turn_id.encode()]
    async with running_archive(hot):
        await until(lambda: is_recorded(outcome))
        await until_redis_holds(hot)


@pytest.mark.usefixtures("impatient")
async def test_more_than_memory_may_hold_is_left_to_redis(
    database: Database, hot: HotState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "MAX_WAITING", 3)
    monkeypatch.setattr(archive_module, "SWEEP_EVERY_S", 0.1)
    outcomes = [aged(turn(begun(f"s{number}"), "x", keep=0)) for number in range(8)]
    async with running_archive(hot) as archive:
        with database.locked():
            for outcome in outcomes:
                await leave(hot, outcome)
                await archive.save(outcome)
            assert len(archive._waiting) == 3
        await until(lambda: is_recorded(*outcomes))
        await until_redis_holds(hot)


# --- a Redis that keeps what it has taken ---------------------------------------------------------------------------


async def test_turn_in_a_durable_redis_is_written_soon_and_nobody_waits(
    database: Database, durable_hot: HotState
) -> None:
    outcome = turn(begun(), "x", keep=0)
    async with running_archive(durable_hot) as archive:
        with database.locked():
            async with asyncio.timeout(0.2):
                await archive.save(outcome)
        await until(lambda: is_recorded(outcome))


async def test_reader_of_a_durable_archive_finds_what_was_just_saved(database: Database, durable_hot: HotState) -> None:
    outcomes = turns(begun(), 0, 2)
    async with running_archive(durable_hot) as archive:
        await archive.save(outcomes[0])
        assert [it.revision for it in await archive.page(ALICE, before_ms=None, limit=9)] == [1]
        await archive.save(outcomes[1])
        assert await archive.find(ALICE, "s1") == result_of(outcomes)


@pytest.mark.usefixtures("impatient")
async def test_trouble_is_noted_though_nobody_waits(
    database: Database, durable_hot: HotState, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = turn(begun(), "x", keep=0)
    async with running_archive(durable_hot) as archive:
        with database.locked():
            await archive.save(outcome)
            await until(lambda: bool(caplog.records))
        await until(lambda: is_recorded(outcome))
    assert "the database takes no turns" in caplog.records[0].getMessage()


async def test_stop_writes_what_a_durable_redis_holds(database: Database, durable_hot: HotState) -> None:
    outcomes = [turn(begun(f"s{number}"), "x", keep=0) for number in range(700)]
    async with running_archive(durable_hot) as archive:
        for outcome in outcomes:
            await archive.save(outcome)
    assert await asking(lambda: is_recorded(*outcomes))


# --- the end of a hub ------------------------------------------------------------------------------------------------


async def test_stop_writes_what_waits(database: Database, hot: HotState) -> None:
    outcomes = [turn(begun(f"s{number}"), "x", keep=0) for number in range(700)]
    async with running_archive(hot) as archive:
        savers = [asyncio.ensure_future(archive.save(it)) for it in outcomes]
        await asyncio.sleep(0)  # they begin, and can't have ended
        assert not any(it.done() for it in savers)
    assert await asking(lambda: is_recorded(*outcomes))
    await asyncio.gather(*savers)


@pytest.mark.usefixtures("impatient")
async def test_stop_does_not_wait_for_ever(database: Database, hot: HotState) -> None:
    with database.locked():
        async with running_archive(hot) as archive:
            await archive.save(turn(begun(), "x", keep=0))
            began = time.monotonic()
        assert time.monotonic() - began < 3


async def test_turns_of_a_killed_hub_are_written_by_the_next(database: Database, hot: HotState) -> None:
    """Committed to Redis, never to the database. What is young may still have a hub that writes it."""
    sessions = Sessions(hot, lock_s=15)
    old, young = aged(turn(begun("old"), "x", keep=0)), turn(begun("young"), "x", keep=0)
    for outcome in (old, young):
        assert outcome.head is not None
        held = await sessions.open(ALICE, outcome.head.session_id, wait_s=0)
        before = Conversation(replace(outcome.head, revision=0))
        assert await sessions.commit(held, before, outcome, archive=True)
    async with running_archive(hot) as archive:
        await until(lambda: is_recorded(old))
        assert await archive.find(ALICE, "old") == result_of([old])
        assert await archive.find(ALICE, "young") is None
        await until_redis_holds(hot, young.figures.turn_id)


async def test_hubs_share_what_a_killed_one_has_left(database: Database, hot: HotState) -> None:
    left = [aged(it) for number in range(150) for it in turns(begun(f"s{number}"), 0, 2)]
    await leave(hot, *left)
    async with running_archive(hot) as first, running_archive(hot), running_archive(hot):
        await until(lambda: is_recorded(*left))
        await until_redis_holds(hot)
        assert texts(await first.find(ALICE, "s149")) == ["0?", "0!", "1?", "1!"]
    assert await asking(Message.objects.count) == 600


async def test_record_that_is_no_good_stays_and_hinders_no_other(database: Database, hot: HotState) -> None:
    """One can't be read, one is no record, one has a date that no calendar knows."""
    await hot.redis.hset(UNARCHIVED, "0" * 32, b'{"figures": {"colour": 1}, "head": null, "messages": []}')
    await hot.redis.hset(UNARCHIVED, "-what is this", b"\xff")
    good, timeless = aged(turn(begun(), "x", keep=0)), aged(turn(replace(begun("s2"), created_ms=2**62), "x", keep=0))
    await leave(hot, good, timeless)
    async with running_archive(hot):
        await until(lambda: is_recorded(good))
        await until_redis_holds(hot, "0" * 32, "-what is this", timeless.figures.turn_id)


# --- erasing ---------------------------------------------------------------------------------------------------------


def texts_of(uid: str) -> list[str]:
    """All the database holds of what was said in a session."""
    found = [it.content for it in Message.objects.filter(session_id=uid)]
    return found + [it for row in Session.objects.filter(pk=uid) for it in (row.title, row.system) if it]


async def test_deleted_session_leaves_its_figures_alone(archive: Archive) -> None:
    head = replace(begun(), system="secret")
    outcomes = turns(head, 0, 2, 1)
    for outcome in outcomes:
        await archive.save(outcome)
    assert await archive.delete(ALICE, "s1") == [head.uid]
    assert await archive.find(ALICE, "s1") is None
    assert await asking(lambda: texts_of(head.uid)) == []
    assert await asking(lambda: is_recorded(*outcomes))
    assert await archive.delete(ALICE, "s1") == []


async def test_late_turn_of_a_deleted_session_leaves_no_text(archive: Archive) -> None:
    first, second = turns(begun(), 0, 2)
    await archive.save(first)
    await archive.delete(ALICE, "s1")
    await archive.save(second)
    assert first.head is not None
    uid = first.head.uid
    assert await asking(lambda: texts_of(uid)) == []
    assert await asking(lambda: is_recorded(first, second))


async def test_session_known_to_redis_alone_is_deleted_before_it_is_written(archive: Archive) -> None:
    outcome = turn(begun(), "x", keep=0)
    assert outcome.head is not None
    uid = outcome.head.uid
    assert await archive.delete(ALICE, "s1", uid=uid) == [uid]
    await archive.save(outcome)
    assert await asking(lambda: texts_of(uid)) == []
    assert await archive.find(ALICE, "s1") is None


@pytest.mark.usefixtures("impatient")
async def test_turn_still_waiting_for_the_database_is_deleted_too(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is back for the deletion first; the turn's next try finds the session deleted."""
    outcome = turn(begun(), "x", keep=0)
    assert outcome.head is not None
    with monkeypatch.context() as patch:
        patch.setattr(archive_module, "write_outcomes", locked)
        await archive.save(outcome)
        assert await archive.delete(ALICE, "s1") == [outcome.head.uid]
    await until(lambda: is_recorded(outcome))
    assert await asking(partial(texts_of, outcome.head.uid)) == []


def locked(outcomes: Sequence[Outcome]) -> set[str]:
    raise OperationalError("database is locked")


async def test_deletion_wins_whichever_hub_writes_meanwhile(database: Database, hot: HotState) -> None:
    async with running_archive(hot) as one, running_archive(hot) as other:
        for number in range(40):
            first, second = turns(begun(f"s{number}"), 0, 2)
            assert first.head is not None
            uid = first.head.uid
            if number % 2:
                await one.save(first)
            await asyncio.gather(other.save(second), one.delete(ALICE, f"s{number}", uid=uid), one.save(first))
            assert await asking(partial(texts_of, uid)) == []


async def test_nobody_deletes_a_session_of_another_owner(archive: Archive) -> None:
    outcome = turn(begun(), "x", keep=0)
    assert outcome.head is not None
    await archive.save(outcome)
    assert await archive.delete(BOB, "s1") == []
    assert await archive.delete(BOB, "s1", uid=outcome.head.uid) == []
    assert await archive.find(ALICE, "s1") == result_of([outcome])


# --- without conversations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps_conversations", [True, False], ids=["kept", "not kept"])
async def test_text_is_in_the_databases_files_only_if_it_is_to_be_kept(
    database: Database, hot: HotState, keeps_conversations: bool
) -> None:
    marker = f"said-{new_id()}"
    head = replace(begun(f"id-{marker}"), system=f"system-{marker}")
    outcome = turn(head, marker, keep=0)
    swept = aged(turn(begun(), marker, keep=0))
    await leave(hot, swept)
    async with running_archive(hot, keeps_conversations=keeps_conversations) as archive:
        await archive.save(outcome)
        await until(lambda: is_recorded(swept))
        assert (await archive.find(ALICE, head.session_id) is not None) == keeps_conversations
        assert bool(await archive.page(ALICE, before_ms=None, limit=9)) == keeps_conversations
        if not keeps_conversations:
            await archive.delete(ALICE, head.session_id, uid=head.uid)
        assert database.bytes_hold(marker) == database.bytes_hold(head.uid) == keeps_conversations
        assert database.bytes_hold(outcome.figures.turn_id)


# --- purge_archive ---------------------------------------------------------------------------------------------------


def purge(*argv: str) -> str:
    out = StringIO()
    call_command("purge_archive", *argv, stdout=out)
    return out.getvalue()


async def test_purge_deletes_what_expired_long_ago(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.management.commands.purge_archive.BATCH", 3)
    heads = [begun(f"s{number}") for number in range(8)]
    outcomes = [turn(head, "x", keep=0) for head in heads]
    await asyncio.gather(*(archive.save(it) for it in outcomes))

    def expire() -> None:
        for number, head in enumerate(heads[1:]):
            expired = timezone.now() - timedelta(days=number, hours=1)
            Session.objects.filter(pk=head.uid).update(expires_at=expired)

    await asking(expire)
    assert "would delete 7 " in await asking(lambda: purge("--days", "0", "--dry-run"))
    assert "deleted 2 " in await asking(lambda: purge("--days", "5"))
    assert "deleted 5 " in await asking(lambda: purge("--days", "0"))
    assert "deleted 0 " in await asking(lambda: purge("--days", "0"))
    assert await asking(lambda: set(Message.objects.values_list("session_id", flat=True))) == {heads[0].uid}
    assert await asking(lambda: is_recorded(*outcomes))


async def test_purge_keeps_what_the_settings_say(archive: Archive, settings: object) -> None:
    await archive.save(turn(begun(), "x", keep=0))
    await asking(lambda: Session.objects.update(expires_at=timezone.now() - timedelta(days=29)))
    assert "deleted 0 " in await asking(purge)
    await asking(lambda: Session.objects.update(expires_at=timezone.now() - timedelta(days=31)))
    assert "deleted 1 " in await asking(purge)


async def test_purged_session_does_not_come_back_with_an_old_record(archive: Archive, hot: HotState) -> None:
    outcome = aged(turn(begun(ttl_s=0), "x", keep=0))
    await archive.save(outcome)
    assert "deleted 1 " in await asking(lambda: purge("--days", "0"))
    await leave(hot, outcome)
    async with running_archive(hot):
        await until_redis_holds(hot)
    assert await asking(Session.objects.count) == 0


def test_purge_refuses_days_that_are_none() -> None:
    with pytest.raises(CommandError, match="--days"):
        purge("--days", "-1")
