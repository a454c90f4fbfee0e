"""The turns that run in this hub, whichever door they came through, and how one is stopped from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from chat.errors import TurnStopped

if TYPE_CHECKING:
    from chat.running import RunningTurn

T = TypeVar("T")


class Stop:
    """Ends a turn at its next event, or while it waits for one: its caller learns why, unlike with a cancelled task."""

    __slots__ = ("_task", "is_asked")

    def __init__(self) -> None:
        self.is_asked = False
        self._task: asyncio.Task[object] | None = None

    def ask(self) -> None:
        """On the event loop that runs the turn."""
        self.is_asked = True
        if self._task is not None:
            self._task.cancel()

    def check(self) -> None:
        """Raises TurnStopped once it is asked for."""
        if self.is_asked:
            raise TurnStopped("an administrator stopped this turn")

    async def wait(self, work: Awaitable[T]) -> T:
        """Wait for the next event. Raises TurnStopped, once the work is cancelled."""
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelled_before = task.cancelling()
        try:
            return await work
        except asyncio.CancelledError:
            # Whoever else cancels the task meant more than this turn.
            if self.is_asked and task.uncancel() <= cancelled_before:
                self.check()
            raise
        finally:
            self._task = None


class UnderWay:
    """The turns of this hub that have begun and are not over. Belongs to the event loop that serves."""

    def __init__(self) -> None:
        self._turns: dict[str, RunningTurn] = {}

    def __iter__(self) -> Iterator[RunningTurn]:
        """The first one first. A copy: they may come and go meanwhile."""
        return iter([*self._turns.values()])

    @contextmanager
    def holding(self, turn: RunningTurn) -> Iterator[None]:
        self._turns[turn.turn_id] = turn
        try:
            yield
        finally:
            del self._turns[turn.turn_id]

    def stop(self, turn_id: str) -> bool:
        """Whether there is such a turn. Does not wait for its end."""
        turn = self._turns.get(turn_id)
        if turn is not None:
            turn.stop.ask()
        return turn is not None
