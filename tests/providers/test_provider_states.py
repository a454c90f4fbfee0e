"""What is known of a provider: learnt from turns, workers, the vendor's words and cheap local looks, nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from providers.adapters.base import LoginState, Program
from providers.adapters.echo import EchoAdapter
from providers.cooldowns import UNKNOWN_S, Board
from providers.engine import Engine
from providers.errors import (
    Busy,
    CrashLoop,
    NeedsLogin,
    NotInstalled,
    Overloaded,
    ProviderDisabled,
    ProviderError,
    RateLimited,
    TurnRefused,
    UnsupportedAccount,
)
from providers.events import Event, LimitNotice, TextDelta, Turn, TurnStarted
from providers.pool_limits import PoolLimits
from providers.provider import Provider
from providers.provider_config import ProviderConfig
from providers.roster import State
from providers.status import Status
from tests.providers.fakes import BOUND_S, PATIENT, ask, scripted, until

pytestmark = pytest.mark.usefixtures("nothing_left", "short_ladder")

POOL = PoolLimits(floor=1, ceiling=2, watch_s=0.05)
TURN = "x [[chunks=100 delay=1]]"  # much longer than any test


@dataclass
class Vendor:
    """What becomes of the coming turns; `asked` counts those that reached it."""

    replies: list[Event | ProviderError] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    logins: list[LoginState] = field(default_factory=list)
    login_checks: int = 0

    def adapter(self, **info: object) -> type[EchoAdapter]:
        """Echo with a program of its own, refused and warned as this vendor says."""
        vendor = self

        class Vended(EchoAdapter):
            def driver(self, *args: object) -> object:  # type: ignore[override]
                driver = super().driver(*args)  # type: ignore[arg-type]
                run = driver.run

                async def told(turn: Turn) -> AsyncIterator[Event]:
                    vendor.asked.append(turn.model)
                    replies, vendor.replies = vendor.replies, []
                    for reply in replies:
                        if isinstance(reply, ProviderError):
                            raise reply
                        yield reply
                    async with aclosing(run(replace(turn, model=None))) as events:
                        async for event in events:
                            yield event

                driver.run = told  # type: ignore[method-assign, assignment]
                return driver

            def check(self, turn: Turn) -> None:
                return

            @classmethod
            async def login_state(cls, program: Program) -> LoginState:
                vendor.login_checks += 1
                return vendor.logins[-1] if vendor.logins else "ready"

            @classmethod
            def login_files(cls, env: Mapping[str, str]) -> tuple[Path, ...]:
                return (Path(env["LOGIN"]),) if "LOGIN" in env else ()

        Vended.info = replace(EchoAdapter.info, **info) if info else EchoAdapter.info  # type: ignore[arg-type]
        return Vended


class Watch:
    """Wall time, moved ahead by hand."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Hub:
    engine: Engine
    vendor: Vendor
    watch: Watch
    heard: list[tuple[str, str]] = field(default_factory=list)

    @property
    def provider(self) -> Provider:
        return next(iter(self.engine.providers.values()))

    @property
    def status(self) -> Status:
        return self.provider.status

    async def answer(self, text: str = "x", **options: str) -> str:
        model = options.pop("model", None)
        async with asyncio.timeout(BOUND_S):
            turn = replace(ask(text, **options), model=model)  # type: ignore[arg-type]
            return "".join([it.text async for it in self.provider.run(turn) if isinstance(it, TextDelta)])

    async def refusal(self, *replies: Event | ProviderError, model: str | None = None) -> ProviderError:
        """The error of a turn that the vendor answers so."""
        self.vendor.replies = list(replies)
        with pytest.raises(ProviderError) as caught:
            await self.answer(**({"model": model} if model else {}))
        return caught.value


@asynccontextmanager
async def running(folder: Path, vendor: Vendor | None = None, **config: object) -> AsyncIterator[Hub]:
    vendor, watch = vendor or Vendor(), Watch()
    adapter = config.pop("adapter", None) or vendor.adapter()
    environ = config.pop("environ", {})
    settings = ProviderConfig(adapter, pool=POOL, deadlines=PATIENT)  # type: ignore[arg-type]
    settings = replace(settings, **config)  # type: ignore[arg-type]
    engine = Engine([settings], data_folder=folder, environ=environ, max_starts=4, board=Board(clock=watch))  # type: ignore[arg-type]
    hub = Hub(engine, vendor, watch)
    engine.on_change.append(lambda name, status: hub.heard.append((name, status.state)))
    await engine.start()
    try:
        yield hub
    finally:
        await engine.close(grace_s=0)


# --- workers ---------------------------------------------------------------------------------------------------------


async def test_a_provider_starts_gets_ready_and_is_busy_when_all_its_workers_are(tmp_path: Path) -> None:
    async with running(tmp_path, pool=replace(POOL, ceiling=1)) as hub:
        assert hub.status.state == "starting"
        await until(lambda: hub.status.state == "ready")
        assert (hub.status.why, hub.status.mend, hub.status.until, hub.provider.load) == ("", "", None, 0)
        slow = asyncio.create_task(hub.answer(TURN))
        await until(lambda: hub.status.state == "busy")
        assert hub.provider.load == 1
        waiting = asyncio.create_task(hub.answer("x"))
        await until(lambda: hub.provider.load == 2)
        assert hub.status.is_serving
        slow.cancel()
        await waiting
        await until(lambda: hub.status.state == "ready")


async def test_a_state_is_dated_when_it_begins_and_told_once(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await until(lambda: hub.status.state == "ready")
        since, told = hub.status.since, list(hub.heard)
        hub.watch.ahead_s = 100
        assert hub.status.since == since
        hub.provider.note(NeedsLogin("who?", mend="log in"))
        assert hub.status.since >= since + 100
        hub.watch.ahead_s = 200
        hub.provider.note(NeedsLogin("who?", mend="log in"))
        assert hub.status.since < since + 200
        assert hub.heard == [*told, ("echo", "needs_login")]


async def test_workers_that_never_start_are_a_crash_loop_with_its_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.breaker.FIRST_PAUSE_S", 0.02)
    async with running(tmp_path, adapter=scripted("sys.exit(1)")) as hub:
        await until(lambda: hub.status.state == "crash_loop")
        assert "worker starts failed" in hub.status.why
        await until(lambda: isinstance(hub.provider.obstacle(), CrashLoop))
        obstacle = hub.provider.obstacle()
        assert obstacle is not None
        assert obstacle.retry_after_s
        assert hub.status.until is not None
        hub.provider.clear()
        assert hub.provider.obstacle() is None


# --- the vendor's limits ---------------------------------------------------------------------------------------------


async def test_a_rate_limit_sets_the_provider_aside_and_the_vendor_is_not_asked_again(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        assert isinstance(await hub.refusal(RateLimited("slow down", retry_after_s=90)), RateLimited)
        assert (hub.status.state, hub.status.is_serving) == ("cooling_down", False)
        assert hub.status.until == pytest.approx(hub.watch() + 90, abs=2)
        assert hub.status.mend
        refused = await hub.refusal()
        assert isinstance(refused, RateLimited)
        assert refused.retry_after_s == pytest.approx(90, abs=2)
        obstacle = hub.provider.obstacle()
        assert isinstance(obstacle, RateLimited)
        assert obstacle.retry_after_s == pytest.approx(90, abs=2)
        assert len(hub.vendor.asked) == 1


async def test_a_limit_without_a_time_is_told_with_the_hubs_own(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        assert (await hub.refusal(RateLimited("slow down"))).retry_after_s == pytest.approx(UNKNOWN_S, abs=2)
        assert (await hub.refusal()).retry_after_s == pytest.approx(UNKNOWN_S, abs=2)


async def test_after_its_time_one_real_turn_tries_and_its_answer_ends_it(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await hub.refusal(RateLimited("slow down", retry_after_s=90))
        hub.watch.ahead_s = 91
        assert hub.provider.obstacle() is None
        first = hub.provider.run(ask(TURN))
        trying = asyncio.create_task(anext(first))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert isinstance(await hub.refusal(), RateLimited)
        assert isinstance(await trying, TurnStarted)
        assert hub.provider.obstacle() is None
        assert await hub.answer("y") == "y"
        await first.aclose()
        assert len(hub.vendor.asked) == 3


async def test_a_try_that_is_refused_begins_a_new_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await hub.refusal(RateLimited("slow down"))
        hub.watch.ahead_s += UNKNOWN_S + 1
        await hub.refusal(RateLimited("slow down"))
        assert (await hub.refusal()).retry_after_s == pytest.approx(2 * UNKNOWN_S, abs=2)
        assert len(hub.vendor.asked) == 2


@pytest.mark.parametrize("how", ["cancelled", "overloaded"])
async def test_a_try_that_shows_nothing_gives_the_next_turn_its_chance(tmp_path: Path, how: str) -> None:
    async with running(tmp_path) as hub:
        await hub.refusal(RateLimited("slow down", retry_after_s=10))
        hub.watch.ahead_s = 11
        if how == "overloaded":
            assert isinstance(await hub.refusal(Overloaded("later")), Overloaded)
        else:
            trying = asyncio.create_task(hub.answer("quiet"))
            await asyncio.sleep(0)
            trying.cancel()
            await asyncio.wait([trying])
        assert await hub.answer("x") == "x"


async def test_a_used_up_window_of_one_model_leaves_the_others_to_be_asked(tmp_path: Path) -> None:
    async with running(tmp_path, models=("opus", "sonnet"), default_model="sonnet") as hub:
        notice = LimitNotice("rejected", "seven_day_opus", hub.watch() + 600, 1.0, model="opus")
        await hub.refusal(notice, RateLimited("slow down"), model="claude-opus-5-5")
        assert hub.status.is_serving
        assert await hub.answer("x", model="sonnet") == "x"
        assert (await hub.refusal(model="opus")).retry_after_s == pytest.approx(600, abs=2)
        assert isinstance(hub.provider.obstacle("opus"), RateLimited)
        assert hub.provider.obstacle("sonnet") is None


async def test_windows_are_shown_and_the_fullest_counts(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        hub.vendor.replies = [
            LimitNotice("warning", "five_hour", hub.watch() + 600, 0.91),
            LimitNotice("allowed", "seven_day", hub.watch() + 6_000, 0.3),
        ]
        assert await hub.answer("x") == "x"
        assert [(it.name, it.used) for it in hub.provider.windows] == [("five_hour", 0.91), ("seven_day", 0.3)]
        assert hub.provider.used_quota == 0.91
        assert hub.status.is_serving


async def test_the_owner_clears_what_is_known(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await hub.refusal(RateLimited("slow down", retry_after_s=600))
        hub.provider.clear()
        assert await hub.answer("x") == "x"
        hub.provider.note(UnsupportedAccount("not served", mend="use a key"))
        hub.provider.clear()
        assert await hub.answer("x") == "x"


async def test_requests_per_minute_towards_the_vendor_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path, requests_per_minute=2) as hub:
        assert [await hub.answer("x"), await hub.answer("x")] == ["x", "x"]
        refused = await hub.refusal()
        assert isinstance(refused, Busy)
        assert refused.retry_after_s == pytest.approx(60, abs=5)
        assert len(hub.vendor.asked) == 2
        assert hub.status.is_serving


async def test_concurrent_turns_towards_the_vendor_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path, concurrent_turns=1) as hub:
        first = hub.provider.run(ask(TURN))
        await anext(first)
        refused = await hub.refusal()
        assert isinstance(refused, Busy)
        assert refused.retry_after_s
        await first.aclose()
        assert await hub.answer("x") == "x"


# --- logins ----------------------------------------------------------------------------------------------------------


async def test_a_login_that_works_again_is_seen_without_a_turn(tmp_path: Path) -> None:
    login = tmp_path / "login.json"
    vendor = Vendor()
    adapter = vendor.adapter(pass_env=("LOGIN",))
    async with running(tmp_path, vendor, adapter=adapter, environ={"LOGIN": str(login)}) as hub:
        checks = vendor.login_checks
        await hub.refusal(NeedsLogin("expired", mend="log in"))
        for _ in range(5):
            await hub.provider.recheck()
        assert (hub.status.state, hub.status.mend) == ("needs_login", "log in")
        assert vendor.login_checks == checks  # nothing has changed that could have mended it
        vendor.logins = ["needs_login"]
        login.write_text("half a login")
        for _ in range(5):
            await hub.provider.recheck()
        assert (hub.status.state, vendor.login_checks) == ("needs_login", checks + 1)
        vendor.logins = ["ready"]
        login.write_text("a whole login")
        await hub.provider.recheck()
        assert hub.status.is_serving
        assert hub.provider.obstacle() is None
        assert len(vendor.asked) == 1


async def test_auto_tries_a_lost_login_after_a_while_and_by_name_it_is_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        await hub.refusal(NeedsLogin("expired", mend="log in"))
        assert isinstance(hub.provider.obstacle(), NeedsLogin)
        monkeypatch.setattr("providers.provider.TRY_AGAIN_S", 0.0)
        assert hub.provider.obstacle() is None
        assert await hub.answer("x") == "x"
        assert hub.status.is_serving


async def test_an_unsupported_account_is_never_asked_for_again_until_the_login_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = tmp_path / "login.json"
    vendor = Vendor()
    adapter = vendor.adapter(pass_env=("LOGIN",))
    async with running(tmp_path, vendor, adapter=adapter, environ={"LOGIN": str(login)}) as hub:
        await hub.refusal(UnsupportedAccount("personal logins are not served", mend="use a key"))
        monkeypatch.setattr("providers.provider.TRY_AGAIN_S", 0.0)
        assert (hub.status.state, hub.status.mend) == ("unsupported_account", "use a key")
        assert isinstance(hub.provider.obstacle(), UnsupportedAccount)
        assert isinstance(await hub.refusal(), UnsupportedAccount)
        assert len(vendor.asked) == 1
        login.write_text("another account")
        assert await hub.answer("x") == "x"


@pytest.mark.parametrize("refused", [NeedsLogin("x-not logged in", mend="log in"), UnsupportedAccount("x-ineligible")])
async def test_a_refusal_of_a_model_that_only_the_caller_names_says_nothing_of_the_provider(
    tmp_path: Path, refused: ProviderError
) -> None:
    """Else any caller could take a provider from all others, by a name that its vendor repeats."""
    async with running(tmp_path) as hub:
        assert type(await hub.refusal(refused, model="x-made-up")) is type(refused)
        assert hub.status.is_serving
        assert hub.provider.obstacle() is None
        assert await hub.answer("x") == "x"


async def test_a_caller_who_leaves_while_the_try_is_asked_for_does_not_keep_it(tmp_path: Path) -> None:
    class Slow:
        async def take(self, provider: str) -> bool:
            await asyncio.sleep(2 * BOUND_S)
            return True

        def give_back(self, provider: str) -> None:
            return

    async with running(tmp_path) as hub:
        await hub.refusal(RateLimited("later", retry_after_s=1))
        hub.watch.ahead_s, hub.engine.board.probes = 10, Slow()
        leaving = asyncio.create_task(hub.answer("x"))
        await until(lambda: hub.status.state == "cooling_down")
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        hub.engine.board.probes = None
        assert await hub.answer("x") == "x"


# --- what the owner says ---------------------------------------------------------------------------------------------


async def test_a_disabled_provider_starts_nothing_and_refuses(tmp_path: Path) -> None:
    async with running(tmp_path, is_enabled=False) as hub:
        assert (hub.status.state, hub.provider.pool) == ("disabled", None)
        assert hub.status.mend
        assert isinstance(await hub.refusal(), ProviderDisabled)
        assert isinstance(hub.provider.obstacle(), ProviderDisabled)


async def test_a_provider_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    adapter = Vendor().adapter(program="echo-cli", mend_install="install it")
    async with running(tmp_path, adapter=adapter, environ={"PATH": str(tmp_path)}) as hub:
        assert (hub.status.state, hub.status.mend) == ("not_installed", "install it")
        assert isinstance(hub.provider.obstacle(), NotInstalled)


async def test_settings_win_over_what_the_adapter_says(tmp_path: Path) -> None:
    aliases = (("best", "opus"), ("quick", "haiku"))
    async with running(
        tmp_path, name="work", models=("opus", "haiku"), aliases=aliases, context_tokens=7, default_model="quick"
    ) as hub:
        provider = hub.provider
        assert (provider.name, provider.models, provider.context_tokens) == ("work", ("opus", "haiku"), 7)
        assert provider.aliases == {"best": "opus", "quick": "haiku"}
        assert [await hub.answer(model="best"), await hub.answer(), await hub.answer(model="opus")] == ["x"] * 3
        assert hub.vendor.asked == ["opus", "haiku", "opus"]
    async with running(tmp_path) as hub:
        assert (hub.provider.name, hub.provider.models) == ("echo", EchoAdapter.info.models)


# --- what counts -----------------------------------------------------------------------------------------------------


async def test_answers_and_failures_count_and_a_requests_own_faults_do_not(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await until(lambda: hub.provider.pool and hub.provider.pool.count(State.IDLE))
        usual_s = hub.provider.stats.first_token_s
        await hub.answer("x")
        assert hub.provider.stats.first_token_s < usual_s
        assert hub.provider.stats.error_rate == 0
        await hub.refusal(RateLimited("slow down", retry_after_s=1))
        hub.provider.clear()
        await hub.refusal(TurnRefused("no"))
        assert hub.provider.stats.error_rate == 0
        await hub.refusal(Overloaded("later"))
        assert hub.provider.stats.error_rate > 0
