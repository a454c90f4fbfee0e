"""Turns that run apart from whoever asked: a caller may leave and come back for the answer.

A door that can't keep its client waiting starts its turn here, tells the client where the answer will be, and looks
again when it is asked. What a turn leaves behind is in its session; here is only what is on its way, and why a turn
failed whose caller had gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Literal

from chat.ask import Admitted, Answering, Note
from chat.conversation import now_ms
from chat.errors import ChatError
from providers.errors import ProviderError
from providers.events import (
    Event,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    TurnFinished,
    TurnStarted,
    Working,
)
from providers.tasks import Tasks

logger = logging.getLogger(__name__)

Status = Literal["running", "complete", "failed", "cancelled"]
Events = AsyncGenerator[Note | Event, None]

# How many of those that came to no end are remembered for callers who come back for them.
REMEMBERED = 1_000


class LiveTurn:
    """One of them. `session_id` is empty until the turn is admitted, and where no session can be kept. `turn_id` is
    given by doors that let their callers name a turn."""

    def __init__(self, owner: str, session_id: str, turn_id: str = "") -> None:
        self.owner = owner
        self.session_id = session_id
        self.turn_id = turn_id
        self.provider = ""
        self.model = ""
        self.pieces: list[str] = []
        self.calls: list[ToolCall] = []
        self.reason: FinishReason | None = None
        self.error: Exception | None = None
        self.status: Status = "running"
        self.began_at = time.monotonic()
        self.ended_ms = 0  # Unix time, once it is over
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<LiveTurn {self.status} of {self.session_id or 'no session'}, {len(self.pieces)} pieces>"

    @property
    def is_over(self) -> bool:
        return self.status != "running"

    @property
    def text(self) -> str:
        """What the provider has said so far."""
        return "".join(self.pieces)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.began_at

    async def change(self, *, within_s: float) -> None:
        """Wait until there is something new, that many seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()

    async def end(self, *, within_s: float) -> None:
        """Wait until it is over, that many seconds at most."""
        if self._task is not None and not self.is_over:
            await asyncio.wait({self._task}, timeout=within_s)

    def cancel(self) -> None:
        """Stop the turn and its vendor call. Does not wait."""
        if self._task is not None:
            self._task.cancel()

    def run(self, tasks: Tasks, events: Events) -> asyncio.Task[None]:
        self._task = tasks.start(self._follow(events), name="turn apart from its caller")
        return self._task

    async def _follow(self, events: Events) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._note(event)
            self._become("complete")
        except (ChatError, ProviderError) as error:
            self._fail(error)
        except Exception as error:
            logger.exception("a turn apart from its caller")
            self._fail(error)
        finally:
            if not self.is_over:
                self._become("cancelled")

    def _note(self, event: Note | Event) -> None:
        match event:
            case Admitted(session_id):
                self.session_id = session_id
            case Answering(provider):
                self.provider = provider
            case TurnStarted(model, provider):
                self.provider, self.model = provider, model
            case TextDelta(text):
                self.pieces.append(text)
            case TurnFinished(reason):
                self.reason = reason
            case ToolCall():
                self.calls.append(event)
            case ReasoningDelta() | Working():
                pass  # that it lives is all there is to tell
            case _:
                return
        self._tell()

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._become("failed")

    def _become(self, status: Status) -> None:
        self.status, self.ended_ms = status, now_ms()
        self._tell()

    def _tell(self) -> None:
        # A new one each time: several may wait, and none may take the news from another.
        self._changed.set()
        self._changed = asyncio.Event()


class LiveTurns:
    """Those of this hub that run, the last that failed, and of those with a name the last that were cancelled.

    `stop` belongs to the event loop that serves.
    """

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._turns: list[LiveTurn] = []

    def start(self, owner: str, session_id: str, events: Events, *, turn_id: str = "") -> LiveTurn:
        """Run a turn's events to their end, whatever becomes of the caller."""
        turn = LiveTurn(owner, session_id, turn_id)
        self._turns.append(turn)
        turn.run(self._tasks, events).add_done_callback(lambda _: self._ended(turn))
        return turn

    def find(self, owner: str, session_id: str) -> LiveTurn | None:
        """The owner's last turn of a session that runs here, or has failed."""
        turns = reversed(self._turns)
        of_session = (it for it in turns if (it.owner, it.session_id) == (owner, session_id))
        return next((it for it in of_session if it.status != "cancelled"), None)

    def find_turn(self, owner: str, turn_id: str) -> LiveTurn | None:
        """The owner's turn of that name."""
        return next((it for it in self._turns if (it.owner, it.turn_id) == (owner, turn_id)), None)

    def forget(self, turn: LiveTurn) -> None:
        """Its caller knows how it ended."""
        if turn in self._turns:
            self._turns.remove(turn)

    async def stop(self) -> None:
        """End those that still run: nobody waits for them any more."""
        await self._tasks.cancel()
        self._turns.clear()

    def _ended(self, turn: LiveTurn) -> None:
        if turn.status == "complete" or (turn.status == "cancelled" and not turn.turn_id):
            self.forget(turn)
        ended = [it for it in self._turns if it.is_over]
        for oldest in ended[: max(0, len(ended) - REMEMBERED)]:
            self.forget(oldest)
