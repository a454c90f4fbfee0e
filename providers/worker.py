"""One worker: a supervised CLI process with its folders, its driver and its deadlines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from providers.adapters.base import Adapter, Driver, WorkerFolder
from providers.alarm import Alarm
from providers.cgroups import Cgroups
from providers.errors import NotInstalled, ProviderError, TimedOut, WorkerFailed
from providers.events import Event, Turn
from providers.memory import ProcessTable, TreeUsage
from providers.process import Process, ProcessLimits
from providers.workspace import make_folder, remember_process, remove_folder

logger = logging.getLogger(__name__)

# Lines that are there already are read without a pause: a flood must not keep all other turns from running.
EVENTS_PER_BREATH = 64


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a worker may take, in seconds: to get ready, until the first event of a turn, between two events,
    for the whole turn, and to become empty again after it."""

    ready_s: float = 30.0
    first_event_s: float = 120.0
    silence_s: float = 180.0
    turn_s: float = 1_800.0
    reset_s: float = 2.0


class Worker:
    """A process that can take a turn. `binding` is None until its first turn."""

    def __init__(self, process: Process, driver: Driver, folder: WorkerFolder, deadlines: Deadlines) -> None:
        self._process = process
        self._driver = driver
        self._folder = folder
        self._deadlines = deadlines
        self.pid = process.pid
        self.binding: Hashable | None = None
        self.turns = 0
        self.started_at = self.idle_since = time.monotonic()

    @classmethod
    async def start(
        cls,
        adapter: Adapter,
        root: Path,
        limits: ProcessLimits,
        deadlines: Deadlines,
        cgroups: Cgroups | None = None,
    ) -> Worker:
        """Start a process below `root` and wait until it is ready.

        Raises ProviderError; nothing is left behind then, nor when cancelled.
        """
        try:
            return await cls._start(adapter, root, limits, deadlines, cgroups)
        except OSError as exc:  # of the program, or of a full disk
            raise WorkerFailed(f"{adapter.info.title} could not be started: {exc.strerror}") from exc

    @classmethod
    async def _start(
        cls, adapter: Adapter, root: Path, limits: ProcessLimits, deadlines: Deadlines, cgroups: Cgroups | None
    ) -> Worker:
        folder = make_folder(root)
        try:
            process = await _launch(adapter, folder, limits, cgroups)
        except BaseException:
            remove_folder(folder)
            raise
        worker = cls(process, adapter.driver(process, folder), folder, deadlines)
        try:
            remember_process(folder, process.pid)
            await worker._get_ready()
        except BaseException:
            await worker.stop()
            raise
        return worker

    async def _get_ready(self) -> None:
        try:
            async with asyncio.timeout(self._deadlines.ready_s):
                await self._driver.ready()
        except TimeoutError as exc:
            raise TimedOut(f"the worker was not ready within {self._deadlines.ready_s:g} s") from exc
        self.idle_since = time.monotonic()

    @property
    def is_alive(self) -> bool:
        return self._process.is_running

    @property
    def exit_code(self) -> int | None:
        """Of the process that has ended, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def memory(self) -> bytes | None:
        """The digest of the conversation it could go on with, between turns."""
        return self._driver.remembers()

    @property
    def needs_reset(self) -> bool:
        """Whether it has to be emptied before another conversation may have it, between turns."""
        return self._driver.needs_reset()

    @property
    def max_processes(self) -> int:
        """How many processes its tree should not exceed; 0 for any number."""
        return self._process.limits.max_processes

    def usage(self, processes: ProcessTable) -> TreeUsage:
        """What it holds with all it has started."""
        return processes.usage(self.pid)

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """Answer one turn within the deadlines. Raises ProviderError; may be closed at any event."""
        self.turns += 1
        ends_at = time.monotonic() + self._deadlines.turn_s
        limit_s, what = self._deadlines.first_event_s, "the first event did not come"
        alarm = Alarm()
        try:
            async with aclosing(self._driver.run(turn)) as events:
                count = 0
                while (event := await self._next(alarm, events, limit_s, what, ends_at)) is not None:
                    yield event
                    count += 1
                    if count % EVENTS_PER_BREATH == 0:
                        await asyncio.sleep(0)
                    limit_s, what = self._deadlines.silence_s, "the next event did not come"
        finally:
            alarm.close()
            self.idle_since = time.monotonic()

    async def _next(
        self, alarm: Alarm, events: AsyncGenerator[Event, None], limit_s: float, what: str, ends_at: float
    ) -> Event | None:
        wait_s = min(limit_s, ends_at - time.monotonic())
        if wait_s < limit_s:
            limit_s, what = self._deadlines.turn_s, "the turn did not end"
        try:
            return await alarm.wait(anext(events, None), wait_s)
        except TimeoutError as exc:
            raise TimedOut(f"{what} within {limit_s:g} s") from exc

    async def reset(self) -> bool:
        """Empty the process for the next conversation; False if it has to be replaced. Never raises."""
        try:
            async with asyncio.timeout(self._deadlines.reset_s):
                is_clean = await self._driver.reset()
        except (TimeoutError, ProviderError) as exc:
            logger.info("worker %d can't be emptied: %s", self.pid, str(exc) or "timed out")
            return False
        self.idle_since = time.monotonic()
        return is_clean and self.is_alive

    async def stop(self) -> None:
        """End the process and remove its folders. Never raises ProviderError."""
        try:
            await self._process.stop()
        finally:
            remove_folder(self._folder)

    def kill(self) -> None:
        self._process.kill()


async def _launch(adapter: Adapter, folder: WorkerFolder, limits: ProcessLimits, cgroups: Cgroups | None) -> Process:
    launch = adapter.launch(folder)
    try:
        return await Process.start(launch.argv, dict(launch.env), folder.cwd, limits, cgroups)
    except FileNotFoundError as exc:
        raise NotInstalled(f"{adapter.info.title} was not found", mend=adapter.info.mend_install) from exc
