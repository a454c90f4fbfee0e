"""The requests to one ACP agent, one open at a time. Whatever the agent asks of its client is refused."""

from __future__ import annotations

from collections.abc import Callable

from providers.adapters import acp_rpc as rpc
from providers.adapters.json_lines import Json, Reply
from providers.errors import ProviderError
from providers.process import Process


class AgentPipe:
    """`parse` reads a line of the agent, `fail` says what an error of its stands for."""

    def __init__(
        self, process: Process, *, parse: Callable[[bytes], rpc.Line], fail: Callable[[Json], ProviderError]
    ) -> None:
        self._process = process
        self._parse = parse
        self._fail = fail
        self._requests = 0
        self._prompted = ""  # the session whose prompt is the open request
        self.is_open = False  # the last request has no reply yet

    async def call(self, method: str, params: Json) -> Json:
        """The result of a request. Raises ProviderError."""
        self._prompted = ""
        await self._send(method, params)
        while not isinstance(message := await self.receive(), Reply):
            pass
        return self.result_of(message)

    async def initialize(self) -> Json:
        """Introduce ourselves as a client without a file system and a terminal."""
        return await self.call("initialize", {"protocolVersion": rpc.VERSION, "clientCapabilities": {}})

    async def prompt(self, session: str, text: str) -> None:
        """Ask; the answer is what `receive` returns until the Reply."""
        self._prompted = session
        await self._send("session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": text}]})

    async def cancel(self) -> None:
        """Ask the agent to give up the prompt that is open, if one is."""
        if self.is_open and self._prompted:
            await self._process.send(rpc.cancel_line(self._prompted))

    async def receive(self) -> Reply | rpc.Update:
        """The next line that matters. Only one request is ever open, so a reply closes it."""
        while True:
            match self._parse(await self._process.read_line()):
                case rpc.Ask() as ask:
                    await self._process.send(rpc.refusal_line(ask))
                case Reply(id=self._requests) as reply:
                    self.is_open = False
                    return reply
                case rpc.Update() as update:
                    return update

    def result_of(self, reply: Reply) -> Json:
        """Raises ProviderError where the request failed."""
        if reply.error:
            raise self._fail(reply.error)
        return reply.result

    async def _send(self, method: str, params: Json) -> None:
        self._requests += 1
        self.is_open = True
        await self._process.send(rpc.request_line(self._requests, method, params))
