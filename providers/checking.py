"""Calls and JSON as they were asked for: held back until they fit their schema, with one more try if they do not.

A model that is told what is wrong mostly mends it. That second try is a turn of its own, with the first answer and what
is wrong with it at the end of the conversation; the caller sees one answer.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import orjson

from providers.errors import AnswerInvalid
from providers.events import (
    Event,
    Message,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
    Working,
)
from providers.json_depth import MOST_LEVELS, is_deeper
from providers.json_schema import problem_with

Run = Callable[[Turn], AsyncGenerator[Event, None]]

# JSON that is known as a whole goes out in such pieces.
PIECE_CHARS = 200
FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
NO_INPUT = "{}"


def checked(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
    """The events of a turn, calls and JSON among them only if they are as asked. Raises ProviderError, AnswerInvalid.

    A turn that asks for neither is handed on as it is.
    """
    needs = turn.needs
    return _checked(run, turn) if needs.tools or needs.json else run(turn)


async def _checked(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
    first = _Draft(turn)
    async with aclosing(run(turn)) as events:
        async for event in events:
            if (passed := first.take(event)) is not None:
                yield passed
    if trouble := await first.trouble():
        second = _Draft(turn, is_repair=True, spent=first.usage, has_said=bool(first.texts) and not turn.json_schema)
        async with aclosing(run(first.as_told(trouble))) as events:
            async for event in events:
                if (passed := second.take(event)) is not None:
                    yield passed
        if still := await second.trouble():
            raise AnswerInvalid(f"the model's answer is not as asked, nor was a second one: {still[0]}")
        first = second
    for event in first.outcome():
        yield event


@dataclass(slots=True)
class _Draft:
    """One try. `spent` is what a try before this one has used; `has_said`: the caller has words of it already."""

    turn: Turn
    is_repair: bool = False
    spent: Usage | None = None
    has_said: bool = False
    usage: Usage | None = None
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    finished: TurnFinished | None = None

    @property
    def _holds_texts(self) -> bool:
        return bool(self.turn.json_schema) or self.is_repair

    def take(self, event: Event) -> Event | None:
        """What of an event goes to the caller at once."""
        match event:
            case TextDelta(text):
                self.texts.append(text)
                return Working() if self._holds_texts else event
            case ToolCall():
                if self.turn.toolbox.is_parallel or not self.calls:
                    self.calls.append(event)
                return Working()
            case TurnFinished(_, usage):
                self.usage = self._with_spent(usage) if usage else self.usage
                self.finished = replace(event, usage=self.usage)
                return self.usage  # known, should there be a second try
            case Usage():
                self.usage = self._with_spent(event)
                return self.usage
            case TurnStarted() if self.is_repair:
                return None
        return event

    def _with_spent(self, usage: Usage) -> Usage:
        return usage.plus(self.spent) if self.spent else usage

    # --- what is wrong ---------------------------------------------------------------------------------------------

    async def trouble(self) -> list[str]:
        """What is wrong: a text for each call, empty where it is good, or one for the answer. None if all is well."""
        if self.finished is None or self.finished.reason in ("length", "content_filter"):
            return []
        if self.calls:
            problems = [await self._problem_of(call) for call in self.calls]
            return problems if any(problems) else []
        if self.turn.toolbox.mode == "required":
            tool = self.turn.toolbox.only
            return [f"the tool {tool} has to be called" if tool else "one of the tools has to be called"]
        problem = await self._problem_of_json() if self.turn.json_schema else ""
        return [problem] if problem else []

    async def _problem_of(self, call: ToolCall) -> str:
        toolbox = self.turn.toolbox
        tool = toolbox.find(call.name)
        if toolbox.mode == "none" or not toolbox:
            return "no tool may be called now"
        if tool is None:
            names = ", ".join(it.name for it in toolbox.tools)
            return f"there is no tool {call.name[:80]!r}; there are: {names[:500]}"
        if toolbox.only and call.name != toolbox.only:
            return f"the tool {toolbox.only} has to be called, not {call.name}"
        try:
            value = orjson.loads(call.arguments or NO_INPUT)
        except ValueError as exc:
            return f"the arguments of {call.name} are no JSON: {exc}"
        if not isinstance(value, dict):
            return f"the arguments of {call.name} are no JSON object"
        if is_deeper(value, MOST_LEVELS):
            return f"the arguments of {call.name} are nested deeper than {MOST_LEVELS} levels"
        problem = await problem_with(tool.schema, value)
        return f"the arguments of {call.name} do not fit its schema: {problem}" if problem else ""

    async def _problem_of_json(self) -> str:
        try:
            value = orjson.loads(self._json)
        except ValueError as exc:
            return f"the answer is no JSON: {exc}"
        problem = await problem_with(self.turn.json_schema, value)
        return f"the answer does not fit its JSON schema: {problem}" if problem else ""

    @property
    def _text(self) -> str:
        return "".join(self.texts)

    @property
    def _json(self) -> str:
        found = FENCED.fullmatch(self._text)
        return found[1] if found else self._text

    def as_told(self, trouble: list[str]) -> Turn:
        """The turn that asks for a better answer."""
        text = (self._text,) if self._text.strip() else ()
        # Broken arguments can't be replayed as a call; what they were is in what is said of them.
        calls = tuple(replace(call, arguments=_replayable(call.arguments)) for call in self.calls)
        answer = (Message("assistant", (*text, *calls)),) if text or calls else ()
        return replace(self.turn, messages=(*self.turn.messages, *answer, *self._complaint(trouble)))

    def _complaint(self, trouble: list[str]) -> list[Message]:
        if not self.calls:
            kind = "JSON alone" if self.turn.json_schema else "call"
            return [Message("user", (f"That can't be used: {trouble[0]}. Answer again, with the {kind}.",))]
        return [
            Message("tool", (ToolResult(call.id, (_told(problem, call),), is_error=True),))
            for call, problem in zip(self.calls, trouble, strict=True)
        ]

    # --- what the caller gets --------------------------------------------------------------------------------------

    def outcome(self) -> Iterator[Event]:
        """The rest of the answer, once it is as asked."""
        if self.finished is None:
            return
        is_json = self.turn.json_schema and not self.calls and self.finished.reason == "stop"
        if self._holds_texts and not (self.is_repair and self.calls):
            between = "\n\n" if self.has_said and self.texts else ""
            yield from _pieces(between + (self._json if is_json else self._text))
        if self.finished.reason in ("length", "content_filter"):
            yield self.finished
            return
        for call in self.calls:
            yield replace(call, arguments=call.arguments.strip() or NO_INPUT)
        yield replace(self.finished, reason="tool_calls" if self.calls else self.finished.reason)


def _pieces(text: str) -> Iterator[TextDelta]:
    for start in range(0, len(text), PIECE_CHARS):
        yield TextDelta(text[start : start + PIECE_CHARS])


def _replayable(arguments: str) -> str:
    try:
        return arguments if isinstance(orjson.loads(arguments), dict) else NO_INPUT
    except ValueError:
        return NO_INPUT


def _told(problem: str, call: ToolCall) -> str:
    if not problem:
        return "Not run, because another call of the same answer was wrong. Make all calls again."
    given = "" if _replayable(call.arguments) == call.arguments else f" They were: {call.arguments[:2_000]}"
    return f"Not run: {problem}.{given} Make all calls again."
