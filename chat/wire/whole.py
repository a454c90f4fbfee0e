"""A turn's events put together, for answers that are sent whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from chat.ask import Note
from providers.errors import ProtocolBroken
from providers.events import Event, ReasoningDelta, TextDelta, ToolCall, TurnFinished


@dataclass(slots=True)
class WholeTurn:
    finished: TurnFinished
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)


async def collect(events: AsyncIterator[Note | Event]) -> WholeTurn:
    """The turn, once it is over. Raises what the events raise, ProtocolBroken if they end before it does."""
    turn: WholeTurn | None = None
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    async for event in events:
        match event:
            case TextDelta(text):
                texts.append(text)
            case ReasoningDelta(text):
                thoughts.append(text)
            case ToolCall():
                calls.append(event)
            case TurnFinished():
                turn = WholeTurn(event, texts, thoughts, calls)
    if turn is None:
        raise ProtocolBroken("the turn ended before its answer did")
    return turn
