"""The workers of one provider: kept warm, lent out fairly, replaced when worn.

Every change of state ends in `_settle`, which decides synchronously who gets which worker, which processes start and
which go. Stopping and starting happen in background tasks that report back the same way, so live processes never
exceed the ceiling and a cancelled caller can neither leak a worker nor shrink the pool.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from providers.breaker import StartBreaker
from providers.errors import Busy, ProviderError, ShuttingDown, WorkerFailed
from providers.events import StartKind
from providers.tasks import Tasks
from providers.waiting import FairQueue, Waiter
from providers.worker import Worker

logger = logging.getLogger(__name__)

# A start costs about this much processor time; a worker may pass over the first in line for matching ones this long.
PATIENCE_S = 1.0
BUSY_RETRY_AFTER_S = 2.0
# The first token of a warm worker takes about a quarter of a second.
REFILL_DELAY_S = 0.5
# In a full pool, a bound worker idle this long makes room for one that any new conversation can use.
MAKE_ROOM_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of one pool. Durations in seconds, memory in resident bytes of a process tree, 0 for no limit.

    `floor` workers are kept ready that no conversation has bound yet, while `ceiling` and `memory_bytes` (for all
    workers together) allow. Above `rss_bytes` a worker is replaced between turns, above `hard_rss_bytes` within one.
    """

    floor: int = 1
    ceiling: int = 4
    memory_bytes: int = 0
    queue: int = 200
    queue_wait_s: float = 120.0
    idle_s: float = 900.0
    age_s: float = 14_400.0
    turns: int = 200
    rss_bytes: int = 512 * 1024 * 1024
    hard_rss_bytes: int = 1024 * 1024 * 1024
    watch_s: float = 2.0


class State(StrEnum):
    IDLE = "idle"
    BUSY = "busy"
    TIDYING = "tidying"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker held for one turn, and how it came to be there."""

    worker: Worker
    start: StartKind


class WorkerPool:
    """Lends the workers of one provider; `start_worker` makes a ready one or raises ProviderError.

    `starts` bounds how many processes start at a time, across all pools that share it.
    """

    def __init__(
        self,
        name: str,
        start_worker: Callable[[], Awaitable[Worker]],
        limits: PoolLimits,
        starts: asyncio.Semaphore,
    ) -> None:
        self.name = name
        self.limits = limits
        self.breaker = StartBreaker()
        self.counts: Counter[str] = Counter()
        self._start_worker = start_worker
        self._starts = starts
        self._workers: dict[Worker, State] = {}
        self._rss_bytes: dict[Worker, int] = {}
        self._starting = 0
        self._queue: FairQueue[Worker] = FairQueue()
        self._tasks = Tasks()
        self._is_closing = False
        self._quiet = asyncio.Event()
        self._short_since: float | None = -math.inf  # nothing runs yet that a first start could slow down

    def __repr__(self) -> str:
        states = ", ".join(f"{self.count(state)} {state}" for state in State)
        return f"<WorkerPool {self.name}: {states}, {self._starting} starting, {len(self._queue)} waiting>"

    def count(self, state: State) -> int:
        return sum(1 for held in self._workers.values() if held is state)

    @property
    def live(self) -> int:
        """Processes that exist or are about to."""
        return len(self._workers) + self._starting

    @property
    def waiting(self) -> int:
        return len(self._queue)

    # --- lending ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to warm up and to watch. Needs a running event loop."""
        self._tasks.start(self._watch(), name=f"{self.name} watch")
        self._settle()

    @asynccontextmanager
    async def lease(self, *, caller: str, binding: Hashable) -> AsyncIterator[Lease]:
        """Lend one worker for one turn.

        Raises Busy if the queue is full or no worker came free in time, ShuttingDown while closing, and what keeps
        workers from starting (NotInstalled, CrashLoop, ...) when none can be had.
        """
        waiter = self._enqueue(caller, binding)
        try:
            worker = await self._seat(waiter)
            yield Lease(worker, _start_kind(worker, waiter))
        finally:
            # Nothing here awaits, so cancelling the caller can't leak a worker.
            self._leave(waiter)

    def _enqueue(self, caller: str, binding: Hashable) -> Waiter[Worker]:
        if self._is_closing:
            raise ShuttingDown("the hub is shutting down")
        if len(self._queue) >= self.limits.queue:
            raise Busy(
                f"{len(self._queue)} turns are waiting for {self.name} already", retry_after_s=BUSY_RETRY_AFTER_S
            )
        waiter: Waiter[Worker] = Waiter(caller, binding)
        self._queue.add(waiter)
        self._settle()
        return waiter

    async def _seat(self, waiter: Waiter[Worker]) -> Worker:
        try:
            async with asyncio.timeout(self.limits.queue_wait_s):
                return await waiter.seat
        except TimeoutError as exc:
            message = f"no {self.name} worker came free within {self.limits.queue_wait_s:g} s"
            raise Busy(message, retry_after_s=BUSY_RETRY_AFTER_S) from exc

    def _leave(self, waiter: Waiter[Worker]) -> None:
        self._queue.remove(waiter)
        seat = waiter.seat
        if seat.done() and not seat.cancelled() and seat.exception() is None:
            self._give_back(seat.result())

    def _give_back(self, worker: Worker) -> None:
        if self._workers.get(worker) is State.BUSY:
            self._workers[worker] = State.TIDYING
            self._tasks.start(self._tidy(worker), name=f"{self.name} tidy {worker.pid}")
        self._note_quiet()

    async def _tidy(self, worker: Worker) -> None:
        if await self._emptied(worker):
            self._workers[worker] = State.IDLE
            self._settle()
        else:
            self.counts["replaced"] += 1
            await self._stop(worker)

    async def _emptied(self, worker: Worker) -> bool:
        if not worker.is_alive or self._is_closing or self._is_worn(worker):
            return False
        try:
            return await worker.reset()
        except Exception:  # an adapter's mistake costs its worker, never a seat
            logger.exception("emptying %s worker %d", self.name, worker.pid)
            return False

    def _is_worn(self, worker: Worker) -> bool:
        limits = self.limits
        return (
            worker.turns >= limits.turns
            or time.monotonic() - worker.started_at >= limits.age_s
            or 0 < limits.rss_bytes < self._rss_bytes.get(worker, 0)
        )

    # --- deciding --------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._is_closing:
            return
        self._free_for_starved()
        self._seat_waiters()
        self._evict_unfitting()
        self._start_missing()
        self._dismiss_hopeless()

    def _seat_waiters(self) -> None:
        for waiter in self._queue:
            if not self.count(State.IDLE):
                return
            if (worker := self._fitting(waiter.binding)) is not None:
                self._workers[worker] = State.BUSY
                worker.binding = waiter.binding
                self._queue.serve(waiter, worker)

    def _fitting(self, binding: Hashable) -> Worker | None:
        """An idle worker of that binding, the last used first (its caches are warm), else one without any."""
        idle = [worker for worker in self._idle() if worker.is_alive]
        bound = [worker for worker in idle if worker.binding == binding]
        unbound = [worker for worker in idle if worker.binding is None]
        return max(bound or unbound, key=lambda worker: worker.idle_since, default=None)

    def _idle(self) -> list[Worker]:
        return [worker for worker, state in self._workers.items() if state is State.IDLE]

    def _free_for_starved(self) -> None:
        """Let go of an idle worker that others could use, for the first in line whom nobody serves.

        Without it, a steady stream of turns of one binding would keep every worker from all others.
        """
        first = next(iter(self._queue), None)
        if first is None or time.monotonic() - first.since < PATIENCE_S or self._room() or self._coming():
            return
        if self._fitting(first.binding) is not None or not self._is_under_share(first.binding):
            return
        spare = [worker for worker in self._idle() if not self._is_under_share(worker.binding, after_loss=True)]
        if not spare and all(worker.binding != first.binding for worker in self._workers):
            spare = self._idle()  # more bindings than workers: whoever has none at all is next
        if spare:
            self._retire(spare[0])

    def _is_under_share(self, binding: Hashable, *, after_loss: bool = False) -> bool:
        """Whether a binding holds (or would hold, one less) fewer workers than its part of the queue entitles it to."""
        wanted = Counter(waiter.binding for waiter in self._queue)
        held = sum(1 for worker in self._workers if worker.binding == binding) - after_loss
        share = self.limits.ceiling * wanted[binding] // max(len(self._queue), 1)
        return held < max(share, 1 if wanted[binding] else 0)

    def _evict_unfitting(self) -> None:
        """Whoever still waits fits no idle worker: replace those that are in the way."""
        missing = len(self._queue) - self._coming() - self._room()
        if missing > 0:
            for worker in sorted(self._idle(), key=lambda worker: worker.idle_since)[:missing]:
                self._retire(worker)

    def _coming(self) -> int:
        return self._starting + self.count(State.RETIRING)

    def _room(self) -> int:
        by_count = self.limits.ceiling - self.live
        return max(0, min(by_count, self._memory_room()))

    def _memory_room(self) -> int:
        limits = self.limits
        if not limits.memory_bytes or not limits.rss_bytes:
            return limits.ceiling
        # A worker is counted with at least half its limit: one just started has not grown yet.
        expected = limits.rss_bytes // 2
        used = sum(max(self._rss_bytes.get(worker, 0), expected) for worker in self._workers)
        room = (limits.memory_bytes - used) // expected - self._starting
        return room if self.live else max(room, 1)

    def _start_missing(self) -> None:
        wanted = len(self._queue) + self._refill() - self._starting
        if self.breaker.failures:
            wanted = min(wanted, 1 - self._starting) if not self.breaker.pause_s else 0
        for _ in range(min(wanted, self._room())):
            self._starting += 1
            self._tasks.start(self._start(), name=f"{self.name} start")

    def _refill(self) -> int:
        """How many workers the floor lacks, once the turn that took the last one has had time to begin.

        A start costs as much processor time as a short turn, and would take it from that very turn.
        """
        missing = self.limits.floor - self._unbound()
        if missing <= 0:
            self._short_since = None
            return 0
        if self._short_since is None:
            self._short_since = time.monotonic()
            self._tasks.start(self._settle_later(REFILL_DELAY_S), name=f"{self.name} refill")
        return missing if time.monotonic() - self._short_since >= REFILL_DELAY_S else 0

    def _unbound(self) -> int:
        """Workers that are ready for whatever conversation comes first."""
        return sum(1 for worker in self._idle() if worker.binding is None)

    def _dismiss_hopeless(self) -> None:
        verdict = self.breaker.verdict
        if verdict is not None and not self._workers and not self._starting:
            self._dismiss_all(verdict)

    def _dismiss_all(self, error: ProviderError) -> None:
        for waiter in self._queue:
            self._queue.remove(waiter)
            waiter.seat.set_exception(copy.copy(error))  # one each: a raised error collects its caller's frames

    # --- processes come and go -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        failures = self.breaker.failures
        try:
            async with self._starts:
                # Of starts that were asked for together, one failure stops those still to come.
                worker = await self._start_worker() if self.breaker.failures == failures else None
            if worker is not None:
                self.counts["started"] += 1
                self.breaker.succeeded()
                self._workers[worker] = State.IDLE
        except ProviderError as error:
            self._note_failed_start(error, failures)
        except Exception:
            logger.exception("starting a %s worker", self.name)
            self._note_failed_start(WorkerFailed(f"{self.name} could not be started, see the hub's log"), failures)
        finally:
            self._starting -= 1
            self._settle()

    def _note_failed_start(self, error: ProviderError, failures_before: int) -> None:
        self.counts["start_failed"] += 1
        logger.warning("%s worker did not start: %s", self.name, error)
        if self.breaker.failures == failures_before:  # those that fail together count once
            self.breaker.failed(error)
            self._tasks.start(self._settle_later(self.breaker.pause_s), name=f"{self.name} retry")

    async def _settle_later(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._settle()

    def _retire(self, worker: Worker) -> None:
        self._workers[worker] = State.RETIRING
        self._tasks.start(self._stop(worker), name=f"{self.name} stop {worker.pid}")

    async def _stop(self, worker: Worker) -> None:
        self._workers[worker] = State.RETIRING
        await worker.stop()
        del self._workers[worker]
        self._rss_bytes.pop(worker, None)
        self._settle()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.limits.watch_s)
            try:
                self._inspect_all()
            except Exception:
                logger.exception("watching the %s workers", self.name)

    def _inspect_all(self) -> None:
        for worker, state in list(self._workers.items()):
            self._inspect(worker, state)
        if 0 < self.limits.memory_bytes < sum(self._rss_bytes.values()):
            for worker in sorted(self._idle(), key=lambda worker: self._rss_bytes.get(worker, 0))[-1:]:
                self._retire(worker)
        self._settle()

    def _inspect(self, worker: Worker, state: State) -> None:
        self._rss_bytes[worker] = rss = worker.rss_bytes
        if state is State.IDLE and (not worker.is_alive or self._is_worn(worker) or self._is_surplus(worker)):
            self._retire(worker)
        elif state is State.BUSY and 0 < self.limits.hard_rss_bytes < rss:
            logger.warning("killing %s worker %d within a turn: %d MB", self.name, worker.pid, rss >> 20)
            worker.kill()

    def _is_surplus(self, worker: Worker) -> bool:
        idle_s = time.monotonic() - worker.idle_since
        if worker.binding is None:
            return idle_s >= self.limits.idle_s and self._unbound() > self.limits.floor
        return idle_s >= (MAKE_ROOM_AFTER_S if self._lacks_room_for_floor() else self.limits.idle_s)

    def _lacks_room_for_floor(self) -> bool:
        limits = self.limits
        is_short = self._unbound() < limits.floor < limits.ceiling
        return is_short and not self._room() and not self._coming()

    # --- the end ---------------------------------------------------------------------------------------------------

    async def close(self, *, grace_s: float) -> None:
        """Refuse new turns, give running ones `grace_s` seconds, then end every process."""
        self._is_closing = True
        self._dismiss_all(ShuttingDown("the hub is shutting down"))
        self._note_quiet()
        try:
            async with asyncio.timeout(grace_s):
                await self._quiet.wait()
        except TimeoutError:
            logger.warning("%s: %d turns did not end within %g s", self.name, self.count(State.BUSY), grace_s)
        await self._tasks.cancel()
        for worker in self._workers:  # a turn that ends by losing its worker has nothing to give back
            self._workers[worker] = State.RETIRING
        await asyncio.gather(*(worker.stop() for worker in list(self._workers)))
        self._workers.clear()

    def kill(self) -> None:
        """End every process at once. `close` is still to be awaited, it has nothing to wait for then."""
        self._is_closing = True
        self._dismiss_all(ShuttingDown("the hub is shutting down"))
        for worker in self._workers:
            worker.kill()
        self._quiet.set()

    def _note_quiet(self) -> None:
        if self._is_closing and not self.count(State.BUSY):
            self._quiet.set()


def _start_kind(worker: Worker, waiter: Waiter[Worker]) -> StartKind:
    if worker.turns:
        return "reused"
    return "cold" if worker.idle_since > waiter.since else "warm"
