"""A turn as its watchers see it: numbered events, read by any number of connections, each at its own pace.

Text is gathered for FRAME_S before it becomes an event, so that a number stands for what is sent at a time. Nobody's
slowness holds up the turn or another reader: a reader only keeps the number of the last event it has had.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from chat.conversation import now_ms

Json = dict[str, Any]
TextKind = Literal["delta", "reasoning"]

# 20 events of text a second.
FRAME_S = 0.05
# A piece of text is no longer than this: it is what the hub holds for a connection that does not read.
ENTRY_CHARS = 64 * 1024
# Pieces are put together up to about so much; who is far behind gets several messages.
MESSAGE_CHARS = 128 * 1024
TEXTS = ("delta", "reasoning")
ENDS = ("finished", "error", "stopped")


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: `body` is a message of the protocol but for its number and the turn's id."""

    n: int
    body: Json

    @property
    def type(self) -> str:
        return str(self.body["type"])


class Feed:
    """The events of one turn. `session_id` and `turn_id`, by which the session names it, are empty until admitted.

    `is_here`: this hub runs the turn, and adds to it. `stored` is the number up to which Redis has it.
    """

    def __init__(self, owner: str, turn: str, *, is_here: bool, session_id: str = "") -> None:
        self.owner = owner
        self.turn = turn
        self.is_here = is_here
        self.session_id = session_id
        self.turn_id = ""
        self.began_ms = now_ms()
        self.stored = 0
        self.watched_at = time.monotonic()
        self.on_add: Callable[[Feed], None] = lambda _: None
        self._entries: list[Entry] = []
        self._wakes: dict[object, Callable[[], None]] = {}
        self._texts: list[str] = []
        self._kind: TextKind = "delta"
        self._text_ms = 0
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The number of the last event; 0 before the first."""
        return self._entries[-1].n if self._entries else 0

    @property
    def is_over(self) -> bool:
        return bool(self._entries) and self._entries[-1].type in ENDS

    @property
    def is_watched(self) -> bool:
        return bool(self._wakes)

    def after(self, number: int) -> Sequence[Entry]:
        """The events with higher numbers; of a turn that is over at least its end."""
        start = number
        if start > len(self._entries) or (start and self._entries[start - 1].n != number):
            start = bisect_right(self._entries, number, key=attrgetter("n"))  # some are missing
        found = self._entries[start:]
        return found or (self._entries[-1:] if self.is_over else [])

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called whenever there is something new; returns what ends that."""
        token = object()
        self._wakes[token] = wake

        def unwatch() -> None:
            self._wakes.pop(token, None)
            self.watched_at = time.monotonic()

        return unwatch

    # --- writing -----------------------------------------------------------------------------------------------------

    def add(self, body: Json) -> None:
        """Add an event, after the text that waits."""
        self.flush()
        self._append(Entry(self.last + 1, body))

    def add_text(self, kind: TextKind, text: str) -> None:
        """Add text: at once after a silence, else with what comes within FRAME_S."""
        if kind != self._kind:
            self.flush()
            self._kind = kind
        if not self._texts:
            self._text_ms = now_ms()
        self._texts.append(text)
        if self._timer is not None:
            return
        wait_s = self._flushed_at + FRAME_S - time.monotonic()
        if wait_s <= 0:
            self.flush()
        else:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._texts:
            text, self._texts = "".join(self._texts), []
            self._flushed_at = time.monotonic()
            for start in range(0, len(text), ENTRY_CHARS):
                piece = text[start : start + ENTRY_CHARS]
                self._append(Entry(self.last + 1, {"type": self._kind, "text": piece, "at": self._text_ms}))

    def take(self, entries: Iterable[Entry]) -> None:
        """What another hub has added."""
        for entry in entries:
            if entry.n > self.last:
                self._append(entry)

    def _append(self, entry: Entry) -> None:
        if self.is_over:
            return
        if entry.type == "admitted":
            self.session_id, self.turn_id = str(entry.body["session"] or ""), str(entry.body["turn_id"])
        self._entries.append(entry)
        self.on_add(self)
        for wake in list(self._wakes.values()):
            wake()


def as_messages(turn: str, entries: Sequence[Entry]) -> Iterator[Json]:
    """The events as they are sent, one after the other: neighbouring text of one kind as one message, up to a size.

    `first` and `n` are the first and the last number that a message stands for.
    """
    message: Json | None = None
    for entry in entries:
        if message is not None and _continues(message, entry):
            message["text"] += entry.body["text"]
            message["n"] = entry.n
            continue
        if message is not None:
            yield message
        message = {**entry.body, "turn": turn, "first": entry.n, "n": entry.n}
    if message is not None:
        yield message


def _continues(message: Json, entry: Entry) -> bool:
    is_next = entry.type in TEXTS and message["type"] == entry.type and message["n"] + 1 == entry.n
    return is_next and len(message["text"]) < MESSAGE_CHARS
