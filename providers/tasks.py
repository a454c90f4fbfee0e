"""Background tasks with a name and an owner: none is lost, none fails unseen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

logger = logging.getLogger(__name__)


# A step that fails at once, again and again, must not keep the processor busy.
AFTER_FAILURE_S = 1.0


async def _repeated(step: Callable[[], Coroutine[Any, Any, None]], name: str, pause_s: float) -> None:
    while True:
        try:
            await step()
        except Exception:
            logger.exception("%s", name)
            await asyncio.sleep(AFTER_FAILURE_S)
        await asyncio.sleep(pause_s)


class Tasks:
    """The background tasks of one owner.

    Unlike asyncio.TaskGroup it may be filled and emptied from different tasks, and one failure ends no other. Those of
    an owner that `is_apart` know nothing of whoever happened to start them, such as whose request that was.
    """

    def __init__(self, *, is_apart: bool = False) -> None:
        self._context = Context() if is_apart else None
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name, context=self._context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def repeat(self, step: Callable[[], Coroutine[Any, Any, None]], *, name: str, pause_s: float) -> None:
        """Run a step again and again, `pause_s` seconds apart. One that fails is logged, and the next is tried."""
        self.start(_repeated(step, name, pause_s), name=name)

    async def drain(self) -> None:
        """Wait until every task has ended, those started meanwhile too. The caller bounds the wait."""
        while self._running:
            await asyncio.wait(self._running)

    async def cancel(self) -> None:
        """Cancel every task and wait for its end."""
        for task in self._running:
            task.cancel()
        await self.drain()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task %s failed", task.get_name(), exc_info=error)
