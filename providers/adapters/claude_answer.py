"""What has come of one answer of claude's: its vendor's stream events, read one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

from providers.adapters import claude_wire as wire
from providers.adapters.claude_tools import ToolServer
from providers.adapters.json_lines import Json
from providers.errors import ProtocolBroken, excerpt
from providers.events import Event, FinishReason, LimitNotice, ReasoningDelta, TextDelta, ToolCall, TurnStarted, Working

# The tool by which the CLI itself has its model answer in JSON.
STRUCTURED = "StructuredOutput"


@dataclass(slots=True)
class _CallInMaking:
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    is_whole: bool = False

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class Answer:
    """`requests` counts those the CLI has made for it; `server` knows the tools that may be called."""

    server: ToolServer
    has_tools: bool
    wants_json: bool
    has_started: bool = False
    requests: int = 0
    texts: list[str] = field(default_factory=list)
    reason: FinishReason | None = None
    limit: LimitNotice | None = None
    _calls: dict[object, _CallInMaking] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def is_plain(self) -> bool:
        """Whether it is made of words alone."""
        return not self._calls

    def hear(self, event: Json) -> list[Event]:
        """The events of one of the vendor's own stream events, which the CLI passes on unchanged."""
        self.requests += event.get("type") == "message_start"
        if self.reason is not None:
            return []  # what the CLI asks by itself after the answer, until the interrupt reaches it
        found = self._read(event)
        self.texts += [it.text for it in found if isinstance(it, TextDelta)]
        self.reason = self._stop_reason(event)
        if self.wants_json:  # of words and JSON only one counts, and which is not known before the end
            return [Working() if isinstance(it, TextDelta) else it for it in found]
        return found

    def _read(self, event: Json) -> list[Event]:
        match event:
            case {"type": "message_start", "message": {"model": str(model)} as message} if not self.has_started:
                self.has_started = True
                return [TurnStarted(model), wire.read_usage(message.get("usage") or {}, None)]
            case {"delta": {"type": "text_delta", "text": str(text)}}:
                return [TextDelta(text)]
            case {"delta": {"type": "thinking_delta", "thinking": str(text)}}:
                return [ReasoningDelta(text)]
            case {"index": index, "content_block": {"type": "tool_use", "id": str(call_id), "name": str(name)}}:
                self._require_offered(name)
                self._calls[index] = _CallInMaking(call_id, name)
                return [Working()]
            case {"index": index, "delta": {"type": "input_json_delta", "partial_json": str(piece)}}:
                self._calls[index].pieces.append(piece)
                return [Working()]
            case {"type": "content_block_stop", "index": index} if index in self._calls:
                self._calls[index].is_whole = True
        return []

    def _require_offered(self, name: str) -> None:
        if not self.has_tools and not (self.wants_json and name == STRUCTURED):
            raise ProtocolBroken(f"the model asked for the tool {excerpt(name)}, and none is offered")

    def _stop_reason(self, event: Json) -> FinishReason | None:
        match event:
            case {"type": "message_delta", "delta": {"stop_reason": str(reason)}}:
                found = wire.FINISH_REASONS.get(reason, "stop")
                return "stop" if found == "tool_calls" and not self.calls else found
        return None

    @property
    def calls(self) -> list[ToolCall]:
        """The calls of the caller's tools that are whole."""
        whole = [call for call in self._calls.values() if call.is_whole]
        return [
            ToolCall(call.id, self.server.own_name(call.name), call.arguments)
            for call in whole
            if not (self.wants_json and call.name == STRUCTURED)
        ]

    def last_words(self) -> list[Event]:
        """What was held back: the JSON, or the words in its place, and the calls."""
        structured = [call.arguments for call in self._calls.values() if call.name == STRUCTURED]
        text = structured[-1] if structured else self.text
        held: list[Event] = [TextDelta(text)] if self.wants_json and text else []
        return [*held, *(self.calls if self.reason == "tool_calls" else ())]
