"""What daphne's HTTP door leaves open: bodies of any size, form parsing nobody asked for, errors as HTML."""

from __future__ import annotations

from typing import Any, cast

import orjson
from daphne.http_protocol import HTTPFactory, WebRequest
from django.conf import settings
from twisted.web.http import HTTPChannel

from chat.wire.openai_errors import error_body

REQUEST = "invalid_request_error"
JSON = [(b"Content-Type", b"application/json")]


class BoundedRequest(WebRequest):  # type: ignore[misc]
    """Keeps of a body only what shows that it is too large; the application then refuses it.

    The rest is read and dropped: a client cut off while it sends would not see the answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Twisted would parse forms before the application is asked: seconds without an event loop for a large one.
        self._parsePOSTFormSubmission = False

    def handleContentChunk(self, data: bytes) -> None:
        if self.content.tell() <= settings.HUB_MAX_BODY_BYTES:
            super().handleContentChunk(data)

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
