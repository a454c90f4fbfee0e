"""News of turns that begin in a session, in whichever hub of this Redis: for windows that show the session.

Like chat/changes.py it is heard only while somebody wants to, and is no record: whoever missed it finds the turn when
he opens the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

from redis.exceptions import RedisError

from chat.errors import StoreUnavailable
from chat.hot import HotState
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

CHANNEL = "hub:live"  # named in live_append.lua, too
RETRY_S = 1.0

# Called with the owner, the session and the turn.
Listener = Callable[[str, str, str], None]


class LiveNews:
    """`stop` belongs to the event loop that serves. The listener is called on it and must not raise."""

    def __init__(self, hot: HotState, listener: Listener) -> None:
        self._hot = hot
        self._listener = listener
        self._tasks = Tasks()

    def hear(self) -> None:
        """Listen from now on."""
        if not self._tasks:
            self._tasks.start(self._hear(), name="news of turns")

    async def stop(self) -> None:
        await self._tasks.cancel()

    async def _hear(self) -> None:
        while True:
            try:
                await self._listen()
            except (StoreUnavailable, RedisError, OSError, TimeoutError) as error:
                logger.debug("no news of turns: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        async with self._hot.redis.pubsub(ignore_subscribe_messages=True) as news:
            await news.subscribe(CHANNEL)
            while True:
                message = await news.get_message(timeout=RETRY_S)
                if message is not None:
                    self._tell(message["data"])

    def _tell(self, raw: bytes) -> None:
        with suppress(UnicodeDecodeError, ValueError):  # what another version of the hub may mean by it
            owner, session_id, turn = raw.decode().split(" ")
            self._listener(unquote(owner), session_id, turn)
