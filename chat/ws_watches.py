"""What one connection is told of: turns it watches, each from where it stands, and news of its owner's sessions.

Nothing is kept for a connection but numbers and a few names: one that reads slowly gets more text at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from chat.live_feed import FRAME_S, TEXTS, Feed, as_messages

Json = dict[str, Any]

MOST_TURNS = 32
MOST_REMEMBERED = 500
MOST_NOTES = 200
# Less than this is not worth a timer.
SLACK_S = 0.005


class Watches:
    """`send` waits until the client takes more. `run` sends until it is cancelled or the connection is gone."""

    def __init__(self, send: Callable[[Json], Awaitable[None]]) -> None:
        self._send = send
        self._wake = asyncio.Event()
        self._free_at = 0.0
        self._watched: OrderedDict[str, tuple[Feed, Callable[[], None]]] = OrderedDict()
        self._had: OrderedDict[str, int] = OrderedDict()
        self._notes: dict[str, Json] = {}

    def knows(self, turn: str) -> bool:
        """Whether the turn is, or was, watched on this connection."""
        return turn in self._had

    def add(self, feed: Feed, *, after: int) -> None:
        """Tell of a turn's events with higher numbers."""
        self._remember(feed.turn, after)
        if feed.turn not in self._watched:
            self._watched[feed.turn] = feed, feed.watch(self._wake.set)
            while len(self._watched) > MOST_TURNS:
                self._drop(next(iter(self._watched)))
        self._wake.set()

    def note(self, name: str, message: Json) -> None:
        """Send a message soon; one of the same name that is still to be sent gives way to it."""
        if len(self._notes) < MOST_NOTES or name in self._notes:
            self._notes[name] = message
            self._wake.set()

    def close(self) -> None:
        for turn in list(self._watched):
            self._drop(turn)

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            await self._pace()
            self._wake.clear()
            try:
                await self._send_notes()
                for turn, (feed, _) in list(self._watched.items()):
                    await self._send_new(turn, feed)
            except OSError:  # the client is gone
                return

    async def _pace(self) -> None:
        """Keep text to one frame in FRAME_S. A feed does so itself: this is for several, and for what is behind."""
        wait_s = self._free_at - time.monotonic()
        if wait_s > SLACK_S:
            await asyncio.sleep(wait_s)

    async def _send_notes(self) -> None:
        notes, self._notes = self._notes, {}
        for message in notes.values():
            await self._send(message)

    async def _send_new(self, turn: str, feed: Feed) -> None:
        had = self._had.get(turn, 0)
        frames = 0
        for message in as_messages(turn, feed.after(had)):
            await self._send(message)
            if self._had.get(turn, 0) != had:
                return  # meanwhile it was asked for from another number
            had = message["n"]
            self._remember(turn, had)
            frames += message["type"] in TEXTS
        if frames:
            self._free_at = time.monotonic() + FRAME_S * frames
        if feed.is_over and self._had.get(turn, 0) >= feed.last:
            self._drop(turn)

    def _remember(self, turn: str, number: int) -> None:
        self._had[turn] = number
        self._had.move_to_end(turn)
        if len(self._had) > MOST_REMEMBERED:
            self._had.popitem(last=False)

    def _drop(self, turn: str) -> None:
        if turn in self._watched:
            _, unwatch = self._watched.pop(turn)
            unwatch()
