"""One codex process over its app-server protocol: a thread for every conversation, dropped before the next one's.

A thread lives in memory alone and knows nothing of others, so an emptied process is clean by its making. A failed or
interrupted turn's thread is never gone on with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from providers.adapters import codex_wire as wire
from providers.adapters.base import Driver
from providers.adapters.json_lines import Json, Reply
from providers.errors import NeedsLogin, ProtocolBroken, ProviderError, StreamCut, excerpt
from providers.events import (
    Event,
    LimitNotice,
    Message,
    ReasoningDelta,
    TextDelta,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
)
from providers.history_digest import extended, history_digest
from providers.process import Process

CLIENT: Json = {"name": "llm-mcp-hub", "title": "LLM MCP Hub", "version": "1"}

# Whatever else the model brings forth is a tool, and none is offered.
ITEMS = ("userMessage", "agentMessage", "reasoning")


@dataclass(slots=True)
class _Answer:
    """What has come of an answer so far."""

    model: str
    has_started: bool = False
    texts: list[str] = field(default_factory=list)
    usage: Usage | None = None
    limits: tuple[LimitNotice, ...] = ()


class CodexDriver(Driver):
    def __init__(
        self, process: Process, *, cwd: str, default_model: str, has_login: bool, mend_login: str, may_keep: bool
    ) -> None:
        self._process = process
        self._cwd = cwd
        self._default_model = default_model
        self._has_login = has_login
        self._mend_login = mend_login
        self._may_keep = may_keep
        self._requests = 0
        self._is_open = False  # the last request has no reply yet
        self._thread = ""
        self._system = self._model = ""  # what the thread was started with
        self._turn = ""  # a turn that has not come to its end
        self._memory: bytes | None = None

    async def ready(self) -> None:
        capabilities = {"experimentalApi": True, "optOutNotificationMethods": list(wire.UNWANTED)}
        await self._call("initialize", {"clientInfo": CLIENT, "capabilities": capabilities})
        await self._process.send(wire.notice_line("initialized"))
        # Without any, the CLI would only find out by asking its vendor.
        if not self._has_login:
            raise NeedsLogin("codex is not logged in", mend=self._mend_login)

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        history = history_digest(turn)
        if not await self._recall(history, turn.system):
            await self._open_thread(turn)
        answer = _Answer(self._model)
        await self._ask(turn.messages[-1])
        while (finished := self._end_of(message := await self._next(), answer)) is None:
            for event in self._hear(message, answer):
                yield event
        if isinstance(finished, ProviderError):
            for limit in answer.limits:
                yield limit
            raise finished
        if not answer.has_started:
            yield TurnStarted(answer.model)
        self._memory = self._learn(extended(history, turn.messages[-1]), answer, finished)
        yield finished

    def remembers(self) -> bytes | None:
        return self._memory

    async def reset(self) -> bool:
        self._memory = None
        try:
            while self._is_open:
                await self._next()
            if self._turn:
                await self._interrupt()
            await self._drop_thread()
        except (ProviderError, OSError):
            return False
        return True

    # --- before the answer -----------------------------------------------------------------------------------------

    async def _recall(self, history: bytes, system: str) -> bool:
        """Whether the thread goes on with that very history. From here on it holds nothing that could be continued."""
        held, self._memory = self._memory, None
        if not self._thread:
            return False
        if held != history:
            raise ProtocolBroken("this codex process holds another conversation")
        if self._system != system:  # that of a thread stays for good
            await self._drop_thread()
        return bool(self._thread)

    async def _drop_thread(self) -> None:
        if self._thread:
            await self._call("thread/unsubscribe", {"threadId": self._thread})
            self._thread = ""

    async def _open_thread(self, turn: Turn) -> None:
        wish = {
            "model": turn.model or self._default_model,
            "baseInstructions": turn.system.encode(errors="replace").decode(),
            "cwd": self._cwd,
            "approvalPolicy": "never",
            "sandbox": "read-only",
            "ephemeral": True,
            "environments": [],  # no shell and no files, also for a model that asks for them
        }
        self._system = turn.system
        self._take_thread(await self._call("thread/start", wish))
        if items := [wire.history_item(message) for message in turn.messages[:-1]]:
            await self._call("thread/inject_items", {"threadId": self._thread, "items": items})

    def _take_thread(self, result: Json) -> None:
        match result:
            case {
                "thread": {"id": str(thread), "environments": [], "ephemeral": True},
                "model": str(model),
                "modelProvider": "hub",
                "instructionSources": [],
            }:
                self._thread, self._model = thread, model
            case _:
                raise ProtocolBroken("codex opened no thread for a pure chat")

    async def _ask(self, question: Message) -> None:
        result = await self._call("turn/start", {"threadId": self._thread, "input": wire.question_input(question)})
        if not self._turn:
            raise ProtocolBroken(f"codex began no turn: {excerpt(str(result))}")

    # --- the answer ------------------------------------------------------------------------------------------------

    def _hear(self, message: Reply | wire.Notice, answer: _Answer) -> list[Event]:
        """The events of one line."""
        if isinstance(message, Reply) or message.thread not in ("", self._thread):
            return []
        found = self._read(message, answer)
        answer.texts += [event.text for event in found if isinstance(event, TextDelta)]
        # A limit is told of refused requests too: it does not show that the vendor took this one.
        if answer.has_started or not any(not isinstance(event, LimitNotice) for event in found):
            return found
        answer.has_started = True
        return [TurnStarted(answer.model), *found]

    def _read(self, notice: wire.Notice, answer: _Answer) -> list[Event]:
        match notice.method, notice.params:
            case "item/agentMessage/delta", {"delta": str(text)}:
                return [TextDelta(text)]
            case "item/reasoning/summaryTextDelta", {"delta": str(text)}:
                return [ReasoningDelta(text)]
            case "item/started", {"item": {"type": str(kind)}}:
                self._require_own_words(kind, answer)
            case "thread/tokenUsage/updated", params:
                answer.usage = wire.read_usage(params)
            case "account/rateLimits/updated", params:
                limits = wire.read_limits(params)
                answer.limits = wire.used_up(limits)
                return list(limits)
            case "model/rerouted", {"toModel": str(model)}:
                answer.model = model
        return []

    def _require_own_words(self, kind: str, answer: _Answer) -> None:
        """Usage is told once a request is over. What begins after it answers a second one, made for a tool's sake."""
        if kind not in ITEMS or answer.usage is not None:
            raise ProtocolBroken("the model asked for a tool, and none is offered")

    def _end_of(self, message: Reply | wire.Notice, answer: _Answer) -> TurnFinished | ProviderError | None:
        match message:
            case wire.Notice("turn/completed", thread, {"turn": dict(turn)}) if thread == self._thread:
                return self._outcome(str(turn.get("status")), turn.get("error") or {}, answer)
        return None

    def _outcome(self, status: str, error: Json, answer: _Answer) -> TurnFinished | ProviderError:
        if status == "completed":
            if answer.usage is None:
                return StreamCut("the vendor's stream ended without its last piece")
            return TurnFinished("stop", answer.usage)
        if status == "failed" and (reason := wire.cut_short(error)) is not None:
            return TurnFinished(reason, answer.usage)
        return wire.failure(error, answer.limits, self._mend_login)

    def _learn(self, asked: bytes, answer: _Answer, finished: TurnFinished) -> bytes | None:
        """The digest of what the thread holds now, if it is what the caller will send as the history next time."""
        text = "".join(answer.texts)
        if not self._may_keep or finished.reason != "stop" or not text.strip():
            return None
        return extended(asked, Message("assistant", (text,)))

    # --- the pipe --------------------------------------------------------------------------------------------------

    async def _interrupt(self) -> None:
        await self._send("turn/interrupt", {"threadId": self._thread, "turnId": self._turn})
        while self._is_open or self._turn:
            await self._next()

    async def _call(self, method: str, params: Json) -> Json:
        await self._send(method, params)
        while not isinstance(message := await self._next(), Reply):
            pass
        if message.error:
            raise wire.failure(message.error, (), self._mend_login)
        return message.result

    async def _send(self, method: str, params: Json) -> None:
        self._requests += 1
        self._is_open = True
        await self._process.send(wire.request_line(self._requests, method, params))

    async def _next(self) -> Reply | wire.Notice:
        """The next line that matters. Only one request is ever open, so a reply closes it."""
        while True:
            message = wire.parse_line(await self._process.read_line())
            match message:
                case wire.Ask():
                    await self._process.send(wire.refusal_line(message))
                case Reply(id=self._requests):
                    self._is_open = False
                    self._note_reply(message)
                    return message
                case wire.Notice():
                    self._note_end(message)
                    return message

    def _note_reply(self, reply: Reply) -> None:
        """What a reply leaves behind counts also where nobody waited for it any more."""
        match reply.result:
            case {"turn": {"id": str(turn)}}:
                self._turn = turn
            case {"thread": {"id": str(thread)}}:
                self._thread = thread

    def _note_end(self, notice: wire.Notice) -> None:
        match notice.method, notice.params:
            case "turn/completed", {"turn": {"id": str(turn)}} if turn == self._turn:
                self._turn = ""
