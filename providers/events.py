"""What crosses the engine's border: a turn goes in, events come out.

Frozen data only. Adapters translate a CLI's output into these events, wire
modules translate them into a client's dialect; nothing else is passed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Role = Literal["user", "assistant", "tool"]
StartKind = Literal["cold", "warm", "reused", "kept"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ToolMode = Literal["auto", "none", "required"]

ANY_OBJECT = b'{"type":"object"}'


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a document: `data` is its content in base64, `name` what a file is called, if it has a name."""

    mime_type: str
    data: str
    name: str = ""

    @property
    def is_image(self) -> bool:
        return self.mime_type.startswith("image/")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model's wish to have one of the caller's tools run. `arguments` is a JSON object, as a text.

    As an event it comes whole, checked against the tool's schema; as a block it is part of an assistant message.
    """

    id: str
    name: str
    arguments: str

    @property
    def input(self) -> dict[str, Any]:
        """The arguments as an object; what is no JSON object is put into one."""
        try:
            found = orjson.loads(self.arguments or "{}")
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"arguments": self.arguments}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call brought, in the caller's words: the one block of a `tool` message."""

    call_id: str
    blocks: tuple[str | Media, ...]
    is_error: bool = False

    @property
    def text(self) -> str:
        return "".join(block for block in self.blocks if isinstance(block, str))


Block = str | Media | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `blocks` are its texts in order, and what else it holds.

    Media are in messages of the user and in results, calls in those of the assistant, one result in that of a tool.
    """

    role: Role
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        return "".join(block for block in self.blocks if isinstance(block, str))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(block for block in self.blocks if isinstance(block, ToolCall))

    @property
    def results(self) -> tuple[ToolResult, ...]:
        return tuple(block for block in self.blocks if isinstance(block, ToolResult))

    @property
    def media(self) -> tuple[Media, ...]:
        """Those of the results included."""
        inside = [block for result in self.results for block in result.blocks]
        return tuple(block for block in (*self.blocks, *inside) if isinstance(block, Media))

    @property
    def is_plain(self) -> bool:
        """Whether it is made of texts alone."""
        return all(isinstance(block, str) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the caller asked of the model; None leaves the vendor's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    reasoning_effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """One of the caller's tools; `schema` is the JSON Schema of its arguments, as JSON."""

    name: str
    description: str = ""
    schema: bytes = ANY_OBJECT


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The caller's tools, and what the model may do with them.

    `mode`: `auto` leaves it to the model, `none` forbids calls, `required` demands one, of the tool `only` if that is
    named. `is_parallel`: one answer may hold several calls.
    """

    tools: tuple[Tool, ...] = ()
    mode: ToolMode = "auto"
    only: str = ""
    is_parallel: bool = True

    def __bool__(self) -> bool:
        return bool(self.tools)

    def find(self, name: str) -> Tool | None:
        return next((tool for tool in self.tools if tool.name == name), None)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a provider must be able to do to serve a turn; `media` are the MIME types of what is shown to it."""

    tools: bool = False
    json: bool = False
    media: tuple[str, ...] = ()


NO_NEEDS = Needs()


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with all that came before it.

    `messages` is never empty and ends with a user message, or with the results of the calls of the assistant message
    before them: every call has its result, right after the message it is in. `json_schema` is what the answer has to
    be an instance of, as JSON; empty for an answer in words. `model` is a vendor id or alias, None for the
    provider's default. `owner` and `caller` are opaque labels: a process is never shared by two owners, and the
    queue is fair across callers.
    """

    messages: tuple[Message, ...]
    system: str = ""
    model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    toolbox: Toolbox = field(default_factory=Toolbox)
    json_schema: bytes = b""
    owner: str = ""
    caller: str = ""

    @property
    def question(self) -> tuple[Message, ...]:
        """What follows the last answer: at least one message."""
        count = next((n for n, it in enumerate(reversed(self.messages)) if it.role == "assistant"), len(self.messages))
        return self.messages[-count:]

    @property
    def calls_by_id(self) -> dict[str, ToolCall]:
        return {call.id: call for message in self.messages for call in message.calls}

    @property
    def needs(self) -> Needs:
        rich = [message for message in self.messages if not message.is_plain]
        if not (rich or self.toolbox or self.json_schema):
            return NO_NEEDS
        return Needs(
            tools=bool(self.toolbox) or any(message.calls for message in rich),
            json=bool(self.json_schema),
            media=tuple(sorted({media.mime_type for message in rich for media in message.media})),
        )


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
class Working:
    """A part of the answer has come that is held back until it is whole: a call, or an answer in JSON."""


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

    def plus(self, other: Usage) -> Usage:
        """Both together; a cost that is known of one alone is none of the two."""
        costs = (self.cost_usd, other.cost_usd)
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            None if None in costs else sum(cost for cost in costs if cost is not None),
        )


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


Event = TurnStarted | TextDelta | ReasoningDelta | ToolCall | Working | Usage | LimitNotice | TurnFinished
