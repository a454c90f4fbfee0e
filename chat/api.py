"""The REST door in OpenAI's shape: chat completions, streamed and whole, and models."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

import orjson
from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Path, Router

from chat import choice, schemas, service
from chat.ask import Admitted, Answering, Ask, Note
from chat.auth import KEY_AUTH
from chat.decisions import route_headers
from chat.errors import BadRequest
from chat.requests import HubRequest, count, hub_request
from chat.runtime import chat
from chat.schemas import ERRORS
from chat.shield import Mark, WholeAnswer
from chat.wire import openai_answer, openai_request
from chat.wire.limit_headers import limit_headers
from chat.wire.media import MediaLimits
from chat.wire.openai_errors import as_http
from chat.wire.sse import as_sse
from providers.errors import ModelUnknown, ProtocolBroken
from providers.events import Event, TurnStarted

MAX_IDEMPOTENCY_KEY = 255
RETRY_COUNT = re.compile(r"[0-9]{1,6}")

router = Router(auth=KEY_AUTH)


def _header(name: str, description: str) -> dict[str, object]:
    return {"in": "header", "name": name, "description": description, "schema": {"type": "string"}}


HEADERS = [
    _header("X-Session-ID", "The conversation to go on with; absent: a new one, whose id the answer's header tells."),
    _header(
        "X-Session-Mode", "append: all messages are new. replace: they are the whole conversation. Else it is seen."
    ),
    _header("Idempotency-Key", "Of an unstreamed request: the same request again gets the first one's answer."),
]

Events = AsyncGenerator[Note | Event, None]


class EventStreamResponse(StreamingHttpResponse):
    """Hands Django the generator itself, so that its aclosing() ends the turn the moment the client is gone."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], events: AsyncGenerator[Note | Event, None]) -> None:
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


@router.post(
    "/chat/completions",
    response={200: schemas.ChatCompletion, **ERRORS},
    tags=["chat"],
    openapi_extra={"parameters": HEADERS},
)
async def create_chat_completion(request: HttpRequest, body: schemas.ChatCompletionRequest) -> HttpResponse:
    """Answer one turn, whole or (`"stream": true`) as server-sent events in OpenAI's shape."""
    asked = hub_request(request)
    ask = to_ask(asked, body)
    if body.stream:
        return await _stream(asked, ask, body)
    mark = _mark(asked)
    if mark is None:
        answer = await _whole(asked, ask, body)
    else:
        if chat().shield.knows(mark):
            await count(request)  # no turn of its own, but a request
        answer = await chat().shield.answer(mark, lambda: _whole(asked, ask, body))
        asked.answer_headers = answer.headers | asked.answer_headers
    return HttpResponse(answer.body, content_type="application/json")


def to_ask(request: HubRequest, body: schemas.ChatCompletionRequest) -> Ask:
    mode = request.headers.get("X-Session-Mode", "").strip().lower() or "auto"
    if mode not in ("auto", "append", "replace"):
        raise BadRequest("X-Session-Mode is append, replace or auto", param="X-Session-Mode")
    return Ask(
        turn=openai_request.to_turn(body, media_limits()),
        provider=body.provider or "",
        model=body.model or "",
        session_id=request.headers.get("X-Session-ID", "").strip() or openai_request.session_id_of(body),
        mode=mode,  # type: ignore[arg-type]
        has_answers=any(message.role == "assistant" for message in body.messages),
        request_id=request.request_id,
        fallback=tuple(body.fallback) if isinstance(body.fallback, list) else body.fallback,
    )


def media_limits() -> MediaLimits:
    return MediaLimits(settings.HUB_MEDIA_MAX_BYTES, settings.HUB_MEDIA_MAX_COUNT)


def _mark(request: HubRequest) -> Mark | None:
    """The marks of a request that may come again; None for one that bears none."""
    key = request.headers.get("Idempotency-Key", "").strip()
    count = request.headers.get("X-Stainless-Retry-Count", "").strip()
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise BadRequest(f"an Idempotency-Key has at most {MAX_IDEMPOTENCY_KEY} characters", param="Idempotency-Key")
    has_count = bool(RETRY_COUNT.fullmatch(count))
    if not key and not has_count:
        return None
    session = "\0".join(request.headers.get(name, "") for name in ("X-Session-ID", "X-Session-Mode"))
    digest = hashlib.sha256(session.encode() + b"\0" + request.body).digest()
    return Mark(request.auth.key_id, digest, key, is_retry=has_count and int(count) > 0)


async def _whole(request: HubRequest, ask: Ask, body: schemas.ChatCompletionRequest) -> WholeAnswer:
    async with aclosing(service.answer(request.auth, ask)) as events:
        started = await _begin(request, events, body)
        answer = await openai_answer.as_completion(started, events, is_json=bool(ask.turn.json_schema))
    return WholeAnswer(orjson.dumps(answer), dict(request.answer_headers))


async def _stream(request: HubRequest, ask: Ask, body: schemas.ChatCompletionRequest) -> HttpResponse:
    events = service.answer(request.auth, ask)
    try:
        # Waiting for the first event before answering: until then a failure still has a status.
        started = await _begin(request, events, body)
    except BaseException:
        await events.aclose()
        raise
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    writer = openai_answer.ChunkWriter(started, include_usage=include_usage, is_json=bool(ask.turn.json_schema))
    chunks = as_sse(events, writer, describe_error=lambda error: as_http(error).body)
    return EventStreamResponse(chunks, events)  # type: ignore[return-value]


async def _begin(request: HubRequest, events: Events, body: schemas.ChatCompletionRequest) -> TurnStarted:
    """Read up to the vendor's first word; what is known by then goes into the answer's headers, an error's too."""
    unsupported: tuple[str, ...] = ()
    async for event in events:
        match event:
            case Admitted(session_id, standing):
                request.answer_headers |= limit_headers(standing)
                if session_id:
                    request.answer_headers["X-Session-ID"] = session_id
            case Answering(provider, decision, attempts, unsupported):
                request.answer_headers |= route_headers(decision, attempts, answered=provider)
            case TurnStarted():
                ignored = openai_request.ignored_parameters(body, unsupported)
                if body.stream and "Idempotency-Key" in request.headers:
                    ignored.append("Idempotency-Key")
                request.answer_headers |= _describe(event, ignored)
                return event
    raise ProtocolBroken("the turn ended before it began")


def _describe(started: TurnStarted, ignored: list[str]) -> dict[str, str]:
    headers = {"X-Hub-Provider": started.provider, "X-Hub-Start": started.start}
    if ignored:
        # Quoted, because a name is the caller's text and a header takes only some of ASCII.
        headers["X-Hub-Ignored"] = ", ".join(quote(name[:100], safe="$[].", errors="replace") for name in ignored[:50])
    return headers


@router.get("/models", response={200: schemas.ModelList, **ERRORS}, tags=["models"])
async def list_models(request: HttpRequest) -> schemas.ModelList:
    """Every name the field `model` accepts."""
    await count(request)
    names = choice.list_models(hub_request(request).auth)
    return schemas.ModelList(object="list", data=[_model(name, owner) for name, owner in names.items()])


@router.get("/models/{path:model_id}", response={200: schemas.ModelBody, **ERRORS}, tags=["models"])
async def get_model(request: HttpRequest, model_id: Path[str]) -> schemas.ModelBody:
    """One of them."""
    await count(request)
    names = choice.list_models(hub_request(request).auth)
    if model_id not in names:
        raise ModelUnknown(f"there is no model {model_id[:80]!r}")
    return _model(model_id, names[model_id])


def _model(name: str, owner: str) -> schemas.ModelBody:
    return schemas.ModelBody(id=name, object="model", created=0, owned_by=owner)
