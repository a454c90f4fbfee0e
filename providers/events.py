"""What crosses the engine's border: a turn goes in, events come out.

Frozen data only. Adapters translate a CLI's output into these events, wire
modules translate them into a client's dialect; nothing else is passed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["user", "assistant"]
StartKind = Literal["cold", "warm", "reused", "kept"]
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `blocks` are its texts in order."""

    role: Role
    blocks: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.blocks)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the caller asked of the model; None leaves the vendor's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with all that came before it.

    `messages` is never empty and ends with a user message. `model` is a vendor id or alias, None for the
    provider's default. `owner` and `caller` are opaque labels: a process is never shared by two owners, and the
    queue is fair across callers.
    """

    messages: tuple[Message, ...]
    system: str = ""
    model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    owner: str = ""
    caller: str = ""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """First event of every turn: the vendor accepted it. `model` is the one that really answers.

    A driver leaves `provider` and `start` alone; the engine fills them in.
    """

    model: str
    provider: str = ""
    start: StartKind = "warm"


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The CLI's own numbers. `input_tokens` counts the whole prompt, the cached part included.

    As an event: what the turn has used so far, for whoever has to book one that is cut short; TurnFinished carries
    the final figures. `cost_usd` is None where the CLI does not tell it.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class LimitNotice:
    """The vendor spoke about a usage window; `resets_at` is Unix time in seconds, `used` a share of 0 to 1.

    `model` is a word in the names of the models it is about (`opus`), empty for all.
    """

    status: Literal["allowed", "warning", "rejected"]
    window: str
    resets_at: float | None = None
    used: float | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """Last event of a turn that did not fail. `usage` is None only where the CLI reported none."""

    reason: FinishReason
    usage: Usage | None


Event = TurnStarted | TextDelta | ReasoningDelta | Usage | LimitNotice | TurnFinished
