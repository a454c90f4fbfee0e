"""The outbound limits of providers, counted like those of keys: in Redis, exact across all hubs that share it."""

from __future__ import annotations

from functools import partial

from chat.errors import LimitReached
from chat.leases import Leases
from chat.limits import KeyLimits, Limits
from providers.tasks import Tasks
from providers.throttle import OutboundLimits, at_limit


class SharedThrottle:
    """A provider's turns are counted under a label of its own, which no key has."""

    def __init__(self, limits: Limits, leases: Leases) -> None:
        self._limits = limits
        self._leases = leases
        self._held: dict[str, KeyLimits] = {}
        self._tasks = Tasks()

    async def enter(self, provider: str, turn_id: str, limits: OutboundLimits) -> None:
        """Raises Busy."""
        label, counted = _label(provider), KeyLimits(limits.requests_per_minute, limits.concurrent_turns)
        self._held[turn_id] = counted
        try:
            await self._limits.admit(label, counted, request=turn_id, is_turn=True)
        except LimitReached as error:
            del self._held[turn_id]
            standing = error.standing
            raise at_limit(provider, standing.name, standing.limit, standing.reset_s) from error
        self._leases.hold(turn_id, partial(self._limits.renew, label, counted, turn_id))

    def leave(self, provider: str, turn_id: str) -> None:
        if (counted := self._held.pop(turn_id, None)) is not None:
            self._tasks.start(self._free(provider, turn_id, counted), name="outbound place")

    async def _free(self, provider: str, turn_id: str, counted: KeyLimits) -> None:
        await self._leases.drop(turn_id)
        await self._limits.book(_label(provider), counted, turn_id, tokens=0, cost_usd=0.0)

    async def stop(self) -> None:
        await self._tasks.drain()


def _label(provider: str) -> str:
    return f"provider:{provider}"
