"""The clock of a hub's machine jumps: limits go by Redis' clock, and no session grows younger."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chat.conversation import Conversation, Head
from chat.errors import LimitReached
from chat.hot import HotState
from chat.ids import new_id
from chat.limits import KeyLimits, Limits
from chat.running import RunningTurn
from chat.sessions import Held, Keys
from chat.usage import Today
from providers.events import Message, TextDelta, Turn, TurnFinished, TurnStarted
from tests.redis_server import running_redis

HOUR_S = 3_600


def jump(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set this process' clock; what counts time since the start goes on evenly."""
    monkeypatch.undo()
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(seconds * 1e9))


async def nothing() -> None:
    """No turn waits for the database."""


async def test_limits_of_a_minute_hold_whatever_the_hubs_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_redis(tmp_path) as server:
        hot = HotState(server.url, timeout_s=2)
        await hot.start()
        limits = Limits(hot, lease_s=15, settle=nothing)
        terms = KeyLimits(requests_per_minute=2, concurrent_turns=5)
        await limits.admit(1, terms, request=new_id(), is_turn=True)
        jump(monkeypatch, -HOUR_S)
        await limits.admit(1, terms, request=new_id(), is_turn=True)
        for seconds in (-HOUR_S, 0, HOUR_S):
            jump(monkeypatch, seconds)
            with pytest.raises(LimitReached) as refused:
                await limits.admit(1, terms, request=new_id(), is_turn=True)
            assert 0 < (refused.value.retry_after_s or 0) <= 60
        await hot.stop()


def test_session_is_never_older_than_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end would come early, and it would sink in the list."""
    now = time.time_ns() // 1_000_000
    head = Head(new_id(), "alice", "s", created_ms=now, updated_ms=now, ttl_s=60, revision=1)
    turn = RunningTurn(1, "alice", "req_1", Turn(messages=(Message("user", ("Hi",)),)))
    turn.held = Held(Keys.of("alice", "s"), new_id(), Conversation(head))
    turn.remember(Conversation(head), "auto", ttl_s=60)
    jump(monkeypatch, -HOUR_S)
    for event in (TurnStarted("echo", "echo"), TextDelta("Hi"), TurnFinished("stop", None)):
        turn.note(event)
    after = turn.outcome("ok", cost_usd=None).head
    assert after is not None
    assert after.updated_ms == now
    assert after.expires_ms == now + 60_000
    assert turn.outcome("ok", cost_usd=None).figures.total_ms >= 0


@pytest.mark.parametrize(
    ("moment", "day", "month", "day_left_s", "month_left_s"),
    [
        (datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), "2026-01-31", "2026-01", 1, 1),
        (datetime(2026, 2, 1, tzinfo=UTC), "2026-02-01", "2026-02", 86_400, 28 * 86_400),
        (datetime(2028, 2, 29, 12, tzinfo=UTC), "2028-02-29", "2028-02", 43_200, 43_200),
        (datetime(2026, 12, 31, 12, tzinfo=UTC), "2026-12-31", "2026-12", 43_200, 43_200),
    ],
)
def test_days_and_months_end_where_the_calendar_says(
    moment: datetime, day: str, month: str, day_left_s: int, month_left_s: int
) -> None:
    assert Today.now(moment) == Today(day, month, day_left_s * 1_000, month_left_s * 1_000)
