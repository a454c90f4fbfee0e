"""The HTTP server the stand-in vendors share, and its record of what came in."""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from aiohttp import web

from tests.vendor_api import anthropic, gemini, openai
from tests.vendor_api.record import Received, shown_headers, shown_path
from tests.vendor_api.routes import classify, gemini_call
from tests.vendor_api.script import BadScript, Script, directive, merge
from tests.vendor_api.turn import Answer, Asked

_MAX_BODY_BYTES = 64 * 1024 * 1024  # above the vendors' own limits: the tests meet those by script
_SETTLE_S = 0.05  # a client that finds the pieces and the reset together may drop the pieces


class _Api(Protocol):
    def models(self) -> Answer: ...
    def count_tokens(self, body: Any) -> Answer: ...
    def error(self, status: int, message: str) -> Answer: ...


_APIS: dict[str, _Api] = {"anthropic": anthropic, "gemini": gemini, "openai": openai}


class VendorApi:
    """All vendors on one loopback port, while entered.

    Set `script` for all chat requests from then on, `next()` for the coming ones; a directive in a request's last
    user text changes single keys of either.
    """

    def __init__(self, *, port: int = 0, script: Script | None = None) -> None:
        self.script = script or Script()
        self.received: list[Received] = []
        self._port = port
        self._queue: deque[Script] = deque()
        self._spent: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._closing = False
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def next(self, *scripts: Script) -> None:
        """Answer the coming chat requests with these, one each, before `script` counts again."""
        self._queue.extend(scripts)

    def chats(self) -> list[Received]:
        return [received for received in self.received if received.kind == "chat"]

    def clear(self) -> None:
        """Forget what came in; scripts stay."""
        self.received.clear()

    async def wait_for(self, n: int, timeout_s: float = 5) -> list[Received]:
        """The chat requests, once there are n of them. Raises TimeoutError."""
        await self._until(
            lambda: len(self.chats()) >= n, timeout_s, lambda: f"{len(self.chats())} of {n} chat requests"
        )
        return self.chats()

    async def wait_for_abort(self, timeout_s: float = 5, *, n: int = 1) -> Received:
        """The n-th chat request whose client hung up early. Raises TimeoutError."""

        def aborted() -> list[Received]:
            return sorted((r for r in self.chats() if r.aborted), key=lambda r: r.closed_at or 0)

        await self._until(lambda: len(aborted()) >= n, timeout_s, lambda: f"{len(aborted())} of {n} hang-ups")
        return aborted()[n - 1]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Cancelling the handler is how a hang-up is seen while nothing is being written.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=512).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        if self._runner is not None:
            await self._runner.cleanup()

    async def _until(self, done: Callable[[], bool], timeout_s: float, so_far: Callable[[], str]) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not done():
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{so_far()} within {timeout_s:g} s") from None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        at = time.monotonic()
        raw = await request.read()
        if request.path in ("/_received", "/_script"):
            return self._control(request, raw)
        body = _parsed(raw)
        vendor, kind = classify(request.method, request.path)
        path, headers = shown_path(request.path_qs), shown_headers(request.headers.items())
        received = Received(vendor, kind, request.method, path, headers, body, at)
        self.received.append(received)
        self._notify()
        response: web.StreamResponse | None = None
        try:
            response = await _play(request, self._answer(request, received))
        except (asyncio.CancelledError, ConnectionError):
            received.aborted = not self._closing
            raise
        finally:
            received.closed_at = time.monotonic()
            self._notify()
        return response

    def _answer(self, request: web.Request, received: Received) -> Answer:
        api = _APIS.get(received.vendor, anthropic)
        match received.kind:
            case "models":
                return api.models()
            case "account":
                return openai.account()
            case "count":
                return api.count_tokens(received.body)
            case "other":
                return api.error(404, f"{request.method} {request.path} is not served here")
        if not isinstance(received.body, dict):
            return api.error(400, "the body is no JSON object")
        try:
            if received.vendor == "anthropic":
                asked = anthropic.read(received.body, bearer="authorization" in received.headers)
                return anthropic.answer(asked, self._script_for(asked))
            if received.vendor == "openai":
                asked = openai.read(received.body)
                return openai.answer(asked, self._script_for(asked))
            model, stream = gemini_call(request.path)
            asked = gemini.read(received.body, model=model, stream=stream)
            return gemini.answer(asked, self._script_for(asked))
        except BadScript as exc:
            return api.error(400, f"bad directive: {exc}")

    def _script_for(self, asked: Asked) -> Script:
        base = self._queue.popleft() if self._queue else self.script
        script = merge(base, directive(asked.last_text))
        if script.times is None:
            return script
        self._spent[asked.last_text] += 1
        return script if self._spent[asked.last_text] <= script.times else base

    def _control(self, request: web.Request, raw: bytes) -> web.Response:
        match request.method, request.path:
            case "GET", "/_received":
                return web.json_response([received.as_json() for received in self.received])
            case "DELETE", "/_received":
                self.clear()
                return web.Response(status=204)
            case "POST", "/_script":
                try:
                    self.script = merge(Script(), _parsed(raw) or {})
                except (AttributeError, BadScript) as exc:
                    return web.json_response({"error": str(exc)}, status=400)
                return web.Response(status=204)
        return web.json_response({"error": "method not allowed"}, status=405)


async def _play(request: web.Request, answer: Answer) -> web.StreamResponse:
    if answer.slow_s:
        await asyncio.sleep(answer.slow_s)
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if len(answer.steps) == 1 and answer.end == "complete":
        await asyncio.sleep(answer.steps[0].delay_s)
        response.content_length = len(answer.steps[0].data)
        await response.prepare(request)
        await response.write_eof(b"" if request.method == "HEAD" else answer.steps[0].data)
        return response
    if answer.steps:
        await response.prepare(request)
    await _stream(response, answer)
    match answer.end:
        case "hang":
            await asyncio.Event().wait()
        case "cut" if request.transport is not None:
            await asyncio.sleep(_SETTLE_S)
            request.transport.abort()
        case _:
            await response.write_eof()
    return response


async def _stream(response: web.StreamResponse, answer: Answer) -> None:
    # Pieces with no pause between them leave in one write, which keeps a fast answer cheap.
    waiting = bytearray()
    for step in answer.steps:
        if step.delay_s:
            if waiting:
                await response.write(bytes(waiting))
                waiting.clear()
            await asyncio.sleep(step.delay_s)
        waiting += step.data
    if waiting:
        await response.write(bytes(waiting))


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
