"""The limits counted by this process alone: for the time Redis is away."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chat.usage import Today

MINUTE_S = 60.0
Answer = tuple[int, str, float, float, float]


@dataclass(slots=True)
class _Count:
    """One key's figures of the last minute, and the turns that run."""

    requests: deque[float] = field(default_factory=deque)
    turns: set[str] = field(default_factory=set)
    tokens: deque[tuple[float, int]] = field(default_factory=deque)

    def forget(self, before: float) -> None:
        while self.requests and self.requests[0] <= before:
            self.requests.popleft()
        while self.tokens and self.tokens[0][0] <= before:
            self.tokens.popleft()


class LocalLimits:
    """Answers as the script `limits_admit` does: (verdict, name, limit, remaining, reset in ms)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[int | str, _Count] = {}

    def admit(
        self,
        key_id: int | str,
        limits: Sequence[int],
        request: str,
        *,
        is_turn: bool,
        used: tuple[int, int, int],
        today: Today,
    ) -> Answer:
        """`limits` in the script's order, -1 for none; `used` by day and month as the database has it."""
        now = self._clock()
        count = self._counts.setdefault(key_id, _Count())
        count.forget(now - MINUTE_S)
        wait_s = count.requests[0] + MINUTE_S - now if count.requests else MINUTE_S
        rows = [("requests per minute", limits[0], len(count.requests), wait_s * 1_000)]
        if is_turn:
            tokens = sum(amount for _, amount in count.tokens)
            rows += [
                ("concurrent turns", limits[1], len(count.turns), 1_000),
                ("tokens per minute", limits[2], tokens, MINUTE_S * 1_000),
                ("tokens per day", limits[3], used[0], today.day_left_ms),
                ("budget per day", limits[4], used[1], today.day_left_ms),
                ("budget per month", limits[5], used[2], today.month_left_ms),
            ]
        kept = [row for row in rows if row[1] >= 0]
        for name, limit, taken, reset_ms in kept:
            if taken >= limit:
                return 0, name, limit, 0, reset_ms
        count.requests.append(now)
        if is_turn:
            count.turns.add(request)
        return _nearest(kept)

    def book(self, key_id: int | str, turn_id: str, tokens: int) -> None:
        """Count a turn that is over, wherever it was admitted."""
        count = self._counts.setdefault(key_id, _Count())
        count.turns.discard(turn_id)
        now = self._clock()
        if tokens:
            count.tokens.append((now, tokens))
        count.forget(now - MINUTE_S)


def _nearest(rows: list[tuple[str, int, int, float]]) -> Answer:
    if not rows:
        return 1, "", 0, 0, 0
    name, limit, taken, reset_ms = min(rows, key=lambda row: (row[1] - row[2]) / row[1])
    left = limit - taken - (name in ("requests per minute", "concurrent turns"))
    return 1, name, limit, left, reset_ms
