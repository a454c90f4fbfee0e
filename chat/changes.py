"""News of sessions: which began, went on or were deleted, in whichever hub of this Redis.

Redis itself publishes them with the step that changes a session, so they cost a turn nothing; a hub hears them only
while somebody here wants to. They are news, not a record: what happens while Redis is away is not told later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import unquote

from redis.exceptions import RedisError

from chat.errors import StoreUnavailable
from chat.hot import HotState
from chat.sessions import index_key
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

CHANNEL = "hub:changes"  # named in the scripts, too
RETRY_S = 1.0

Kind = Literal["new", "changed", "deleted"]
KINDS = ("new", "changed", "deleted")


@dataclass(frozen=True, slots=True)
class SessionChange:
    owner: str
    session_id: str
    kind: Kind


Listener = Callable[[SessionChange], None]


class SessionChanges:
    """`stop` belongs to the event loop that serves. Listeners are called on it and must not raise."""

    def __init__(self, hot: HotState) -> None:
        self._hot = hot
        self._listeners: dict[object, Listener] = {}
        self._tasks = Tasks()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener from now on; returns what ends that."""
        token = object()
        self._listeners[token] = listener
        if not self._tasks:
            self._tasks.start(self._hear(), name="news of sessions")

        def unsubscribe() -> None:
            self._listeners.pop(token, None)

        return unsubscribe

    async def stop(self) -> None:
        self._listeners.clear()
        await self._tasks.cancel()

    async def _hear(self) -> None:
        while self._listeners:
            try:
                await self._listen()
            except (StoreUnavailable, RedisError, OSError, TimeoutError) as error:
                logger.debug("no news of sessions: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        async with self._hot.redis.pubsub(ignore_subscribe_messages=True) as news:
            await news.subscribe(CHANNEL)
            while self._listeners:
                message = await news.get_message(timeout=RETRY_S)
                if message is not None and (change := read_change(message["data"])) is not None:
                    self._tell(change)

    def _tell(self, change: SessionChange) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener(change)
            except Exception:
                logger.exception("telling of a session")


def read_change(raw: bytes) -> SessionChange | None:
    """What a script has published; None for what another version of the hub may mean by it."""
    with suppress(UnicodeDecodeError, ValueError):
        index, kind, session_id = raw.decode().split(" ")
        if kind in KINDS and index.startswith(prefix := index_key("")):
            return SessionChange(unquote(index.removeprefix(prefix)), session_id, cast(Kind, kind))
    return None
