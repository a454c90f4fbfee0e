"""Keeps what running turns hold in Redis from running out: a session's lock, a place among the key's turns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from chat.errors import StoreUnavailable
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

Renew = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class _Lease:
    renewals: tuple[Renew, ...] = ()
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Leases:
    """Renews every `lease_s / 3` seconds, so that a pause of the process costs nothing, and its end frees all soon."""

    def __init__(self, *, lease_s: float) -> None:
        self._every_s = lease_s / 3
        self._held: dict[str, _Lease] = {}
        self._tasks = Tasks()

    def __len__(self) -> int:
        """How many turns run."""
        return len(self._held)

    def start(self) -> None:
        self._tasks.repeat(self._renew_all, name="renew leases", pause_s=self._every_s)

    async def stop(self) -> None:
        await self._tasks.cancel()

    def hold(self, turn_id: str, *renewals: Renew) -> None:
        """From now on these; what was held before stays only if it is named again."""
        self._held.setdefault(turn_id, _Lease()).renewals = renewals

    async def drop(self, turn_id: str) -> None:
        """Returns when no renewal is under way: one that came late would take what is given back next."""
        if lease := self._held.pop(turn_id, None):
            async with lease.renewing:
                return

    async def _renew_all(self) -> None:
        # At once, so that they travel together.
        await asyncio.gather(*(self._renew_held(turn_id, lease) for turn_id, lease in list(self._held.items())))

    async def _renew_held(self, turn_id: str, lease: _Lease) -> None:
        async with lease.renewing:
            if turn_id in self._held:
                await self._renew(lease)

    async def _renew(self, lease: _Lease) -> None:
        for renew in lease.renewals:
            try:
                await renew()
            except StoreUnavailable as error:
                logger.info("a lease was not renewed: %s", error)
