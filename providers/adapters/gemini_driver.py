"""One gemini process over ACP: a session of its own for every turn, cancelled and wiped afterwards.

Sessions are never freed inside the CLI (about 0.5 MB each), so the pool's memory watch replaces the process in time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from providers.adapters import gemini_body, gemini_rpc
from providers.adapters.acp_pipe import AgentPipe
from providers.adapters.acp_rpc import Line
from providers.adapters.base import Driver
from providers.adapters.gemini_files import Home, TurnFolder
from providers.adapters.gemini_record import Recorded
from providers.adapters.json_lines import Json, Reply
from providers.errors import AnswerInvalid, ContextTooLong, NeedsLogin, ProtocolBroken, ProviderError, StreamCut
from providers.events import (
    Event,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Turn,
    TurnFinished,
    TurnStarted,
    Usage,
    Working,
)
from providers.process import Process

# Never goes upstream: the hook puts the turn's messages in its place.
PLACEHOLDER = "."

# The vendor's words for a call that could not be read.
CALL_FAILED = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL")


class GeminiDriver(Driver):
    def __init__(
        self, process: Process, home: Home, *, default_model: str, mend_login: str, secrets: tuple[str, ...]
    ) -> None:
        self._pipe = AgentPipe(process, parse=self._parse, fail=self._failure)
        self._home = home
        self._default_model = default_model
        self._mend_login = mend_login
        self._secrets = secrets

    async def ready(self) -> None:
        await self._pipe.initialize()
        # A missing or refused login shows only here; it also loads what the first turn needs.
        await self._new_session(str(self._home.cwd))

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        folder = self._home.write_turn(turn, turn.model or self._default_model)
        session = await self._new_session(str(folder.cwd))
        await self._pipe.prompt(session, PLACEHOLDER)
        seen: set[type[Event]] = set()
        while not isinstance(message := await self._pipe.receive(), Reply):
            if message.session != session or not isinstance(message.event, TextDelta | ReasoningDelta):
                continue
            if not seen:
                yield TurnStarted(folder.actual_model())
            seen.add(type(message.event))
            yield message.event
        if (notice := gemini_rpc.read_limit(message.error, turn.model or self._default_model)) is not None:
            yield notice
        recorded = folder.recorded() if gemini_body.is_rich(turn) else None
        finished = self._finish(message, folder, turn, seen, recorded)
        if not seen:
            yield TurnStarted(folder.actual_model())
        if recorded is not None and finished.reason == "tool_calls":
            yield Working()
            for call in recorded.calls:
                yield call
        yield finished

    async def reset(self) -> bool:
        try:
            await self._pipe.cancel()
            while self._pipe.is_open:
                await self._pipe.receive()
            return self._home.wipe()
        except (ProviderError, OSError):
            return False

    # --- the end of an answer --------------------------------------------------------------------------------------

    def _finish(
        self, reply: Reply, folder: TurnFolder, turn: Turn, seen: set[type[Event]], recorded: Recorded | None
    ) -> TurnFinished:
        result = self._pipe.result_of(reply)
        folder.actual_model()  # without the receipt there was no request, whatever the reply says
        stop = result.get("stopReason")
        if stop == "max_tokens":
            raise ContextTooLong("gemini: the conversation does not fit the model's context window")
        if recorded is not None:
            return self._finish_recorded(result, recorded, turn, seen)
        has_text = TextDelta in seen
        if stop == "max_turn_requests" and not has_text:
            raise ProtocolBroken("the model asked for a tool, and none is offered")
        usage = gemini_rpc.read_usage(result, folder.token_counts())
        if stop not in ("end_turn", "max_turn_requests") or usage is None:
            raise StreamCut("the vendor's stream ended without its last piece")
        return TurnFinished(self._inferred_reason(usage, turn, seen), usage)

    def _finish_recorded(self, result: Json, recorded: Recorded, turn: Turn, seen: set[type[Event]]) -> TurnFinished:
        if recorded.end in CALL_FAILED:
            raise AnswerInvalid("gemini: the model's call was malformed")
        usage = gemini_rpc.read_usage(result, recorded.tokens)
        if not recorded.end or usage is None:
            raise StreamCut("the vendor's stream ended without its last piece")
        return TurnFinished(recorded.reason or self._inferred_reason(usage, turn, seen), usage)

    def _inferred_reason(self, usage: Usage, turn: Turn, seen: set[type[Event]]) -> FinishReason:
        has_only_thought = ReasoningDelta in seen and TextDelta not in seen
        return gemini_rpc.finish_reason(usage, turn.sampling.max_tokens, has_only_thought=has_only_thought)

    # --- the pipe --------------------------------------------------------------------------------------------------

    async def _new_session(self, cwd: str) -> str:
        result = await self._pipe.call("session/new", {"cwd": cwd, "mcpServers": []})
        match result:
            case {"sessionId": str(session)}:
                return session
        raise ProtocolBroken("gemini opened no session")

    def _parse(self, line: bytes) -> Line:
        try:
            return gemini_rpc.parse_line(line)
        except NeedsLogin as exc:
            raise NeedsLogin(exc.message, mend=self._mend_login) from exc

    def _failure(self, error: Json) -> ProviderError:
        return gemini_rpc.failure(error, mend_login=self._mend_login, secrets=self._secrets)
