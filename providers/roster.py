"""Which workers a pool has, what each of them is doing and how much memory it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from enum import StrEnum

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
        self._rss_bytes: dict[Worker, int] = {}

    def __str__(self) -> str:
        states = ", ".join(f"{self.count(state)} {state}" for state in State)
        return f"{states}, {self.starting} starting"

    def __iter__(self) -> Iterator[Worker]:
        """All workers. A copy: they may come and go meanwhile."""
        return iter([*self._states])

    def state(self, worker: Worker) -> State | None:
        return self._states.get(worker)

    def set(self, worker: Worker, state: State) -> None:
        self._states[worker] = state

    def remove(self, worker: Worker) -> None:
        del self._states[worker]
        self._rss_bytes.pop(worker, None)

    def clear(self) -> None:
        self._states.clear()
        self._rss_bytes.clear()

    # --- counting --------------------------------------------------------------------------------------------------

    def count(self, state: State) -> int:
        return sum(1 for held in self._states.values() if held is state)

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
        return sum(1 for worker in self.idle() if worker.binding is None)

    def tidying(self) -> Counter[Hashable]:
        """By binding, how many will soon be empty."""
        return Counter(worker.binding for worker, state in self._states.items() if state is State.TIDYING)

    def bound_to(self, binding: Hashable) -> int:
        return sum(1 for worker in self._states if worker.binding == binding)

    # --- choosing --------------------------------------------------------------------------------------------------

    def idle(self) -> list[Worker]:
        """Those with nothing to do, idle for longest first."""
        idle = [worker for worker, state in self._states.items() if state is State.IDLE]
        return sorted(idle, key=lambda worker: worker.idle_since)

    def kept(self) -> list[Worker]:
        """Idle workers that hold a conversation for its next turn, idle for longest first."""
        return [worker for worker in self.idle() if worker.memory is not None]

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

    # --- memory ----------------------------------------------------------------------------------------------------

    def measure(self, worker: Worker) -> int:
        self._rss_bytes[worker] = rss_bytes = worker.rss_bytes
        return rss_bytes

    def rss_bytes(self, worker: Worker) -> int:
        """Its resident memory when it was last measured; 0 if it never was."""
        return self._rss_bytes.get(worker, 0)

    @property
    def total_rss_bytes(self) -> int:
        return sum(self._rss_bytes.values())
