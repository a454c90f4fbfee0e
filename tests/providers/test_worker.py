"""A worker over real processes: echo, and scripts that speak its protocol until they misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from providers.adapters.base import Launch, WorkerFolder
from providers.adapters.echo import EchoAdapter, EchoDriver
from providers.errors import NotInstalled, ProtocolBroken, ProviderError, TimedOut, WorkerCrashed, WorkerFailed
from providers.events import Event, TextDelta, TurnFinished, TurnStarted
from providers.memory import ProcessTable
from providers.process import Process, ProcessLimits
from providers.worker import Deadlines, Worker
from tests.providers.fakes import (
    BOUND_S,
    PATIENT,
    SHORT,
    ScriptedEcho,
    answer_of,
    ask,
    entries,
    is_gone,
    runs,
    scripted,
    start_worker,
    until,
)

pytestmark = pytest.mark.usefixtures("nothing_left", "short_ladder")

READY = "say(ready=True)\n"
START = READY + "hear()\nsay(start=True)\n"

Start = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start(tmp_path: Path, nothing_left: None) -> AsyncIterator[Start]:
    started: list[Worker] = []

    async def start(adapter: type[EchoAdapter] = EchoAdapter, **options: object) -> Worker:
        started.append(await start_worker(tmp_path, adapter, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for worker in started:
        await worker.stop()
    assert entries(tmp_path) == []


async def run(worker: Worker, text: str = "hello", *, max_tokens: int | None = None) -> list[Event]:
    async with asyncio.timeout(BOUND_S):
        return [event async for event in worker.run(ask(text, max_tokens=max_tokens))]


# --- starting --------------------------------------------------------------------------------------------------------


async def test_a_started_worker_is_ready_unbound_and_has_its_own_folder(start: Start, tmp_path: Path) -> None:
    worker = await start()
    assert worker.is_alive
    assert worker.binding is None
    assert worker.turns == 0
    assert worker.usage(ProcessTable()).rss_bytes > 1 << 20
    (folder,) = entries(tmp_path)
    assert (folder / "pid").read_text().startswith(f"{worker.pid} ")


@pytest.mark.parametrize(
    ("adapter", "error"),
    [
        (runs("/nowhere/claude"), NotInstalled),
        (runs(__file__), WorkerFailed),
        (scripted("sys.exit(0)"), WorkerCrashed),
        (scripted("os.kill(os.getpid(), signal.SIGKILL)"), WorkerCrashed),
        (scripted("print('no JSON', flush=True); hear()"), ProtocolBroken),
        (scripted("print('[1]', flush=True); hear()"), ProtocolBroken),
        (scripted("say(start=True); hear()"), ProtocolBroken),
        (scripted("os.write(1, b'x' * 100_000); hear()"), ProtocolBroken),
        (scripted("hear()"), TimedOut),
        (scripted("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"), TimedOut),
    ],
    ids=[
        *("missing", "not executable", "exits", "is killed", "garbage", "no object", "wrong message", "floods"),
        *("never ready", "deaf"),
    ],
)
async def test_a_worker_that_does_not_get_ready_leaves_nothing_behind(
    tmp_path: Path, adapter: type[ScriptedEcho], error: type[ProviderError]
) -> None:
    limits = ProcessLimits(max_line_bytes=50_000)
    with pytest.raises(error):
        async with asyncio.timeout(BOUND_S):
            await start_worker(tmp_path, adapter, limits=limits, deadlines=replace(PATIENT, ready_s=0.5))
    assert entries(tmp_path) == []


async def test_a_missing_program_is_reported_with_the_way_to_get_it(tmp_path: Path) -> None:
    class Missing(EchoAdapter):
        info = replace(EchoAdapter.info, mend_install="install it")

        def launch(self, folder: WorkerFolder) -> Launch:
            return Launch(("/nowhere/claude",), {})

    with pytest.raises(NotInstalled) as caught:
        await start_worker(tmp_path, Missing)
    assert caught.value.mend == "install it"


async def test_a_full_disk_is_a_failed_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: WorkerFolder, pid: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("providers.worker.remember_process", full)
    with pytest.raises(WorkerFailed, match="No space left"):
        await start_worker(tmp_path)
    assert entries(tmp_path) == []


async def test_a_root_that_can_not_be_made_is_a_failed_worker(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkerFailed):
        await start_worker(tmp_path / "file")


@pytest.mark.parametrize("wait_s", [0.0, 0.001, 0.01, 0.1])
async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path, wait_s: float) -> None:
    starting = asyncio.create_task(start_worker(tmp_path, scripted("hear()")))
    await asyncio.wait([starting], timeout=wait_s)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert entries(tmp_path) == []


# --- a turn ----------------------------------------------------------------------------------------------------------


async def test_a_turn_is_its_start_its_text_and_its_end(start: Start) -> None:
    worker = await start()
    events = await run(worker, "hello [[chunks=3]]")
    assert isinstance(events[0], TurnStarted)
    assert isinstance(events[-1], TurnFinished)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "hello [[chunks=3]]"
    assert worker.turns == 1


async def test_an_emptied_worker_takes_the_next_turn(start: Start) -> None:
    worker = await start()
    for n in range(3):
        assert await answer_of(worker, f"turn {n}") == f"turn {n}"
        idle_since = worker.idle_since
        assert await worker.reset()
        assert worker.idle_since > idle_since


async def test_a_worker_whose_turn_was_left_at_its_first_event_can_be_emptied(start: Start) -> None:
    worker = await start()
    async with aclosing(worker.run(ask("left alone [[chunks=1000 delay=0.01]]"))) as events:
        assert isinstance(await anext(events), TurnStarted)
    assert await worker.reset()
    assert await answer_of(worker, "fresh") == "fresh"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (START + "os.kill(os.getpid(), signal.SIGKILL)", WorkerCrashed),
        (READY + "hear(); sys.exit(0)", WorkerCrashed),
        (START + "print('\\x00garbage', flush=True); hear()", ProtocolBroken),
        (START + "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", TimedOut),
        (START + "while True: say(unknown=1); time.sleep(0.01)", TimedOut),
    ],
    ids=["killed", "exits unasked", "garbage", "deaf", "chatter without an event"],
)
async def test_a_turn_that_goes_wrong_ends_in_a_typed_error_and_leaves_nothing(
    tmp_path: Path, script: str, error: type[ProviderError]
) -> None:
    limits = ProcessLimits(max_line_bytes=1 << 20)
    worker = await start_worker(tmp_path, scripted(script), limits=limits, deadlines=SHORT)
    began = time.monotonic()
    with pytest.raises(error):
        await run(worker)
    assert time.monotonic() - began < 3
    assert not await worker.reset()
    await worker.stop()
    assert is_gone(worker.pid)
    assert entries(tmp_path) == []


async def test_a_flood_on_standard_error_does_not_hurt_the_turn(start: Start) -> None:
    worker = await start()
    assert await answer_of(worker, "x [[do=flood]]") == "x [[do=flood]]"
    assert await worker.reset()


async def test_a_worker_that_is_killed_while_it_is_idle_says_so(start: Start) -> None:
    worker = await start()
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: not worker.is_alive)
    assert not await worker.reset()
    assert worker.usage(ProcessTable()).rss_bytes == 0
    with pytest.raises(WorkerCrashed):
        await run(worker)


async def test_a_worker_that_is_killed_within_a_turn_ends_it_with_an_error(start: Start) -> None:
    worker = await start()
    async with aclosing(worker.run(ask("x [[chunks=5 delay=60]]"))) as events:
        await anext(events)
        await anext(events)
        worker.kill()
        with pytest.raises(WorkerCrashed):
            await asyncio.wait_for(anext(events), BOUND_S)


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "deadlines", "named"),
    [
        (READY + "time.sleep(60)", Deadlines(first_event_s=0.1), "the first event did not come within 0.1 s"),
        (START + "time.sleep(60)", Deadlines(silence_s=0.1), "the next event did not come within 0.1 s"),
        (READY + "time.sleep(60)", Deadlines(turn_s=0.1), "the turn did not end within 0.1 s"),
        (
            START + "while True: say(delta='x'); time.sleep(0.01)",
            Deadlines(turn_s=0.3),
            "the turn did not end within 0.3 s",
        ),
    ],
    ids=["first event", "silence", "whole turn", "whole turn, talking all the time"],
)
async def test_a_missed_deadline_is_named_with_its_length(
    start: Start, script: str, deadlines: Deadlines, named: str
) -> None:
    worker = await start(scripted(script), deadlines=deadlines)
    with pytest.raises(TimedOut, match=named):
        await run(worker)


async def test_a_worker_that_does_not_get_ready_in_time_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match=r"not ready within 0.2 s"):
        await start_worker(tmp_path, scripted("hear()"), deadlines=Deadlines(ready_s=0.2))


async def test_silence_is_counted_from_the_last_event(start: Start) -> None:
    """Six events in 0.6 s within a silence of 0.4 s: only the gaps count."""
    worker = await start(deadlines=Deadlines(silence_s=0.4))
    assert len(await run(worker, "x [[chunks=6 delay=0.1]]")) == 8


# --- emptying --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour",
    ["time.sleep(60)", "sys.exit(0)", "print('garbage', flush=True); time.sleep(60)"],
    ids=["hangs", "exits", "garbage"],
)
async def test_a_worker_that_can_not_be_emptied_has_to_be_replaced(start: Start, behaviour: str) -> None:
    worker = await start(scripted(START + f"say(delta='x')\nhear()\n{behaviour}"), deadlines=SHORT)
    async with aclosing(worker.run(ask("x"))) as events:
        await anext(events)
    began = time.monotonic()
    assert await worker.reset() is False
    assert time.monotonic() - began < SHORT.reset_s + 1


async def test_a_process_its_driver_does_not_trust_is_not_clean(start: Start) -> None:
    class Distrusting(EchoDriver):
        async def reset(self) -> bool:
            return False

    class Adapter(EchoAdapter):
        def driver(self, process: Process, folder: WorkerFolder) -> EchoDriver:
            return Distrusting(process)

    worker = await start(Adapter)
    await run(worker)
    assert await worker.reset() is False
    assert worker.is_alive


async def test_a_process_that_dies_after_a_clean_end_is_not_clean(start: Start) -> None:
    worker = await start(scripted(START + "say(end='stop', input=1, output=1)\nsys.exit(0)"))
    await run(worker)
    await until(lambda: not worker.is_alive)
    assert await worker.reset() is False


async def test_a_question_that_could_not_be_sent_whole_is_not_answered_to_the_next_caller(start: Start) -> None:
    """The pipe is full and the caller gives up: the rest of the line goes out later, and its answer must be eaten."""
    slow = READY + "signal.signal(signal.SIGUSR1, lambda *_: None)\nsignal.pause()\n"
    loop = """
    while True:
        message = hear()
        if "ask" in message:
            say(start=True)
            say(delta=message["ask"][:5])
            say(end="stop", input=1, output=1)
    """
    worker = await start(scripted(slow + dedent(loop)), deadlines=replace(PATIENT, reset_s=BOUND_S))
    first = asyncio.create_task(run(worker, "alice" + "x" * 1_000_000))
    await asyncio.wait([first], timeout=0.1)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    os.kill(worker.pid, signal.SIGUSR1)
    assert not await worker.reset() or await answer_of(worker, "bob's") == "bob's"


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_a_stopped_worker_is_gone_with_its_folder_and_may_be_stopped_again(tmp_path: Path, start: Start) -> None:
    worker = await start()
    await worker.stop()
    await worker.stop()
    assert is_gone(worker.pid)
    assert entries(tmp_path) == []


async def test_a_cancelled_stop_still_removes_the_folder_and_kills(tmp_path: Path, start: Start) -> None:
    worker = await start(scripted("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(60)"))
    stopping = asyncio.create_task(worker.stop())
    await asyncio.wait([stopping], timeout=0.01)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert entries(tmp_path) == []
    await until(lambda: is_gone(worker.pid))
