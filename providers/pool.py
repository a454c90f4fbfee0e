"""The workers of one provider: kept warm, lent out fairly, replaced when worn.

Every change of state ends in `_settle`, where planning decides synchronously who gets which worker, which processes
start and which go. Stopping and starting happen in background tasks that report back the same way, so live processes
never exceed the ceiling and a cancelled caller can neither leak a worker nor shrink the pool.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from providers import metrics, worker_log
from providers.breaker import StartBreaker
from providers.errors import Busy, ProviderError, ShuttingDown, WorkerCrashed, WorkerFailed
from providers.events import StartKind
from providers.host import Host
from providers.planning import Moves, Planner
from providers.pool_limits import PoolLimits
from providers.roster import Roster, State
from providers.tasks import Tasks
from providers.waiting import FairQueue, Waiter
from providers.worker import Worker

logger = logging.getLogger(__name__)

BUSY_RETRY_AFTER_S = 2.0
# A worker that dies younger than this, before any turn, might as well not have started.
LASTING_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker held for one turn, and how it came to be there."""

    worker: Worker
    start: StartKind


class WorkerPool:
    """Lends the workers of one provider; `start_worker` makes a ready one or raises ProviderError.

    `starts` bounds how many processes start at a time, `host` how many there are, across all pools that share it.
    """

    def __init__(
        self,
        name: str,
        start_worker: Callable[[], Awaitable[Worker]],
        limits: PoolLimits,
        starts: asyncio.Semaphore,
        host: Host | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.breaker = StartBreaker()
        self.counts: Counter[str] = Counter()
        self.roster = Roster()
        self._start_worker = start_worker
        self._starts = starts
        self._queue: FairQueue[Worker] = FairQueue()
        self._host = host or Host()
        self._planner = Planner(name, limits, self.roster, self._queue, self.breaker, self._host)
        self._tasks = Tasks(is_apart=True)
        self._killed: set[Worker] = set()
        self._is_closing = False
        self._is_woken = False
        self._quiet = asyncio.Event()

    def __repr__(self) -> str:
        return f"<WorkerPool {self.name}: {self.roster}, {len(self._queue)} waiting>"

    def count(self, state: State) -> int:
        return self.roster.count(state)

    @property
    def live(self) -> int:
        """Processes that exist or are about to."""
        return self.roster.live

    @property
    def waiting(self) -> int:
        return len(self._queue)

    # --- lending ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to warm up and to watch. Needs a running event loop."""
        metrics.expect(self.name)
        self._host.join(self._planner, self._settle_soon)
        self._tasks.start(self._watch(), name=f"{self.name} watch")
        self._settle()

    def adjust(self, limits: PoolLimits) -> None:
        """Go by other limits from now on: idle workers beyond them go, no turn is ended."""
        self.limits = limits
        self._planner.adjust(limits)
        if not self._is_closing:
            self._inspect_all()

    def replace(self, pid: int) -> bool:
        """Let a worker go: at once if it has no turn, else after it. Whether there is such a worker."""
        worker = next((it for it in self.roster if it.pid == pid), None)
        if worker is None:
            return False
        self.roster.unwanted.add(worker)
        self._inspect_all()
        return True

    @asynccontextmanager
    async def lease(self, *, caller: str, binding: Hashable, history: bytes | None = None) -> AsyncIterator[Lease]:
        """Lend one worker for one turn; `history` is the digest of the conversation before it.

        Raises Busy if the queue is full or no worker came free in time, ShuttingDown while closing, and what keeps
        workers from starting (NotInstalled, CrashLoop, ...) when none can be had.
        """
        try:
            waiter = self._enqueue(Waiter(caller, binding, history))
        except ProviderError as error:
            metrics.QUEUE_REFUSALS.labels(self.name, error.code).inc()
            raise
        try:
            worker = await self._seated(waiter)
            yield Lease(worker, _start_kind(worker, waiter))
        finally:
            # Nothing here awaits, so cancelling the caller can't leak a worker.
            self._leave(waiter)

    def _enqueue(self, waiter: Waiter[Worker]) -> Waiter[Worker]:
        if self._is_closing:
            raise ShuttingDown("the hub is shutting down")
        if len(self._queue) >= self.limits.queue:
            raise Busy(
                f"{len(self._queue)} turns are waiting for {self.name} already", retry_after_s=BUSY_RETRY_AFTER_S
            )
        self._queue.add(waiter)
        self._settle()
        return waiter

    async def _seated(self, waiter: Waiter[Worker]) -> Worker:
        try:
            worker = await self._seat(waiter)
        except ProviderError as error:
            metrics.QUEUE_REFUSALS.labels(self.name, error.code).inc()
            raise
        metrics.series(metrics.QUEUE_WAIT, self.name).observe(time.monotonic() - waiter.since)
        return worker

    async def _seat(self, waiter: Waiter[Worker]) -> Worker:
        if waiter.seat.done():
            return waiter.seat.result()
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
        else:
            self._host.share_out()  # others may have stood behind it

    def _give_back(self, worker: Worker) -> None:
        if self.roster.state(worker) is State.BUSY:
            if worker.turns and worker.is_alive:
                self.breaker.proved()
            if self._planner.may_stay(worker) and not self._is_closing:
                self.roster.set(worker, State.IDLE)
                self._settle()
            else:
                self.roster.set(worker, State.TIDYING)
                self._begin_tidying(worker)
        self._note_quiet()

    def _begin_tidying(self, worker: Worker) -> None:
        self._tasks.start(self._tidy(worker), name=f"{self.name} tidy {worker.pid}")

    async def _tidy(self, worker: Worker) -> None:
        if await self._emptied(worker):
            self.roster.set(worker, State.IDLE)
            self._settle()
        else:
            self.counts["replaced"] += 1
            await self._stop(worker, self._planner.wear(worker) or "unclean")

    async def _emptied(self, worker: Worker) -> bool:
        if not worker.is_alive or self._is_closing or self._planner.wear(worker):
            return False
        try:
            return await worker.reset()
        except Exception:  # an adapter's mistake costs its worker, never a seat
            logger.exception("emptying %s worker %d", self.name, worker.pid)
            return False

    # --- doing what was decided ------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._is_closing:
            return
        self._do(self._planner.settle())
        verdict = self.breaker.verdict
        if verdict is not None and not self.live:
            self._dismiss_all(verdict)
        self._host.share_out()

    def _settle_soon(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._settle_woken)

    def _settle_woken(self) -> None:
        self._is_woken = False
        self._settle()

    def _do(self, moves: Moves) -> None:
        for worker in moves.emptying:
            self._begin_tidying(worker)
        for worker, why in moves.ending:
            self._tasks.start(self._stop(worker, why), name=f"{self.name} stop {worker.pid}")
        if moves.again_in_s is not None:
            self._tasks.start(self._settle_later(moves.again_in_s), name=f"{self.name} refill")
        for _ in range(moves.starts):
            self._tasks.start(self._start(), name=f"{self.name} start")

    def _dismiss_all(self, error: ProviderError) -> None:
        for waiter in self._queue:
            self._queue.remove(waiter)
            waiter.seat.set_exception(copy.copy(error))  # one each: a raised error collects its caller's frames

    async def _settle_later(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._settle()

    # --- processes come and go -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        failures, asked_at = self.breaker.failures, time.monotonic()
        try:
            async with self._starts:
                # Of starts that were asked for together, one failure stops those still to come.
                worker = await self._start_worker() if self.breaker.failures == failures else None
            if worker is not None:
                self.counts["started"] += 1
                worker_log.started(self.name, worker, time.monotonic() - asked_at)
                self.breaker.succeeded()
                self.roster.set(worker, State.IDLE)
        except ProviderError as error:
            self._note_failed_start(error, failures)
        except Exception:
            logger.exception("starting a %s worker", self.name)
            self._note_failed_start(WorkerFailed(f"{self.name} could not be started, see the hub's log"), failures)
        finally:
            self.roster.starting -= 1
            self._settle()

    def _note_failed_start(self, error: ProviderError, failures_before: int) -> None:
        self.counts["start_failed"] += 1
        worker_log.not_started(self.name, error)
        if self.breaker.failures == failures_before:  # those that fail together count once
            self.breaker.failed(error)
            self._tasks.start(self._settle_later(self.breaker.pause_s), name=f"{self.name} retry")

    def _note_early_death(self, worker: Worker) -> bool:
        age_s = time.monotonic() - worker.started_at
        if worker.is_alive or worker.turns or age_s >= LASTING_AFTER_S or self._is_closing:
            return False
        self.counts["died_early"] += 1
        self.breaker.died(WorkerCrashed(f"{self.name} ended by itself soon after its start"))
        self._tasks.start(self._settle_later(self.breaker.pause_s), name=f"{self.name} retry")
        return True

    async def _stop(self, worker: Worker, why: str) -> None:
        worker_log.ended(self.name, worker, self._why(worker, why))
        self._killed.discard(worker)
        self.roster.set(worker, State.RETIRING)
        await worker.stop()
        self.roster.remove(worker)
        self._settle()

    def _why(self, worker: Worker, why: str) -> str:
        """What really ended it, where that was not the plan."""
        died_early = self._note_early_death(worker)
        if worker in self._killed:
            return "out_of_bounds"
        if worker.is_alive:
            return why
        return "died_early" if died_early else "crashed"

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._host.seconds_to_look(self.limits.watch_s))
            try:
                self._inspect_all()
            except Exception:
                logger.exception("watching the %s workers", self.name)

    def _inspect_all(self) -> None:
        for worker in self.roster:
            self._inspect(worker)
        self._do(self._planner.release_unneeded())
        self._settle()

    def _inspect(self, worker: Worker) -> None:
        self.roster.measure(worker, self._host.processes)
        if worker.is_alive and time.monotonic() - worker.started_at >= LASTING_AFTER_S:
            self.breaker.lasted(worker.started_at)
        if self.roster.state(worker) is State.BUSY and self._planner.is_out_of_bounds(worker):
            usage = self.roster.usage(worker)
            what = f"{usage.rss_bytes >> 20} MB in {usage.processes} processes"
            logger.warning("killing %s worker %d within a turn: %s", self.name, worker.pid, what)
            self._killed.add(worker)
            worker.kill()

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
        for worker in self.roster:  # a turn that ends by losing its worker has nothing to give back
            if self.roster.state(worker) is not State.RETIRING:
                worker_log.ended(self.name, worker, "shutdown")
            self.roster.set(worker, State.RETIRING)
        await asyncio.gather(*(worker.stop() for worker in self.roster))
        self.roster.clear()
        self._host.leave(self._planner)

    def kill(self) -> None:
        """End every process at once. `close` is still to be awaited, it has nothing to wait for then."""
        self._is_closing = True
        self._dismiss_all(ShuttingDown("the hub is shutting down"))
        for worker in self.roster:
            worker.kill()
        self._quiet.set()

    def _note_quiet(self) -> None:
        if self._is_closing and not self.count(State.BUSY):
            self._quiet.set()


def _start_kind(worker: Worker, waiter: Waiter[Worker]) -> StartKind:
    if worker.memory is not None:
        return "kept"
    if worker.turns:
        return "reused"
    return "cold" if worker.idle_since > waiter.since else "warm"
