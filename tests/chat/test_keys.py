"""API keys: made once, shown once, never stored, and gone soon after they are revoked."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from pytest_django import Settings

from chat import key_ring
from chat.errors import DatabaseUnavailable, KeyRefused, ModelNotAllowed, ProviderNotAllowed, ScopeMissing
from chat.key_ring import KeyRing
from chat.keys import Caller, CannotRotate, KeyTerms, create_key, revoke_key, rotate_key
from chat.limits import KeyLimits
from chat.models import ApiKey
from tests.asking import CHAT, answer_of, ask, error_of
from tests.hub import HubProcess, running_hub

# A revocation counts everywhere within this (hub rule).
REVOKED_WITHIN_S = 1.0
WAIT_S = 5
STRANGE_KEY = "hub_" + "x" * 43


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.time_s = 1_000.0

    def __call__(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time_s)

    def ahead(self, wait_s: float) -> datetime:
        return self.now() + timedelta(seconds=wait_s)


class Database:
    """What the key ring asks, with its questions counted, and faults and delays as a test wants them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.fault: Exception | None = None
        self.asked_once = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._read = key_ring._read
        monkeypatch.setattr(key_ring, "_read", self.read)

    def read(self, prefix: str, digest: str) -> Any:
        self.asked += 1
        self.asked_once.set()
        assert self.may_answer.wait(WAIT_S)
        if self.fault is not None:
            raise self.fault
        return self._read(prefix, digest)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(clock: Clock) -> KeyRing:
    return KeyRing(clock=clock, now=clock.now)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    made = Database(monkeypatch)
    yield made
    made.may_answer.set()


async def new_key(name: str = "n8n", *, owner: str = "alice", terms: KeyTerms | None = None) -> str:
    return await sync_to_async(create_key)(name, owner=owner, terms=terms)


async def refusal_of(ring: KeyRing, key: str) -> str:
    with pytest.raises(KeyRefused) as caught:
        await ring.find(key)
    assert caught.value.code == "invalid_api_key"
    return caught.value.message


def caller(**changes: Any) -> Caller:
    fields: dict[str, Any] = {
        "key_id": 1,
        "name": "n8n",
        "owner": "alice",
        "scopes": frozenset({"chat"}),
        "providers": (),
        "models": (),
        "limits": KeyLimits(),
        "session_ttl_s": 60,
    }
    return Caller(**(fields | changes))


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_database_holds_the_hash_of_a_key_and_not_the_key() -> None:
    key = create_key("n8n", owner="alice")
    row = ApiKey.objects.values().get()
    assert row["digest"] == hashlib.sha256(key.encode()).hexdigest()
    assert key not in str(row)
    assert key.startswith(row["prefix"])
    assert len(row["prefix"]) < len(key) / 4


@pytest.mark.django_db
def test_keys_are_long_and_never_alike() -> None:
    made = {create_key("n8n") for _ in range(50)}
    assert len(made) == 50
    assert all(len(key) >= 43 for key in made)


# --- what a caller may ---------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_caller_has_what_its_key_says(ring: KeyRing) -> None:
    terms = KeyTerms(
        scopes=("chat",),
        allowed_providers=("claude",),
        allowed_models=("claude/*",),
        requests_per_minute=7,
        tokens_per_minute=8,
        tokens_per_day=9,
        concurrent_turns=2,
        budget_day_usd=Decimal("1.5"),
        budget_month_usd=Decimal("20"),
        session_ttl_s=120,
        fallback=True,
    )
    found = await ring.find(await new_key(terms=terms))
    assert (found.name, found.owner, found.scopes) == ("n8n", "alice", frozenset({"chat"}))
    assert (found.providers, found.models, found.session_ttl_s) == (("claude",), ("claude/*",), 120)
    assert found.fallback is True
    assert found.limits == KeyLimits(
        requests_per_minute=7,
        concurrent_turns=2,
        tokens_per_minute=8,
        tokens_per_day=9,
        budget_day_usd=1.5,
        budget_month_usd=20.0,
    )


@pytest.mark.django_db(transaction=True)
async def test_what_a_key_leaves_open_is_the_settings(ring: KeyRing, settings: Settings) -> None:
    settings.HUB_KEY_REQUESTS_PER_MINUTE, settings.HUB_SESSION_TTL_S = 12, 34
    found = await ring.find(await new_key())
    assert found.limits == KeyLimits(requests_per_minute=12)
    assert found.session_ttl_s == 34
    assert found.fallback is False
    assert found.scopes == {"chat", "sessions", "mcp"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("of_key", "of_hub", "limit"), [(None, 0, None), (0, 12, None), (5, 0, 5)])
async def test_zero_requests_per_minute_means_no_limit(
    ring: KeyRing, settings: Settings, of_key: int | None, of_hub: int, limit: int | None
) -> None:
    settings.HUB_KEY_REQUESTS_PER_MINUTE = of_hub
    found = await ring.find(await new_key(terms=KeyTerms(requests_per_minute=of_key)))
    assert found.limits.requests_per_minute == limit


@pytest.mark.django_db(transaction=True)
async def test_zero_is_no_limit_but_a_budget_of_zero_is_one(ring: KeyRing, settings: Settings) -> None:
    settings.HUB_KEY_REQUESTS_PER_MINUTE = 0
    nothing = KeyTerms(tokens_per_minute=0, tokens_per_day=0, concurrent_turns=0, budget_day_usd=Decimal(0))
    found = await ring.find(await new_key(terms=nothing))
    assert found.limits == KeyLimits(budget_day_usd=0.0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("value", ["claude", {"claude": 1}, 5, [""]])
async def test_list_that_an_admin_got_wrong_does_not_allow_everything(ring: KeyRing, value: object) -> None:
    key = await new_key()
    await ApiKey.objects.aupdate(allowed_providers=value, allowed_models=value)
    found = await ring.find(key)
    assert not found.may_use_provider("gemini")
    with pytest.raises(ModelNotAllowed):
        found.check_model("gemini-pro")


def test_scope_that_is_missing_is_named() -> None:
    caller().require("chat")
    with pytest.raises(ScopeMissing, match="'mcp'"):
        caller().require("mcp")


def test_provider_has_to_be_among_those_named() -> None:
    caller().check_provider("gemini")
    alice = caller(providers=("claude", "echo"))
    alice.check_provider("echo")
    assert not alice.may_use_provider("gemini")
    with pytest.raises(ProviderNotAllowed, match=r"gemini.*only claude, echo") as caught:
        alice.check_provider("gemini")
    assert caught.value.param == "provider"


@pytest.mark.parametrize(
    ("pattern", "model", "is_allowed"),
    [
        ("opus", "opus", True),
        ("opus", "Opus", False),
        ("opus", "opus-4", False),
        ("opus*", "opus-4", True),
        ("claude/*", "claude/sonnet[1m]", True),
        ("sonnet[1m]", "sonnet[1m]", True),
        ("sonnet[1m]", "sonnet1", False),
        ("*", "", True),
    ],
)
def test_model_has_to_match_a_pattern(pattern: str, model: str, is_allowed: bool) -> None:
    caller().check_model(model)
    alice = caller(models=("nothing", pattern))
    if is_allowed:
        alice.check_model(model)
        return
    with pytest.raises(ModelNotAllowed) as caught:
        alice.check_model(model)
    assert caught.value.param == "model"


# --- how long a key is good ------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_key_leads_to_its_caller_until_it_is_revoked(ring: KeyRing, clock: Clock) -> None:
    key = await new_key()
    assert (await ring.find(key)).owner == "alice"
    await sync_to_async(revoke_key)(await ApiKey.objects.aget())
    clock.time_s += 0.5
    assert "unknown or revoked" in await refusal_of(ring, key)


@pytest.mark.django_db
def test_revocation_is_for_good_and_keeps_its_time() -> None:
    create_key("n8n")
    key = ApiKey.objects.get()
    revoke_key(key)
    first = key.revoked_at
    revoke_key(key)
    assert first is not None
    assert key.revoked_at == first


@pytest.mark.django_db(transaction=True)
async def test_key_expires_on_the_second_though_it_is_remembered(
    ring: KeyRing, clock: Clock, settings: Settings
) -> None:
    settings.HUB_KEY_CACHE_S = 60
    key = await new_key(terms=KeyTerms(expires_at=clock.ahead(5)))
    await ring.find(key)
    clock.time_s += 4.999
    await ring.find(key)
    clock.time_s += 0.001
    assert "expired" in await refusal_of(ring, key)
    clock.time_s += 60
    assert "expired" in await refusal_of(ring, key)


@pytest.mark.django_db(transaction=True)
async def test_rotated_key_keeps_its_row_and_its_old_secret_for_the_grace_time(ring: KeyRing, clock: Clock) -> None:
    old = await new_key(terms=KeyTerms(requests_per_minute=7))
    before = await ring.find(old)
    row = await ApiKey.objects.aget()
    new = await sync_to_async(rotate_key)(row, grace_s=60)
    assert new != old
    assert row.previous_expires_at is not None
    clock.time_s = (row.previous_expires_at - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds() - 1
    assert await ring.find(old) == await ring.find(new) == before
    clock.time_s += 1
    assert "replaced" in await refusal_of(ring, old)
    assert await ring.find(new) == before


@pytest.mark.django_db(transaction=True)
async def test_rotation_without_grace_ends_the_old_secret_at_once() -> None:
    ring, old = KeyRing(), await new_key()
    new = await sync_to_async(rotate_key)(await ApiKey.objects.aget(), grace_s=0)
    assert "replaced" in await refusal_of(ring, old)
    assert (await ring.find(new)).owner == "alice"


@pytest.mark.django_db(transaction=True)
async def test_second_rotation_ends_the_oldest_secret() -> None:
    ring, first = KeyRing(), await new_key()
    row = await ApiKey.objects.aget()
    second = await sync_to_async(rotate_key)(row)
    third = await sync_to_async(rotate_key)(row)
    assert "unknown" in await refusal_of(ring, first)
    assert await ring.find(second) == await ring.find(third)


@pytest.mark.django_db(transaction=True)
async def test_revocation_ends_the_secret_in_its_grace_time_too() -> None:
    ring, old = KeyRing(), await new_key()
    row = await ApiKey.objects.aget()
    new = await sync_to_async(rotate_key)(row)
    await sync_to_async(revoke_key)(row)
    for key in (old, new):
        assert "revoked" in await refusal_of(ring, key)


@pytest.mark.django_db(transaction=True)
async def test_old_secret_ends_with_its_key_if_that_is_sooner(ring: KeyRing, clock: Clock) -> None:
    old = await new_key()
    row = await ApiKey.objects.aget()
    await sync_to_async(rotate_key)(row, grace_s=10**9)
    await ApiKey.objects.aupdate(expires_at=clock.now())
    message = await refusal_of(ring, old)
    assert "expired" in message
    assert "replaced" not in message


@pytest.mark.django_db
@pytest.mark.parametrize("end", ["revoked_at", "expires_at"])
def test_key_that_has_ended_can_not_be_rotated(end: str) -> None:
    create_key("n8n")
    ApiKey.objects.update(**{end: timezone.now()})
    key = ApiKey.objects.get()
    with pytest.raises(CannotRotate, match=end.partition("_")[0].removesuffix("s")):
        rotate_key(key)


@pytest.mark.django_db
def test_of_two_rotations_at_once_one_is_told_that_it_failed() -> None:
    """Otherwise its secret would be handed out and not work."""
    create_key("n8n")
    one, other = ApiKey.objects.get(), ApiKey.objects.get()
    rotate_key(one)
    with pytest.raises(CannotRotate, match="meanwhile"):
        rotate_key(other)


# --- how it is looked up ---------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("key", ["", "hub_", "x" * 10_000, "hub_\ud8ee", "hub_\0", "hub_%", "hub_" + "ü" * 43])
async def test_nonsense_is_no_key_and_costs_no_query(ring: KeyRing, database: Database, key: str) -> None:
    await refusal_of(ring, key)
    assert database.asked == 0


@pytest.mark.django_db(transaction=True)
async def test_key_with_the_prefix_of_another_is_not_let_in(ring: KeyRing) -> None:
    key = await new_key()
    await refusal_of(ring, key[:-1] + ("A" if key[-1] != "A" else "B"))
    await ring.find(key)


@pytest.mark.django_db(transaction=True)
async def test_keys_that_share_a_prefix_lead_to_their_own_callers(ring: KeyRing) -> None:
    alice, bob = await new_key(owner="alice"), await new_key(owner="bob")
    await ApiKey.objects.filter(owner="bob").aupdate(prefix=alice[:10])
    bob = alice[:10] + bob[10:]
    await ApiKey.objects.filter(owner="bob").aupdate(digest=hashlib.sha256(bob.encode()).hexdigest())
    assert (await ring.find(alice)).owner == "alice"
    assert (await ring.find(bob)).owner == "bob"


@pytest.mark.django_db(transaction=True)
async def test_answer_is_remembered_for_the_cache_time(ring: KeyRing, clock: Clock, database: Database) -> None:
    key = await new_key()
    for _ in range(3):
        await ring.find(key)
        await refusal_of(ring, STRANGE_KEY)
    assert database.asked == 2
    clock.time_s += 0.5
    await ring.find(key)
    assert database.asked == 3


@pytest.mark.django_db(transaction=True)
async def test_many_requests_with_one_cold_key_ask_once_though_the_first_hangs_up(
    ring: KeyRing, database: Database
) -> None:
    key = await new_key()
    database.may_answer.clear()
    first = asyncio.ensure_future(ring.find(key))
    assert await asyncio.to_thread(database.asked_once.wait, WAIT_S)
    others = [asyncio.ensure_future(ring.find(key)) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    database.may_answer.set()
    async with asyncio.timeout(WAIT_S):
        found = await asyncio.gather(*others)
    assert {caller.owner for caller in found} == {"alice"}
    assert database.asked == 1


@pytest.mark.django_db(transaction=True)
async def test_flood_of_wrong_keys_does_not_push_out_a_good_one(
    ring: KeyRing, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "REMEMBERED_KEYS", 10)
    key = await new_key()
    await ring.find(key)
    for number in range(50):
        await refusal_of(ring, f"hub_{number:043}")
    asked = database.asked
    await ring.find(key)
    await refusal_of(ring, f"hub_{49:043}")
    assert database.asked == asked
    assert len(ring._bad._held) == 10


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("fault", [OperationalError("gone"), InterfaceError("closed")])
async def test_key_that_was_good_holds_on_while_the_database_is_away(
    ring: KeyRing, clock: Clock, database: Database, fault: Exception
) -> None:
    key, cold = await new_key(), await new_key("cold", owner="bob")
    await ring.find(key)
    database.fault = fault
    clock.time_s += 299
    assert (await ring.find(key)).owner == "alice"
    for other in (cold, STRANGE_KEY):
        with pytest.raises(DatabaseUnavailable) as caught:
            await ring.find(other)
        assert caught.value.retry_after_s
    clock.time_s += 2
    with pytest.raises(DatabaseUnavailable):
        await ring.find(key)
    database.fault = None
    clock.time_s += 0.5
    assert (await ring.find(cold)).owner == "bob"


@pytest.mark.django_db(transaction=True)
async def test_key_expires_while_the_database_is_away(ring: KeyRing, clock: Clock, database: Database) -> None:
    key = await new_key(terms=KeyTerms(expires_at=clock.ahead(100)))
    await ring.find(key)
    database.fault = OperationalError("gone")
    clock.time_s += 99
    await ring.find(key)
    clock.time_s += 1
    assert "expired" in await refusal_of(ring, key)


@pytest.mark.django_db(transaction=True)
async def test_key_that_was_seen_revoked_does_not_come_back_with_an_outage(
    ring: KeyRing, clock: Clock, database: Database
) -> None:
    key = await new_key()
    await ring.find(key)
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    clock.time_s += 0.5
    await refusal_of(ring, key)
    database.fault = OperationalError("gone")
    clock.time_s += 0.5
    with pytest.raises(DatabaseUnavailable):
        await ring.find(key)


@pytest.mark.django_db(transaction=True)
async def test_database_that_is_away_is_left_alone_between_two_tries(
    ring: KeyRing, clock: Clock, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    key = await new_key()
    await ring.find(key)
    database.fault = OperationalError("gone")
    clock.time_s += 0.5
    for _ in range(20):
        await ring.find(key)
    assert database.asked == 2
    clock.time_s += 0.5
    await ring.find(key)
    assert database.asked == 3
    assert caplog.text.count("can't be looked up") == 1


@pytest.mark.django_db(transaction=True)
async def test_database_that_hangs_counts_as_away_until_it_answers(
    ring: KeyRing, clock: Clock, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "LOOKUP_WAIT_S", 0.01)
    monkeypatch.setattr(key_ring, "LOOKUP_WAIT_AWAY_S", 0.01)
    key = await new_key()
    database.may_answer.clear()
    with pytest.raises(DatabaseUnavailable):
        await ring.find(key)
    clock.time_s += 0.5
    with pytest.raises(DatabaseUnavailable):
        await ring.find(key)
    monkeypatch.setattr(key_ring, "LOOKUP_WAIT_AWAY_S", WAIT_S)
    clock.time_s += 0.5
    database.may_answer.set()
    assert (await ring.find(key)).owner == "alice"
    assert database.asked <= 2


# --- commands --------------------------------------------------------------------------------------------------------


def run(*argv: str, command: str = "create_key") -> tuple[str, str]:
    """What a command writes: the key, and the hints."""
    out, err = io.StringIO(), io.StringIO()
    call_command(command, *argv, stdout=out, stderr=err, no_color=True)
    return out.getvalue().removesuffix("\n"), err.getvalue()


def row_of(key: str) -> ApiKey:
    return ApiKey.objects.get(digest=hashlib.sha256(key.encode()).hexdigest())


@pytest.mark.django_db
def test_create_key_prints_the_key_alone_and_its_hints_beside_it() -> None:
    key, hints = run("n8n", "--owner", "alice")
    assert (row_of(key).name, row_of(key).owner) == ("n8n", "alice")
    assert "this once" in hints
    assert key not in hints


@pytest.mark.django_db
def test_quiet_create_key_prints_nothing_but_the_key() -> None:
    key, hints = run("n8n", "--quiet")
    assert row_of(key).owner == "default"
    assert hints == ""


@pytest.mark.django_db
def test_create_key_takes_every_term() -> None:
    limits = [
        "--rpm",
        "1",
        "--tpm",
        "2",
        "--tpd",
        "3",
        "--concurrent",
        "4",
        "--budget-day",
        "0",
        "--budget-month",
        "5.5",
    ]
    may = ["--scope", "chat", "--scope", "admin", "--provider", "echo", "--model", "echo", "--model", "claude/*"]
    key, hints = run("n8n", "--expires-days", "2", "--session-ttl", "60", "--fallback", *may, *limits)
    row = row_of(key)
    assert (row.requests_per_minute, row.tokens_per_minute, row.tokens_per_day) == (1, 2, 3)
    assert (row.concurrent_turns, row.session_ttl_s, row.fallback) == (4, 60, True)
    assert (row.budget_day_usd, row.budget_month_usd) == (Decimal(0), Decimal("5.5"))
    assert (row.scopes, row.allowed_providers) == (["chat", "admin"], ["echo"])
    assert row.allowed_models == ["echo", "claude/*"]
    assert row.expires_at is not None
    assert timedelta(days=1.9) < row.expires_at - timezone.now() < timedelta(days=2)
    assert f"{row.expires_at:%Y-%m-%d %H:%M}" in hints


@pytest.mark.django_db
@pytest.mark.parametrize("argv", [[" "], ["x" * 101], ["n8n", "--owner", ""], ["n8n", "--owner", "x" * 101]])
def test_create_key_refuses_a_name_it_cannot_keep(argv: list[str]) -> None:
    with pytest.raises(CommandError, match="1 to 100"):
        run(*argv)
    assert not ApiKey.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "what the key is for"),
        (["n8n", "--scope", "root"], "--scope.*'root'.*chat.*sessions.*mcp.*admin"),
        (["n8n", "--provider", "openai"], "--provider.*'openai'.*claude.*echo"),
        (["n8n", "--model", " "], "--model"),
        (["n8n", "--rpm", "-1"], "--rpm.*'-1'"),
        (["n8n", "--tpm", "1.5"], "--tpm"),
        (["n8n", "--tpd", "4294967296"], "--tpd"),
        (["n8n", "--concurrent", "many"], "--concurrent"),
        (["n8n", "--session-ttl", "0"], "--session-ttl"),
        (["n8n", "--budget-day", "-0.01"], "--budget-day"),
        (["n8n", "--budget-day", "0.00001"], "--budget-day.*4 decimals"),
        (["n8n", "--budget-month", "nan"], "--budget-month"),
        (["n8n", "--budget-month", "inf"], "--budget-month"),
        (["n8n", "--budget-month", "free"], "--budget-month"),
        (["n8n", "--expires-days", "0"], "--expires-days"),
        (["n8n", "--expires-days", "nan"], "--expires-days"),
        (["n8n", "--expires-days", "soon"], "--expires-days"),
        (["n8n", "--grace-hours", "1"], "goes with --rotate"),
        (["n8n", "--rotate", "n8n"], "not both"),
        (["--rotate", "n8n", "--rpm", "5", "--owner", "bob"], "--owner, --rpm"),
        (["--rotate", "n8n", "--fallback"], "--fallback"),
        (["--rotate", "n8n", "--grace-hours", "-1"], "--grace-hours"),
        (["--rotate", "n8n"], "no key .*'n8n'"),
    ],
)
def test_create_key_says_what_it_cannot_do(argv: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        run(*argv)
    assert not ApiKey.objects.exists()


@pytest.mark.django_db
def test_second_key_of_a_name_is_made_and_the_first_one_mentioned() -> None:
    first, hints = run("n8n")
    assert "also" not in hints
    _, hints = run("n8n")
    assert f"also {first[:10]}" in hints
    assert ApiKey.objects.count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("by", ["name", "prefix"])
def test_key_is_rotated_by_its_name_or_prefix(by: str) -> None:
    old, _ = run("n8n", "--rpm", "5")
    key, hints = run("--rotate", str(getattr(row_of(old), by)))
    row = row_of(key)
    assert (ApiKey.objects.count(), row.requests_per_minute, row.previous_prefix) == (1, 5, old[:10])
    assert row.previous_expires_at is not None
    assert timedelta(hours=23.9) < row.previous_expires_at - timezone.now() < timedelta(hours=24)
    assert f"{old[:10]}...) works until" in hints
    assert "before that" not in hints
    _, hints = run("--rotate", "n8n", "--grace-hours", "0")
    assert f"{key[:10]}...) has ended" in hints
    assert "before that" in hints


@pytest.mark.django_db
@pytest.mark.parametrize("argv", [["--rotate", "n8n"], ["n8n"]])
def test_name_of_several_keys_is_refused_with_their_prefixes(argv: list[str]) -> None:
    made = [run("n8n")[0], run("n8n")[0]]
    with pytest.raises(CommandError, match="2 keys") as caught:
        run(*argv, command="create_key" if len(argv) == 2 else "revoke_key")
    assert all(key[:10] in str(caught.value) for key in made)
    assert not ApiKey.objects.exclude(revoked_at=None, previous_digest="").exists()


@pytest.mark.django_db
def test_expired_key_is_not_rotated() -> None:
    run("n8n")
    ApiKey.objects.update(expires_at=timezone.now())
    with pytest.raises(CommandError, match="expired"):
        run("--rotate", "n8n")


@pytest.mark.django_db
def test_revoke_key_ends_a_key_and_says_which() -> None:
    key, _ = run("n8n", "--owner", "alice")
    said, _ = run("n8n", command="revoke_key")
    assert f"'n8n' ({key[:10]}...) of owner 'alice'" in said
    assert row_of(key).revoked_at is not None
    with pytest.raises(CommandError, match="no key"):
        run("n8n", command="revoke_key")


@pytest.mark.parametrize("argv", [["create_key", "n8n"], ["create_key", "--rotate", "n8n"], ["revoke_key", "n8n"]])
def test_folder_that_no_hub_has_prepared_is_a_plain_message(tmp_path: Path, argv: list[str]) -> None:
    ran = HubProcess(tmp_path).run(*argv)
    assert ran.returncode == 1
    assert "the database can't be used" in ran.stderr
    assert "Traceback" not in ran.stderr


# --- at a running hub ------------------------------------------------------------------------------------------------


def execute(hub: HubProcess, sql: str, *values: str) -> None:
    with closing(sqlite3.connect(hub.data_dir / "hub.sqlite3", isolation_level=None)) as database:
        database.execute(sql, values)


def made_by(hub: HubProcess, *argv: str) -> str:
    ran = hub.run("create_key", *argv)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def ask_models(http: httpx.Client, key: str) -> httpx.Response:
    return http.get("/v1/models", headers={"Authorization": f"Bearer {key}"})


def refused_within(http: httpx.Client, key: str, wait_s: float) -> str:
    """The message of the first refusal, which must come soon."""
    ends_at = time.monotonic() + wait_s
    while (response := ask_models(http, key)).status_code == 200:
        assert time.monotonic() < ends_at
    assert error_of(response)["code"] == "invalid_api_key"
    return str(error_of(response)["message"])


def test_revoked_key_is_refused_within_a_second(hub: HubProcess, http: httpx.Client) -> None:
    key = made_by(hub, "short-lived")
    headers = {"Authorization": f"Bearer {key}"}
    assert answer_of(http.post(CHAT, json=ask("Hi"), headers=headers)) == "Hi"
    execute(hub, "UPDATE chat_apikey SET revoked_at = '2026-01-01' WHERE prefix = ?", key[:10])
    assert "revoked" in refused_within(http, key, REVOKED_WITHIN_S)


def test_revoke_key_reaches_the_running_hub(hub: HubProcess, http: httpx.Client) -> None:
    key = made_by(hub, "by command")
    assert ask_models(http, key).status_code == 200
    assert hub.run("revoke_key", key[:10]).returncode == 0
    assert "revoked" in refused_within(http, key, REVOKED_WITHIN_S)


def test_rotation_reaches_the_running_hub(hub: HubProcess, http: httpx.Client) -> None:
    old = made_by(hub, "rotated")
    assert ask_models(http, old).status_code == 200
    new = made_by(hub, "--rotate", "rotated")
    assert [ask_models(http, key).status_code for key in (old, new)] == [200, 200]
    newest = made_by(hub, "--rotate", "rotated", "--grace-hours", "0")
    for key in (old, new):
        refused_within(http, key, REVOKED_WITHIN_S)
    assert ask_models(http, newest).status_code == 200


def test_expiry_reaches_the_running_hub(hub: HubProcess, http: httpx.Client) -> None:
    key = made_by(hub, "expiring", "--expires-days", "1")
    assert ask_models(http, key).status_code == 200
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    execute(hub, "UPDATE chat_apikey SET expires_at = ? WHERE prefix = ?", f"{soon:%F %T.%f}", key[:10])
    assert "expired" in refused_within(http, key, 0.3 + REVOKED_WITHIN_S)


@contextmanager
def database_away(hub: HubProcess) -> Iterator[None]:
    """The database can't tell of keys within the block. To take its file away would not do: the hub holds it open."""
    execute(hub, "ALTER TABLE chat_apikey RENAME TO away")
    try:
        yield
    finally:
        execute(hub, "ALTER TABLE away RENAME TO chat_apikey")


def test_known_key_survives_an_outage_of_the_database_and_its_revocation_counts_after_it(tmp_path: Path) -> None:
    with running_hub(tmp_path, env={"HUB_PROVIDERS": "echo"}) as hub, httpx.Client(base_url=hub.url) as http:
        known, cold = made_by(hub, "known"), made_by(hub, "cold")
        assert ask_models(http, known).status_code == 200
        with database_away(hub):
            until(lambda: ask_models(http, cold).status_code == 503)
            assert error_of(ask_models(http, cold))["code"] == "database_unavailable"
            assert ask_models(http, cold).headers["Retry-After"]
            assert ask_models(http, known).status_code == 200
        execute(hub, "UPDATE chat_apikey SET revoked_at = '2026-01-01' WHERE prefix = ?", known[:10])
        refused_within(http, known, REVOKED_WITHIN_S)
        assert ask_models(http, cold).status_code == 200


def until(is_so: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < ends_at


def test_keys_never_reach_the_log(hub: HubProcess, http: httpx.Client) -> None:
    secret = "hub_never-log-this"
    for path in ("/v1/models", "/v1/nothing", "/nothing", "/health"):
        http.get(path, headers={"Authorization": f"Bearer {secret}"})
    http.post(CHAT, content=b"{", headers={"Authorization": f"Bearer {hub.key}"})
    log = hub.log.read_text()
    assert secret not in log
    assert hub.key not in log
