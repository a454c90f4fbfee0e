"""What the answers of REST doors have in common: sessions and retry marks in headers, and streams that end in time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from chat.ask import Admitted, Answering, Note
from chat.decisions import route_headers
from chat.errors import BadRequest
from chat.history import Mode
from chat.requests import HubRequest, count, header, hub_request
from chat.runtime import chat
from chat.shield import Mark, WholeAnswer
from chat.wire.limit_headers import limit_headers
from chat.wire.media import MediaLimits
from providers.errors import ProtocolBroken
from providers.events import Event, TurnStarted

MAX_IDEMPOTENCY_KEY = 255
RETRY_COUNT = re.compile(r"[0-9]{1,6}")

Events = AsyncGenerator[Note | Event, None]


def _header(name: str, description: str) -> dict[str, object]:
    return {"in": "header", "name": name, "description": description, "schema": {"type": "string"}}


HEADERS = [
    _header("X-Session-ID", "The conversation to go on with; absent: a new one, whose id the answer's header tells."),
    _header(
        "X-Session-Mode", "append: all messages are new. replace: they are the whole conversation. Else it is seen."
    ),
    _header("Idempotency-Key", "Of an unstreamed request: the same request again gets the first one's answer."),
]


# What the OpenAPI document says of a streamed answer, beside the whole one.
STREAMED = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


class EventStreamResponse(StreamingHttpResponse):
    """Hands Django the generator itself, so that its aclosing() ends the turn the moment the client is gone."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], events: Events) -> None:
        super().__init__(chunks, content_type="text/event-stream")
        self._chunks = chunks
        self._events = events
        self["Cache-Control"] = "no-cache"
        self["X-Accel-Buffering"] = "no"

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self._chunks

    async def release(self) -> None:
        """End the turn, also when the client was gone before the first chunk was asked for."""
        await self._chunks.aclose()
        await self._events.aclose()


# --- what a request's headers say ------------------------------------------------------------------------------------


def mode_of(request: HubRequest) -> Mode:
    """Raises BadRequest."""
    mode = header(request, "X-Session-Mode").strip().lower() or "auto"
    if mode not in ("auto", "append", "replace"):
        raise BadRequest("X-Session-Mode is append, replace or auto", param="X-Session-Mode")
    return mode  # type: ignore[return-value]


def media_limits() -> MediaLimits:
    return MediaLimits(settings.HUB_MEDIA_MAX_BYTES, settings.HUB_MEDIA_MAX_COUNT)


def _mark(request: HubRequest) -> Mark | None:
    """The marks of a request that may come again; None for one that bears none."""
    key = header(request, "Idempotency-Key").strip()
    count = header(request, "X-Stainless-Retry-Count").strip()
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise BadRequest(f"an Idempotency-Key has at most {MAX_IDEMPOTENCY_KEY} characters", param="Idempotency-Key")
    has_count = bool(RETRY_COUNT.fullmatch(count))
    if not key and not has_count:
        return None
    session = "\0".join(header(request, name) for name in ("X-Session-ID", "X-Session-Mode"))
    digest = hashlib.sha256(f"{request.path}\0{session}\0".encode() + request.body).digest()
    return Mark(request.auth.key_id, digest, key, is_retry=has_count and int(count) > 0)


async def answer_whole(request: HttpRequest, make: Callable[[], Coroutine[Any, Any, WholeAnswer]]) -> HttpResponse:
    """The answer that `make` brings, or that of the request this one repeats. Raises what `make` raises."""
    asked = hub_request(request)
    mark = _mark(asked)
    if mark is None:
        answer = await make()
    else:
        if chat().shield.knows(mark):
            await count(request)  # no turn of its own, but a request
        answer = await chat().shield.answer(mark, make)
        asked.answer_headers = answer.headers | asked.answer_headers
    return HttpResponse(answer.body, content_type="application/json")


# --- what an answer's headers say ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn whose provider has begun to answer."""

    admitted: Admitted
    started: TurnStarted


async def begin(
    request: HubRequest, events: Events, name_ignored: Callable[[tuple[str, ...]], list[str]], *, is_streamed: bool
) -> Begun:
    """Read up to the vendor's first word; what is known by then goes into the answer's headers, an error's too.

    `name_ignored` names what of the request has no effect, given the sampling that the provider can't pass on.
    """
    unsupported: tuple[str, ...] = ()
    admitted: Admitted | None = None
    async for event in events:
        match event:
            case Admitted():
                admitted = event
                note_admitted(request, event)
            case Answering(provider, decision, attempts, unsupported):
                request.answer_headers |= route_headers(decision, attempts, answered=provider)
            case TurnStarted() if admitted is not None:
                request.answer_headers |= {"X-Hub-Provider": event.provider, "X-Hub-Start": event.start}
                has_key = is_streamed and "HTTP_IDEMPOTENCY_KEY" in request.META
                note_ignored(request, name_ignored(unsupported) + ["Idempotency-Key"] * has_key)
                return Begun(admitted, event)
    raise ProtocolBroken("the turn ended before it began")


def note_admitted(request: HubRequest, admitted: Admitted) -> None:
    request.answer_headers |= limit_headers(admitted.standing)
    if admitted.session_id:
        request.answer_headers["X-Session-ID"] = admitted.session_id


def note_ignored(request: HubRequest, names: list[str]) -> None:
    if names:
        # Quoted, because a name is the caller's text and a header takes only some of ASCII.
        quoted = [quote(name[:100], safe="$[].", errors="replace") for name in names[:50]]
        request.answer_headers["X-Hub-Ignored"] = ", ".join(quoted)
