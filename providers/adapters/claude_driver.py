"""One claude process: a conversation at a time, continued turn by turn or emptied by rewinding it.

The system prompt is set once, by `initialize`; everything else anew for each turn. `rewind_conversation` is the CLI's
own but undocumented message, so it is probed at every start, and a process that does not answer to it exactly as
expected is replaced instead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import orjson

from providers.adapters import claude_wire as wire
from providers.adapters.base import Driver
from providers.adapters.claude_answer import STRUCTURED, Answer
from providers.adapters.claude_tools import ToolServer, choice_body, toolbox_of
from providers.adapters.json_lines import Json, load_object
from providers.errors import ProtocolBroken, excerpt
from providers.events import Block, Event, Message, Sampling, Turn, TurnFinished
from providers.history_digest import extended, history_digest
from providers.process import Process

logger = logging.getLogger(__name__)

INTERRUPT: Json = {"subtype": "interrupt"}
SPLITS_CALL = "target_splits_tool_call"

# A step back takes 0.5 to 1 ms; beyond this many, a new process costs no more.
MOST_STEPS_BACK = 500

Line = tuple[str, tuple[Block, ...]]


class ClaudeDriver(Driver):
    def __init__(self, process: Process, *, default_model: str, mend_login: str, may_reuse: bool) -> None:
        self._process = process
        self._default_model = default_model
        self._mend_login = mend_login
        self._may_reuse = may_reuse
        self._requests = 0
        self._setup: tuple[str, bytes] | None = None  # what `initialize` has set for good
        self._tools = ToolServer()
        self._user_uuids: list[str] = []
        self._has_opening = False  # the assistant spoke first: no line of the user's to step back to before that
        self._memory: bytes | None = None
        self._is_cut_off = False  # its last answer ended in calls, which the CLI has put words of its own behind
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
        has_other_tools = await self._set_up(turn)
        *past, (_, question) = wire.spoken(turn.messages)
        if is_continued:
            # Calls are told by what the tools are called now.
            past = await self._unknown(past, from_the_start=has_other_tools and bool(turn.calls_by_id))
        for role, blocks in past:
            await self._replay(role, blocks)
        await self._say(question, is_question=True)
        async with aclosing(self._answer(turn, extended(history, *turn.question))) as events:
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
        step: Json = {"precedingAssistantUuid": None}
        try:
            while self._user_uuids:
                step = await self._step_back()
        except ProtocolBroken:
            return False
        return step.get("precedingAssistantUuid", "unknown") is None

    # --- before the answer -----------------------------------------------------------------------------------------

    def _recall(self, history: bytes) -> bool:
        """Whether the process holds that very history. From here on it holds nothing that could be continued."""
        held, self._memory = self._memory, None
        if not self._user_uuids and not self._has_opening:
            return False
        if held != history:
            raise ProtocolBroken("this claude process holds another conversation")
        return True

    async def _unknown(self, past: list[Line], *, from_the_start: bool) -> list[Line]:
        """What of these lines a process that goes on has to be told, once it has forgotten what it holds otherwise."""
        if not from_the_start and not self._is_cut_off:
            return past[1 + max(n for n, (role, _) in enumerate(past) if role == "assistant") :]
        await self._step_back()
        while from_the_start and self._user_uuids:
            await self._step_back()
        starts = [n for n, (role, _) in enumerate(past) if role == "user"]
        return past[starts[len(self._user_uuids)] :]

    async def _step_back(self) -> Json:
        """Forget the last question with all that came of it, calls and results too. Raises ProtocolBroken."""
        while self._user_uuids:
            step = await self._rewind(self._user_uuids.pop())
            if step.get("rewound") is True:
                return step
            if step.get("reason") != SPLITS_CALL:  # results can't be taken back without the call before them
                break
        raise ProtocolBroken("claude did not step back")

    async def _set_up(self, turn: Turn) -> bool:
        """Make everything as the turn wants it; whether that took other tools than before."""
        setup = (turn.system, turn.json_schema)
        if self._setup is None:
            self._setup = setup
            await self._control(_initialize(turn))
        elif self._setup != setup:
            raise ProtocolBroken("this claude process has another system prompt or JSON schema already")
        toolbox = toolbox_of(turn)
        if (change := self._tools.change(toolbox.tools)) is not None:
            await self._control(change)
            while toolbox and not self._tools.is_listed:
                await self._next_line()
            self._tools.is_listed = True
        more = choice_body(toolbox, self._tools)
        allowed = self._tools.permission if toolbox else ""
        await self._control(wire.flag_settings(turn.model or self._default_model, turn.sampling, more, allowed))
        return change is not None

    async def _replay(self, role: str, blocks: tuple[Block, ...]) -> None:
        if role == "assistant":
            self._has_opening = self._has_opening or not self._user_uuids
            await self._process.send(wire.assistant_line(blocks, self._tools.full_name))
            return
        await self._say(blocks, is_question=False)
        # Without waiting for its empty result, assistant lines would overtake the user's.
        await self._settle()

    async def _say(self, blocks: tuple[Block, ...], *, is_question: bool) -> None:
        uuid = str(uuid4())
        self._user_uuids.append(uuid)
        self._awaited_results += 1
        await self._process.send(wire.user_line(blocks, uuid, is_question=is_question))

    # --- the answer ------------------------------------------------------------------------------------------------

    async def _answer(self, turn: Turn, asked: bytes) -> AsyncGenerator[Event, None]:
        """The events of the answer to a conversation with that digest."""
        answer = Answer(self._tools, has_tools=bool(toolbox_of(turn)), wants_json=bool(turn.json_schema))
        while True:
            line = await self._next_line()
            match line:
                case {"type": "system", "subtype": "init", "tools": shown}:
                    self._tools.check_shown(shown, beside={STRUCTURED} if turn.json_schema else set())
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
                    for held in answer.last_words():
                        yield held
                    yield finished
                    return

    async def _hear(self, event: Json, answer: Answer) -> list[Event]:
        was_started, was_over = answer.has_started, answer.reason is not None
        found = answer.hear(event)
        if answer.has_started and not was_started:
            await self._control(wire.NO_SECOND_REQUEST, wait=False)
        # After a call, max_tokens, or an answer without a word, it would ask the vendor for more.
        is_wordless = answer.reason == "stop" and (not answer.texts or answer.wants_json)
        if (is_wordless or answer.reason in ("length", "tool_calls")) and not was_over:
            await self._control(INTERRUPT, wait=False)
        return found

    def _finish(self, result: Json, answer: Answer) -> TurnFinished:
        cost_usd = self._cost_since_last(result)
        # Ended by an interrupt or refused by the vendor, an answer that did come to its end is an error to the CLI.
        if result.get("is_error") and answer.reason is None:
            raise wire.failure(result, answer.limit, self._mend_login)
        if not answer.has_started or answer.reason is None:
            raise ProtocolBroken(f"claude answered without its vendor: {excerpt(str(result.get('result')))}")
        return TurnFinished(answer.reason, wire.read_usage(result.get("usage") or {}, cost_usd))

    def _learn(self, asked: bytes, answer: Answer, result: Json) -> bytes | None:
        """The digest of what the process holds now, if it is what the caller will send as the history next time."""
        self._is_cut_off = answer.reason == "tool_calls" and not answer.wants_json
        is_whole = answer.reason == "stop" and answer.requests == 1 and not result.get("is_error") and answer.is_plain
        # The CLI drops an answer of nothing but white space.
        is_kept = self._is_cut_off or (is_whole and answer.text.strip())
        if not self._may_reuse or not is_kept:
            return None
        return extended(asked, Message("assistant", (answer.text, *answer.calls)))

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
            await self._reply(str(line.get("request_id")), line.get("request"))
        return line

    async def _reply(self, request_id: str, request: Any) -> None:
        match request:
            case {"subtype": "mcp_message"}:
                if (reply := self._tools.reply(request)) is not None:
                    await self._process.send(wire.mcp_reply(request_id, reply))
            case _:
                await self._process.send(wire.control_refusal(request_id))


def _initialize(turn: Turn) -> Json:
    request: Json = {"subtype": "initialize", "systemPrompt": turn.system}
    return request | {"jsonSchema": orjson.loads(turn.json_schema)} if turn.json_schema else request
