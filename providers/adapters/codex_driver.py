"""One codex process over its app-server protocol: a thread for every conversation, dropped before the next one's.

A thread lives in memory alone and knows nothing of others, so an emptied process is clean by its making. A failed or
interrupted turn's thread is never gone on with, nor one in which the model called a tool: the caller runs it, and comes
back with a conversation that a new thread is filled with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from providers.adapters import codex_wire as wire
from providers.adapters.base import Driver
from providers.adapters.codex_answer import Answer
from providers.adapters.codex_files import effort_of
from providers.adapters.codex_history import history_items
from providers.adapters.codex_json import form_of
from providers.adapters.codex_tools import Offered, offer
from providers.adapters.json_lines import Json, Reply
from providers.errors import NeedsLogin, ProtocolBroken, ProviderError, excerpt
from providers.events import Event, Message, Tool, Turn, TurnFinished, TurnStarted
from providers.history_digest import extended, history_digest
from providers.process import Process

CLIENT: Json = {"name": "llm-mcp-hub", "title": "LLM MCP Hub", "version": "1"}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a thread keeps for good. `has_calls`: the model may call a tool, if only as it finds it in the history."""

    system: str
    tools: tuple[Tool, ...] = ()
    note: str = ""
    effort: str | None = None
    has_calls: bool = False


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
        self._model = ""
        self._terms = Terms("")
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
        is_kept = await self._recall(history, terms := self._terms_of(turn))
        if not is_kept:
            await self._open_thread(turn, terms)
        answer = Answer(self._model, Offered(terms.tools), self._mend_login)
        await self._ask(turn, is_kept=is_kept)
        is_ending = False
        while (finished := self._end_of(message := await self._next(), answer)) is None:
            events = self._hear(message, answer)
            # Before anybody is told of it: the CLI may be about to ask its vendor again.
            if answer.has_to_end and not is_ending:
                is_ending = True
                await self._send("turn/interrupt", {"threadId": self._thread, "turnId": self._turn})
            for event in events:
                yield event
        if isinstance(finished, ProviderError):
            for limit in answer.limits:
                yield limit
            raise finished
        if not answer.has_started:
            yield TurnStarted(answer.model)
        for call in answer.calls if finished.reason == "tool_calls" else ():
            yield call
        self._memory = self._learn(extended(history, *turn.question), answer, finished)
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

    def _terms_of(self, turn: Turn) -> Terms:
        tools = () if turn.toolbox.mode == "none" else turn.toolbox.tools
        return Terms(
            system=turn.system,
            tools=tools,
            note=form_of(turn.json_schema).note,
            effort=effort_of(turn.model or self._default_model, turn.sampling.reasoning_effort),
            has_calls=bool(tools or turn.calls_by_id),
        )

    async def _recall(self, history: bytes, terms: Terms) -> bool:
        """Whether the thread goes on with that very history. From here on it holds nothing that could be continued."""
        held, self._memory = self._memory, None
        if not self._thread:
            return False
        if held != history:
            raise ProtocolBroken("this codex process holds another conversation")
        if self._terms != terms:
            await self._drop_thread()
        return bool(self._thread)

    async def _drop_thread(self) -> None:
        if self._thread:
            await self._call("thread/unsubscribe", {"threadId": self._thread})
            self._thread = ""

    async def _open_thread(self, turn: Turn, terms: Terms) -> None:
        wish = {
            "model": turn.model or self._default_model,
            "baseInstructions": turn.system.encode(errors="replace").decode(),
            "cwd": self._cwd,
            "approvalPolicy": "never",
            "sandbox": "read-only",
            "ephemeral": True,
            "environments": [],  # no shell and no files, also for a model that asks for them
        }
        if terms.tools:
            wish["dynamicTools"] = [offer(tool) for tool in terms.tools]
        if terms.note:
            wish["developerInstructions"] = terms.note
        if terms.has_calls:
            wish["experimentalRawEvents"] = True
        self._terms = terms
        self._take_thread(await self._call("thread/start", wish))

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

    async def _ask(self, turn: Turn, *, is_kept: bool) -> None:
        """Begin the turn with the user's plain words; what else the conversation ends with is put into the thread."""
        items, question = history_items(turn.messages), turn.messages[-1]
        if is_kept:
            items = items[-len(turn.question) :]
        words: list[Json] = []
        if question.role == "user" and question.is_plain:
            items.pop()
            words = [{"type": "text", "text": block} for block in question.blocks]
        if items:
            await self._call("thread/inject_items", {"threadId": self._thread, "items": items})
        wish: Json = {"threadId": self._thread, "input": words}
        if self._terms.effort:
            wish["effort"] = self._terms.effort
        if schema := form_of(turn.json_schema).schema:
            wish["outputSchema"] = schema
        result = await self._call("turn/start", wish)
        if not self._turn:
            raise ProtocolBroken(f"codex began no turn: {excerpt(str(result))}")

    # --- the answer ------------------------------------------------------------------------------------------------

    def _hear(self, message: Reply | wire.Notice, answer: Answer) -> list[Event]:
        """The events of one line."""
        if isinstance(message, Reply) or message.thread not in ("", self._thread):
            return []
        return answer.hear(message)

    def _end_of(self, message: Reply | wire.Notice, answer: Answer) -> TurnFinished | ProviderError | None:
        match message:
            case wire.Notice("turn/completed", thread, {"turn": dict(turn)}) if thread == self._thread:
                return answer.outcome(turn)
        return None

    def _learn(self, asked: bytes, answer: Answer, finished: TurnFinished) -> bytes | None:
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
                case wire.Ask(is_call=False):
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
