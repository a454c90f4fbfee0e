"""Keeps a waiting client informed: what it hears of tells it that the turn lives, and resets its own timeouts."""

from __future__ import annotations

import time
from typing import Any

from mcp.server.mcpserver import Context

from chat.live import LiveTurn

# Tokens go in batches, each of a message of its own.
BATCH_S = 0.2
# Clients give up after a minute without a word, some earlier.
HEARTBEAT_S = 7.0
TOKEN = "progress_token"  # noqa: S105 (the protocol's word for who asked to be told)


class Progress:
    """The progress of one request; `progress` only counts, since nobody knows how long an answer will be."""

    def __init__(self, ctx: Context[Any, Any]) -> None:
        self._ctx = ctx
        self._count = 0
        self._said_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._said_at

    @property
    def is_wanted(self) -> bool:
        meta = self._ctx.request_context.meta
        return meta is not None and meta.get(TOKEN) is not None

    async def say(self, message: str) -> None:
        self._count += 1
        self._said_at = time.monotonic()
        await self._ctx.report_progress(self._count, None, message)


async def follow(turn: LiveTurn, progress: Progress, *, until_s: float) -> None:
    """Tell of a turn until it is over or that many seconds old. One whose answer could not be fetched is stayed with.

    Cancelled, it leaves the turn as it is.
    """
    if not progress.is_wanted:
        await _wait(turn, until_s)
        return
    await progress.say("the hub looks for a provider")
    narrator = _Narrator(turn, progress)
    while not turn.is_over and (left_s := _left_s(turn, until_s)) > 0:
        await turn.change(within_s=max(0.0, min(HEARTBEAT_S - progress.silent_s, left_s)))
        await narrator.tell()


async def _wait(turn: LiveTurn, until_s: float) -> None:
    while not turn.is_over and not turn.session_id:
        await turn.change(within_s=HEARTBEAT_S)
    await turn.end(within_s=_left_s(turn, until_s))


def _left_s(turn: LiveTurn, until_s: float) -> float:
    """How long to stay; as long as it takes with one that can't be fetched, or not yet."""
    return max(0.0, until_s - turn.age_s) if turn.session_id else HEARTBEAT_S


class _Narrator:
    """Knows what of a turn was told."""

    def __init__(self, turn: LiveTurn, progress: Progress) -> None:
        self._turn = turn
        self._progress = progress
        self._told = 0
        self._model = ""

    async def tell(self) -> None:
        if self._turn.model != self._model:
            self._model = self._turn.model
            await self._progress.say(f"{self._turn.provider} answers with {self._model}")
        if len(self._turn.pieces) > self._told:
            await self._tell_text()
        elif self._progress.silent_s >= HEARTBEAT_S and not self._turn.is_over:
            what = "still working" if self._told else "still waiting for the first word"
            await self._progress.say(f"{what}, {self._turn.age_s:.0f} s")

    async def _tell_text(self) -> None:
        await self._turn.end(within_s=BATCH_S)
        new = self._turn.pieces[self._told :]
        self._told += len(new)
        if text := "".join(new):
            await self._progress.say(text)
