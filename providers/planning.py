"""Who gets which worker, which processes start and which go: decided at once, from what is known at that moment.

Nothing here awaits. A decision marks the workers it concerns, so that the next one reckons with it, and names in
`Moves` what is left to be done about it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from providers.breaker import StartBreaker
from providers.host import Host
from providers.pool_limits import PoolLimits
from providers.process import HARD_PROCESSES_FACTOR
from providers.roster import Roster, State
from providers.waiting import FairQueue
from providers.worker import Worker

# A start costs about this much processor time; a worker may pass over the first in line for matching ones this long.
PATIENCE_S = 1.0
# The first token of a warm worker takes about a quarter of a second.
REFILL_DELAY_S = 0.5
# In a full pool, a bound worker idle this long makes room for one that any new conversation can use.
MAKE_ROOM_AFTER_S = 5.0


@dataclass(slots=True)
class Moves:
    """What is to be done about a decision: workers to empty or end, processes to start, when to decide again."""

    emptying: list[Worker] = field(default_factory=list)
    ending: list[tuple[Worker, str]] = field(default_factory=list)  # and why
    starts: int = 0
    again_in_s: float | None = None


class Planner:
    """The decisions of one pool, over the roster and the queue it shares with it, and within what the host leaves."""

    def __init__(
        self,
        name: str,
        limits: PoolLimits,
        roster: Roster,
        queue: FairQueue[Worker],
        breaker: StartBreaker,
        host: Host,
    ) -> None:
        self.name = name
        self._limits = limits
        self._roster = roster
        self._queue = queue
        self._breaker = breaker
        self._host = host
        self._lacking = 0
        self._moves = Moves()
        self._short_since: float | None = -math.inf  # nothing runs yet that a first start could slow down

    def adjust(self, limits: PoolLimits) -> None:
        """Decide by other limits from now on."""
        self._limits = limits

    # --- what the other pools see ----------------------------------------------------------------------------------

    @property
    def limits(self) -> PoolLimits:
        return self._limits

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def lacking(self) -> int:
        return min(self._lacking, len(self._queue))

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def waits_since(self) -> float:
        first = self._queue.first()
        return first.since if first is not None else math.inf

    # --- the decisions ---------------------------------------------------------------------------------------------

    def settle(self) -> Moves:
        """Seat who can be seated, make room for those who can't, start what is missing."""
        self._yield_to_others()
        if self._queue:
            self._free_for_starved()
            self._seat_waiters()
        if self._queue:
            self._empty_for_waiting()
            self._evict_unfitting()
        self._empty_excess()
        self._start_missing()
        return self._take_moves()

    def release_unneeded(self) -> Moves:
        """Let idle workers go that are dead, worn, of no use for long or too big together."""
        roster, limits = self._roster, self._limits
        for worker in roster.emptied() + roster.kept():
            wear = self.wear(worker)
            if not worker.is_alive or wear or self._is_surplus(worker):
                self._retire(worker, wear or "idle")
        beyond = roster.live - roster.count(State.RETIRING) - limits.ceiling  # it may have been lowered
        for worker in (roster.kept() + roster.emptied())[: max(0, beyond)]:
            self._retire(worker, "surplus")
        for worker in roster.kept():
            if time.monotonic() - worker.idle_since >= limits.kept_s:
                self._empty(worker)
        if 0 < limits.memory_bytes < roster.total_rss_bytes:
            biggest = sorted(roster.kept() or roster.idle(), key=roster.rss_bytes)[-1:]
            for worker in biggest:
                self._retire(worker, "memory")
        biggest_of_all = self._host.too_big()
        if biggest_of_all is not None and roster.state(biggest_of_all) is State.IDLE:
            self._retire(biggest_of_all, "memory")
        return self._take_moves()

    def may_stay(self, worker: Worker) -> bool:
        """Whether a worker given back is left as it is: with what it remembers, or with nothing."""
        is_kept = self._limits.kept > 0 and worker.memory is not None
        return (is_kept or not worker.needs_reset) and worker.is_alive and not self.wear(worker)

    def wear(self, worker: Worker) -> str:
        """What wears a worker out by now; empty while it may go on."""
        limits = self._limits
        if worker in self._roster.unwanted:
            return "restart"
        if worker.turns >= limits.turns:
            return "turns"
        if time.monotonic() - worker.started_at >= limits.age_s:
            return "age"
        if 0 < limits.rss_bytes < self._roster.rss_bytes(worker):
            return "memory"
        return "processes" if 0 < worker.max_processes < self._roster.usage(worker).processes else ""

    def is_out_of_bounds(self, worker: Worker) -> bool:
        """Whether it holds so much that its turn is not waited for."""
        usage = self._roster.usage(worker)
        return (
            0 < self._limits.hard_rss_bytes < usage.rss_bytes
            or 0 < worker.max_processes * HARD_PROCESSES_FACTOR < usage.processes
        )

    def _take_moves(self) -> Moves:
        moves, self._moves = self._moves, Moves()
        return moves

    def _retire(self, worker: Worker, why: str) -> None:
        self._roster.set(worker, State.RETIRING)
        self._moves.ending.append((worker, why))

    def _empty(self, worker: Worker) -> None:
        self._roster.set(worker, State.TIDYING)
        self._moves.emptying.append(worker)

    # --- who is seated ---------------------------------------------------------------------------------------------

    def _seat_waiters(self) -> None:
        if not self._roster.count(State.IDLE):  # with a long queue the most frequent case by far
            return
        for waiter in self._queue:
            if (worker := self._roster.fitting(waiter.binding, waiter.history)) is not None:
                self._roster.set(worker, State.BUSY)
                worker.binding = waiter.binding
                self._queue.serve(waiter, worker)
                if not self._roster.count(State.IDLE):
                    return

    def _unprovided(self) -> Counter[Hashable]:
        """By binding, the turns for which no worker is being emptied."""
        if not self._queue:
            return Counter()
        return Counter(waiter.binding for waiter in self._queue) - self._roster.tidying()

    # --- who forgets -----------------------------------------------------------------------------------------------

    def _empty_for_waiting(self) -> None:
        """A kept worker serves another conversation of its binding sooner than a process that has yet to start."""
        kept = self._roster.kept()
        wanted = self._unprovided() if kept else Counter()
        for worker in kept:
            if wanted[worker.binding] > 0:
                wanted[worker.binding] -= 1
                self._empty(worker)

    def _empty_excess(self) -> None:
        kept = self._roster.kept()
        for worker in kept[: max(0, len(kept) - self._limits.kept)]:
            self._empty(worker)

    # --- who goes --------------------------------------------------------------------------------------------------

    def _yield_to_others(self) -> None:
        for worker in self._host.to_yield(self):
            self._retire(worker, "room")

    def _free_for_starved(self) -> None:
        """Let go of an idle worker that others could use, for the first in line whom nobody serves.

        Without it, a steady stream of turns of one binding would keep every worker from all others.
        """
        first, roster = self._queue.first(), self._roster
        if first is None or time.monotonic() - first.since < PATIENCE_S or self._room() or roster.coming:
            return
        idle = roster.kept() + roster.emptied()
        if any(worker.is_alive and worker.binding in (None, first.binding) for worker in idle):
            return
        if not self._is_under_share(first.binding):
            return
        spare = [worker for worker in idle if not self._is_under_share(worker.binding, after_loss=True)]
        if not spare and not roster.bound_to(first.binding):
            spare = idle  # more bindings than workers: whoever has none at all is next
        if spare:
            self._retire(spare[0], "room")

    def _is_under_share(self, binding: Hashable, *, after_loss: bool = False) -> bool:
        """Whether a binding holds (or would hold, one less) fewer workers than its part of the queue entitles it to."""
        wanted = Counter(waiter.binding for waiter in self._queue)
        held = self._roster.bound_to(binding) - after_loss
        share = self._limits.ceiling * wanted[binding] // max(len(self._queue), 1)
        return held < max(share, 1 if wanted[binding] else 0)

    def _evict_unfitting(self) -> None:
        """Whoever still waits fits no idle worker: replace those that are in the way."""
        idle = self._roster.kept() + self._roster.emptied()
        missing = self._unprovided().total() - self._roster.coming - self._room() if idle else 0
        for worker in idle[: max(0, missing)]:
            self._retire(worker, "room")

    def _is_surplus(self, worker: Worker) -> bool:
        idle_s = time.monotonic() - worker.idle_since
        if worker.binding is None:
            return idle_s >= self._limits.idle_s and self._roster.unbound > self._limits.floor
        return idle_s >= (MAKE_ROOM_AFTER_S if self._lacks_room_for_floor() else self._limits.idle_s)

    def _lacks_room_for_floor(self) -> bool:
        limits = self._limits
        is_short = self._roster.unbound < limits.floor < limits.ceiling
        return is_short and not self._room() and not self._roster.coming

    # --- what starts -----------------------------------------------------------------------------------------------

    def _start_missing(self) -> None:
        refill, room = self._refill(), self._own_room()
        self._lacking = 0
        if not room:
            return
        starting, unprovided = self._roster.starting, self._unprovided().total()
        wanted = unprovided + refill - starting
        if self._breaker.failures:
            wanted = min(wanted, 1 - starting) if not self._breaker.pause_s else 0
        wanted = max(0, min(wanted, room))
        turns = max(0, min(wanted, unprovided - starting))
        placed = min(turns, self._host.room(self))
        extra = min(wanted - turns, max(0, self._host.spare(self) - placed))
        self._moves.starts = placed + extra
        self._roster.starting += self._moves.starts
        self._lacking = max(0, turns - placed - self._roster.count(State.RETIRING))

    def _refill(self) -> int:
        """How many workers the floor lacks, once the turn that took the last one has had time to begin.

        A start costs as much processor time as a short turn, and would take it from that very turn.
        """
        missing = self._limits.floor - self._roster.unbound
        if missing <= 0:
            self._short_since = None
            return 0
        if self._short_since is None:
            self._short_since = time.monotonic()
            self._moves.again_in_s = REFILL_DELAY_S
        return missing if time.monotonic() - self._short_since >= REFILL_DELAY_S else 0

    def _room(self) -> int:
        """How many processes may be started for turns that wait."""
        own = self._own_room()
        return min(own, self._host.room(self)) if own else 0

    def _own_room(self) -> int:
        by_count = self._limits.ceiling - self._roster.live
        return max(0, min(by_count, self._memory_room()))

    def _memory_room(self) -> int:
        limits, roster = self._limits, self._roster
        if not limits.memory_bytes or not limits.rss_bytes:
            return limits.ceiling
        # A worker is counted with at least half its limit: one just started has not grown yet.
        expected = limits.rss_bytes // 2
        used = sum(max(roster.rss_bytes(worker), expected) for worker in roster)
        room = (limits.memory_bytes - used) // expected - roster.starting
        return room if roster.live else max(room, 1)
