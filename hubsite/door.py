"""What daphne's HTTP door leaves open: bodies of any size, answers piling up for a client that does not read, form
parsing nobody asked for, errors as HTML."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import orjson
from daphne.http_protocol import HTTPFactory, WebRequest
from django.conf import settings
from twisted.internet.interfaces import IPushProducer
from twisted.web.http import HTTPChannel
from zope.interface import implementer

from chat.wire.openai_errors import error_body

REQUEST = "invalid_request_error"
JSON = [(b"Content-Type", b"application/json")]


# A client that takes nothing for so long is gone, or means harm.
SEND_TIMEOUT_S = 60.0


@implementer(IPushProducer)
class Valve:
    """Closed while the transport has more to send than it likes to hold (64 KiB)."""

    def __init__(self) -> None:
        self._is_open = asyncio.Event()
        self._is_open.set()

    def pauseProducing(self) -> None:
        self._is_open.clear()

    def resumeProducing(self) -> None:
        self._is_open.set()

    def stopProducing(self) -> None:
        self._is_open.set()

    async def wait(self) -> bool:
        """Whether the transport will take more; False if it did not within SEND_TIMEOUT_S."""
        if self._is_open.is_set():
            return True
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._is_open.wait()
        except TimeoutError:
            return False
        return True


class BoundedRequest(WebRequest):  # type: ignore[misc]
    """Keeps of a body only what shows that it is too large; the application then refuses it.

    The rest is read and dropped: a client cut off while it sends would not see the answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Twisted would parse forms before the application is asked: seconds without an event loop for a large one.
        self._parsePOSTFormSubmission = False
        self.valve: Valve | None = None

    def handleContentChunk(self, data: bytes) -> None:
        if self.content.tell() <= settings.HUB_MAX_BODY_BYTES:
            super().handleContentChunk(data)

    def handle_reply(self, message: Mapping[str, Any]) -> None:
        is_stream = message["type"] == "http.response.body" and message.get("more_body", False)
        if is_stream and self.valve is None and self.channel is not None:
            self.valve = Valve()
            self.registerProducer(self.valve, True)
        super().handle_reply(message)

    def finish(self) -> None:
        if self.valve is not None:
            self.unregisterProducer()
        super().finish()

    def connectionLost(self, reason: object) -> None:
        super().connectionLost(reason)
        if self.valve is not None:
            self.valve.resumeProducing()

    def give_up(self) -> None:
        """Cut off a client that does not read."""
        if self.channel is not None:
            self.channel.forceAbortClient()

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        kind = REQUEST if status < 500 else "server_error"
        answer = orjson.dumps(error_body(body, kind, code=status_text.decode().lower().replace(" ", "_")))
        self.handle_reply({"type": "http.response.start", "status": status, "headers": JSON})
        self.handle_reply({"type": "http.response.body", "body": answer})


class BoundedChannel(HTTPChannel):
    """Answers what is no HTTP, or too long a line of it, in the shape of all other errors."""

    def _respondToBadRequestAndDisconnect(self) -> None:
        body = orjson.dumps(error_body("this is no HTTP request, or too long a one", REQUEST, code="bad_request"))
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        cast(Any, self.transport).write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.loseConnection()  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()


class BoundedFactory(HTTPFactory):  # type: ignore[misc]
    """Makes the above; HTTP/1.1 only."""

    protocol = BoundedChannel

    def buildProtocol(self, addr: object) -> object:
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = BoundedRequest
        return protocol

    def log(self, request: object) -> None:
        """Twisted would write a line nobody reads, for every request."""
