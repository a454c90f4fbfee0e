"""What process trees use, cheap enough to be watched: one look at all processes serves every worker of every pool."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

import psutil

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STAT_BYTES = 2_048
# A pid once seen as another program's is read again this often only; it could be a worker's by then.
ROUNDS_UNTIL_ALL = 15


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """What a process tree held when it was looked at. Resident bytes: shared pages count in each process."""

    rss_bytes: int = 0
    processes: int = 0


NOTHING = TreeUsage()


@dataclass(frozen=True, slots=True)
class _Entry:
    parent: int
    session: int
    rss_bytes: int
    is_zombie: bool


class ProcessTable:
    """The processes below this one, read anew when somebody asks and the last look is over `fresh_s` seconds old.

    A tree is a process, all its descendants, and all of the session it leads: a grandchild whose parent has ended
    still counts.
    """

    def __init__(self, *, fresh_s: float = 0.0) -> None:
        self._fresh_s = fresh_s
        self._entries: dict[int, _Entry] = {}
        self._children: dict[int, list[int]] = {}
        self._sessions: dict[int, list[int]] = {}
        self._others: set[int] = set()
        self._read_at = -float("inf")
        self._rounds = 0

    def usage(self, pid: int) -> TreeUsage:
        """What the tree of a process holds; nothing once it is gone."""
        if time.monotonic() - self._read_at > self._fresh_s:
            self.refresh()
        living = [entry for member in self._tree(pid) if (entry := self._entries.get(member)) and not entry.is_zombie]
        return TreeUsage(sum(entry.rss_bytes for entry in living), len(living)) if living else NOTHING

    def _tree(self, *roots: int) -> set[int]:
        found: set[int] = set()
        to_visit = [*roots]
        while to_visit:
            if (pid := to_visit.pop()) not in found:
                found.add(pid)
                to_visit += self._children.get(pid, ())
                to_visit += self._sessions.get(pid, ())
        return found

    def refresh(self) -> None:
        """Look again, for all who ask within the next moment."""
        if self._rounds % ROUNDS_UNTIL_ALL == 0:
            self._others.clear()
        self._rounds += 1
        self._entries = _read_proc(self._others) if sys.platform == "linux" else _read_by_psutil()
        self._read_at = time.monotonic()
        self._index()
        self._others.update(self._entries.keys() - self._tree(os.getpid()))

    def _index(self) -> None:
        children, sessions = defaultdict(list), defaultdict(list)
        for pid, entry in self._entries.items():
            children[entry.parent].append(pid)
            sessions[entry.session].append(pid)
        self._children, self._sessions = children, sessions


def _read_proc(others: set[int]) -> dict[int, _Entry]:
    """All processes but the others, which are forgotten once they are gone."""
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 (a fifth of iterdir's time)
    others &= pids
    read = ((pid, _read_stat(pid)) for pid in pids - others)
    return {pid: entry for pid, entry in read if entry is not None}


def _read_stat(pid: int) -> _Entry | None:
    try:
        handle = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            stat = os.read(handle, STAT_BYTES)
        finally:
            os.close(handle)
    except OSError:
        return None
    # The name in brackets may hold anything; after it: state, parent, group, session, ..., resident pages.
    fields = stat[stat.rindex(b")") + 2 :].split(b" ", 22)
    return _Entry(int(fields[1]), int(fields[3]), int(fields[21]) * PAGE_BYTES, fields[0] == b"Z")


def _read_by_psutil() -> dict[int, _Entry]:
    """The descendants of this process, where there is no /proc."""
    entries = {}
    for child in psutil.Process().children(recursive=True):
        try:
            is_zombie = child.status() == psutil.STATUS_ZOMBIE
            rss_bytes = 0 if is_zombie else int(child.memory_info().rss)
            entries[child.pid] = _Entry(child.ppid(), os.getsid(child.pid), rss_bytes, is_zombie)
        except (psutil.Error, OSError):
            continue
    return entries
