"""What every adapter makes of a vendor that fails: a typed error in bounded time, and a process for the next turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest
import pytest_asyncio

from providers import errors
from providers.cooldowns import UNKNOWN_S
from providers.events import LimitNotice, TurnFinished
from providers.worker import Deadlines
from tests.clis.dialects import DIALECTS
from tests.clis.rig import REAL, Rig, assistant, open_rig, user
from tests.vendor_api import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Hub rule: a client that hangs up stops the vendor's work within this time.
HANG_UP_S = 0.5
FORMER = "the former caller's secret"


@dataclass(frozen=True, slots=True)
class Fault:
    """How the vendor fails and what that is called; `partial` is the text that came before."""

    script: Script
    error: type[errors.ProviderError]
    partial: str = ""
    unlike: Mapping[str, type[errors.ProviderError]] | None = None

    def error_of(self, name: str) -> type[errors.ProviderError]:
        return (self.unlike or {}).get(name, self.error)


MID = Script(text="aaaabbbbccccdddd", chunks=4, delay_s=0.01)


def mid(**how: int | bool) -> Script:
    return Script(text=MID.text, chunks=MID.chunks, delay_s=MID.delay_s, **how)  # type: ignore[arg-type]


FAULTS = {
    "400": Fault(Script(status=400), errors.TurnRefused),
    "401": Fault(Script(status=401), errors.NeedsLogin),
    "403": Fault(Script(status=403), errors.NeedsLogin),
    "404": Fault(Script(status=404), errors.ModelUnknown),
    "413": Fault(Script(status=413), errors.RequestTooLarge),
    "429": Fault(Script(status=429), errors.RateLimited),
    "500": Fault(Script(status=500), errors.Overloaded),
    "503": Fault(Script(status=503), errors.Overloaded),
    "529": Fault(Script(status=529), errors.Overloaded),
    "too-long": Fault(Script(too_long=True), errors.ContextTooLong),
    # gemini can't tell a connection that is cut at once from one that was never made.
    "cut-at-once": Fault(mid(cut_after=0), errors.StreamCut, unlike={"gemini": errors.Overloaded}),
    "cut-mid-stream": Fault(mid(cut_after=2), errors.StreamCut, partial="aaaabbbb"),
    # gemini takes an error event for the end of the stream.
    "error-at-once": Fault(mid(sse_error_after=0), errors.Overloaded, unlike={"gemini": errors.StreamCut}),
    "error-mid-stream": Fault(
        mid(sse_error_after=2), errors.Overloaded, partial="aaaabbbb", unlike={"gemini": errors.StreamCut}
    ),
    "bare-error-mid-stream": Fault(mid(sse_error_after=2, sse_error_bare=True), errors.Overloaded, partial="aaaabbbb"),
}


def state_of(rig: Rig) -> str:
    return rig.provider.state


async def assert_clean(rig: Rig) -> None:
    """The next turn works, and the vendor sees nothing but its own messages."""
    await rig.settled()  # what was still on its way when a turn was cancelled may reach the vendor until then
    answer = await rig.ask(user("what now"))
    assert rig.upstream(answer).messages == (user("what now"),)
    assert isinstance(answer.finished, TurnFinished)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_failing_vendor_becomes_a_typed_error_and_the_process_stays_clean(rig: Rig, fault: Fault) -> None:
    pid = await rig.pid()
    answer = await rig.ask(user(FORMER), assistant("indeed"), user(FORMER), script=fault.script)
    assert type(answer.error) is fault.error_of(rig.name)
    assert answer.text == fault.partial
    assert not any(isinstance(event, TurnFinished) for event in answer.events)
    await assert_clean(rig)
    assert rig.pids() == {pid}


@pytest.mark.parametrize("status", [401, 403, 413, 429, 500, 503, 529])
async def test_a_failed_request_is_not_repeated(rig: Rig, status: int) -> None:
    """Retries are the hub's to decide. (400 and 404 are asked again by claude itself: no tokens are spent on those.)"""
    answer = await rig.ask(user("hello"), script=Script(status=status))
    assert len(answer.received) == 1


async def test_an_error_says_what_the_vendor_said_but_no_prompt_and_no_key(rig: Rig) -> None:
    for fault in FAULTS.values():
        answer = await rig.ask(user(FORMER), script=fault.script, system="a secret system prompt")
        assert answer.error is not None
        for hidden in (FORMER, "secret system prompt", "dummy-key"):
            assert hidden not in answer.error.message
        assert len(answer.error.message) < 300


async def test_a_refused_login_says_how_to_mend_it(rig: Rig) -> None:
    answer = await rig.ask(user("hello"), script=Script(status=401))
    assert answer.error is not None
    assert answer.error.mend == rig.provider.info.mend_login
    assert state_of(rig) == "needs_login"
    await assert_clean(rig)
    assert state_of(rig) == "ready"


async def test_a_rate_limit_keeps_its_reset_where_the_cli_tells_it(rig: Rig) -> None:
    answer = await rig.ask(user("hello"), script=Script(status=429, retry_after_s=7))
    assert isinstance(answer.error, errors.RateLimited)
    # Where the vendor's time does not get through it is the hub's own.
    told_s = 7 if rig.dialect.has_reset else UNKNOWN_S
    assert answer.error.retry_after_s == pytest.approx(told_s, abs=1)


async def test_closing_an_answer_drops_the_vendors_connection_at_once(rig: Rig) -> None:
    pid = await rig.pid()
    await rig.settled()
    rig.vendor.clear()
    rig.vendor.script = Script(text="one two three", chunks=3, hang_after=1)
    answer = rig.provider.run(rig.turn(user(FORMER), assistant("indeed"), user(FORMER)))
    await rig.first_word(answer)
    await rig.soon(answer.aclose())
    await rig.vendor.wait_for_abort(HANG_UP_S)
    await assert_clean(rig)
    assert rig.pids() == {pid}


async def test_cancelling_a_turn_before_its_first_word_drops_the_connection_at_once(rig: Rig) -> None:
    await rig.settled()
    rig.vendor.clear()
    rig.vendor.script = Script(slow_s=30)
    asked = asyncio.create_task(rig.run(rig.turn(user(FORMER)), Script(slow_s=30)))
    await rig.vendor.wait_for(1)
    asked.cancel()
    await asyncio.wait({asked}, timeout=5)
    await rig.vendor.wait_for_abort(HANG_UP_S)
    await assert_clean(rig)


async def test_turns_cancelled_at_any_point_leave_nothing_to_the_next(rig: Rig) -> None:
    """Also while the conversation is still being handed over to the process."""
    history = [user(FORMER), assistant("indeed")] * 5
    for after_s in (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        asked = asyncio.create_task(rig.run(rig.turn(*history, user(FORMER)), MID))
        await asyncio.wait({asked}, timeout=after_s)
        asked.cancel()
        await asyncio.wait({asked}, timeout=5)
        await assert_clean(rig)


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(params=REAL, scope="module", loop_scope="module")
async def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """The first event and each further one have to come within half a second."""
    deadlines = Deadlines(first_event_s=0.5, silence_s=0.5)
    folder = tmp_path_factory.mktemp(request.param)
    async with open_rig(request.param, folder, deadlines=deadlines) as opened:
        yield opened


@pytest.mark.parametrize(
    ("script", "partial"),
    [(Script(slow_s=30), ""), (mid(hang_after=2), "aaaabbbb")],
    ids=["before-the-first-byte", "mid-stream"],
)
async def test_a_silent_vendor_ends_the_turn_at_its_deadline(hasty: Rig, script: Script, partial: str) -> None:
    pid = await hasty.pid()
    began = time.monotonic()
    answer = await hasty.ask(user(FORMER), script=script)
    assert isinstance(answer.error, errors.TimedOut)
    assert answer.text == partial
    assert time.monotonic() - began < 3
    await hasty.vendor.wait_for_abort(HANG_UP_S)
    await assert_clean(hasty)
    assert hasty.pids() == {pid}


# --- logins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
async def test_without_any_login_the_provider_says_so_and_the_vendor_hears_nothing(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dialect = DIALECTS[name]
    async with open_rig(name, tmp_path_factory.mktemp(name), env=dialect.bare_env) as rig:
        assert rig.provider.state == "needs_login"
        answer = await rig.ask(user("hello"))
        assert isinstance(answer.error, errors.NeedsLogin)
        assert answer.error.mend == rig.provider.info.mend_login
        assert answer.received == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subscriber(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """claude with a login by subscription, as far as that can be had without one."""

    def env(url: str) -> Mapping[str, str]:
        return {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-dummy-token", "ANTHROPIC_BASE_URL": url}

    async with open_rig("claude", tmp_path_factory.mktemp("claude"), env=env) as opened:
        yield opened


async def test_a_subscriptions_login_is_sent_as_a_bearer_token(subscriber: Rig) -> None:
    answer = await subscriber.ask(user("hello"))
    assert subscriber.upstream(answer).messages == (user("hello"),)
    assert answer.received[0].headers["authorization"].startswith("Bearer sk-ant")
    assert "x-api-key" not in answer.received[0].headers


@pytest.mark.parametrize(
    ("said", "status", "used"), [("allowed", "allowed", None), ("allowed_warning", "warning", 0.91)]
)
async def test_a_usage_window_is_told_with_its_reset(
    subscriber: Rig, said: str, status: str, used: float | None
) -> None:
    reset = int(time.time()) + 600
    answer = await subscriber.ask(user("hello"), script=Script(unified=said, reset_unix=reset))
    (notice,) = [event for event in answer.events if isinstance(event, LimitNotice)]
    assert (notice.status, notice.window, notice.resets_at, notice.used) == (status, "five_hour", reset, used)
    assert answer.finished.reason == "stop"


async def test_a_used_up_window_is_a_rate_limit_that_counts_to_its_reset(subscriber: Rig) -> None:
    script = Script(status=429, unified="rejected", claim="seven_day", reset_unix=int(time.time()) + 90)
    answer = await subscriber.ask(user("hello"), script=script)
    assert isinstance(answer.error, errors.RateLimited)
    assert answer.error.retry_after_s is not None
    assert 80 < answer.error.retry_after_s <= 90
    (notice,) = [event for event in answer.events if isinstance(event, LimitNotice)]
    assert (notice.status, notice.window) == ("rejected", "seven_day")
    await assert_clean(subscriber)


async def test_an_expired_subscription_login_needs_a_login(subscriber: Rig) -> None:
    answer = await subscriber.ask(user("hello"), script=Script(status=401))
    assert isinstance(answer.error, errors.NeedsLogin)
    await assert_clean(subscriber)
