"""The REST door: OpenAI's chat completions and models, and the providers behind them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast
from urllib.parse import quote

import orjson
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Path, Router

from chat import schemas, service
from chat.auth import BearerKey
from chat.keys import Caller
from chat.wire import openai_answer, openai_request
from chat.wire.openai_errors import as_http
from chat.wire.sse import as_sse
from providers import runtime
from providers.engine import Provider
from providers.errors import ModelUnknown, ProtocolBroken
from providers.events import Event, TurnStarted
from providers.router import listed_models

ERRORS = dict.fromkeys((400, 401, 404, 405, 413, 429, 500, 502, 503, 504), schemas.ErrorBody)

router = Router(auth=BearerKey())


class EventStreamResponse(StreamingHttpResponse):
    """Hands Django the generator itself, so that its aclosing() ends the turn the moment the client is gone."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], events: AsyncGenerator[Event, None]) -> None:
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


class AuthedRequest(HttpRequest):
    auth: Caller


@router.post("/chat/completions", response={200: schemas.ChatCompletion, **ERRORS}, tags=["chat"])
async def create_chat_completion(request: HttpRequest, body: schemas.ChatCompletionRequest) -> HttpResponse:
    """Answer one turn, whole or (`"stream": true`) as server-sent events in OpenAI's shape."""
    turn = openai_request.to_turn(body)
    chosen = await service.route(provider=body.provider or "", model=body.model or "")
    events = service.answer(cast(AuthedRequest, request).auth, chosen, turn)
    try:
        # Waiting for the first event before answering: until then a failure still has a status.
        started = await _first(events)
        if body.stream:
            response: HttpResponse = cast(HttpResponse, _stream(started, events, body))
        else:
            async with aclosing(events):
                answer = await openai_answer.as_completion(started, events)
            response = HttpResponse(orjson.dumps(answer), content_type="application/json")
    except BaseException:
        await events.aclose()
        raise
    _describe(response, started, openai_request.ignored_parameters(body, chosen.provider.info.unsupported_sampling))
    return response


async def _first(events: AsyncIterator[Event]) -> TurnStarted:
    """Limit notices may come before the vendor has begun to answer."""
    async for event in events:
        if isinstance(event, TurnStarted):
            return event
    raise ProtocolBroken("the turn ended before it began")


def _stream(
    started: TurnStarted, events: AsyncGenerator[Event, None], body: schemas.ChatCompletionRequest
) -> EventStreamResponse:
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    writer = openai_answer.ChunkWriter(started, include_usage=include_usage)
    return EventStreamResponse(as_sse(events, writer, describe_error=lambda error: as_http(error).body), events)


def _describe(response: HttpResponse, started: TurnStarted, ignored: list[str]) -> None:
    response["X-Hub-Provider"] = started.provider
    response["X-Hub-Start"] = started.start
    if ignored:
        # Quoted, because a name is the caller's text and a header takes only some of ASCII.
        response["X-Hub-Ignored"] = ", ".join(quote(name[:100], safe="$[].", errors="replace") for name in ignored[:50])


@router.get("/models", response={200: schemas.ModelList, **ERRORS}, tags=["models"])
async def list_models(request: HttpRequest) -> schemas.ModelList:
    """Every name the field `model` accepts."""
    names = listed_models(runtime.engine())
    return schemas.ModelList(object="list", data=[_model(name, owner) for name, owner in names.items()])


@router.get("/models/{path:model_id}", response={200: schemas.ModelBody, **ERRORS}, tags=["models"])
async def get_model(request: HttpRequest, model_id: Path[str]) -> schemas.ModelBody:
    """One of them."""
    names = listed_models(runtime.engine())
    if model_id not in names:
        raise ModelUnknown(f"there is no model {model_id[:80]!r}")
    return _model(model_id, names[model_id])


def _model(name: str, owner: str) -> schemas.ModelBody:
    return schemas.ModelBody(id=name, object="model", created=0, owned_by=owner)


@router.get("/providers", response={200: schemas.ProviderList, **ERRORS}, tags=["providers"])
async def list_providers(request: HttpRequest) -> schemas.ProviderList:
    """The providers, whether they can answer, and what to do if not."""
    engine = runtime.engine()
    await engine.find_programs()
    return schemas.ProviderList(providers=[_provider(it) for it in engine.providers.values()])


def _provider(provider: Provider) -> schemas.ProviderBody:
    return schemas.ProviderBody(
        name=provider.name,
        status="available" if provider.state == "ready" else "unavailable",
        models=list(provider.info.models),
        state=provider.state,
        since=int(provider.since),
        mend=provider.mend,
        version=provider.version,
    )
