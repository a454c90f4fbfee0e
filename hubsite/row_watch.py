"""Has the engine go by the rows of providers and rules, soon after anybody changed them: admin, REST, another hub."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from django.db import Error

from chat.database_thread import DatabaseThread
from providers import runtime
from providers.rows import Rows, fingerprint, read_rows
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.8
LOOK_WAIT_S = 10.0


class RowWatch:
    """Looks at the tables, again and again. While the database can't be asked, what is there stays as it is."""

    def __init__(self) -> None:
        self._thread = DatabaseThread("row watch")
        self._tasks = Tasks()
        self._seen: tuple[str, ...] = ()
        self._is_away = False

    def start(self) -> None:
        self._thread.start()
        self._tasks.repeat(self.look, name="row watch", pause_s=LOOK_EVERY_S)

    async def stop(self) -> None:
        if self._tasks:
            await self._tasks.cancel()
            await self._thread.stop()

    async def look(self) -> None:
        """Apply the rows if they are others than last time. Never raises for the state of the database."""
        try:
            async with asyncio.timeout(LOOK_WAIT_S):
                await self._take_over()
        except (Error, TimeoutError) as error:
            if not self._is_away:
                logger.warning("rows of providers and rules can't be looked at: %s", str(error).strip() or "timed out")
            self._is_away = True
            return
        if self._is_away:
            logger.info("rows can be looked at again")
        self._is_away = False

    async def _take_over(self) -> None:
        # Before the rows: what changes while they are read is seen the next time.
        seen = await self._thread.run(fingerprint)
        if seen == self._seen:
            return
        is_first = not self._seen
        rows = await runtime.apply_rows(partial(self._read, seen))
        if not is_first:  # the start has told of these
            rows.report()

    async def _read(self, seen: tuple[str, ...]) -> Rows:
        rows = await self._thread.run(read_rows)
        self._seen = seen
        return rows
