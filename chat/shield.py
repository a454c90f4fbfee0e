"""Spares a repeated request a second CLI run: the repeat joins the turn of the first, or gets its answer.

Clients give up after 60 seconds and ask again, twice. Requests with one Idempotency-Key are the same request. One with
an SDK's retry mark repeats a request with the same body whose client has gone; of two clients that are both there
neither is ever given the other's answer, whatever they ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from chat.errors import IdempotencyKeyReused

MAX_KEPT = 1_000
STOP_WAIT_S = 5.0
MAX_KEPT_BYTES = 64 * 1024 * 1024

Name = tuple[int, str | bytes]


@dataclass(frozen=True, slots=True)
class Mark:
    """What makes a request known again: whose it is, a digest of what it asks, and the marks it carries."""

    caller: int
    digest: bytes
    idempotency_key: str = ""
    is_retry: bool = False

    @property
    def name(self) -> Name:
        return self.caller, self.idempotency_key or self.digest


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that is complete: its body and the headers that belong to it."""

    body: bytes
    headers: dict[str, str]


@dataclass(slots=True, eq=False)
class _Run:
    """One answer in the making, or made; `waiting` counts the clients that are there."""

    mark: Mark
    task: asyncio.Task[WholeAnswer]
    waiting: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def is_good(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None

    @property
    def size(self) -> int:
        return len(self.task.result().body) if self.is_good else 0


class RetryShield:
    """Runs marked requests apart from their clients.

    An abandoned turn lives on for `join_s` seconds; an answer nobody has got yet, or one with an Idempotency-Key, is
    kept for `keep_s` seconds.
    """

    def __init__(self, *, join_s: float, keep_s: float) -> None:
        self._join_s = join_s
        self._keep_s = keep_s
        self._runs: dict[Name, list[_Run]] = {}

    async def answer(self, mark: Mark, make: Callable[[], Coroutine[Any, Any, WholeAnswer]]) -> WholeAnswer:
        """The answer of the run this request repeats, else of a new one. Raises what the run raises.

        Raises IdempotencyKeyReused for another request under a key that was used.
        """
        run = self._find(mark) or self._start(mark, make)
        run.waiting += 1
        if run.timer is not None:
            run.timer.cancel()
        is_delivered = False
        try:
            answer = await asyncio.shield(run.task)
            is_delivered = True
            return answer
        finally:
            run.waiting -= 1
            if not run.waiting:
                self._leave(run, is_delivered)

    def knows(self, mark: Mark) -> bool:
        """Whether the request would be given another one's answer. Raises IdempotencyKeyReused."""
        return self._find(mark) is not None

    def forget_session(self, session_id: str) -> None:
        """Give out no answer any more that belongs to a session."""
        for run in [run for runs in self._runs.values() for run in runs]:
            if run.is_good and run.task.result().headers.get("X-Session-ID") == session_id:
                self._forget(run)

    async def stop(self) -> None:
        """End the runs nobody waits for, then, if they take too long, the others."""
        runs = [run for runs in self._runs.values() for run in runs]
        awaited = [run.task for run in runs if run.waiting]
        if awaited:
            await asyncio.wait(awaited, timeout=STOP_WAIT_S)
        for run in runs:
            if run.timer is not None:
                run.timer.cancel()
            run.task.cancel()
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
        self._runs.clear()

    def _find(self, mark: Mark) -> _Run | None:
        runs = self._runs.get(mark.name, [])
        if not mark.idempotency_key:
            return next((run for run in runs if not run.waiting), None) if mark.is_retry else None
        if any(run.mark.digest != mark.digest for run in runs):
            raise IdempotencyKeyReused("this Idempotency-Key was used for another request", param="Idempotency-Key")
        return next((run for run in runs if not run.task.done() or run.is_good), None)

    def _start(self, mark: Mark, make: Callable[[], Coroutine[Any, Any, WholeAnswer]]) -> _Run:
        run = _Run(mark, asyncio.get_running_loop().create_task(make(), name="answer apart from its client"))
        self._runs.setdefault(mark.name, []).append(run)
        return run

    def _leave(self, run: _Run, is_delivered: bool) -> None:
        """The last client has gone, with its answer or without."""
        if (run.task.done() and not run.is_good) or (is_delivered and not run.mark.idempotency_key):
            self._forget(run)
            return
        loop = asyncio.get_running_loop()
        if run.task.done():
            run.timer = loop.call_later(self._keep_s, self._forget, run)
            self._make_room()
        else:
            run.timer = loop.call_later(self._join_s, self._forget, run)
            run.task.add_done_callback(lambda task: self._on_done(run))

    def _on_done(self, run: _Run) -> None:
        if run.waiting or run not in self._runs.get(run.mark.name, []):
            return
        if run.timer is not None:
            run.timer.cancel()
        self._leave(run, is_delivered=False)

    def _forget(self, run: _Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        runs = self._runs.get(run.mark.name, [])
        if run in runs:
            runs.remove(run)
        if not runs:
            self._runs.pop(run.mark.name, None)
        if not run.task.done():
            run.task.cancel()
        elif not run.task.cancelled():
            run.task.exception()  # looked at: nobody else will

    def _make_room(self) -> None:
        kept = [run for runs in self._runs.values() for run in runs if not run.waiting and run.is_good]
        size = sum(run.size for run in kept)
        while kept and (len(kept) > MAX_KEPT or size > MAX_KEPT_BYTES):
            oldest = kept.pop(0)
            size -= oldest.size
            self._forget(oldest)
