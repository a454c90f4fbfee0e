"""The bounds of one pool of workers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of one pool. Durations in seconds, memory in resident bytes of a process tree, 0 for no limit.

    `floor` workers are kept ready that no conversation has bound yet, while `ceiling` and `memory_bytes` (for all
    workers together) allow. Above `rss_bytes` a worker is replaced between turns, above `hard_rss_bytes` within one.
    At most `kept` idle workers hold a conversation for its next turn (0: none does), each for `kept_s`.
    """

    floor: int = 1
    ceiling: int = 4
    memory_bytes: int = 0
    queue: int = 200
    queue_wait_s: float = 120.0
    idle_s: float = 900.0
    kept: int = 0
    kept_s: float = 300.0
    age_s: float = 14_400.0
    turns: int = 200
    rss_bytes: int = 512 * 1024 * 1024
    hard_rss_bytes: int = 1024 * 1024 * 1024
    watch_s: float = 2.0
