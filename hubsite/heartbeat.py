"""Keeps a silent stream alive: proxies and clients give up a connection on which nothing moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

Message = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Heartbeat:
    """An ASGI `send` that adds a comment whenever nothing was sent for `interval_s` seconds.

    One timer per stream that is only moved when it fires: a stream that flows costs nothing.
    """

    def __init__(self, send: Send, comment: bytes, interval_s: float) -> None:
        self._send = send
        self._comment = comment
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None

    def __enter__(self) -> Heartbeat:
        self._arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()

    async def send(self, message: Message) -> None:
        self._sent_at = self._loop.time()
        await self._send(message)

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._sent_at + self._interval_s, self._on_timer)

    def _on_timer(self) -> None:
        is_silent = self._loop.time() - self._sent_at >= self._interval_s
        # One at a time: to a client that does not read, the last one may still be on its way.
        if is_silent and (self._beat is None or self._beat.done()):
            self._beat = self._loop.create_task(self._say(), name="heartbeat")
        if is_silent:
            self._sent_at = self._loop.time()
        self._arm()

    async def _say(self) -> None:
        await self._send({"type": "http.response.body", "body": self._comment, "more_body": True})
