"""One ACP agent: a session of its own for every turn, opened ahead; all it left is removed before the next.

The protocol can't hand over a conversation, so it goes as one text. Nor can it take an agent's tools away: the hub
denies every permission, and ends a turn in which a tool has begun without asking for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from providers.adapters import acp_rpc as rpc
from providers.adapters.acp_folder import Stamps, restore, stamps
from providers.adapters.acp_pipe import AgentPipe
from providers.adapters.acp_prompt import render
from providers.adapters.base import Driver, WorkerFolder
from providers.adapters.json_lines import Json, Reply
from providers.errors import ContextTooLong, ModelUnknown, ProtocolBroken, ProviderError, StreamCut, excerpt
from providers.events import Event, FinishReason, ReasoningDelta, TextDelta, Turn, TurnFinished, TurnStarted
from providers.process import Process

NAME = "the agent"
# Stands for whatever model the agent takes by itself.
OWN_MODEL = "default"

FINISH_REASONS: dict[object, FinishReason] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "max_turn_requests": "length",
    "refusal": "content_filter",
}


@dataclass(slots=True)
class Session:
    """One open session. `model` is the one that answers, as far as the agent tells; `switch` how to choose another."""

    id: str
    model: str
    switch: Json


class AcpDriver(Driver):
    def __init__(self, process: Process, folder: WorkerFolder, *, mend_login: str) -> None:
        self._pipe = AgentPipe(process, parse=self._parse, fail=self._failure)
        self._folder = folder
        self._mend_login = mend_login
        self._ends: tuple[str, ...] = ()
        self._before: Stamps = {}
        self._session: Session | None = None
        self._is_used = False

    async def ready(self) -> None:
        agent = await self._pipe.initialize()
        if agent.get("protocolVersion") != rpc.VERSION:
            spoken = excerpt(str(agent.get("protocolVersion")))
            raise ProtocolBroken(f"{NAME} speaks version {spoken} of the protocol, the hub {rpc.VERSION}")
        self._ends = read_ends(agent)
        self._before = await asyncio.to_thread(stamps, self._folder.root)
        # A missing login shows only here, and the first turn need not wait for it.
        await self._open_session()

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        session = self._session
        if session is None:
            raise ProtocolBroken(f"{NAME} has no open session")
        self._is_used = True
        await self._choose_model(session, turn.model)
        await self._pipe.prompt(session.id, render(turn))
        has_said, cost_usd = False, None
        while not isinstance(message := await self._pipe.receive(), Reply):
            match message:
                case rpc.Update(session.id, rpc.Cost(usd)):
                    cost_usd = usd
                case rpc.Update(session.id, rpc.ToolUse(has_begun=True)):
                    raise ProtocolBroken(f"{NAME} used a tool of its own without asking: switch its tools off")
                case rpc.Update(session.id, TextDelta() | ReasoningDelta() as said):
                    if not has_said:
                        yield TurnStarted(session.model)
                    has_said = True
                    yield said
        finished = self._finish(message, cost_usd, has_said=has_said)
        if not has_said:
            yield TurnStarted(session.model)
        yield finished

    async def reset(self) -> bool:
        try:
            if self._pipe.is_open:
                # Asked to stop, so that its vendor hears of it at once; whether it did is not worth a wait.
                await self._pipe.cancel()
                return False
            if not self._is_used:
                return True
            await self._end_session()
            is_clean = await asyncio.to_thread(restore, self._folder.root, self._before)
            # An agent that can't do without what it wrote fails here, not in a caller's turn.
            await self._open_session()
            return is_clean
        except (ProviderError, OSError):
            return False

    # --- sessions --------------------------------------------------------------------------------------------------

    async def _open_session(self) -> None:
        result = await self._pipe.call("session/new", {"cwd": str(self._folder.cwd), "mcpServers": []})
        self._session = read_session(result)
        self._is_used = False

    async def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            for method in self._ends:
                await self._pipe.call(method, {"sessionId": session.id})

    async def _choose_model(self, session: Session, model: str | None) -> None:
        if model in (None, OWN_MODEL, session.model):
            return
        if not session.switch:
            raise ModelUnknown(f"{NAME} lets nobody choose its model: {OWN_MODEL!r} stands for the one it takes")
        method, name = session.switch["method"], session.switch["name"]
        try:
            await self._pipe.call(method, {"sessionId": session.id, **session.switch["params"], name: model})
        except ProtocolBroken as exc:
            raise ModelUnknown(f"{NAME} has no model {excerpt(str(model))!r}") from exc
        session.model = str(model)

    # --- what the agent says ---------------------------------------------------------------------------------------

    def _finish(self, reply: Reply, cost_usd: float | None, *, has_said: bool) -> TurnFinished:
        result = self._pipe.result_of(reply)
        stop = result.get("stopReason")
        if stop == "cancelled":
            raise StreamCut(f"{NAME} broke off its answer by itself")
        if stop not in FINISH_REASONS:
            raise ProtocolBroken(f"{NAME} ended a turn as {excerpt(str(stop))!r}")
        if not has_said and stop == "max_turn_requests":
            raise ProtocolBroken(f"{NAME} found no answer without its tools")
        if not has_said and stop == "max_tokens":
            raise ContextTooLong(f"{NAME}: the conversation leaves no room for an answer")
        return TurnFinished(FINISH_REASONS[stop], rpc.read_usage(result, cost_usd))

    def _parse(self, line: bytes) -> rpc.Line:
        return rpc.parse_line(line, NAME)

    def _failure(self, error: Json) -> ProviderError:
        return rpc.failure(error, name=NAME, mend_login=self._mend_login)


def read_ends(agent: Json) -> tuple[str, ...]:
    """The requests by which this agent forgets a session, in their order."""
    match agent:
        case {"agentCapabilities": {"sessionCapabilities": dict(offered)}}:
            return tuple(f"session/{name}" for name in ("close", "delete") if offered.get(name) is not None)
    return ()


def read_session(result: Json) -> Session:
    """The session an agent has opened, with its way to choose a model if there is one. Raises ProtocolBroken."""
    match result:
        case {"sessionId": str(session), **rest}:
            return _with_model(session, rest)
    raise ProtocolBroken(f"{NAME} opened no session")


def _with_model(session: str, rest: Json) -> Session:
    for option in rest.get("configOptions") or ():
        match option:
            case {"category": "model", "id": str(option_id), "currentValue": str(current)}:
                way = {"method": "session/set_config_option", "name": "value", "params": {"configId": option_id}}
                return Session(session, current, way)
    match rest:
        case {"models": {"currentModelId": str(current)}}:
            return Session(session, current, {"method": "session/set_model", "name": "modelId", "params": {}})
    return Session(session, OWN_MODEL, {})
