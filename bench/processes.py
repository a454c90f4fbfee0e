"""What process trees use: processor time, memory at its peak, and when they have come to rest."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from tests.hub import REDIS

MB = 1024 * 1024
# Looking at a hundred processes takes a while; resting this many times as long keeps it from being a load itself.
REST_FACTOR = 20
REST_LEAST_S = 0.25
# PSS walks every page of a process, so it is taken only when RSS is at its peak or close to it.
NEAR_PEAK = 0.9

QUIET_CPU_SHARE = 0.06
QUIET_WINDOW_S = 0.4
QUIET_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor seconds of a server, of what it started, and of the private Redis server among that."""

    own_s: float = 0.0
    children_s: float = 0.0
    redis_s: float = 0.0

    @property
    def all_s(self) -> float:
        return self.own_s + self.children_s + self.redis_s

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.own_s + other.own_s, self.children_s + other.children_s, self.redis_s + other.redis_s)

    def since(self, before: Cpu) -> Cpu:
        return Cpu(self.own_s - before.own_s, self.children_s - before.children_s, self.redis_s - before.redis_s)


def split_cpu(pid: int) -> Cpu:
    """What a process and everything below it have used by now, the ended ones included."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    children_s, redis_s = times.children_user + times.children_system, 0.0
    for child in process.children():
        with contextlib.suppress(psutil.Error):
            used_s = tree_cpu_s(child.pid)
            if _is_redis(child):
                redis_s += used_s
            else:
                children_s += used_s
    return Cpu(times.user + times.system, children_s, redis_s)


def worker_pids(pid: int) -> list[int]:
    """The direct children of a hub that serve turns."""
    return [child.pid for child in psutil.Process(pid).children() if not _is_redis(child)]


def _is_redis(process: psutil.Process) -> bool:
    # The keeper has the server below itself, so its whole tree is meant.
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(mark in command for mark in REDIS)


def tree_cpu_s(pid: int) -> float:
    """Processor seconds of a process and everything below it, the ended ones included."""
    total = 0.0
    for member in _tree(pid):
        try:
            times = member.cpu_times()
        except psutil.Error:
            continue
        # children_* counts only those that have ended, so nobody is counted twice.
        total += times.user + times.system + times.children_user + times.children_system
    return total


def wait_until_quiet(pid: int) -> None:
    """Return once the tree starts and stops nothing any more. Raises TimeoutError."""
    ends_at = time.monotonic() + QUIET_TIMEOUT_S
    before, members = tree_cpu_s(pid), _pids(pid)
    while time.monotonic() < ends_at:
        time.sleep(QUIET_WINDOW_S)
        now, members_now = tree_cpu_s(pid), _pids(pid)
        if now - before < QUIET_CPU_SHARE * QUIET_WINDOW_S and members == members_now:
            return
        before, members = now, members_now
    raise TimeoutError(f"process {pid} and its children did not come to rest within {QUIET_TIMEOUT_S:g} s")


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _pids(pid: int) -> set[int]:
    return {member.pid for member in _tree(pid)}


class PeakMemory:
    """Watches processes (and what is below them) while entered. Peaks in bytes, over all of them together.

    `pss_bytes` stays 0 where the system does not tell it (other systems than Linux).
    """

    def __init__(self, roots: Callable[[], Iterable[int]]) -> None:
        self.rss_bytes = 0
        self.pss_bytes = 0
        self.count = 0
        self._roots = roots
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            self._look()
            self._ended.wait(max(REST_LEAST_S, REST_FACTOR * (time.monotonic() - began)))

    def _look(self) -> None:
        members = self._members()
        rss = _sum(members, _rss_bytes)
        self.count = max(self.count, len(members))
        self.rss_bytes = max(self.rss_bytes, rss)
        if rss > NEAR_PEAK * self.rss_bytes:
            self.pss_bytes = max(self.pss_bytes, _sum(members, _pss_bytes))

    def _members(self) -> list[psutil.Process]:
        # One scan for all roots: a hundred of them with one each would be a load of its own.
        below: dict[int, list[psutil.Process]] = {}
        found = {member.pid: member for member in psutil.process_iter(["ppid"])}
        for member in found.values():
            below.setdefault(member.info["ppid"], []).append(member)
        members = [found[pid] for pid in self._roots() if pid in found]
        for member in members:
            members.extend(below.get(member.pid, ()))
        return members


def _sum(members: list[psutil.Process], value: Callable[[psutil.Process], int]) -> int:
    total = 0
    for member in members:
        # One that has just ended has no memory.
        with contextlib.suppress(psutil.Error):
            total += value(member)
    return total


def _rss_bytes(member: psutil.Process) -> int:
    return int(member.memory_info().rss)


def _pss_bytes(member: psutil.Process) -> int:
    return int(getattr(member.memory_full_info(), "pss", 0))
