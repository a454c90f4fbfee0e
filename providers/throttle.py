"""How much a vendor is asked: requests per minute and concurrent turns of a provider, so that no 429 is provoked."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from providers.errors import Busy

MINUTE_S = 60.0
# When a running turn ends is not known; it is worth asking again soon.
TURN_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class OutboundLimits:
    """What a provider may ask of its vendor; None for no limit."""

    requests_per_minute: int | None = None
    concurrent_turns: int | None = None

    def __bool__(self) -> bool:
        return self.requests_per_minute is not None or self.concurrent_turns is not None


class Throttle(Protocol):
    """Counts the turns that go to the vendors."""

    async def enter(self, provider: str, turn_id: str, limits: OutboundLimits) -> None:
        """Count a turn that is about to be sent. Raises Busy with the time to wait where a limit is reached."""

    def leave(self, provider: str, turn_id: str) -> None:
        """The turn is over, or was not let in. Must not raise."""


class LocalThrottle:
    """Counts for one hub alone. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, _Count] = {}

    async def enter(self, provider: str, turn_id: str, limits: OutboundLimits) -> None:
        now, count = self._clock(), self._counts.setdefault(provider, _Count())
        while count.sent and count.sent[0] <= now - MINUTE_S:
            count.sent.popleft()
        if limits.requests_per_minute is not None and len(count.sent) >= limits.requests_per_minute:
            wait_s = count.sent[0] + MINUTE_S - now if count.sent else MINUTE_S
            raise at_limit(provider, "requests per minute", limits.requests_per_minute, wait_s)
        if limits.concurrent_turns is not None and len(count.turns) >= limits.concurrent_turns:
            raise at_limit(provider, "concurrent turns", limits.concurrent_turns, TURN_RETRY_S)
        count.sent.append(now)
        count.turns.add(turn_id)

    def leave(self, provider: str, turn_id: str) -> None:
        if (count := self._counts.get(provider)) is not None:
            count.turns.discard(turn_id)


def at_limit(provider: str, name: str, limit: float, wait_s: float) -> Busy:
    """The refusal of a turn beyond a limit; `wait_s` in seconds."""
    message = f"{provider} is at its limit towards its vendor: {name} ({limit:g}); ask again in {math.ceil(wait_s)} s"
    return Busy(message, retry_after_s=wait_s)


@dataclass(slots=True)
class _Count:
    sent: deque[float] = field(default_factory=deque)
    turns: set[str] = field(default_factory=set)
