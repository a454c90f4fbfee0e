"""What the chat room runs on in this process: started once by whoever serves, used by the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from django.conf import settings

from chat.archive import Archive
from chat.changes import SessionChanges
from chat.hot import HotState
from chat.leases import Leases
from chat.limits import Limits
from chat.live import LiveTurns
from chat.live_streams import Streams
from chat.prices import PriceList
from chat.sessions import Sessions
from chat.shield import RetryShield
from chat.under_way import UnderWay
from providers.errors import ShuttingDown
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

# Longer than the end of a turn tries to reach Redis and the database.
ENDINGS_WAIT_S = 15.0


class Chat:
    """The room's parts by this project's settings. `start` and `stop` belong to the event loop that serves."""

    def __init__(self, redis_url: str, *, on_away: Callable[[], None]) -> None:
        lease_s = settings.HUB_SESSION_LOCK_S
        self.keeps_conversations: bool = settings.HUB_SESSION_ARCHIVE
        self.hot = HotState(
            redis_url,
            timeout_s=settings.HUB_REDIS_TIMEOUT_S,
            on_away=on_away,
            is_private=not settings.HUB_REDIS_URL,
        )
        self.archive = Archive(self.hot, keeps_conversations=self.keeps_conversations)
        self.sessions = Sessions(self.hot, lock_s=lease_s)
        self.limits = Limits(self.hot, lease_s=lease_s, settle=self.archive.catch_up)
        self.leases = Leases(lease_s=lease_s)
        self.prices = PriceList()
        self.shield = RetryShield(join_s=settings.HUB_RETRY_JOIN_S, keep_s=settings.HUB_RETRY_KEEP_S)
        self.changes = SessionChanges(self.hot)
        self.live = LiveTurns()
        self.under_way = UnderWay()
        self.streams = Streams(
            self.hot,
            self.live,
            self.changes,
            self.prices,
            keep_s=settings.HUB_STREAM_KEEP_S,
            unwatched_s=settings.HUB_STREAM_UNWATCHED_S,
        )
        self.endings = Tasks()  # turns that are over and still being written down

    async def start(self) -> None:
        await self.hot.start()
        await self.archive.start()
        self.leases.start()
        self.streams.start()

    async def stop(self) -> None:
        """Write down what has ended; the engine has to be closed before. One part's trouble keeps no other open."""
        ends = (self.shield.stop, self.live.stop, self.streams.stop, self._drain, self.leases.stop, self.changes.stop)
        for stop in (*ends, self.archive.stop, self.hot.stop):
            try:
                await stop()
            except Exception:
                logger.exception("stopping")

    async def _drain(self) -> None:
        async with asyncio.timeout(ENDINGS_WAIT_S):
            await self.endings.drain()


_running: list[Chat] = []


def chat() -> Chat:
    """The running room. Raises ShuttingDown when there is none (before the start, after the end)."""
    if not _running:
        raise ShuttingDown("the hub is not running")
    return _running[0]


async def start(redis_url: str, *, on_away: Callable[[], None] = lambda: None) -> Chat:
    started = Chat(redis_url, on_away=on_away)
    _running[:] = [started]
    await started.start()
    return started


async def stop() -> None:
    if _running:
        await _running[0].stop()
        _running.clear()
