"""Where a key stands with one of its limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """The limit that is nearest to its end, or that has refused; no `name` where the key has no limit.

    `limit` and `remaining` count requests, turns, tokens or micro-dollars; `reset_s` is in seconds from now.
    """

    name: str
    limit: float
    remaining: float
    reset_s: float


UNKNOWN = Standing("", 0, 0, 0)
