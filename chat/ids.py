"""Ids of turns, sessions and requests."""

from __future__ import annotations

import os
import time

RANDOM_BYTES = 10
# A turn takes half a dozen, and asking the system for each shows among what a turn costs.
STOCK = 400

_stock: list[str] = []


def new_id() -> str:
    """32 hexadecimal digits that sort by time (milliseconds) and can't be guessed."""
    return f"{time.time_ns() // 1_000_000:012x}{_draw()}"


def _draw() -> str:
    while True:
        try:
            return _stock.pop()  # in one step, so no two threads draw the same
        except IndexError:
            _stock.extend(_cut())


def _cut() -> list[str]:
    drawn = os.urandom(STOCK * RANDOM_BYTES).hex()
    return [drawn[place : place + 2 * RANDOM_BYTES] for place in range(0, len(drawn), 2 * RANDOM_BYTES)]


# A forked process must not draw what its parent will.
os.register_at_fork(after_in_child=_stock.clear)
