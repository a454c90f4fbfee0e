"""One child process: started in isolation, read line by line, ended for certain.

It runs in its own process group with exactly the environment it is given. On Linux it dies with the hub: the
parent-death signal follows the thread that starts it, so `start` must run in the event loop's own thread.
Standard error is always drained, into a bounded tail. The stop ladder is: close stdin, TERM the group, KILL it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import psutil

from providers.cgroups import Cgroup, Cgroups, Share
from providers.errors import ProtocolBroken, WorkerCrashed, excerpt
from providers.lines import LineBuffer

logger = logging.getLogger(__name__)

STDERR_TAIL_BYTES = 8_192
# An exited process' last output is in the pipe already; a longer wait means a grandchild holds the pipe open.
PIPE_GRACE_S = 0.5
# The CLIs end within 0.1 s of losing stdin when idle; a busy claude would finish its turn first.
STDIN_GRACE_S = 0.3
TERM_GRACE_S = 1.0
KILL_GRACE_S = 5.0
# A killed process' group can be removed once the kernel is done with the last of its descendants.
GROUP_GRACE_S = 0.5
GROUP_LOOK_S = 0.01

# Past so many times `max_processes` a tree is killed within a turn; the kernel's own bound counts threads too.
HARD_PROCESSES_FACTOR = 2
THREADS_PER_PROCESS = 32

# To the kernel, niceness is a weight too: 0 is a cgroup's usual one, and each step takes a fifth of it away.
USUAL_WEIGHT, NICE_STEP, MOST_NICE = 100, 1.25, 19


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Bounds of one worker's process; None or 0 leaves a limit off.

    `data_bytes` is a kernel backstop (RLIMIT_DATA, Linux only), never the working limit: it counts what a process
    reserves, which is 5.5 GB for claude. `cpu_s` is processor time in seconds over the process' whole life.
    `max_processes` bounds its tree: above, it is replaced between turns, above twice that killed. Where it gets a
    cgroup, that holds `cpu_weight`, a weight of 1 to 10,000 (100 is usual), and `memory_bytes` as a hard bound;
    elsewhere a lower weight becomes niceness.
    """

    max_line_bytes: int = 64 * 1024 * 1024
    data_bytes: int = 0
    cpu_s: int = 0
    nice: int = 0
    cpu_weight: int | None = None
    max_processes: int = 0
    memory_bytes: int = 0

    @property
    def nice_alone(self) -> int:
        """Its niceness where there is no cgroup to hold its share."""
        if self.cpu_weight is None:
            return self.nice
        return max(self.nice, min(MOST_NICE, round(math.log(USUAL_WEIGHT / self.cpu_weight, NICE_STEP))))

    @property
    def share(self) -> Share:
        """What its cgroup holds it to; processes are watched, threads included it is the kernel that counts."""
        tasks = self.max_processes * HARD_PROCESSES_FACTOR * THREADS_PER_PROCESS
        return Share(self.cpu_weight, tasks, self.memory_bytes)


@cache
def parent_death_argv() -> tuple[str, ...]:
    """A prefix that makes a child die with its parent, empty where the system has no such tool."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "KILL", "--")
    try:
        works = subprocess.run([*prefix, sys.executable, "--version"], capture_output=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if works.returncode == 0 else ()


def lower_limit(pid: int, kind: int, limit: int) -> None:
    """Set a kernel limit of a process, 0 for none. Only root may raise one, so a lower one is left as it is."""
    _, hard = resource.prlimit(pid, kind)
    if limit and (hard == resource.RLIM_INFINITY or limit < hard):
        resource.prlimit(pid, kind, (limit, limit))


def _require_program(path: str) -> None:
    # The prefix above can always be started: it would only report the missing program when it is too late to tell.
    if not os.access(path, os.X_OK):
        number = errno.EACCES if os.access(path, os.F_OK) else errno.ENOENT
        raise OSError(number, os.strerror(number), path)


class _Pipes(asyncio.SubprocessProtocol):
    """Feeds the pipes' bytes on and remembers how the process ended."""

    def __init__(self, lines: LineBuffer) -> None:
        self.lines = lines
        self.stderr = bytearray()
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.is_unwanted = False
        self._transport: asyncio.SubprocessTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.lines.attach(cast(asyncio.ReadTransport, self._transport.get_pipe_transport(1)))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self.lines.feed(data)
            return
        self.stderr += data
        del self.stderr[:-STDERR_TAIL_BYTES]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self.lines.close()
        elif fd == 0:
            self.may_write.set()

    def process_exited(self) -> None:
        self.exited.set_result(None)
        self.may_write.set()  # a grandchild that holds the pipe open would keep `send` waiting
        asyncio.get_running_loop().call_later(PIPE_GRACE_S, self._give_up_on_output)
        if self.is_unwanted:
            self._transport.close()

    def _give_up_on_output(self) -> None:
        if self.lines.is_paused:  # the reader is slow, the end of the output is still in the pipe
            asyncio.get_running_loop().call_later(PIPE_GRACE_S, self._give_up_on_output)
        else:
            self.lines.close()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()


class Process:
    """A running child. `send` and `read_line` belong to one task at a time; `stop` and `kill` to anyone."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: _Pipes, limits: ProcessLimits) -> None:
        self.limits = limits
        self._transport = transport
        self._stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        self._pipes = pipes
        self._group: Cgroup | None = None
        self.pid = transport.get_pid()

    @classmethod
    async def start(
        cls,
        argv: tuple[str, ...],
        env: dict[str, str],
        cwd: Path,
        limits: ProcessLimits,
        cgroups: Cgroups | None = None,
    ) -> Process:
        """Start `argv` with exactly `env`, in a cgroup of its own where there are any.

        Raises OSError if the program can't be run.
        """
        _require_program(argv[0])
        lines = LineBuffer(limits.max_line_bytes)
        transport, pipes = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Pipes(lines), *parent_death_argv(), *argv, env=env, cwd=cwd, start_new_session=True
        )
        process = cls(transport, pipes, limits)
        try:
            process._group = cgroups.admit(process.pid, limits.share) if cgroups is not None else None
            process._limit()
        except BaseException:
            process.kill()
            raise
        return process

    def _limit(self) -> None:
        # After the start and from outside: code run between fork and exec may deadlock in a threaded hub.
        limits = self.limits
        nice = limits.nice if self._group is not None else limits.nice_alone
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if nice > os.getpriority(os.PRIO_PROCESS, self.pid):
                os.setpriority(os.PRIO_PROCESS, self.pid, nice)
            if sys.platform == "linux":
                lower_limit(self.pid, resource.RLIMIT_DATA, limits.data_bytes)
                lower_limit(self.pid, resource.RLIMIT_CPU, limits.cpu_s)

    @property
    def is_running(self) -> bool:
        return not self._pipes.exited.done()

    @property
    def returncode(self) -> int | None:
        return self._transport.get_returncode()

    @property
    def stderr_tail(self) -> str:
        return self._pipes.stderr.decode(errors="replace")

    async def send(self, line: bytes) -> None:
        """Write one line; a line break is added. Waits while the child does not read.

        Raises WorkerCrashed if the child is gone, ValueError for a line with a break inside.
        """
        if b"\n" in line:
            raise ValueError("a protocol line must not hold a line break")
        if self._stdin.is_closing() or not self.is_running:
            raise await self._crashed()
        self._stdin.write(line + b"\n")
        await self._pipes.may_write.wait()

    async def read_line(self) -> bytes:
        """The next line of standard output, without its break.

        Raises WorkerCrashed at the end of the output, ProtocolBroken for a line over the limit.
        """
        line = await self._pipes.lines.next()
        if line is not None:
            return line
        if self._pipes.lines.is_broken:
            raise ProtocolBroken(f"process {self.pid} wrote a line of over {self._pipes.lines.max_line_bytes} bytes")
        raise await self._crashed()

    async def _crashed(self) -> WorkerCrashed:
        await self._await_exit(PIPE_GRACE_S)
        end = "closed its output" if self.returncode is None else f"ended with code {self.returncode}"
        last = excerpt(bytes(self._pipes.stderr[-200:]))
        return WorkerCrashed(f"process {self.pid} {end}" + (f": {last}" if last else ""))

    async def _await_exit(self, wait_s: float) -> None:
        # Not asyncio's Process.wait(): that one also waits for pipes, which a grandchild may hold open.
        await asyncio.wait([self._pipes.exited], timeout=wait_s)

    async def stop(self) -> None:
        """Climb the stop ladder until the process and its group are gone. Never raises; cancelled, it kills."""
        try:
            self._stdin.close()
            await self._await_exit(STDIN_GRACE_S)
            if self.is_running:
                self._signal_group(signal.SIGTERM)
                await self._await_exit(TERM_GRACE_S)
        finally:
            self.kill()
        await self._await_exit(KILL_GRACE_S)
        if self.is_running:
            logger.error("process %d survived SIGKILL for %.0f s", self.pid, KILL_GRACE_S)
        await self._remove_group()

    async def _remove_group(self) -> None:
        if self._group is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GROUP_GRACE_S):
                while not self._group.remove():  # noqa: ASYNC110 (the kernel offers no event for this)
                    await asyncio.sleep(GROUP_LOOK_S)

    def kill(self) -> None:
        """Kill the whole group at once, also what an ended leader left behind."""
        self._signal_group(signal.SIGKILL)
        if self._group is not None:
            self._group.kill()
        # Closed any earlier, the transport would race with asyncio's own watcher for the exit code.
        self._pipes.is_unwanted = True
        if not self.is_running:
            self._transport.close()

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
