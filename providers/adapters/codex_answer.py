"""What has come of an answer, read from the CLI's notices.

A thread that may see a call tells the vendor's own items as they come: the calls with their arguments as written, and
the end of the vendor's answer with its usage. Whatever follows that end is the CLI's, which would go on by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from providers.adapters import codex_wire as wire
from providers.adapters.codex_tools import Offered
from providers.adapters.json_lines import Json
from providers.errors import ProtocolBroken, ProviderError, StreamCut
from providers.events import (
    Event,
    LimitNotice,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    TurnFinished,
    TurnStarted,
    Usage,
    Working,
)

# Whatever else the model brings forth is a tool of the CLI's own, and none is offered.
ITEMS = ("userMessage", "agentMessage", "reasoning")
CALL = "dynamicToolCall"
NOT_OFFERED = "the model asked for a tool, and none is offered"


@dataclass(slots=True)
class Answer:
    model: str
    offered: Offered
    mend_login: str
    has_started: bool = False
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    usage: Usage | None = None
    limits: tuple[LimitNotice, ...] = ()
    is_whole: bool = False  # the vendor has said all of it
    is_unparked: bool = False  # the CLI is about to answer a call by itself

    @property
    def has_to_end(self) -> bool:
        """Whether the turn is to be ended from outside: a call waits, or the CLI would go on without one."""
        return bool(self.calls) and (self.is_whole or self.is_unparked)

    def hear(self, notice: wire.Notice) -> list[Event]:
        """The events of one notice."""
        found = self._read_limits(notice) if notice.method == "account/rateLimits/updated" else []
        if not (self.is_whole and self.calls):
            found += self._read(notice)
        self.texts += [event.text for event in found if isinstance(event, TextDelta)]
        # A limit is told of refused requests too: it does not show that the vendor took this one.
        if self.has_started or not any(not isinstance(event, LimitNotice) for event in found):
            return found
        self.has_started = True
        return [TurnStarted(self.model), *found]

    def _read(self, notice: wire.Notice) -> list[Event]:
        match notice.method, notice.params:
            case "item/agentMessage/delta", {"delta": str(text)}:
                return [TextDelta(text)]
            case "item/reasoning/summaryTextDelta", {"delta": str(text)}:
                return [ReasoningDelta(text)]
            case "item/started", {"item": {"type": str(kind)}}:
                self._require_own_words(kind)
            case "rawResponseItem/completed", {"item": dict(item)}:
                return self._read_item(item)
            case "rawResponse/completed", params:
                self.is_whole, self.usage = True, wire.read_usage(params)
            case "thread/tokenUsage/updated", params:
                self.usage = wire.read_usage(params)
            case "model/rerouted", {"toModel": str(model)}:
                self.model = model
        return []

    def _read_limits(self, notice: wire.Notice) -> list[Event]:
        limits = wire.read_limits(notice.params)
        self.limits = wire.used_up(limits)
        return list(limits)

    def _read_item(self, item: Json) -> list[Event]:
        if not str(item.get("type")).endswith("_call") or item.get("status") == "incomplete":
            return []
        if (call := self.offered.read(item)) is None:
            raise ProtocolBroken(NOT_OFFERED)
        self.calls.append(call)
        self.is_unparked = self.is_unparked or not self.offered.is_parked(item)
        return [Working()]

    def _require_own_words(self, kind: str) -> None:
        """Usage is told once a request is over. What begins after it answers a second one, made for a tool's sake."""
        is_call = kind == CALL and bool(self.calls)
        if not is_call and (kind not in ITEMS or self.usage is not None):
            raise ProtocolBroken(NOT_OFFERED)

    def outcome(self, turn: Json) -> TurnFinished | ProviderError:
        """What the end of a turn means."""
        status, error = str(turn.get("status")), turn.get("error") or {}
        if self.calls and (self.is_whole or status == "interrupted"):
            return TurnFinished("tool_calls", self.usage)
        if status == "completed":
            if self.usage is None:
                return StreamCut("the vendor's stream ended without its last piece")
            return TurnFinished("stop", self.usage)
        if status == "failed" and (reason := wire.cut_short(error)) is not None:
            return TurnFinished(reason, self.usage)
        return wire.failure(error, self.limits, self.mend_login)
