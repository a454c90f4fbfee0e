"""Which workers a pool has, what each of them is doing and how much it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from enum import StrEnum

from providers.memory import NOTHING, ProcessTable, TreeUsage
from providers.worker import Worker


class State(StrEnum):
    IDLE = "idle"
    BUSY = "busy"
    TIDYING = "tidying"
    RETIRING = "retiring"


class Roster:
    """The live workers of one pool; `starting` counts those on their way."""

    def __init__(self) -> None:
        self.starting = 0
        self._states: dict[Worker, State] = {}
        self._counts: Counter[State] = Counter()  # of what is above: asked for far more often than it changes
        self._usage: dict[Worker, TreeUsage] = {}
        self.unwanted: set[Worker] = set()  # to be replaced as soon as they are free, by the owner's will

    def __str__(self) -> str:
        states = ", ".join(f"{self.count(state)} {state}" for state in State)
        return f"{states}, {self.starting} starting"

    def __iter__(self) -> Iterator[Worker]:
        """All workers. A copy: they may come and go meanwhile."""
        return iter([*self._states])

    def state(self, worker: Worker) -> State | None:
        return self._states.get(worker)

    def set(self, worker: Worker, state: State) -> None:
        if (before := self._states.get(worker)) is not None:
            self._counts[before] -= 1
        self._counts[state] += 1
        self._states[worker] = state

    def remove(self, worker: Worker) -> None:
        self._counts[self._states.pop(worker)] -= 1
        self._usage.pop(worker, None)
        self.unwanted.discard(worker)

    def clear(self) -> None:
        """Nothing is left, and nothing comes: a start that was cancelled before it began counts no more either."""
        self.starting = 0
        self._states.clear()
        self._counts.clear()
        self._usage.clear()
        self.unwanted.clear()

    # --- counting --------------------------------------------------------------------------------------------------

    def count(self, state: State) -> int:
        return self._counts[state]

    @property
    def live(self) -> int:
        """Processes that exist or are about to."""
        return len(self._states) + self.starting

    @property
    def coming(self) -> int:
        """Seats that will be free for a new process, or taken by one, without anybody's doing."""
        return self.starting + self.count(State.RETIRING)

    @property
    def unbound(self) -> int:
        """How many are ready for whatever conversation comes first."""
        return sum(1 for worker, state in self._states.items() if state is State.IDLE and worker.binding is None)

    def tidying(self) -> Counter[Hashable]:
        """By binding, how many will soon be empty."""
        return Counter(worker.binding for worker, state in self._states.items() if state is State.TIDYING)

    def bound_to(self, binding: Hashable) -> int:
        return sum(1 for worker in self._states if worker.binding == binding)

    # --- choosing --------------------------------------------------------------------------------------------------

    def idle(self) -> list[Worker]:
        """Those with nothing to do, idle for longest first."""
        return _oldest_first([worker for worker, state in self._states.items() if state is State.IDLE])

    def kept(self) -> list[Worker]:
        """Idle workers that hold a conversation for its next turn, idle for longest first."""
        kept = [it for it, state in self._states.items() if state is State.IDLE and it.memory is not None]
        return _oldest_first(kept)

    def emptied(self) -> list[Worker]:
        """Idle workers that hold nothing, idle for longest first."""
        return [worker for worker in self.idle() if worker.memory is None]

    def fitting(self, binding: Hashable, history: bytes | None) -> Worker | None:
        """An idle worker for such a turn, the last used first: its caches are warm.

        Best is one that holds the very conversation, then an empty one of that binding, then one without any. Never
        one that holds another conversation.
        """
        idle = [worker for worker in reversed(self.idle()) if worker.is_alive]
        bound = [worker for worker in idle if worker.binding == binding]
        kept = [worker for worker in bound if worker.memory is not None and worker.memory == history]
        empty = [worker for worker in bound if worker.memory is None]
        unbound = [worker for worker in idle if worker.binding is None]
        return next(iter(kept or empty or unbound), None)

    # --- what they hold --------------------------------------------------------------------------------------------

    def measure(self, worker: Worker, processes: ProcessTable) -> None:
        self._usage[worker] = worker.usage(processes)

    def usage(self, worker: Worker) -> TreeUsage:
        """What it and all it has started held when last looked at; nothing if it never was."""
        return self._usage.get(worker, NOTHING)

    def rss_bytes(self, worker: Worker) -> int:
        return self.usage(worker).rss_bytes

    @property
    def total_rss_bytes(self) -> int:
        return sum(usage.rss_bytes for usage in self._usage.values())

    @property
    def total_processes(self) -> int:
        return sum(usage.processes for usage in self._usage.values())


def _oldest_first(idle: list[Worker]) -> list[Worker]:
    return sorted(idle, key=_idle_since) if len(idle) > 1 else idle


def _idle_since(worker: Worker) -> float:
    return worker.idle_since
