"""The REST door in OpenAI's shape: chat completions, streamed and whole, and models."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial

import orjson
from django.http import HttpRequest, HttpResponse
from ninja import Path, Router

from chat import choice, schemas, service
from chat.answering import HEADERS, STREAMED, EventStreamResponse, answer_whole, begin, media_limits, mode_of
from chat.ask import Ask
from chat.auth import KEY_AUTH
from chat.remote_media import fetch_file, is_remote
from chat.requests import HubRequest, count, header, hub_request
from chat.schemas import ERRORS
from chat.shield import WholeAnswer
from chat.wire import openai_answer, openai_request
from chat.wire.media import check_count
from chat.wire.openai_errors import as_http
from chat.wire.sse import as_sse
from providers.errors import ModelUnknown

router = Router(auth=KEY_AUTH)


@router.post(
    "/chat/completions",
    response={200: schemas.ChatCompletion, **ERRORS},
    tags=["chat"],
    openapi_extra={"parameters": HEADERS, "responses": STREAMED},
)
async def create_chat_completion(request: HttpRequest, body: schemas.ChatCompletionRequest) -> HttpResponse:
    """Answer one turn, whole or (`"stream": true`) as server-sent events in OpenAI's shape."""
    asked = hub_request(request)
    asked.auth.require("chat")
    await _fetch_files(body)
    ask = to_ask(asked, body)
    if body.stream:
        return await _stream(asked, ask, body)
    return await answer_whole(request, lambda: _whole(asked, ask, body))


async def _fetch_files(body: schemas.ChatCompletionRequest) -> None:
    """Put the files at web addresses into the request. Raises Unsupported, BadRequest."""
    named = [
        (part, url, f"messages[{index}].content[{place}].image_url")
        for index, message in enumerate(body.messages)
        for place, part in enumerate(message.content if isinstance(message.content, list) else ())
        if (url := _address(part)) is not None and is_remote(url)
    ]
    check_count(len(named), media_limits())
    for part, url, where in named:
        part.image_url = await fetch_file(url, where)


def _address(part: schemas.ContentPart) -> str | None:
    return part.image_url.url if isinstance(part.image_url, schemas.ImageUrl) else part.image_url


def to_ask(request: HubRequest, body: schemas.ChatCompletionRequest) -> Ask:
    return Ask(
        turn=openai_request.to_turn(body, media_limits()),
        provider=body.provider or "",
        model=body.model or "",
        session_id=header(request, "X-Session-ID").strip() or openai_request.session_id_of(body),
        mode=mode_of(request),
        has_answers=any(message.role == "assistant" for message in body.messages),
        request_id=request.request_id,
        fallback=tuple(body.fallback) if isinstance(body.fallback, list) else body.fallback,
    )


async def _whole(request: HubRequest, ask: Ask, body: schemas.ChatCompletionRequest) -> WholeAnswer:
    async with aclosing(service.answer(request.auth, ask)) as events:
        begun = await begin(request, events, partial(openai_request.ignored_parameters, body), is_streamed=False)
        answer = await openai_answer.as_completion(begun.started, events, is_json=bool(ask.turn.json_schema))
    return WholeAnswer(orjson.dumps(answer), dict(request.answer_headers))


async def _stream(request: HubRequest, ask: Ask, body: schemas.ChatCompletionRequest) -> HttpResponse:
    events = service.answer(request.auth, ask)
    try:
        # Waiting for the first event before answering: until then a failure still has a status.
        begun = await begin(request, events, partial(openai_request.ignored_parameters, body), is_streamed=True)
    except BaseException:
        await events.aclose()
        raise
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    writer = openai_answer.ChunkWriter(begun.started, include_usage=include_usage, is_json=bool(ask.turn.json_schema))
    chunks = as_sse(events, writer, describe_error=lambda error: as_http(error).body)
    return EventStreamResponse(chunks, events)  # type: ignore[return-value]


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
