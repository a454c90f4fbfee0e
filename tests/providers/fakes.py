"""Stand-ins for the engine's tests: workers without a process, a clock moved by hand, scripts that speak like echo."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil

from providers.adapters.base import Launch, Program, WorkerFolder
from providers.adapters.echo import EchoAdapter
from providers.cgroups import Cgroups
from providers.errors import ProviderError
from providers.events import Message, Sampling, TextDelta, Turn
from providers.host import Host
from providers.memory import ProcessTable, TreeUsage
from providers.pool import Lease, WorkerPool
from providers.pool_limits import PoolLimits
from providers.process import ProcessLimits
from providers.worker import Deadlines, Worker

BOUND_S = 5.0
FOREVER_S = 3_600.0


async def until(holds: Callable[[], object]) -> None:
    """Wait for what another task or process is to bring about; fails after BOUND_S."""
    async with asyncio.timeout(BOUND_S):
        while not holds():  # noqa: ASYNC110 (processes and pools of the engine offer no event to wait for)
            await asyncio.sleep(0.001)


async def turn_over() -> None:
    """Let every task that can run now run, background tasks of background tasks too."""
    for _ in range(20):
        await asyncio.sleep(0)


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has, whoever is to reap it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Clock:
    """The engine's sense of time; runs with the real one and jumps ahead when told to."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def advance(self, seconds: float) -> None:
        self.ahead_s += seconds


# --- the pool's workers ----------------------------------------------------------------------------------------------


class FakeWorker(Worker):
    """A worker without a process: its state is what the test says."""

    def __init__(self, pid: int, now: float) -> None:
        self.pid = pid
        self.binding: Hashable | None = None
        self.turns = 0
        self.started_at = self.idle_since = now
        self.lives = True
        self.holds: bytes | None = None
        self.rss = 0
        self.processes = 1
        self.most_processes = 0
        self.looks = 0
        self.is_spent = True
        self.resets_clean = True
        self.reset_error: Exception | None = None
        self.resets = 0
        self.is_killed = False
        self.is_stopped = False
        self.may_reset = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.may_reset.set()
        self.may_stop.set()
        self.on_stop: Callable[[], Awaitable[None]] | None = None

    @property
    def is_alive(self) -> bool:
        return self.lives

    @property
    def exit_code(self) -> int | None:
        return None

    @property
    def memory(self) -> bytes | None:
        return self.holds

    @property
    def needs_reset(self) -> bool:
        return self.is_spent

    @property
    def rss_bytes(self) -> int:
        self.looks += 1
        return self.rss

    @property
    def max_processes(self) -> int:
        return self.most_processes

    def usage(self, processes: ProcessTable) -> TreeUsage:
        return TreeUsage(self.rss_bytes, self.processes)

    async def reset(self) -> bool:
        await self.may_reset.wait()
        self.resets += 1
        if self.reset_error is not None:
            raise self.reset_error
        self.holds = None
        self.idle_since = time.monotonic()
        return self.resets_clean and self.lives

    async def stop(self) -> None:
        try:
            await self.may_stop.wait()
            if self.on_stop is not None:
                await self.on_stop()
        finally:
            self.lives = False
            self.is_stopped = True

    def kill(self) -> None:
        self.is_killed = True
        self.lives = False


class Starter:
    """Makes the fake workers of a pool; a test holds starts back, fails them and counts them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.workers: list[FakeWorker] = []
        self.error: Exception | None = None
        self.first_errors: list[Exception] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.calls = 0
        self.under_way = 0
        self.most_under_way = 0
        self.most_live = 0
        self._clock = clock or Clock()

    async def __call__(self) -> Worker:
        self.calls += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.most_live = max(self.most_live, self.under_way + len(self.live))
        try:
            await self.may_start.wait()
            if self.first_errors:
                raise self.first_errors.pop(0)
            if self.error is not None:
                raise self.error
            worker = FakeWorker(1_000 + len(self.workers), self._clock.monotonic())
            self.workers.append(worker)
            return worker
        finally:
            self.under_way -= 1

    @property
    def live(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if not worker.is_stopped]


@asynccontextmanager
async def opened(
    starter: Starter, *, starts: int = 16, name: str = "fake", host: Host | None = None, **limits: Any
) -> AsyncIterator[WorkerPool]:
    """A pool of fake workers, without a floor and not watched unless the test says so."""
    settings = replace(PoolLimits(floor=0, watch_s=FOREVER_S), **limits)
    pool = WorkerPool(name, starter, settings, asyncio.Semaphore(starts), host)
    pool.open()
    try:
        yield pool
    finally:
        await pool.close(grace_s=0)
    assert not starter.live
    assert pool.live == 0


class Holder:
    """A caller that takes a lease in a task of its own and holds it until told to leave.

    Its turn goes on from `history`; one that ends well leaves the worker with `learns`.
    """

    def __init__(
        self,
        pool: WorkerPool,
        caller: str = "alice",
        *,
        binding: Hashable = "alice",
        history: bytes | None = None,
        learns: bytes | None = None,
    ) -> None:
        self.caller = caller
        self.lease: Lease | None = None
        self.start = ""
        self._history = history
        self._learns = learns
        self._may_leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(pool, caller, binding), name=f"caller {caller}")

    async def _hold(self, pool: WorkerPool, caller: str, binding: Hashable) -> None:
        async with pool.lease(caller=caller, binding=binding, history=self._history) as self.lease:
            self.start, worker = self.lease.start, self.worker
            assert worker.holds in (None, self._history)
            worker.holds = None
            await self._may_leave.wait()
            worker.turns += 1
            worker.idle_since = time.monotonic()
            worker.holds = self._learns

    async def seated(self) -> FakeWorker:
        """Wait for the lease; raises what the pool refused it with."""
        await until(lambda: self.lease is not None or self.task.done())
        if self.lease is None:
            await self.task
        return self.worker

    @property
    def is_seated(self) -> bool:
        return self.lease is not None

    @property
    def worker(self) -> FakeWorker:
        assert self.lease is not None
        assert isinstance(self.lease.worker, FakeWorker)
        return self.lease.worker

    async def leave(self) -> None:
        self._may_leave.set()
        await self.task
        await turn_over()

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await turn_over()

    async def refusal(self) -> ProviderError:
        """The error the caller got instead of a lease."""
        await asyncio.wait([self.task], timeout=BOUND_S)
        error = self.task.exception()
        assert isinstance(error, ProviderError)
        return error


async def take_turn(
    pool: WorkerPool,
    caller: str = "alice",
    *,
    binding: Hashable = "alice",
    history: bytes | None = None,
    learns: bytes | None = None,
) -> FakeWorker:
    """One whole turn; returns the worker that had it, given back and tidied."""
    holder = Holder(pool, caller, binding=binding, history=history, learns=learns)
    worker = await holder.seated()
    await holder.leave()
    return worker


# --- real processes --------------------------------------------------------------------------------------------------

SCRIPT_HEAD = """
import json, os, signal, subprocess, sys, time
def say(**message):
    print(json.dumps(message), flush=True)
def hear():
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)
"""


def python(code: str) -> tuple[str, ...]:
    """The argument vector of a small Python child."""
    return (sys.executable, "-I", "-S", "-c", SCRIPT_HEAD + dedent(code))


class ScriptedEcho(EchoAdapter):
    """Echo's protocol, spoken by a script of the test."""

    argv: tuple[str, ...] = ()

    def launch(self, folder: WorkerFolder) -> Launch:
        return Launch(self.argv, {"TMPDIR": str(folder.tmp)})


def scripted(code: str) -> type[ScriptedEcho]:
    return type("Scripted", (ScriptedEcho,), {"argv": python(code)})


def runs(*argv: str) -> type[ScriptedEcho]:
    return type("Scripted", (ScriptedEcho,), {"argv": argv})


PROGRAM = Program(Path(), {})
PATIENT = Deadlines(ready_s=BOUND_S, first_event_s=BOUND_S, silence_s=BOUND_S, turn_s=BOUND_S)
# Long enough for a busy machine to do what is right, short enough to wait for what is wrong.
SHORT = Deadlines(ready_s=BOUND_S, first_event_s=0.6, silence_s=0.6, turn_s=2.0, reset_s=0.6)


async def start_worker(
    root: Path,
    adapter: type[EchoAdapter] = EchoAdapter,
    *,
    limits: ProcessLimits | None = None,
    deadlines: Deadlines = PATIENT,
    cgroups: Cgroups | None = None,
) -> Worker:
    return await Worker.start(adapter(PROGRAM), root, limits or ProcessLimits(), deadlines, cgroups)


def ask(text: str, *, owner: str = "alice", caller: str = "alice", max_tokens: int | None = None) -> Turn:
    return Turn((Message("user", (text,)),), owner=owner, caller=caller, sampling=Sampling(max_tokens=max_tokens))


async def answer_of(worker: Worker, text: str) -> str:
    """The whole text of an answer."""
    return "".join([event.text async for event in worker.run(ask(text)) if isinstance(event, TextDelta)])
