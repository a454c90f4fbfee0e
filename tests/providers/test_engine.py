"""The whole engine over real child processes: what callers see of every fault, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from providers.adapters.base import LoginState, Program
from providers.adapters.echo import EchoAdapter
from providers.engine import Engine
from providers.errors import (
    Busy,
    CrashLoop,
    NeedsLogin,
    NotInstalled,
    ProtocolBroken,
    ProviderChanged,
    ProviderError,
    ProviderUnavailable,
    ProviderUnknown,
    ShuttingDown,
    TimedOut,
    TurnRefused,
    UnsupportedAccount,
    WorkerCrashed,
    WorkerFailed,
)
from providers.events import Event, TextDelta, Turn, TurnStarted
from providers.pool import WorkerPool
from providers.pool_limits import PoolLimits
from providers.process import ProcessLimits
from providers.provider import Provider
from providers.provider_config import ProviderConfig
from providers.roster import State
from providers.worker import Deadlines
from providers.workspace import make_folder, remember_process
from tests.providers.fakes import BOUND_S, PATIENT, SHORT, ask, entries, is_gone, python, scripted, until

pytestmark = pytest.mark.usefixtures("nothing_left", "short_ladder")

POOL = PoolLimits(floor=1, ceiling=2, watch_s=0.05)
READY = "say(ready=True)\n"
# Answers every question, and does the mischief when it is asked to.
ANSWERS = """
say(ready=True)
while True:
    message = hear()
    text = message.get("ask")
    if text is None:
        continue
    if "quiet" in text:
        time.sleep(60)
    say(start=True)
    say(delta=text)
    exec(text.partition("!")[2])
    say(end="stop", input=1, output=1)
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.breaker.FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("providers.planning.REFILL_DELAY_S", 0.01)


def child_pids() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@dataclass
class Hub:
    """An engine with one provider, and what it holds on the machine."""

    engine: Engine
    folder: Path
    before: set[int] = field(default_factory=child_pids)

    @property
    def provider(self) -> Provider:
        return next(iter(self.engine.providers.values()))

    @property
    def pool(self) -> WorkerPool:
        assert self.provider.pool is not None
        return self.provider.pool

    @property
    def workers(self) -> list[Path]:
        return entries(self.folder / "run" / "workers")

    @property
    def processes(self) -> set[int]:
        return child_pids() - self.before

    def in_state(self, state: State) -> int:
        return self.provider.pool.count(state) if self.provider.pool else 0

    async def events(self, text: str, **options: str) -> list[Event]:
        async with asyncio.timeout(BOUND_S):
            return [event async for event in self.provider.run(ask(text, **options))]  # type: ignore[arg-type]

    async def answer(self, text: str, **options: str) -> str:
        return "".join([event.text for event in await self.events(text, **options) if isinstance(event, TextDelta)])

    async def settled(self) -> None:
        """Wait until every worker rests; then nothing else may exist."""
        pool = self.pool
        await until(lambda: pool.live == pool.count(State.IDLE) and len(pool._tasks) == 1)  # the watch
        await until(lambda: len(self.processes) == pool.live)
        assert len(self.workers) == pool.live
        assert pool.waiting == 0


@asynccontextmanager
async def running(
    folder: Path,
    adapter: type[EchoAdapter] = EchoAdapter,
    *,
    pool: PoolLimits = POOL,
    deadlines: Deadlines = PATIENT,
    limits: ProcessLimits | None = None,
    default_model: str = "",
    environ: dict[str, str] | None = None,
    binary: str = "",
) -> AsyncIterator[Hub]:
    process = limits or ProcessLimits(max_line_bytes=1 << 20)
    config = ProviderConfig(
        adapter, binary=binary, default_model=default_model, pool=pool, deadlines=deadlines, process=process
    )
    hub = Hub(Engine([config], data_folder=folder, environ=environ or {}, max_starts=4), folder)
    await hub.engine.start()
    try:
        yield hub
    finally:
        await hub.engine.close(grace_s=0)
    assert hub.workers == []
    assert not hub.processes


async def test_a_provider_that_can_not_be_examined_keeps_no_other_from_serving(tmp_path: Path) -> None:
    class Broken(EchoAdapter):
        info = replace(EchoAdapter.info, name="broken")

        @classmethod
        async def version(cls, program: Program) -> str:
            raise RuntimeError("a bug of this adapter")

    class Obstructed(EchoAdapter):
        info = replace(EchoAdapter.info, name="obstructed")

        @classmethod
        async def obstacle(cls, program: Program) -> ProviderUnavailable | None:
            return NotInstalled("it needs node", mend="install Node.js")

    configs = [ProviderConfig(adapter, pool=POOL) for adapter in (Broken, Obstructed, EchoAdapter)]
    engine = Engine(configs, data_folder=tmp_path, environ={}, max_starts=4)
    await engine.start()
    try:
        events = [event async for event in engine.provider("echo").run(ask("x"))]
        assert TextDelta("x") in events
        obstructed = engine.provider("obstructed")
        assert (obstructed.state, obstructed.mend) == ("not_installed", "install Node.js")
    finally:
        await engine.close(grace_s=0)


async def test_a_closing_engine_opens_no_provider_that_is_installed_meanwhile(tmp_path: Path) -> None:
    async with running(tmp_path, NeedsProgram) as hub:
        await hub.engine.close(grace_s=0)
        hub.provider.config = replace(hub.provider.config, binary=sys.executable)
        await hub.engine.find_programs()
        assert hub.provider.pool is None
        with pytest.raises(ShuttingDown):
            await hub.events("x")


@pytest.mark.parametrize("secret", ["s3cret", "sk-ant-api03-" + "Q" * 40])
def test_pieces_of_a_secret_are_blotted_out_too(secret: str) -> None:
    """An excerpt may have cut one in its middle, at either end."""
    error = ProviderError(f"tail {secret[-20:]} of {secret}, key {secret[:20]}")
    error.redact((secret,))
    assert str(error) == error.message == "tail *** of ***, key ***"


# --- turns -----------------------------------------------------------------------------------------------------------


async def test_a_turn_tells_who_answers_and_how_its_process_came_to_be(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await until(lambda: hub.in_state(State.IDLE))
        first = await hub.events("hello")
        await until(lambda: hub.in_state(State.BUSY) + hub.in_state(State.TIDYING) == 0)
        second = await hub.events("again")
        assert first[0] == TurnStarted("echo", "echo", "warm")
        assert second[0] == TurnStarted("echo", "echo", "reused")
        assert await hub.answer("x") == "x"


async def test_a_turn_without_a_model_gets_the_owners_default(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Noting(EchoAdapter):
        def check(self, turn: Turn) -> None:
            seen.append(turn.model)

    async with running(tmp_path, Noting, default_model="large") as hub:
        await hub.events("x")
        await hub.events("x")
        async for _ in hub.provider.run(replace(ask("x"), model="small")):
            pass
    assert seen == ["large", "large", "small"]


async def test_a_turn_that_can_not_be_served_as_asked_takes_no_worker(tmp_path: Path) -> None:
    async with running(tmp_path, pool=replace(POOL, floor=0)) as hub:
        with pytest.raises(TurnRefused):
            await hub.events("x [[chunks=0]]")
        assert hub.processes == set()


async def test_many_callers_at_once_are_all_answered_within_the_ceiling(tmp_path: Path) -> None:
    async with running(tmp_path, pool=replace(POOL, ceiling=3)) as hub:
        asked = [f"question {n} [[chunks=3 delay=0.001]]" for n in range(60)]
        answers = asyncio.gather(*(hub.answer(text, caller=f"c{n % 7}") for n, text in enumerate(asked)))
        most = 0
        while not answers.done():
            most = max(most, len(hub.processes))
            await asyncio.sleep(0.005)
        assert await answers == asked
        assert 1 <= most <= 3
        await hub.settled()


async def test_a_caller_that_leaves_while_it_waits_or_runs_changes_nothing_for_others(tmp_path: Path) -> None:
    async with running(tmp_path, pool=replace(POOL, ceiling=1)) as hub:
        slow = asyncio.create_task(hub.events("x [[chunks=100 delay=1]]"))
        await until(lambda: hub.in_state(State.BUSY))
        waiting = [asyncio.create_task(hub.answer(f"{n}")) for n in range(4)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        slow.cancel()
        assert [await waiting[n] for n in (0, 2, 3)] == ["0", "2", "3"]
        await asyncio.wait([slow, waiting[1]])
        await hub.settled()


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ("!os.kill(os.getpid(), signal.SIGKILL)", WorkerCrashed),
        ("!sys.exit(0)", WorkerCrashed),
        ("!sys.exit(3)", WorkerCrashed),
        ("!os.close(1); time.sleep(60)", WorkerCrashed),
        ("!print('garbage', flush=True)", ProtocolBroken),
        ("!os.write(1, b'\\xff\\x00{[' + bytes(range(256)).replace(b'\\n', b'') + b'\\n')", ProtocolBroken),
        ("![os.write(1, b'x' * 65536) for _ in range(10_000)]", ProtocolBroken),
        ("quiet", TimedOut),
        ("!time.sleep(60)", TimedOut),
        ("!signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", TimedOut),
        ("!os.kill(os.getpid(), signal.SIGSTOP)", TimedOut),
        ("!subprocess.Popen(['/bin/sleep', '60']); time.sleep(60)", TimedOut),
        ("!subprocess.Popen(['/bin/sleep', '60']); os._exit(0)", WorkerCrashed),
    ],
    ids=[
        *("killed", "exits 0", "exits 3", "closes output", "garbage", "binary garbage", "endless line", "no event"),
        *("silence", "ignores TERM", "frozen", "with a grandchild", "grandchild holds the pipe"),
    ],
)
async def test_a_fault_within_a_turn_is_a_typed_error_in_time_and_the_next_turn_works(
    tmp_path: Path, question: str, error: type[ProviderError]
) -> None:
    async with running(tmp_path, scripted(ANSWERS), deadlines=SHORT) as hub:
        assert await hub.answer("before") == "before"
        began = time.monotonic()
        with pytest.raises(error):
            await hub.events(question)
        assert time.monotonic() - began < 2.5
        assert await hub.answer("after") == "after"
        await hub.settled()
        assert hub.provider.state == "ready"


@pytest.mark.parametrize(
    "question",
    [
        "![os.write(2, b'x' * 65536) for _ in range(300)]",
        "![say(delta='') for _ in range(20_000)]",
        "!subprocess.Popen(['/bin/sleep', '60'])",
    ],
    ids=["floods stderr", "floods with lines", "starts a process"],
)
async def test_mischief_that_does_not_spoil_the_answer_is_no_error(tmp_path: Path, question: str) -> None:
    async with running(tmp_path, scripted(ANSWERS)) as hub:
        assert await hub.answer(question) == question


async def test_a_flood_nobody_reads_waits_in_the_child_and_none_of_it_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path, scripted(ANSWERS)) as hub:
        async with aclosing(hub.provider.run(ask("![say(delta=str(n) + 'x' * 500) for n in range(20_000)]"))) as events:
            await anext(events)
            await anext(events)
            before = psutil.Process().memory_info().rss
            await asyncio.sleep(0.3)  # the flood, held up
            assert psutil.Process().memory_info().rss - before < 8 << 20
            texts = [event.text async for event in events if isinstance(event, TextDelta)]
        assert [text.rstrip("x") for text in texts] == [str(n) for n in range(20_000)]


async def test_a_worker_killed_while_idle_is_replaced_and_no_caller_notices(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await until(lambda: hub.in_state(State.IDLE))
        (victim,) = hub.processes
        os.kill(victim, signal.SIGKILL)
        await until(lambda: not any(worker.is_alive for worker in hub.pool.roster))
        assert await hub.answer("x") == "x"
        await hub.settled()
        for pid in hub.processes:
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: is_gone(pid))  # type: ignore[misc]
        await until(lambda: hub.in_state(State.IDLE) == 1 and victim not in hub.processes)
        await hub.settled()


async def test_a_worker_that_dies_the_moment_it_is_lent_costs_the_caller_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        for _ in range(3):
            await until(lambda: hub.in_state(State.IDLE))
            for pid in hub.processes:
                os.kill(pid, signal.SIGKILL)
            assert await hub.answer("x") == "x"  # nobody has seen the death yet
        await hub.settled()


@pytest.mark.parametrize(
    ("script", "floor", "asked"),
    [
        (READY + "{note}; sys.exit(1)", 3, 2),
        (READY + "{note}; sys.exit(1)", 0, 1),
        (READY + "{note}; say(start=True); sys.exit(1)", 3, 1),
        (READY + "{note}; print('garbage', flush=True); hear()", 3, 1),
        (READY + "{note}; hear()", 3, 1),
    ],
    ids=["one more try", "a process started for it", "begun", "garbage", "deaf"],
)
async def test_only_a_worker_that_had_been_idle_and_died_before_its_first_event_is_replaced_within_the_turn(
    tmp_path: Path, script: str, floor: int, asked: int
) -> None:
    notes = tmp_path / "asked"
    note = f"hear(); print('asked', file=open({str(notes)!r}, 'a'), flush=True)"
    adapter = scripted(script.format(note=note))
    async with running(tmp_path, adapter, pool=replace(POOL, floor=floor, ceiling=4), deadlines=SHORT) as hub:
        await until(lambda: hub.in_state(State.IDLE) == floor)
        with pytest.raises(WorkerFailed):
            await hub.events("x")
        assert notes.read_text().split() == ["asked"] * asked


async def test_a_process_that_ends_while_a_long_question_is_sent_is_a_typed_error(tmp_path: Path) -> None:
    script = READY + "sys.stdin.read(10)\nos._exit(0)"
    async with running(tmp_path, scripted(script), pool=replace(POOL, floor=0)) as hub:
        with pytest.raises(WorkerCrashed):
            await hub.events("x" * 1_000_000)


@pytest.mark.parametrize(
    "script",
    ["sys.exit(0)", "hear()", "print('garbage', flush=True)", "signal.pause()", "os.write(1, b'x' * (2 << 20))"],
    ids=["exits", "never ready", "garbage", "deaf", "floods"],
)
async def test_workers_that_never_get_ready_are_a_crash_loop_told_in_time(tmp_path: Path, script: str) -> None:
    async with running(tmp_path, scripted(script), deadlines=replace(PATIENT, ready_s=0.3)) as hub:
        with pytest.raises(CrashLoop) as caught:
            await hub.events("x")
        assert caught.value.retry_after_s


async def test_a_provider_whose_workers_start_again_is_ready_again(tmp_path: Path) -> None:
    """By itself: `auto` sends it no turn that could prove it."""
    mended = tmp_path / "mended"
    script = f"os.path.exists({str(mended)!r}) or sys.exit(1)\n{ANSWERS}"
    async with running(tmp_path, scripted(script)) as hub:
        with pytest.raises(CrashLoop):
            await hub.events("x")
        assert hub.provider.state in ("crash_loop", "ready")  # ready between two tries
        mended.touch()
        await until(lambda: hub.in_state(State.IDLE))
        assert hub.provider.state == "ready"
        assert hub.provider.mend == ""
        assert await hub.answer("x") == "x"


async def test_a_full_queue_and_a_long_wait_are_told_as_busy(tmp_path: Path) -> None:
    async with running(tmp_path, pool=replace(POOL, ceiling=1, queue=1, queue_wait_s=0.2)) as hub:
        slow = asyncio.create_task(hub.events("x [[chunks=10 delay=0.2]]"))
        await until(lambda: hub.in_state(State.BUSY))
        waiting = asyncio.create_task(hub.events("x"))
        await asyncio.sleep(0)
        for refused in (hub.events("x"), waiting):
            with pytest.raises(Busy) as caught:
                await refused
            assert caught.value.retry_after_s
        slow.cancel()
        await asyncio.wait([slow])


# --- what is known of a provider -------------------------------------------------------------------------------------


class NeedsProgram(EchoAdapter):
    info = replace(EchoAdapter.info, program="echo-cli", mend_install="install it", mend_login="log in")
    login: LoginState = "ready"

    @classmethod
    async def login_state(cls, program: Program) -> LoginState:
        return cls.login


async def test_a_program_that_is_installed_while_the_hub_runs_is_found_by_the_next_turn(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "echo-cli"
    async with running(tmp_path, NeedsProgram, environ={"PATH": str(program.parent)}) as hub:
        with pytest.raises(NotInstalled) as caught:
            await hub.events("x")
        assert caught.value.mend == "install it"
        assert (hub.provider.state, hub.provider.mend) == ("not_installed", "install it")
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert await hub.answer("x") == "x"
        assert (hub.provider.state, hub.provider.mend) == ("ready", "")


async def test_a_missing_login_is_known_before_the_first_turn_and_forgotten_after_one_that_works(
    tmp_path: Path,
) -> None:
    adapter = type("LoggedOut", (NeedsProgram,), {"login": "needs_login"})
    program = tmp_path / "echo-cli"
    program.write_text("")
    async with running(tmp_path, adapter, binary=str(program)) as hub:
        assert (hub.provider.state, hub.provider.mend) == ("needs_login", "log in")
        await hub.events("x")
        assert hub.provider.state == "ready"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NeedsLogin("a", mend="m"), "needs_login"),
        (UnsupportedAccount("a", mend="m"), "unsupported_account"),
        (NotInstalled("a", mend="m"), "not_installed"),
        (CrashLoop("a", mend="m"), "crash_loop"),
    ],
)
async def test_trouble_is_a_state_that_tells_since_when(
    tmp_path: Path, error: NeedsLogin | UnsupportedAccount | NotInstalled | CrashLoop, state: str
) -> None:
    async with running(tmp_path) as hub:
        before = hub.provider.status.since
        hub.provider.note(error)
        assert hub.provider.state == state
        since = hub.provider.status.since
        assert since > before
        hub.provider.note(error)
        assert hub.provider.status.since == since


async def test_what_the_vendor_says_of_the_account_is_remembered_until_a_turn_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        with monkeypatch.context() as patch:
            patch.setattr("providers.adapters.echo.read_directive", refuse_login)
            patch.setattr(EchoAdapter, "check", lambda self, turn: None)
            with pytest.raises(NeedsLogin):
                await hub.events("x")
        states = [hub.provider.state]
        await hub.events("x")
        assert [*states, hub.provider.state] == ["needs_login", "ready"]


def refuse_login(text: str) -> dict[str, object]:
    raise NeedsLogin("who are you?", mend="log in")


async def test_a_secret_that_a_cli_repeats_does_not_leave_the_engine(tmp_path: Path) -> None:
    class Telling(EchoAdapter):
        info = replace(EchoAdapter.info, pass_env=("KEY", "OTHER"), secret_env=("KEY", "UNSET"))

    tells = type("Tells", (Telling,), {"launch": scripted("sys.stderr.write('bad key s3cret'); sys.exit(1)").launch})
    tells.argv = python("sys.stderr.write('bad key s3cret, sorry'); sys.exit(1)")  # type: ignore[attr-defined]
    async with running(tmp_path, tells, environ={"KEY": "s3cret", "OTHER": "sorry"}) as hub:
        with pytest.raises(CrashLoop) as caught:
            await hub.events("x")
        assert "s3cret" not in str(caught.value)
        assert "bad key ***, sorry" in str(caught.value)


async def test_an_unknown_provider_is_told_with_those_there_are(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        with pytest.raises(ProviderUnknown, match="known: echo, auto"):
            hub.engine.provider("nobody")
        assert hub.engine.provider("echo") is hub.provider
        assert hub.provider.version


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_what_a_killed_hub_left_behind_is_cleared_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = subprocess.Popen(["sleep", "60"], start_new_session=True)  # noqa: ASYNC220 (of another hub)
    remember_process(make_folder(tmp_path / "run" / "workers"), left.pid)
    async with running(tmp_path, pool=replace(POOL, floor=0)) as hub:
        assert hub.workers == []
        assert left.wait(BOUND_S) == -signal.SIGKILL
    assert "removed 1 worker folders" in caplog.text


async def test_closing_lets_a_running_turn_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        turn = asyncio.create_task(hub.answer("x [[chunks=3 delay=0.1]]"))
        await until(lambda: hub.in_state(State.BUSY))
        closing = asyncio.create_task(hub.engine.close(grace_s=BOUND_S))
        await asyncio.sleep(0)
        assert hub.engine.is_closing
        with pytest.raises(ShuttingDown):
            await hub.events("y")
        assert await turn == "x [[chunks=3 delay=0.1]]"
        await asyncio.wait_for(closing, BOUND_S)
        assert hub.processes == set()


async def test_a_turn_beyond_the_grace_is_ended_with_an_error(tmp_path: Path) -> None:
    async with running(tmp_path, deadlines=Deadlines()) as hub:
        turn = asyncio.create_task(hub.events("x [[chunks=3 delay=60]]"))
        await until(lambda: hub.in_state(State.BUSY))
        await asyncio.wait_for(hub.engine.close(grace_s=0.05), BOUND_S)
        with pytest.raises(WorkerCrashed):
            await turn
        assert hub.processes == set()


async def test_closing_while_workers_start_leaves_none(tmp_path: Path) -> None:
    for _ in range(5):
        async with running(tmp_path, pool=replace(POOL, floor=2)) as hub:
            await asyncio.sleep(0)
        assert hub.processes == set()


async def test_kill_ends_every_process_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, scripted(ANSWERS), deadlines=Deadlines()) as hub:
        turn = asyncio.create_task(hub.events("!signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"))
        await until(lambda: hub.in_state(State.BUSY) and hub.in_state(State.IDLE))
        hub.engine.kill()
        await until(lambda: not hub.processes)
        with pytest.raises(WorkerCrashed):
            await turn


async def test_closing_an_engine_whose_programs_are_not_there_does_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, NeedsProgram) as hub:
        hub.engine.kill()


# --- providers come and go -------------------------------------------------------------------------------------------


def named(name: str, **values: Any) -> ProviderConfig:
    """A demo provider under a name of its own."""
    settings: dict[str, Any] = {"pool": POOL, "deadlines": PATIENT} | values
    return ProviderConfig(EchoAdapter, name=name, **settings)


@asynccontextmanager
async def changing(folder: Path, *configs: ProviderConfig) -> AsyncIterator[Engine]:
    before = child_pids()
    engine = Engine(configs, data_folder=folder, environ={}, max_starts=4)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close(grace_s=0)
    assert entries(folder / "run" / "workers") == []
    assert child_pids() <= before


def workers_of(provider: Provider) -> set[int]:
    return {worker.pid for worker in provider.pool.roster} if provider.pool else set()


async def text_from(provider: Provider, text: str) -> str:
    async with asyncio.timeout(BOUND_S):
        events = [event async for event in provider.run(ask(text))]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def warm(engine: Engine, name: str) -> set[int]:
    """The pids of a provider's workers, once there are any."""
    await until(lambda: workers_of(engine.provider(name)))
    return workers_of(engine.provider(name))


async def test_several_providers_share_an_adapter_under_names_of_their_own(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one"), named("two")) as engine:
        for name in ("one", "two"):
            started = await anext(engine.provider(name).run(ask("x")))
            assert isinstance(started, TurnStarted)
            assert started.provider == name
        with pytest.raises(ProviderUnknown, match="known: one, two, auto"):
            engine.provider("echo")


async def test_a_provider_is_added_and_another_removed_while_its_turn_runs(tmp_path: Path) -> None:
    async with changing(tmp_path, named("old")) as engine:
        old = engine.provider("old")
        slow = asyncio.create_task(text_from(old, "[[chunks=3 delay=0.2]]"))
        await until(lambda: old.pool and old.pool.count(State.BUSY))
        await engine.apply([named("new")], ())
        assert [*engine.providers] == ["new"]
        assert await text_from(engine.provider("new"), "Hi") == "Hi"
        assert await text_from(old, "sent there an instant before") == "sent there an instant before"
        assert await slow == "[[chunks=3 delay=0.2]]"
        await until(lambda: not workers_of(old))


async def test_turns_that_wait_for_a_removed_provider_are_served(tmp_path: Path) -> None:
    async with changing(tmp_path, named("old", pool=replace(POOL, ceiling=1))) as engine:
        old = engine.provider("old")
        turns = [asyncio.create_task(text_from(old, f"[[chunks=2 delay=0.02]] {n}")) for n in range(20)]
        await until(lambda: old.pool and old.pool.waiting)
        await engine.apply([], ())
        assert await asyncio.gather(*turns) == [f"[[chunks=2 delay=0.02]] {n}" for n in range(20)]


async def test_a_provider_that_left_long_ago_tells_a_late_turn_to_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.provider.LINGER_S", 0.0)
    monkeypatch.setattr("providers.engine.SEE_OFF_EVERY_S", 0.01)
    async with changing(tmp_path, named("old")) as engine:
        old = engine.provider("old")
        workers = await warm(engine, "old")
        await engine.apply([], ())
        await until(lambda: not engine._leaving)
        with pytest.raises(ProviderChanged) as caught:
            await text_from(old, "late")
        assert caught.value.retryable
        assert all(is_gone(pid) for pid in workers)


@pytest.mark.parametrize(
    "change",
    [
        {"models": ("echo", "echo-2"), "aliases": (("e", "echo"),), "context_tokens": 9},
        {"requests_per_minute": 5, "concurrent_turns": 2, "default_model": "echo"},
        {"pool": replace(POOL, floor=2, ceiling=3)},
    ],
    ids=["models", "limits", "pool"],
)
async def test_a_change_that_needs_no_new_process_keeps_those_there_are(tmp_path: Path, change: dict[str, Any]) -> None:
    async with changing(tmp_path, named("one")) as engine:
        present, workers = engine.provider("one"), await warm(engine, "one")
        await engine.apply([named("one", **change)], ())
        assert engine.provider("one") is present
        assert present.config == named("one", **change)
        assert await text_from(present, "Hi") == "Hi"
        assert workers <= workers_of(present)


async def test_bounds_of_a_pool_hold_from_the_moment_they_are_changed(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one", pool=replace(POOL, floor=0, ceiling=1))) as engine:
        provider = engine.provider("one")
        await engine.apply([named("one", pool=replace(POOL, floor=3, ceiling=3))], ())
        await until(lambda: provider.pool and provider.pool.count(State.IDLE) == 3)
        await engine.apply([named("one", pool=replace(POOL, floor=1, ceiling=1))], ())
        await until(lambda: provider.pool and provider.pool.live == 1)
        await asyncio.sleep(0.2)
        assert len(await warm(engine, "one")) == 1


async def test_a_change_of_what_processes_are_started_with_replaces_them(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one")) as engine:
        old, workers = engine.provider("one"), await warm(engine, "one")
        slow = asyncio.create_task(text_from(old, "[[chunks=3 delay=0.2]]"))
        await until(lambda: old.pool and old.pool.count(State.BUSY))
        await engine.apply([named("one", process=ProcessLimits(nice=3))], ())
        new = engine.provider("one")
        assert new is not old
        assert await text_from(new, "Hi") == "Hi"
        assert all(psutil.Process(pid).nice() == 3 for pid in workers_of(new))
        assert not workers & workers_of(new)
        assert await slow == "[[chunks=3 delay=0.2]]"
        await until(lambda: not workers_of(old))


async def test_a_disabled_provider_keeps_no_worker_and_serves_again_once_enabled(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one")) as engine:
        provider = engine.provider("one")
        await warm(engine, "one")
        await engine.apply([named("one", is_enabled=False)], ())
        assert engine.provider("one") is provider
        await until(lambda: not workers_of(provider))
        assert await text_from(provider, "sent there an instant before") == "sent there an instant before"
        await until(lambda: not workers_of(provider))
        await engine.apply([named("one")], ())
        assert await warm(engine, "one")


async def test_a_provider_that_is_disabled_at_the_start_starts_nothing(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one", is_enabled=False)) as engine:
        await engine.find_programs()
        assert engine.provider("one").pool is None
        await engine.apply([named("one")], ())
        assert await warm(engine, "one")


async def test_drain_takes_workers_away_until_it_is_undone(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one")) as engine:
        provider = engine.provider("one")
        await warm(engine, "one")
        await engine.apply([named("one", is_enabled=False, is_drained=True)], ())
        await until(lambda: not workers_of(provider))
        assert (provider.state, "drained" in provider.status.why) == ("disabled", True)
        await engine.apply([named("one")], ())
        assert await warm(engine, "one")


async def test_a_new_generation_gives_new_workers_and_lets_turns_end(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one")) as engine:
        old, workers = engine.provider("one"), await warm(engine, "one")
        slow = asyncio.create_task(text_from(old, "[[chunks=3 delay=0.2]]"))
        await until(lambda: old.pool and old.pool.count(State.BUSY))
        await engine.apply([named("one", generation=1)], ())
        assert not workers & await warm(engine, "one")
        assert await slow == "[[chunks=3 delay=0.2]]"
        await until(lambda: not workers_of(old))


async def test_closing_ends_what_is_still_leaving_and_lets_its_turns_end(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one")) as engine:
        old = engine.provider("one")
        slow = asyncio.create_task(text_from(old, "[[chunks=3 delay=0.2]]"))
        await until(lambda: old.pool and old.pool.count(State.BUSY))
        workers = workers_of(old)
        await engine.apply([named("two")], ())
        await engine.close(grace_s=BOUND_S)
        assert await slow == "[[chunks=3 delay=0.2]]"
        assert all(is_gone(pid) for pid in workers)
        await engine.apply([named("three")], ())
        assert [*engine.providers] == ["two"]


async def test_kill_ends_what_is_still_leaving(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one")) as engine:
        old = engine.provider("one")
        slow = asyncio.create_task(text_from(old, "[[chunks=2 delay=4]]"))
        await until(lambda: old.pool and old.pool.count(State.BUSY))
        workers = workers_of(old)
        await engine.apply([], ())
        engine.kill()
        with pytest.raises(WorkerCrashed):
            await slow
        await until(lambda: all(is_gone(pid) for pid in workers))


async def test_changes_under_fifty_turns_at_a_time_fail_none(tmp_path: Path) -> None:
    async with changing(tmp_path, named("one"), named("two")) as engine:
        is_over, answered = asyncio.Event(), 0

        async def keep_asking(number: int) -> None:
            nonlocal answered
            while not is_over.is_set():
                usable = [it for it in engine.providers.values() if it.config.is_enabled]
                chosen = usable[number % len(usable)]
                await asyncio.sleep(0)  # as between the choice and the turn
                assert await text_from(chosen, f"[[chunks=2 delay=0.005]] {number}")
                answered += 1

        turns = [asyncio.create_task(keep_asking(number)) for number in range(50)]
        for generation in range(1, 4):
            await engine.apply([named("one", generation=generation), named("three")], ())
            await asyncio.sleep(0.1)
            drained = named("three", is_enabled=False, is_drained=True)
            await engine.apply([named("one", generation=-generation), drained], ())
            await asyncio.sleep(0.1)
            await engine.apply([named("two"), named("one", is_enabled=False)], ())
            await asyncio.sleep(0.1)
        is_over.set()
        await asyncio.gather(*turns)
        assert answered > 50


# --- endurance -------------------------------------------------------------------------------------------------------


async def test_a_thousand_turns_given_up_after_their_first_event_leave_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, pool=PoolLimits(floor=1, ceiling=4, watch_s=0.05), deadlines=Deadlines()) as hub:
        most = 0

        async def give_up(number: int) -> None:
            turn = ask(f"{number} [[chunks=100 delay=0.01]]", caller=f"{number}")
            async with aclosing(hub.provider.run(turn)) as run:
                assert isinstance(await anext(run), TurnStarted)

        async def give_up_many(count: int) -> None:
            nonlocal most
            for start in range(0, count, 8):
                await asyncio.gather(*(give_up(start + n) for n in range(8)))
                most = max(most, len(hub.workers))

        await give_up_many(200)
        await hub.settled()
        gc.collect()
        memory, tasks, files = psutil.Process().memory_info().rss, len(asyncio.all_tasks()), psutil.Process().num_fds()
        live = len(hub.processes)
        async with asyncio.timeout(30):
            await give_up_many(800)
        await hub.settled()
        gc.collect()
        assert most <= 4
        assert len(hub.processes) <= 4
        assert len(asyncio.all_tasks()) == tasks
        assert psutil.Process().num_fds() <= files + 3 * (len(hub.processes) - live)
        assert psutil.Process().memory_info().rss - memory < 4 << 20
        assert await hub.answer("still here") == "still here"
