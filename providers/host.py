"""What all pools of one hub share of the machine: places for workers, memory, one look at the processes, cgroups.

A pool asks here before it starts a worker. Places go first to turns of a pool that has no worker at all, then to those
who wait longest, then to floors. Where none is free, the least useful idle worker of another pool makes room. Nothing
is remembered between two questions but who is asked: every answer follows from what the pools are at that moment.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from providers.cgroups import Cgroups
from providers.memory import ProcessTable
from providers.pool_limits import PoolLimits
from providers.roster import Roster, State
from providers.worker import Worker

logger = logging.getLogger(__name__)

UNBOUNDED = sys.maxsize
# A pool whose one worker serves its own turns gives it up for a turn that waits this long elsewhere.
PATIENCE_S = 1.0
# Pools look at their workers at the same moment; what one of them read serves the others.
FRESH_S = 0.5
# What a busy worker may need: the default ceilings leave that much for each, and one without a memory limit is
# reckoned with it when it starts.
MEMORY_PER_WORKER_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Bounds of all workers of a hub together, 0 for none: their number, and their resident bytes.

    `cgroups` asks for a cgroup of its own for each worker where the system leaves the hub a part of the tree.
    """

    max_workers: int = 0
    memory_bytes: int = 0
    cgroups: bool = False


class Member(Protocol):
    """One pool, as the others see it."""

    name: str

    @property
    def limits(self) -> PoolLimits: ...

    @property
    def roster(self) -> Roster: ...

    @property
    def lacking(self) -> int:
        """For how many of its waiting turns it would start a worker if it had a place."""

    @property
    def waiting(self) -> int: ...

    @property
    def waits_since(self) -> float:
        """Since when its first turn waits; infinite if none does."""


class Use(IntEnum):
    """How useful an idle worker is: the least goes first."""

    DEAD = 0
    KEPT = 1
    SURPLUS = 2
    FLOOR = 3
    NEEDED = 4


@dataclass(frozen=True, slots=True)
class _Idle:
    owner: Member
    worker: Worker
    use: Use

    @property
    def rank(self) -> tuple[Use, float]:
        return self.use, self.worker.idle_since


class Host:
    """The machine as the pools of one engine share it."""

    def __init__(self, limits: HostLimits | None = None) -> None:
        self.limits = limits or HostLimits()
        self.processes = ProcessTable(fresh_s=FRESH_S)
        self.cgroups: Cgroups | None = None
        self._members: dict[Member, Callable[[], None]] = {}
        self._epoch_s = 0.0

    def prepare(self, data_folder: Path) -> None:
        """Clear what a killed hub of this data folder left of its cgroups, and make new ones where that is allowed."""
        if self.limits.cgroups:
            self.cgroups = Cgroups.open(data_folder)

    # --- the pools -------------------------------------------------------------------------------------------------

    def join(self, member: Member, wake: Callable[[], None]) -> None:
        """Count a pool in; `wake` has it decide again soon. Needs a running event loop."""
        if not self._members:
            self._epoch_s = asyncio.get_running_loop().time()
        self._members[member] = wake
        floors = sum(each.limits.floor for each in self._members)
        if 0 < self.limits.max_workers < floors:
            logger.warning(
                "the floors of all pools come to %d workers, the host's limit is %d: no more than that are kept warm",
                *(floors, self.limits.max_workers),
            )

    def leave(self, member: Member) -> None:
        """Count a pool out that holds no process any more."""
        self._members.pop(member, None)
        self.share_out()

    def seconds_to_look(self, every_s: float) -> float:
        """How long until pools that look every so often are to look again, at the same moment."""
        rest_s = every_s - (asyncio.get_running_loop().time() - self._epoch_s) % every_s
        return rest_s if rest_s > every_s / 10 else rest_s + every_s  # a timer may go off a little early

    # --- places ----------------------------------------------------------------------------------------------------

    @property
    def is_limited(self) -> bool:
        return bool(self.limits.max_workers or self.limits.memory_bytes)

    @property
    def live(self) -> int:
        """Processes of all pools that exist or are about to."""
        return sum(member.roster.live for member in self._members)

    @property
    def rss_bytes(self) -> int:
        """Resident bytes of all workers that are to stay, when they were last measured."""
        return sum(
            member.roster.rss_bytes(worker)
            for member in self._members
            for worker in member.roster
            if member.roster.state(worker) is not State.RETIRING
        )

    def room(self, member: Member) -> int:
        """How many workers a pool may start for turns that wait: those before it in line come first."""
        if not self.is_limited:
            return UNBOUNDED
        before = (other for other in self._line() if other is not member and _place(other) < _place(member))
        return max(0, self._free(member) - sum(map(_wanted, before)))

    def spare(self, member: Member) -> int:
        """How many it may start for no turn that waits: nobody else's turn may lack the place."""
        if not self.is_limited:
            return UNBOUNDED
        others = (other for other in self._line() if other is not member)
        return max(0, self._free(member) - sum(map(_wanted, others)))

    def to_yield(self, member: Member) -> list[Worker]:
        """Its idle workers that are to make room for turns of other pools."""
        return [idle.worker for idle in self._yielding() if idle.owner is member]

    def share_out(self) -> None:
        """Wake the pools that may start a worker by now, or are to let go of one."""
        if not self._line():
            return
        yielding = {idle.owner for idle in self._yielding()}
        for member, wake in self._members.items():
            if member in yielding or (member.lacking and self.room(member)):
                wake()

    def _line(self) -> list[Member]:
        return sorted((member for member in self._members if member.lacking), key=_place)

    def _free(self, member: Member) -> int:
        """Places nobody has; at least one while there is no worker at all, however little memory there is."""
        live, limits = self.live, self.limits
        room = limits.max_workers - live if limits.max_workers else UNBOUNDED
        if limits.memory_bytes:
            room = min(room, (limits.memory_bytes - self._reckoned_bytes()) // _expected_bytes(member))
        return max(0, room) if live else max(1, room)

    def _reckoned_bytes(self) -> int:
        # A worker just started has not grown yet.
        total = 0
        for member in self._members:
            roster, expected = member.roster, _expected_bytes(member)
            total += roster.starting * expected
            total += sum(max(roster.rss_bytes(worker), expected) for worker in roster)
        return total

    # --- who makes room --------------------------------------------------------------------------------------------

    def _yielding(self) -> list[_Idle]:
        """The idle workers that are to go now, for those in line whom neither a free place nor a leaving one serves."""
        line = self._line()
        if not line:
            return []
        coming = sum(member.roster.count(State.RETIRING) for member in self._members)
        idle = sorted((each for member in self._members for each in _idle(member)), key=lambda each: each.rank)
        left = {member: _staying(member) for member in self._members}
        chosen: list[_Idle] = []
        for hungry in line:
            served = min(_wanted(hungry), max(0, self._free(hungry) + coming))
            coming -= served
            for _ in range(_wanted(hungry) - served):
                able = (each for each in idle if each not in chosen and _may_take(hungry, each, left[each.owner]))
                if (taken := next(able, None)) is None:
                    break
                chosen.append(taken)
                left[taken.owner] -= 1
        return chosen

    def too_big(self) -> Worker | None:
        """While all together hold too much: the biggest idle worker, one that keeps a conversation first."""
        if not self.limits.memory_bytes or self.rss_bytes <= self.limits.memory_bytes:
            return None
        kept = [
            (member.roster.rss_bytes(worker), worker) for member in self._members for worker in member.roster.kept()
        ]
        idle = [
            (member.roster.rss_bytes(worker), worker) for member in self._members for worker in member.roster.idle()
        ]
        return max(kept or idle, key=lambda each: each[0], default=(0, None))[1]


def _staying(member: Member) -> int:
    return member.roster.live - member.roster.count(State.RETIRING)


def _place(member: Member) -> tuple[bool, float]:
    return _staying(member) > 0, member.waits_since


def _wanted(member: Member) -> int:
    """A pool that has no worker comes first, but with one turn only."""
    return member.lacking if _staying(member) else min(1, member.lacking)


def _expected_bytes(member: Member) -> int:
    return member.limits.rss_bytes // 2 or MEMORY_PER_WORKER_BYTES


def _idle(member: Member) -> Iterator[_Idle]:
    roster = member.roster
    surplus = roster.unbound - member.limits.floor
    for worker in roster.idle():
        use = Use.SURPLUS
        if not worker.is_alive:
            use = Use.DEAD
        elif member.waiting:
            use = Use.NEEDED
        elif worker.memory is not None:
            use = Use.KEPT
        elif worker.binding is None:
            use = Use.SURPLUS if surplus > 0 else Use.FLOOR
            surplus -= 1
        yield _Idle(member, worker, use)


def _may_take(hungry: Member, idle: _Idle, left: int) -> bool:
    """What is warm for nobody goes for any turn; what a pool wants itself only for one that has no worker at all."""
    if idle.owner is hungry:
        return False
    if idle.use <= Use.SURPLUS or _staying(hungry):
        return idle.use <= Use.SURPLUS
    if idle.use is Use.FLOOR or left > 1:
        return True
    # With its last worker that pool gets into the same line, where the earlier turn is first.
    is_earlier = hungry.waits_since < idle.owner.waits_since
    return is_earlier and time.monotonic() - hungry.waits_since >= PATIENCE_S
