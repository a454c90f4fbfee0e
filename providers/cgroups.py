"""A control group (cgroup v2) for each worker, where the system leaves the hub a part of the tree to do this with.

That is so in a service with `Delegate=yes`, and for root in a container that may write to its own groups:

    <delegated>/hub            the hub itself, because a group with controllers for groups below it holds no process
    <delegated>/hub-<folder>/  one group per worker of the hub of that data folder

All of it is best effort. What can't be done is logged once and never keeps a worker from starting.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

logger = logging.getLogger(__name__)

CONTROLLERS = ("cpu", "memory", "pids")
HUB_GROUP = "hub"
# Set by systemd on the groups it leaves to a service.
DELEGATE_MARKS = ("user.delegate", "trusted.delegate")
# Processes may be started while others are moved; a few rounds catch them.
MOVE_ROUNDS = 5
# A killed process is gone after some milliseconds, and with the last one its group can be removed.
REMOVE_PATIENCE_S = 0.5
REMOVE_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Share:
    """What a group may have: a weight of 1 to 10,000 against its neighbours' (None for the system's 100), the number
    of processes and threads, resident and cached bytes. 0 leaves a bound off."""

    cpu_weight: int | None = None
    tasks: int = 0
    memory_bytes: int = 0

    def files(self) -> dict[str, str]:
        """What is written where."""
        files = {
            "cpu.weight": str(self.cpu_weight or ""),
            "pids.max": str(self.tasks or ""),
            "memory.max": str(self.memory_bytes or ""),
            "memory.oom.group": "1" if self.memory_bytes else "",
        }
        return {name: value for name, value in files.items() if value}


class Cgroup:
    """The group of one worker, with all its processes, also those that left its process group."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pids(self) -> list[int]:
        with suppress(OSError):
            return [int(word) for word in _read(self.path / "cgroup.procs").split()]
        return []

    def kill(self) -> None:
        """Kill every process in it."""
        try:
            _write(self.path / "cgroup.kill", "1")
        except OSError:  # Linux before 5.14
            for pid in self.pids():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> bool:
        """Remove it; False while there are processes in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class Cgroups:
    """The groups of one hub's workers, below `folder`, with those of CONTROLLERS that the hub was given."""

    def __init__(self, folder: Path, controllers: frozenset[str]) -> None:
        self.folder = folder
        self.controllers = controllers
        self._numbers = count(1)
        self._noted: set[str] = set()

    def __repr__(self) -> str:
        return f"<Cgroups {self.folder}: {' '.join(sorted(self.controllers))}>"

    @classmethod
    def open(cls, data_folder: Path) -> Cgroups | None:
        """The groups for the hub of this data folder, which holds the folder's lock; None where that is not allowed.

        What a killed hub left behind there is ended and removed.
        """
        if sys.platform != "linux":
            return None
        try:
            base = delegated_folder(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
            groups = cls.below(base, data_folder) if base is not None else None
        except OSError as error:
            logger.info("workers get no cgroups of their own: %s", error)
            return None
        if groups is None:
            logger.info("workers get no cgroups of their own: none are delegated to the hub")
        return groups

    @classmethod
    def below(cls, base: Path, data_folder: Path) -> Cgroups | None:
        """The groups in a delegated part of the tree, swept. Raises OSError."""
        wanted = [name for name in CONTROLLERS if name in _read(base / "cgroup.controllers").split()]
        if not wanted:
            return None
        _clear_of_processes(base)
        folder = base / f"{HUB_GROUP}-{hashlib.sha256(bytes(data_folder.resolve())).hexdigest()[:12]}"
        _enable(base, wanted)
        folder.mkdir(exist_ok=True)
        _enable(folder, wanted)
        controllers = frozenset(_read(folder / "cgroup.subtree_control").split()) & frozenset(wanted)
        groups = cls(folder, controllers)
        if removed := groups.sweep():
            logger.warning("removed %d cgroups of a killed hub", removed)
        if not controllers:
            return None
        logger.info("each worker gets a cgroup of its own in %s (%s)", folder, " ".join(sorted(groups.controllers)))
        return groups

    def sweep(self) -> int:
        """End and remove the groups a killed hub left behind; returns how many there were."""
        leftovers = [Cgroup(path) for path in self.folder.iterdir() if path.is_dir()]
        for group in leftovers:
            group.kill()
        ends_at = time.monotonic() + REMOVE_PATIENCE_S
        remaining = [group for group in leftovers if not group.remove()]
        while remaining and time.monotonic() < ends_at:
            time.sleep(REMOVE_EVERY_S)
            remaining = [group for group in remaining if not group.remove()]
        return len(leftovers)

    def admit(self, pid: int, share: Share) -> Cgroup | None:
        """Put a process that has just started into a group of its own; None if that can't be done."""
        group = Cgroup(self.folder / f"{next(self._numbers)}-{pid}")
        try:
            group.path.mkdir()
            self._limit(group, share)
            _write(group.path / "cgroup.procs", str(pid))
        except OSError as error:
            group.remove()
            if error.errno != errno.ESRCH:  # it may have ended by now
                self._note("a worker could not be put into a cgroup", error)
            return None
        return group

    def _limit(self, group: Cgroup, share: Share) -> None:
        for name, value in share.files().items():
            try:
                _write(group.path / name, value)
            except OSError as error:
                self._note(f"{name} can't be set for workers", error)

    def _note(self, problem: str, error: OSError) -> None:
        if problem not in self._noted:
            self._noted.add(problem)
            logger.warning("%s: %s", problem, error.strerror)


def delegated_folder(mountinfo: str, own_groups: str) -> Path | None:
    """The part of the cgroup tree that is this process' to arrange; None if there is none.

    Takes the texts of /proc/self/mountinfo and /proc/self/cgroup.
    """
    mount, relative = _mount(mountinfo), _own_group(own_groups)
    if mount is None or relative is None:
        return None
    mount_point, mount_root = mount
    inner = relative.removeprefix(mount_root.rstrip("/")).strip("/")
    own = mount_point / inner
    if own.name == HUB_GROUP and inner:  # an earlier start of this process has moved it there
        own = own.parent
    # The top of the tree is a container's own, or that of a machine on which nobody else arranges it.
    candidates = [own] if own == mount_point else [path for path in (own, own.parent) if _is_delegated(path)]
    return next((path for path in candidates if _may_arrange(path)), None)


def _mount(mountinfo: str) -> tuple[Path, str] | None:
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            _, _, _, root, point, *_ = fields.split()
            return Path(point), root
    return None


def _own_group(own_groups: str) -> str | None:
    return next((line.removeprefix("0::") for line in own_groups.splitlines() if line.startswith("0::")), None)


def _is_delegated(path: Path) -> bool:
    for mark in DELEGATE_MARKS:
        with suppress(OSError):
            if os.getxattr(path, mark) == b"1":  # type: ignore[attr-defined,unused-ignore]
                return True
    return False


def _may_arrange(path: Path) -> bool:
    return all(os.access(each, os.W_OK) for each in (path, path / "cgroup.procs"))


def _clear_of_processes(base: Path) -> None:
    """Move what lives in a group itself into one below it. Raises OSError."""
    if not (base / "cgroup.type").exists():  # the machine's own top: the rule does not hold there
        return
    for _ in range(MOVE_ROUNDS):
        pids = Cgroup(base).pids()
        if not pids:
            return
        (base / HUB_GROUP).mkdir(exist_ok=True)
        for pid in pids:
            with suppress(ProcessLookupError):
                _write(base / HUB_GROUP / "cgroup.procs", str(pid))


def _enable(folder: Path, controllers: list[str]) -> None:
    """Hand controllers on to the groups below, those that can be."""
    for controller in controllers:
        with suppress(OSError):
            _write(folder / "cgroup.subtree_control", f"+{controller}")


def _read(path: Path) -> str:
    return path.read_text()


def _write(path: Path, value: str) -> None:
    # Without O_CREAT: a file that is not there is a controller that is not there.
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, value.encode())
    finally:
        os.close(handle)
