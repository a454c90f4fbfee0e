"""A bound for one wait after the other of the same task, at a tenth of the cost of an asyncio.timeout for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Alarm:
    """Bounds waits, one at a time. A turn has one wait per event, which hardly ever is long.

    The timer is not moved with each wait: it goes off at an earlier one's end, and is set again for the present one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._ends_at = 0.0
        self._has_rung = False

    async def wait(self, work: Awaitable[T], within_s: float) -> T:
        """Raises TimeoutError, once the work is cancelled, if it takes longer."""
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelled_before, self._has_rung = task.cancelling(), False
        self._set(self._loop.time() + within_s)
        try:
            return await work
        except asyncio.CancelledError as exc:
            # Whoever else cancels the task meant more than this wait.
            if self._has_rung and task.uncancel() <= cancelled_before:
                raise TimeoutError from exc
            raise
        finally:
            self._task = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, ends_at: float) -> None:
        self._ends_at = ends_at
        if self._timer is None or ends_at < self._timer.when():
            self.close()
            self._timer = self._loop.call_at(ends_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._ends_at:
            self._set(self._ends_at)
            return
        self._has_rung = True
        self._task.cancel()
