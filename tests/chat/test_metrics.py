"""What the chat room counts of turns, and that no label holds what a caller may choose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import REGISTRY

from chat import errors as chat_errors
from chat.conversation import Conversation, new_conversation
from chat.faults import FAULTS, TABLE, fault_of, faults_by_code
from chat.hot import HotState
from chat.metrics import model_label, note_turn
from chat.running import RunningTurn
from chat.sessions import Sessions
from chat.standing import UNKNOWN
from chat.store_metrics import LIMITS, note_limit
from chat.wire.openai_errors import TABLE as STATUSES
from chat.wire.openai_errors import as_http
from providers import errors as engine_errors
from providers.events import Message, TextDelta, Turn, TurnFinished, TurnStarted, Usage
from providers.provider import Provider
from providers.route import Attempt, Choice, Decision
from tests.asking import WAIT_S
from tests.chat.test_sessions import ended
from tests.redis_server import running_redis

SECRET = "hub_a-key-somebody-took-for-a-model"


class Named:
    """A provider as far as labels go."""

    default_model = "sonnet"
    models = ("sonnet", "opus", "claude-sonnet-5")
    aliases = {"best": "opus"}

    def __init__(self, name: str) -> None:
        self.name = name

    def named(self, model: str | None) -> str:
        return self.aliases.get(model or self.default_model, model or self.default_model)


def decision(*names: str, model: str | None = None) -> Decision:
    return Decision(tuple(Choice(cast(Provider, Named(name)), model) for name in names), "named")


def counted(series: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(series, labels) or 0.0


def turn(provider: str, *, model: str | None = None, reported: str = "") -> RunningTurn:
    """A turn that has been answered: 10 tokens in, 20 out."""
    made = RunningTurn(1, "alice", "req_1", Turn((Message("user", ("hi",)),)), door="mcp")
    made.decision = decision(provider, model=model)
    made.attempts.append(Attempt(provider, "sonnet"))
    made.note(TurnStarted(reported or "claude-sonnet-5", provider))
    made.note(TextDelta("ho"))
    made.note(TurnFinished("stop", Usage(10, 20, cached_tokens=4)))
    return made


@pytest.mark.parametrize(
    ("asked", "reported", "label"),
    [
        (None, "claude-sonnet-5", "claude-sonnet-5"),  # what answered is known by that name
        (None, "claude-sonnet-5-20261101", "sonnet"),  # it isn't: what was asked for
        ("opus", "claude-opus-5-20261101", "opus"),
        ("best", "claude-opus-5-20261101", "opus"),  # an alias stands for a model
        (SECRET, SECRET, "other"),
        (SECRET, "claude-sonnet-5", "claude-sonnet-5"),
    ],
)
def test_model_is_told_by_a_name_of_the_hubs_own(asked: str | None, reported: str, label: str) -> None:
    assert model_label(decision("claude", model=asked), "claude", reported) == label


def test_turn_that_came_to_no_provider_has_no_model() -> None:
    assert model_label(None, "", "") == "none"


def test_turn_is_counted_with_its_tokens_cost_and_times() -> None:
    made = turn("t-ok")
    note_turn(made.outcome("ok", cost_usd=0.5).figures, made, [0.5])
    names = {"provider": "t-ok", "model": "claude-sonnet-5"}
    assert counted("hub_turns_total", **names, outcome="ok", door="mcp") == 1
    assert counted("hub_turn_first_token_seconds_count", **names) == 1
    assert counted("hub_turn_seconds_count", **names) == 1
    kinds = {kind: counted("hub_tokens_total", **names, kind=kind) for kind in ("input", "output", "cached")}
    assert kinds == {"input": 10, "output": 20, "cached": 4}
    assert counted("hub_cost_usd_total", **names) == 0.5
    assert counted("hub_attempts_total", provider="t-ok", outcome="ok") == 1


@pytest.mark.parametrize("ended", ["cancelled", "turn_stopped"])
def test_attempt_that_was_broken_off_did_not_succeed(ended: str) -> None:
    made = turn(f"t-{ended}")
    note_turn(made.outcome(ended, cost_usd=None).figures, made, [None])
    assert counted("hub_attempts_total", provider=f"t-{ended}", outcome=ended) == 1
    assert counted("hub_attempts_total", provider=f"t-{ended}", outcome="ok") == 0


def test_each_provider_is_booked_for_what_it_was_used_for() -> None:
    """Fallback: the first one took the prompt and failed, the second answered."""
    made = turn("t-second")
    made.decision = decision("t-first", "t-second")
    made.attempts.insert(0, Attempt("t-first", "sonnet", "vendor_stream_cut", 5, True, Usage(7, 1)))
    note_turn(made.outcome("ok", cost_usd=0.25).figures, made, [None, 0.25])
    assert counted("hub_tokens_total", provider="t-first", model="sonnet", kind="input") == 7
    assert counted("hub_turns_unpriced_total", provider="t-first", model="sonnet") == 1
    assert counted("hub_cost_usd_total", provider="t-second", model="claude-sonnet-5") == 0.25
    assert counted("hub_attempts_total", provider="t-first", outcome="vendor_stream_cut") == 1
    assert counted("hub_turns_total", provider="t-second", model="claude-sonnet-5", outcome="ok", door="mcp") == 1


def test_turn_that_failed_or_was_cancelled_has_no_time_of_a_whole_answer() -> None:
    for outcome in ("cancelled", "worker_crashed"):
        made = turn("t-cut")
        note_turn(made.outcome(outcome, cost_usd=None).figures, made, [None])
    names = {"provider": "t-cut", "model": "claude-sonnet-5"}
    assert counted("hub_turn_seconds_count", **names) == 0
    assert counted("hub_turn_first_token_seconds_count", **names) == 2
    assert counted("hub_turns_total", **names, outcome="worker_crashed", door="mcp") == 1


def test_an_outcome_nobody_knows_is_no_label_of_its_own_and_the_hubs_fault() -> None:
    before = counted("hub_turns_by_fault_total", fault="hub")
    made = turn("t-odd")
    note_turn(made.outcome(SECRET, cost_usd=None).figures, made, [None])
    assert counted("hub_turns_total", provider="t-odd", model="claude-sonnet-5", outcome="other", door="mcp") == 1
    assert counted("hub_turns_by_fault_total", fault="hub") == before + 1


# --- whose fault -----------------------------------------------------------------------------------------------------


def made_up(kind: type[Exception]) -> Exception:
    return kind("it", standing=UNKNOWN) if issubclass(kind, chat_errors.LimitReached) else kind("it")


@pytest.mark.parametrize("kind", sorted({row[0] for row in STATUSES} | {row[0] for row in TABLE}, key=repr))
def test_fault_goes_with_the_status_the_caller_sees(kind: type[Exception]) -> None:
    """A 4xx is the caller's own (but for a vendor's limit), whatever has no Retry-After and is 5xx is not."""
    code, status = getattr(kind, "code", ""), as_http(made_up(kind)).status
    if status < 500 and kind is not engine_errors.RateLimited:
        assert fault_of(code) == "caller"
    else:
        assert fault_of(code) in ("provider", "capacity", "hub")


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        ("ok", "none"),
        ("cancelled", "none"),
        ("model_not_found", "caller"),
        ("session_conflict", "caller"),
        ("provider_needs_login", "provider"),
        ("vendor_rate_limited", "provider"),
        ("timed_out", "provider"),
        ("provider_busy", "capacity"),
        ("shutting_down", "capacity"),
        ("worker_crashed", "hub"),
        ("session_store_unavailable", "hub"),
        ("database_unavailable", "hub"),
        ("internal_error", "hub"),
    ],
)
def test_faults_are_told_apart(outcome: str, fault: str) -> None:
    assert fault_of(outcome) == fault


def test_every_fault_has_a_way_to_it() -> None:
    assert set(faults_by_code().values()) == set(FAULTS)


# --- stores ----------------------------------------------------------------------------------------------------------


def test_limits_are_counted_by_their_kind_and_known_before_they_refuse() -> None:
    assert all(REGISTRY.get_sample_value("hub_limits_hit_total", {"limit": it}) is not None for it in LIMITS)
    before = counted("hub_limits_hit_total", limit="tokens per day")
    note_limit("tokens per day")
    note_limit(SECRET)
    assert counted("hub_limits_hit_total", limit="tokens per day") == before + 1
    assert counted("hub_limits_hit_total", limit="other") == 1


def test_the_scripts_name_every_limit_as_it_is_counted() -> None:
    script = (Path(chat_errors.__file__).parent / "lua" / "limits_admit.lua").read_text()
    assert all(f"'{name}'" in script for name in LIMITS)


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[Sessions]:
    with running_redis(tmp_path / "redis") as server:
        hot = HotState(server.url, timeout_s=2)
        await hot.start()
        yield Sessions(hot, lock_s=15)
        await hot.stop()


async def begun(sessions: Sessions, owner: str, session_id: str, *, ttl_s: int = 60) -> Conversation:
    """A session with one turn in it."""
    before = new_conversation(owner, session_id, ttl_s=ttl_s)
    held = await sessions.open(owner, session_id, wait_s=0)
    outcome = ended(before, "one")
    assert await sessions.commit(held, before, outcome, archive=False)
    assert outcome.head is not None
    return Conversation(outcome.head, outcome.messages)


async def test_live_sessions_of_all_owners_are_counted(sessions: Sessions) -> None:
    assert await sessions.count_live() == 0
    await begun(sessions, "alice", "s1")
    await begun(sessions, "bob", "s1")
    assert await sessions.count_live() == 2
    await sessions.delete("alice", "s1")
    assert await sessions.count_live() == 1


async def test_session_that_goes_on_counts_once_and_one_that_expired_no_more(sessions: Sessions) -> None:
    before = await begun(sessions, "alice", "s1", ttl_s=1)
    held = await sessions.open("alice", "s1", wait_s=0)
    assert await sessions.commit(held, before, ended(before, "two"), archive=False)
    assert await sessions.count_live() == 1
    async with asyncio.timeout(WAIT_S):
        while await sessions.count_live():  # noqa: ASYNC110 (nobody announces an expiry)
            await asyncio.sleep(0.05)


async def test_session_that_was_put_back_counts_again(sessions: Sessions) -> None:
    before = await begun(sessions, "alice", "s1")
    await sessions._hot.ask(lambda redis: redis.flushall())
    assert await sessions.count_live() == 0
    await sessions.open("alice", "s1", wait_s=0)
    assert await sessions.restore(before, 60_000)
    assert await sessions.count_live() == 1
