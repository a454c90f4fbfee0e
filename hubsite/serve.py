"""The hub's life under daphne: listen, start the engine, and end in an order that loses no running turn."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

# Importing daphne's server installs the reactor that runs on asyncio, which has to come before any other Twisted.
import daphne.server
from autobahn.exception import Disconnected
from daphne.http_protocol import WebRequest
from django.conf import settings
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError

from hubsite import readiness
from hubsite.asgi import application
from hubsite.door import BoundedFactory
from hubsite.life import Life
from hubsite.websocket_door import BoundedWebSocketFactory
from mcpbridge import runtime as mcp_runtime
from providers import runtime

logger = logging.getLogger(__name__)

# Connections the system holds until they are accepted. Of a hundred that come at once, Twisted's 50 would have some
# dropped, to come again a second later.
BACKLOG = 1_024
# Long enough for daphne to flush the last answers to sockets after the last turn.
FLUSH_S = 0.2
# So long no request may be under way before the last one is taken to be answered: it may still be on the wire.
QUIET_S = 0.3
POLL_S = 0.05


class HubServer(daphne.server.Server):  # type: ignore[misc]
    """daphne's server with the engine inside. `run` returns after a signal, or raises what kept it from serving."""

    def __init__(self, *, host: str, port: int, on_ready: Callable[[int], None]) -> None:
        address = host.replace(":", r"\:")
        super().__init__(
            application,
            endpoints=[f"tcp:{port}:backlog={BACKLOG}:interface={address}"],
            signal_handlers=False,
            ready_callable=self._begin,
            server_name="LLM MCP Hub",
            websocket_max_message_size=settings.HUB_MAX_BODY_BYTES,
            websocket_max_frame_size=settings.HUB_MAX_BODY_BYTES,
            verbosity=0,
        )
        # Opened when the engine is up: a balancer that could connect before would be told so with a 503.
        self._door = self.endpoints.pop()
        self._host, self._port = host, port
        self.failure: str = ""
        self._on_ready = on_ready
        self._life = Life()
        self._ports: list[Any] = []
        self._stopping: asyncio.Task[None] | None = None

    async def handle_reply(self, protocol: Any, message: Mapping[str, Any]) -> None:
        """Send, and wait until the client takes it: an answer must not pile up in the hub."""
        try:
            await super().handle_reply(protocol, message)
        except Disconnected:
            return  # of a WebSocket that is gone; its application is told by a message of its own
        if message["type"] == "http.response.body" and not message.get("more_body"):
            return  # nothing follows that could pile up, and whoever waited would be told that the client is gone
        valve = getattr(protocol, "valve", None)
        if valve is not None and not await valve.wait():
            protocol.give_up()

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self._ports.append(port)

    def _begin(self) -> None:
        loop = asyncio.get_event_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        self._starting = loop.create_task(self._start(), name="start the engine")

    async def _start(self) -> None:
        try:
            _try_port(self._host, self._port)
            await self._life.start()
            await self._open_door()
        except Exception as error:
            if not isinstance(error, CannotListenError):
                logger.exception("the engine did not start")
            self.failure = str(error)
            await self._life.stop(grace_s=0)
            self.stop()
            return
        self._on_ready(self.listening_addresses[0][1] if self.listening_addresses else 0)

    async def _open_door(self) -> None:
        """Raises CannotListenError."""
        opening = serverFromString(reactor, self._door).listen(self.http_factory)  # type: ignore[no-untyped-call]
        self.listen_success(await opening.asFuture(asyncio.get_running_loop()))

    def _on_signal(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.get_event_loop().create_task(self._wind_down(), name="wind down")
        else:
            logger.warning("second signal: ending everything at once")
            self._stop_now()

    async def _wind_down(self) -> None:
        logger.info("shutting down: running turns get %g s", settings.HUB_SHUTDOWN_GRACE_S)
        await asyncio.gather(self._starting, return_exceptions=True)
        ends_at = time.monotonic() + settings.HUB_DRAIN_S + settings.HUB_SHUTDOWN_GRACE_S
        if settings.HUB_DRAIN_S:
            await self._drain(ends_at)
        try:
            await self._life.stop(grace_s=max(0.0, ends_at - time.monotonic()))
        except Exception:
            logger.exception("ending the engine")
        await asyncio.sleep(FLUSH_S)
        self.stop()

    async def _drain(self, ends_at: float) -> None:
        """Send the balancer elsewhere, shut the door, and answer whatever has come in, what waits for a worker too."""
        readiness.leave()
        logger.info("draining: not ready any more, still serving for %g s", settings.HUB_DRAIN_S)
        await asyncio.sleep(settings.HUB_DRAIN_S)
        for port in self._ports:
            port.doRead()  # whoever the system has let in already; a closed door would cut these off
            port.stopListening()
        mcp_runtime.hang_up()
        quiet_since = time.monotonic()
        while (now := time.monotonic()) < min(ends_at, quiet_since + QUIET_S):
            quiet_since = now if self._has_unanswered() else quiet_since
            await asyncio.sleep(POLL_S)

    def _has_unanswered(self) -> bool:
        """Whether a request is under way; WebSockets, which only their clients end, don't count."""
        asked = [
            (details.get("application_instance"), details)
            for protocol, details in self.connections.items()
            if isinstance(protocol, WebRequest)
        ]
        return any(task is not None and not task.done() and "disconnected" not in it for task, it in asked)

    def _stop_now(self) -> None:
        try:
            runtime.engine().kill()
        finally:
            # Whatever still waits for a grace period would hold up an orderly end; the children are dead already.
            os._exit(0)


def _try_port(host: str, port: int) -> None:
    """Raises CannotListenError where nobody could listen: that is to be known before workers are started."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as exc:
        raise CannotListenError(host, port, exc) from exc  # type: ignore[no-untyped-call]


def serve(*, host: str, port: int, on_ready: Callable[[int], None]) -> str:
    """Serve until a signal; returns why it could not, empty if it could."""
    daphne.server.HTTPFactory = BoundedFactory  # the server makes its own and offers no other way in
    daphne.server.WebSocketFactory = BoundedWebSocketFactory
    server = HubServer(host=host, port=port, on_ready=on_ready)
    server.run()
    return server.failure
