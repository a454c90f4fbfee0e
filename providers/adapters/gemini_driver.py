"""One gemini process over ACP: a session of its own for every turn, cancelled and wiped afterwards.

Sessions are never freed inside the CLI (about 0.5 MB each), so the pool's memory watch replaces the process in time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from providers.adapters import gemini_rpc as rpc
from providers.adapters.base import Driver
from providers.adapters.gemini_files import Home, TurnFolder
from providers.errors import ContextTooLong, NeedsLogin, ProtocolBroken, ProviderError, StreamCut
from providers.events import Event, ReasoningDelta, TextDelta, Turn, TurnFinished, TurnStarted
from providers.process import Process

# Never goes upstream: the hook puts the turn's messages in its place.
PLACEHOLDER = "."


class GeminiDriver(Driver):
    def __init__(
        self, process: Process, home: Home, *, default_model: str, mend_login: str, secrets: tuple[str, ...]
    ) -> None:
        self._process = process
        self._home = home
        self._default_model = default_model
        self._mend_login = mend_login
        self._secrets = secrets
        self._requests = 0
        self._is_open = False  # the last request has no reply yet
        self._prompted = ""  # the session whose prompt is that request

    async def ready(self) -> None:
        await self._call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        # A missing or refused login shows only here; it also loads what the first turn needs.
        await self._new_session(str(self._home.cwd))

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        folder = self._home.write_turn(turn, turn.model or self._default_model)
        session = await self._new_session(str(folder.cwd))
        await self._prompt(session)
        seen: set[type[Event]] = set()
        while not isinstance(message := await self._receive(), rpc.Reply):
            if message.session != session:
                continue
            if not seen:
                yield TurnStarted(folder.actual_model())
            seen.add(type(message.event))
            yield message.event
        finished = self._finish(message, folder, turn, seen)
        if not seen:
            yield TurnStarted(folder.actual_model())
        yield finished

    async def reset(self) -> bool:
        try:
            if self._is_open and self._prompted:
                await self._process.send(rpc.cancel_line(self._prompted))
            while self._is_open:
                await self._receive()
            return self._home.wipe()
        except (ProviderError, OSError):
            return False

    # --- the end of an answer --------------------------------------------------------------------------------------

    def _finish(self, reply: rpc.Reply, folder: TurnFolder, turn: Turn, seen: set[type[Event]]) -> TurnFinished:
        result = self._result_of(reply)
        folder.actual_model()  # without the receipt there was no request, whatever the reply says
        stop = result.get("stopReason")
        has_text = TextDelta in seen
        if stop == "max_tokens":
            raise ContextTooLong("gemini: the conversation does not fit the model's context window")
        if stop == "max_turn_requests" and not has_text:
            raise ProtocolBroken("the model asked for a tool, and none is offered")
        usage = rpc.read_usage(result, folder.token_counts())
        if stop not in ("end_turn", "max_turn_requests") or usage is None:
            raise StreamCut("the vendor's stream ended without its last piece")
        has_only_thought = ReasoningDelta in seen and not has_text
        reason = rpc.finish_reason(usage, turn.sampling.max_tokens, has_only_thought=has_only_thought)
        return TurnFinished(reason, usage)

    # --- the pipe --------------------------------------------------------------------------------------------------

    async def _new_session(self, cwd: str) -> str:
        result = await self._call("session/new", {"cwd": cwd, "mcpServers": []})
        match result:
            case {"sessionId": str(session)}:
                return session
        raise ProtocolBroken("gemini opened no session")

    async def _prompt(self, session: str) -> None:
        self._prompted = session
        await self._send("session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": PLACEHOLDER}]})

    async def _call(self, method: str, params: rpc.Json) -> rpc.Json:
        self._prompted = ""
        await self._send(method, params)
        while not isinstance(message := await self._receive(), rpc.Reply):
            pass
        return self._result_of(message)

    async def _send(self, method: str, params: rpc.Json) -> None:
        self._requests += 1
        self._is_open = True
        await self._process.send(rpc.request_line(self._requests, method, params))

    async def _receive(self) -> rpc.Reply | rpc.Update:
        """The next line that matters. Only one request is ever open, so a reply closes it."""
        while True:
            message = self._parse(await self._process.read_line())
            match message:
                case rpc.Ask():
                    await self._process.send(rpc.refusal_line(message))
                case rpc.Reply(id=self._requests):
                    self._is_open = False
                    return message
                case rpc.Update():
                    return message

    def _parse(self, line: bytes) -> rpc.Reply | rpc.Ask | rpc.Update | None:
        try:
            return rpc.parse_line(line)
        except NeedsLogin as exc:
            raise NeedsLogin(exc.message, mend=self._mend_login) from exc

    def _result_of(self, reply: rpc.Reply) -> rpc.Json:
        if reply.error:
            raise rpc.failure(reply.error, mend_login=self._mend_login, secrets=self._secrets)
        return reply.result
