"""One claude process: a conversation at a time, continued turn by turn or emptied by rewinding it.

The system prompt is set once, by `initialize`; everything else anew for each turn. `rewind_conversation` is the CLI's
own but undocumented message, so it is probed at every start, and a process that does not answer to it exactly as
expected is replaced instead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import uuid4

from providers.adapters import claude_wire as wire
from providers.adapters.base import Driver
from providers.adapters.json_lines import Json, load_object
from providers.errors import ProtocolBroken, excerpt
from providers.events import (
    Event,
    FinishReason,
    LimitNotice,
    Message,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Turn,
    TurnFinished,
    TurnStarted,
)
from providers.history_digest import extended, history_digest
from providers.process import Process

logger = logging.getLogger(__name__)

INTERRUPT: Json = {"subtype": "interrupt"}

# A step back takes 0.5 to 1 ms; beyond this many, a new process costs no more.
MOST_STEPS_BACK = 500


@dataclass(slots=True)
class _Answer:
    """What has come of an answer so far. `requests` counts those the CLI has made for it."""

    has_started: bool = False
    requests: int = 0
    texts: list[str] = field(default_factory=list)
    reason: FinishReason | None = None
    limit: LimitNotice | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class ClaudeDriver(Driver):
    def __init__(self, process: Process, *, default_model: str, mend_login: str, may_reuse: bool) -> None:
        self._process = process
        self._default_model = default_model
        self._mend_login = mend_login
        self._may_reuse = may_reuse
        self._requests = 0
        self._system: str | None = None
        self._user_uuids: list[str] = []
        self._has_opening = False  # the assistant spoke first: no line of the user's to step back to before that
        self._memory: bytes | None = None
        self._awaited_results = 0
        self._cost_usd = 0.0

    async def ready(self) -> None:
        # Any answered request proves the process ready. This one also loads what the first turn needs.
        await self._control(wire.flag_settings(self._default_model, Sampling()))
        if self._may_reuse:
            answer = await self._rewind(str(uuid4()))
            self._may_reuse = answer.get("reason") == "target_not_found"
            if not self._may_reuse:
                logger.warning("this claude can't rewind, its processes are replaced after each turn")

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        history = history_digest(turn)
        is_continued = self._recall(history)
        await self._set_up(turn)
        for message in turn.messages[:-1] if not is_continued else ():
            await self._replay(message)
        await self._say(turn.messages[-1], is_question=True)
        async with aclosing(self._answer(extended(history, turn.messages[-1]))) as events:
            async for event in events:
                yield event

    def remembers(self) -> bytes | None:
        return self._memory

    async def reset(self) -> bool:
        self._memory = None
        if not self._may_reuse:
            return False
        if self._awaited_results:
            await self._control(INTERRUPT)
            await self._settle()
        if self._has_opening or len(self._user_uuids) > MOST_STEPS_BACK:
            return False
        # Null after the last step: nothing precedes the first line, so the conversation is empty.
        answer: Json = {"precedingAssistantUuid": None}
        while self._user_uuids:
            answer = await self._rewind(self._user_uuids.pop())
            if answer.get("rewound") is not True:
                return False
        return answer.get("precedingAssistantUuid", "unknown") is None

    # --- before the answer -----------------------------------------------------------------------------------------

    def _recall(self, history: bytes) -> bool:
        """Whether the process holds that very history. From here on it holds nothing that could be continued."""
        held, self._memory = self._memory, None
        if not self._user_uuids and not self._has_opening:
            return False
        if held != history:
            raise ProtocolBroken("this claude process holds another conversation")
        return True

    async def _set_up(self, turn: Turn) -> None:
        if self._system is None:
            self._system = turn.system
            await self._control({"subtype": "initialize", "systemPrompt": turn.system})
        elif self._system != turn.system:
            raise ProtocolBroken("this claude process has another system prompt already")
        await self._control(wire.flag_settings(turn.model or self._default_model, turn.sampling))

    async def _replay(self, message: Message) -> None:
        if message.role == "assistant":
            self._has_opening = self._has_opening or not self._user_uuids
            await self._process.send(wire.assistant_line(message))
            return
        await self._say(message, is_question=False)
        # Without waiting for its empty result, assistant lines would overtake the user's.
        await self._settle()

    async def _say(self, message: Message, *, is_question: bool) -> None:
        uuid = str(uuid4())
        self._user_uuids.append(uuid)
        self._awaited_results += 1
        await self._process.send(wire.user_line(message, uuid, is_question=is_question))

    # --- the answer ------------------------------------------------------------------------------------------------

    async def _answer(self, asked: bytes) -> AsyncGenerator[Event, None]:
        """The events of the answer to a conversation with that digest."""
        answer = _Answer()
        while True:
            line = await self._next_line()
            match line:
                case {"type": "stream_event", "event": dict(event)}:
                    for found in await self._hear(event, answer):
                        yield found
                case {"type": "rate_limit_event", "rate_limit_info": dict(info)}:
                    answer.limit = limit = wire.read_limit(info)
                    for notice in (limit, *wire.read_other_windows(info, limit.window)):
                        yield notice
                case {"type": "result"}:
                    self._awaited_results -= 1
                    finished = self._finish(line, answer)
                    self._memory = self._learn(asked, answer, line)
                    yield finished
                    return

    async def _hear(self, event: Json, answer: _Answer) -> list[Event]:
        answer.requests += event.get("type") == "message_start"
        if answer.reason is not None:
            return []  # what the CLI asks by itself after the answer, until the interrupt reaches it
        found = _read_event(event, answer.has_started)
        if found and not answer.has_started and isinstance(found[0], TurnStarted):
            answer.has_started = True
            await self._control(wire.NO_SECOND_REQUEST, wait=False)
        answer.texts += [it.text for it in found if isinstance(it, TextDelta)]
        answer.reason = _stop_reason(event)
        # After max_tokens, or an answer without a word, it would ask the vendor for more.
        if answer.reason == "length" or (answer.reason == "stop" and not answer.texts):
            await self._control(INTERRUPT, wait=False)
        return found

    def _finish(self, result: Json, answer: _Answer) -> TurnFinished:
        cost_usd = self._cost_since_last(result)
        # Ended by an interrupt or refused by the vendor, an answer that did come to its end is an error to the CLI.
        if result.get("is_error") and answer.reason is None:
            raise wire.failure(result, answer.limit, self._mend_login)
        if not answer.has_started or answer.reason is None:
            raise ProtocolBroken(f"claude answered without its vendor: {excerpt(str(result.get('result')))}")
        return TurnFinished(answer.reason, wire.read_usage(result.get("usage") or {}, cost_usd))

    def _learn(self, asked: bytes, answer: _Answer, result: Json) -> bytes | None:
        """The digest of what the process holds now, if it is what the caller will send as the history next time."""
        is_whole = answer.reason == "stop" and answer.requests == 1 and not result.get("is_error")
        # The CLI drops an answer of nothing but white space.
        if not self._may_reuse or not is_whole or not answer.text.strip():
            return None
        return extended(asked, Message("assistant", (answer.text,)))

    def _note_result(self, result: Json) -> None:
        """A result nobody waits for: its cost must not show up in the next turn's."""
        self._awaited_results -= 1
        self._cost_since_last(result)

    def _cost_since_last(self, result: Json) -> float:
        total = float(result.get("total_cost_usd") or 0.0)
        before, self._cost_usd = self._cost_usd, total
        return round(max(0.0, total - before), 9)

    # --- the pipe --------------------------------------------------------------------------------------------------

    async def _control(self, request: Json, *, wait: bool = True) -> Json:
        self._requests += 1
        request_id = str(self._requests)
        await self._process.send(wire.control_request(request_id, request))
        while wait:
            match await self._next_line():
                case {"type": "control_response", "response": {"request_id": str(answered)} as response}:
                    if answered == request_id:
                        return self._content_of(response, request)
                case {"type": "result"} as result:
                    self._note_result(result)
        return {}

    def _content_of(self, response: Json, request: Json) -> Json:
        if response.get("subtype") != "success":
            raise ProtocolBroken(f"claude refused {request['subtype']}: {excerpt(str(response.get('error')))}")
        content = response.get("response")
        return content if isinstance(content, dict) else {}

    async def _rewind(self, uuid: str) -> Json:
        return await self._control({"subtype": "rewind_conversation", "target_message_uuid": uuid})

    async def _settle(self) -> None:
        """Read until every user line has had its result."""
        while self._awaited_results:
            match await self._next_line():
                case {"type": "result"} as result:
                    self._note_result(result)

    async def _next_line(self) -> Json:
        raw = await self._process.read_line()
        line = load_object(raw, "claude")
        if line.get("type") == "control_request":
            await self._process.send(wire.control_refusal(str(line.get("request_id"))))
        return line


def _read_event(event: Json, has_started: bool) -> list[Event]:
    """The events of one of the vendor's own stream events, which the CLI passes on unchanged."""
    match event:
        case {"type": "message_start", "message": {"model": str(model)} as message} if not has_started:
            return [TurnStarted(model), wire.read_usage(message.get("usage") or {}, None)]
        case {"delta": {"type": "text_delta", "text": str(text)}}:
            return [TextDelta(text)]
        case {"delta": {"type": "thinking_delta", "thinking": str(text)}}:
            return [ReasoningDelta(text)]
        case {"content_block": {"type": "tool_use", "name": name}}:
            raise ProtocolBroken(f"the model asked for the tool {excerpt(str(name))}, and none is offered")
    return []


def _stop_reason(event: Json) -> FinishReason | None:
    match event:
        case {"type": "message_delta", "delta": {"stop_reason": str(reason)}}:
            return wire.FINISH_REASONS.get(reason, "stop")
    return None
