"""Turns waiting for a worker, in an order that is fair across callers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Iterator
from itertools import zip_longest
from typing import Generic, TypeVar

W = TypeVar("W")


class Waiter(Generic[W]):
    """One turn in the queue, with the digest of its history; `seat` becomes the worker it was given."""

    def __init__(self, caller: str, binding: Hashable, history: bytes | None = None) -> None:
        self.caller = caller
        self.binding = binding
        self.history = history
        self.since = time.monotonic()
        self.seat: asyncio.Future[W] = asyncio.get_running_loop().create_future()


class FairQueue(Generic[W]):
    """A line per caller, served in turns: a caller with a hundred requests can't starve one with a single one."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Waiter[W]]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiter[W]]:
        """All waiters in the order they are due. A copy: entries may be removed meanwhile."""
        return iter([*self._due()])

    def first(self) -> Waiter[W] | None:
        """Who is due next."""
        return next(self._due(), None)

    def _due(self) -> Iterator[Waiter[W]]:
        rows = zip_longest(*self._lines.values())
        return (waiter for row in rows for waiter in row if waiter is not None and not waiter.seat.done())

    def add(self, waiter: Waiter[W]) -> None:
        self._lines.setdefault(waiter.caller, deque()).append(waiter)
        self._length += 1

    def serve(self, waiter: Waiter[W], worker: W) -> None:
        """Give a worker to a waiter; the caller's other turns go behind everybody else's first."""
        self.remove(waiter)
        if (line := self._lines.pop(waiter.caller, None)) is not None:
            self._lines[waiter.caller] = line
        waiter.seat.set_result(worker)

    def remove(self, waiter: Waiter[W]) -> None:
        """Take a waiter out; one that is out already is left alone."""
        line = self._lines.get(waiter.caller)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        self._length -= 1
        if not line:
            del self._lines[waiter.caller]
