"""Watches the providers' states: changes go to the log, and to whoever listens on the channel layer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from channels.layers import get_channel_layer

from providers.engine import Engine
from providers.provider import Provider
from providers.status import Status
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

GROUP = "providers"
# A look costs microseconds; one at a provider in trouble also asks the file system.
LOOK_EVERY_S = 0.5
SEND_WAIT_S = 2.0
# What a look at this machine may mend.
MENDED_LOCALLY = ("needs_login", "unsupported_account", "not_installed")


class ProviderWatch:
    """`start` and `stop` belong to the event loop that serves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks = Tasks()
        self._told: dict[str, Status] = {}

    def start(self) -> None:
        self._told = {it.name: it.status for it in self._engine.providers.values()}
        self._engine.on_change.append(self._heard)
        self._tasks.repeat(self._look, name="provider watch", pause_s=LOOK_EVERY_S)

    async def stop(self) -> None:
        self._engine.on_change.remove(self._heard)
        await self._tasks.cancel()

    async def _look(self) -> None:
        for provider in list(self._engine.providers.values()):
            status, told = provider.status, self._told.get(provider.name)
            if told is None or told.state != status.state:  # it is new here, or in another's place
                self._heard(provider.name, status)
            if status.state in MENDED_LOCALLY:
                self._tasks.start(self._open(provider), name=f"look at {provider.name}")

    async def _open(self, provider: Provider) -> None:
        await provider.open()
        provider.status  # noqa: B018 (a look tells the listeners)

    def _heard(self, name: str, status: Status) -> None:
        was_serving = name not in self._told or self._told[name].is_serving
        self._told[name] = status
        # That one is busy or starts is news for a screen, not for a log.
        level = logging.DEBUG if was_serving and status.is_serving else logging.INFO
        told = {"event": "provider_state", "provider": name, "state": status.state}
        what, why = status.state.replace("_", " "), f", {status.why}" if status.why else ""
        logger.log(level, "%s: %s%s", name, what, why, extra=told)
        message = {
            "type": "provider.state",
            "name": name,
            "state": status.state,
            "since": status.since,
            "until": status.until,
        }
        self._tasks.start(_send(message), name=f"tell of {name}")


async def _send(message: dict[str, Any]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async with asyncio.timeout(SEND_WAIT_S):
            await layer.group_send(GROUP, message)
    except Exception as error:  # whatever the layer's client makes of a Redis that is away
        logger.debug("nobody was told of %s: %r", message["name"], error)
