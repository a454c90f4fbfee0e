"""The ASGI application, the same under daphne (the hub command) and uvicorn.

daphne knows no lifespan, so the hub command starts the engine itself; under uvicorn the lifespan does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hubsite.settings")
django_application = get_asgi_application()

from django.conf import settings  # noqa: E402 (settings and apps have to be set up first)
from django.core.management.base import BaseCommand  # noqa: E402

from chat import routing  # noqa: E402
from hubsite import readiness  # noqa: E402
from hubsite.access import Watched, mcp_route, page_route, watch_socket  # noqa: E402
from hubsite.heartbeat import Send  # noqa: E402
from hubsite.lean import LeanHandler, Receive  # noqa: E402
from hubsite.life import Life  # noqa: E402
from hubsite.lock import DataFolderLock  # noqa: E402
from mcpbridge import runtime as mcp_runtime  # noqa: E402
from mcpbridge.admission import answer_error  # noqa: E402
from mcpbridge.mount import McpDoor  # noqa: E402
from providers.errors import ShuttingDown  # noqa: E402

LEAN_PREFIXES = ("/v1", "/health", "/metrics")

lean_application = LeanHandler()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Route a connection to the chain that serves it."""
    match scope["type"]:
        case "lifespan":
            await _live(receive, send)
        case "websocket" if scope["path"] in routing.PATHS:
            await watch_socket(routing.chat_socket, scope, receive, send)
        case "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4404})
        case "http" if scope["path"].startswith(LEAN_PREFIXES):
            await lean_application(scope, receive, send)
        case "http" if McpDoor.serves(scope["path"]):
            await mcp_application(scope, receive, send)
        case _:
            await page_application(scope, receive, send)


async def _serve_mcp(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    try:
        door = mcp_runtime.door()
    except ShuttingDown as error:
        await answer_error(send, error)
    else:
        await door(scope, receive, send)


mcp_application = Watched(_serve_mcp, mcp_route)
page_application = Watched(django_application, page_route)


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    lock, life = DataFolderLock(settings.HUB_DATA_DIR), Life()
    try:
        # An ASGI server runs no management command, which is what would have checked the settings.
        await sync_to_async(BaseCommand().check)()
        lock.take()
        await life.start()
    except Exception as error:
        await life.stop(grace_s=0)
        lock.release()
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    _hear_signals()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await life.stop(grace_s=settings.HUB_SHUTDOWN_GRACE_S)
    lock.release()
    await send({"type": "lifespan.shutdown.complete"})


def _hear_signals() -> None:
    """Hang up on MCP's listeners when the server is told to end: it waits for every stream before it tells us."""
    loop = asyncio.get_running_loop()

    def chained(theirs: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        def end(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(mcp_runtime.hang_up)
            theirs(number, frame)

        def on_signal(number: int, frame: FrameType | None) -> None:
            if readiness.is_leaving() or not settings.HUB_DRAIN_S:
                end(number, frame)
                return
            readiness.leave()
            loop.call_soon_threadsafe(loop.call_later, settings.HUB_DRAIN_S, end, number, frame)

        return on_signal

    for number in (signal.SIGTERM, signal.SIGINT):
        theirs = signal.getsignal(number)
        if callable(theirs) and threading.current_thread() is threading.main_thread():
            signal.signal(number, chained(theirs))
