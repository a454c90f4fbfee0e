"""A thread of its own for the database: one connection, one job after the other, awaited from the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from django.db import Error, connection

from chat.store_metrics import DATABASE

CLOSE_WAIT_S = 1.0

T = TypeVar("T")


class DatabaseThread:
    """A thread with one database connection, that does one job after the other.

    A daemon, unlike an executor's: a database that hangs must not hold up the hub's end.
    """

    def __init__(self, name: str) -> None:
        self._seconds = DATABASE.labels(name)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self.run(_close_connection)
        self._jobs.put(None)

    async def run(self, job: Callable[[], T]) -> T:
        """Raises what the job raises. A job whose caller has gone before its turn came is left out."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            if done.cancelled():
                return
            began_at = time.perf_counter()
            try:
                result = _on_a_good_connection(job)
            except Exception as error:
                report(done.set_exception, error)
            else:
                report(done.set_result, result)
            self._seconds.observe(time.perf_counter() - began_at)

        def report(settle: Callable[[Any], None], value: object) -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(lambda: None if done.done() else settle(value))

        self._jobs.put(work)
        return await done

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
        connection.close()


def _close_connection() -> None:
    connection.close()  # a thread's own, so it has to be named there


def _on_a_good_connection(job: Callable[[], T]) -> T:
    """Do a job, once more if its connection turns out to have been closed while it was idle."""
    before = connection.connection
    try:
        return job()
    except Error:
        # Django may have opened a new one already.
        was_lost = before is not None and (connection.connection is not before or not connection.is_usable())
        connection.close()
        if not was_lost:
            raise
    return job()
