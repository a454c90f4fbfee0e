"""The output items of an answer in OpenAI's Responses API, and what a stream tells while they come about.

Whole answers and streams are made here alike, so that a stream always adds up to what the whole answer would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chat.wire.openai_answer import ARGUMENTS_PIECE, REFUSED
from providers.events import Event, FinishReason, ReasoningDelta, TextDelta, ToolCall, TurnFinished

Json = dict[str, Any]
# An event of the stream: its name, and its fields without the sequence number.
Told = tuple[str, Json]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a text comes: in which part of which item, and what its events are called."""

    prefix: str  # of the item's id
    part: str
    text: str  # the part's field
    said: str  # what the text's own events begin with
    added: str = "response.content_part"
    index: str = "content_index"
    extra: Json = field(default_factory=dict)  # fields of the part
    told: Json = field(default_factory=dict)  # fields of the text's events

    def part_of(self, text: str) -> Json:
        return {"type": self.part, self.text: text, **self.extra}

    def item(self, item_id: str, status: str, parts: list[Json]) -> Json:
        if self.prefix == "rs":
            return {"id": item_id, "type": "reasoning", "summary": parts}
        return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": parts}


WORDS = Kind(
    "msg",
    "output_text",
    "text",
    "response.output_text",
    extra={"annotations": [], "logprobs": []},
    told={"logprobs": []},
)
REFUSAL = Kind("msg", "refusal", "refusal", "response.refusal")
THOUGHTS = Kind(
    "rs",
    "summary_text",
    "text",
    "response.reasoning_summary_text",
    added="response.reasoning_summary_part",
    index="summary_index",
)


@dataclass(slots=True)
class _Open:
    """The item whose text is coming. `where` goes with each of its events."""

    kind: Kind
    item_id: str
    where: Json
    pieces: list[str] = field(default_factory=list)


class Output:
    """Items in the order their events came. `is_json`: of JSON that was refused, what was said in its place is no
    answer, so the text is held back to its end; it is known only then anyway."""

    def __init__(self, turn_id: str, *, is_json: bool = False) -> None:
        self.items: list[Json] = []
        self._turn_id = turn_id
        self._is_json = is_json
        self._held: list[str] = []
        self._open: _Open | None = None
        self._counts: dict[str, int] = {}

    def take(self, event: Event) -> Iterator[Told]:
        """What the stream tells of an event. It has to be read to its end."""
        match event:
            case TextDelta(text) if self._is_json:
                self._held.append(text)
            case TextDelta(text):
                yield from self._say(WORDS, text)
            case ReasoningDelta(text):
                yield from self._say(THOUGHTS, text)
            case ToolCall():
                yield from self._release()
                yield from self._call(event)
            case TurnFinished(reason):
                yield from self._end(reason)

    # --- texts -----------------------------------------------------------------------------------------------------

    def _say(self, kind: Kind, text: str) -> Iterator[Told]:
        if not text:
            return
        if self._open is None or self._open.kind is not kind:
            yield from self._close()
            yield from self._begin(kind)
        assert self._open is not None
        self._open.pieces.append(text)
        yield f"{kind.said}.delta", {**self._open.where, "delta": text, **kind.told}

    def _begin(self, kind: Kind) -> Iterator[Told]:
        item_id, index = self._new_id(kind.prefix), len(self.items)
        self._open = _Open(kind, item_id, {"item_id": item_id, "output_index": index, kind.index: 0})
        item = kind.item(item_id, "in_progress", [])
        yield "response.output_item.added", {"output_index": index, "item": item}
        yield f"{kind.added}.added", {**self._open.where, "part": kind.part_of("")}

    def _close(self, status: str = "completed") -> Iterator[Told]:
        if self._open is None:
            return
        kind, where, text = self._open.kind, self._open.where, "".join(self._open.pieces)
        item = kind.item(self._open.item_id, status, [kind.part_of(text)])
        self._open = None
        self.items.append(item)
        yield f"{kind.said}.done", {**where, kind.text: text, **kind.told}
        yield f"{kind.added}.done", {**where, "part": kind.part_of(text)}
        yield "response.output_item.done", {"output_index": where["output_index"], "item": item}

    def _release(self) -> Iterator[Told]:
        text = "".join(self._held)
        self._held.clear()
        yield from self._say(WORDS, text)

    # --- calls and the end -----------------------------------------------------------------------------------------

    def _call(self, call: ToolCall) -> Iterator[Told]:
        yield from self._close()
        item_id, index = self._new_id("fc"), len(self.items)
        where = {"item_id": item_id, "output_index": index}
        item = {"id": item_id, "type": "function_call", "call_id": call.id, "name": call.name}
        added = {**item, "arguments": "", "status": "in_progress"}
        yield "response.output_item.added", {"output_index": index, "item": added}
        for at in range(0, len(call.arguments), ARGUMENTS_PIECE):
            piece = call.arguments[at : at + ARGUMENTS_PIECE]
            yield "response.function_call_arguments.delta", {**where, "delta": piece}
        done = {**where, "name": call.name, "arguments": call.arguments}
        yield "response.function_call_arguments.done", done
        self.items.append({**item, "arguments": call.arguments, "status": "completed"})
        yield "response.output_item.done", {"output_index": index, "item": self.items[-1]}

    def _end(self, reason: FinishReason) -> Iterator[Told]:
        if self.is_refusal(reason):
            refusal = "".join(self._held) or REFUSED
            yield from self._say(REFUSAL, refusal)
        else:
            yield from self._release()
        if self._open is None or self._open.kind is THOUGHTS:
            yield from self._nothing()
        yield from self._close("completed" if self.is_complete(reason) else "incomplete")

    def _nothing(self) -> Iterator[Told]:
        """Clients look for a message: an answer without a word is an empty one."""
        if not any(item["type"] in ("message", "function_call") for item in self.items):
            yield from self._close()
            yield from self._begin(WORDS)

    def is_refusal(self, reason: FinishReason) -> bool:
        return self._is_json and reason == "content_filter"

    def is_complete(self, reason: FinishReason) -> bool:
        """A refusal in JSON's place is an answer, too."""
        return reason in ("stop", "tool_calls") or self.is_refusal(reason)

    def _new_id(self, prefix: str) -> str:
        number = self._counts[prefix] = self._counts.get(prefix, -1) + 1
        return f"{prefix}_{self._turn_id}_{number}"
