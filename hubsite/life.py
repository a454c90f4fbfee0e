"""The order in which the hub's parts come and go, whatever server runs it."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Awaitable, Callable

from asgiref.sync import sync_to_async
from django.conf import settings

from chat import runtime as chat_runtime
from hubsite.private_redis import PrivateRedis, PrivateRedisFailed
from hubsite.provider_watch import ProviderWatch
from hubsite.row_watch import RowWatch
from hubsite.shared_board import SharedBoard
from hubsite.throttle import SharedThrottle
from mcpbridge import runtime as mcp_runtime
from providers import runtime as engine_runtime
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

# What a request leaves behind is mostly freed at once; collecting every 700 objects costs a twentieth of all work.
GC_THRESHOLDS = (10_000, 20, 50)
# What lives for longer, such as MCP sessions, leaves circles of objects which that hardly ever finds: 5 kB a session.
COLLECT_EVERY_S = 15.0


class Life:
    """One hub's life: Redis, callers and conversations, what the vendors said, the engine; and back again.

    A guest's engine runs beside the data folder's hub, should one come, and serves no HTTP.
    """

    def __init__(self, *, is_guest: bool = False) -> None:
        self._is_guest = is_guest
        self._redis = None if settings.HUB_REDIS_URL else PrivateRedis(settings.HUB_PRIVATE_REDIS_DIR)
        self._rows = RowWatch()
        self._tasks = Tasks()
        self._ends: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        """Raises PrivateRedisFailed, and what keeps the engine from starting; `stop` is to be called then too."""
        if self._redis is not None:
            await sync_to_async(self._redis.attach, thread_sensitive=False)()
        chat = await chat_runtime.start(settings.HUB_REDIS_LOCATION, on_away=self._revive)
        shared, throttle = SharedBoard(chat.hot), SharedThrottle(chat.limits, chat.leases)
        self._ends += [shared.stop, throttle.stop]
        await shared.start()
        engine = await engine_runtime.start(board=shared.board, throttle=throttle, is_guest=self._is_guest)
        watch = ProviderWatch(engine)
        self._ends.insert(0, watch.stop)
        watch.start()
        self._rows.start()
        if not self._is_guest:
            await mcp_runtime.start()
        gc.freeze()  # modules and settings stay: no collection has to look at them again
        gc.set_threshold(*GC_THRESHOLDS)
        self._tasks.repeat(_collect, name="garbage", pause_s=COLLECT_EVERY_S)
        told = {"event": "hub_started", "version": settings.VERSION, "pid": os.getpid()}
        logger.info("the hub %s has started", settings.VERSION, extra=told)

    async def stop(self, *, grace_s: float) -> None:
        """Running turns get `grace_s` seconds and are written down; every child process is gone afterwards."""
        logger.info("the hub ends", extra={"event": "hub_stopping", "pid": os.getpid()})
        try:
            await self._tasks.cancel()
            await self._rows.stop()
            await engine_runtime.stop(grace_s=grace_s)
        finally:
            for end in (mcp_runtime.stop, *self._ends):
                await _quietly(end)
            await chat_runtime.stop()
            if self._redis is not None:
                self._redis.detach()
            logger.info("the hub has ended", extra={"event": "hub_stopped", "pid": os.getpid()})

    def _revive(self) -> None:
        if self._redis is None:
            return
        try:
            self._redis.revive()
        except (PrivateRedisFailed, OSError, RuntimeError) as error:
            logger.error("the private Redis server can't be started again: %s", error)


async def _collect() -> None:
    gc.collect()  # some milliseconds, since what was there at the start is left out


async def _quietly(end: Callable[[], Awaitable[None]]) -> None:
    """One part's trouble keeps no other from ending."""
    try:
        await end()
    except Exception:
        logger.exception("stopping")
