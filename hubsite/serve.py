"""The hub's life under daphne: listen, start the engine, and end in an order that loses no running turn."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

# Importing daphne's server installs the reactor that runs on asyncio, which has to come before any other Twisted.
import daphne.server
from django.conf import settings

from hubsite.asgi import application
from hubsite.door import BoundedFactory
from hubsite.life import Life
from providers import runtime

logger = logging.getLogger(__name__)

# Connections the system holds until they are accepted. Of a hundred that come at once, Twisted's 50 would have some
# dropped, to come again a second later.
BACKLOG = 1_024
# Long enough for daphne to flush the last answers to sockets after the last turn.
FLUSH_S = 0.2


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
            verbosity=0,
        )
        self.failure: str = ""
        self._on_ready = on_ready
        self._life = Life()
        self._stopping: asyncio.Task[None] | None = None

    async def handle_reply(self, protocol: Any, message: Mapping[str, Any]) -> None:
        """Send, and wait until the client takes it: an answer must not pile up in the hub."""
        await super().handle_reply(protocol, message)
        valve = getattr(protocol, "valve", None)
        if valve is not None and not await valve.wait():
            protocol.give_up()

    def listen_error(self, failure: object) -> None:
        self.failure = failure.getErrorMessage()  # type: ignore[attr-defined]
        self.stop()

    def _begin(self) -> None:
        loop = asyncio.get_event_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        self._starting = loop.create_task(self._start(), name="start the engine")

    async def _start(self) -> None:
        try:
            await self._life.start()
        except Exception as error:
            logger.exception("the engine did not start")
            self.failure = str(error)
            await self._life.stop(grace_s=0)
            self.stop()
            return
        self._on_ready(self.listening_addresses[0][1] if self.listening_addresses else 0)

    def _on_signal(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.get_event_loop().create_task(self._wind_down(), name="wind down")
        else:
            logger.warning("second signal: ending everything at once")
            self._stop_now()

    async def _wind_down(self) -> None:
        logger.info("shutting down: running turns get %g s", settings.HUB_SHUTDOWN_GRACE_S)
        await asyncio.gather(self._starting, return_exceptions=True)
        try:
            await self._life.stop(grace_s=settings.HUB_SHUTDOWN_GRACE_S)
        except Exception:
            logger.exception("ending the engine")
        await asyncio.sleep(FLUSH_S)
        self.stop()

    def _stop_now(self) -> None:
        try:
            runtime.engine().kill()
        finally:
            # Whatever still waits for a grace period would hold up an orderly end; the children are dead already.
            os._exit(0)


def serve(*, host: str, port: int, on_ready: Callable[[int], None]) -> str:
    """Serve until a signal; returns why it could not, empty if it could."""
    daphne.server.HTTPFactory = BoundedFactory  # the server makes its own and offers no other way in
    server = HubServer(host=host, port=port, on_ready=on_ready)
    server.run()
    return server.failure
