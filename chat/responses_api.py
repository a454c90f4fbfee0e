"""The REST door in the shape of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Annotated, Literal

import orjson
from django.http import HttpRequest, HttpResponse
from ninja import Path, Router
from pydantic import Field

from chat import responses, responses_bodies
from chat.answering import (
    HEADERS,
    STREAMED,
    Begun,
    Events,
    EventStreamResponse,
    answer_whole,
    begin,
    media_limits,
    mode_of,
    note_admitted,
    note_ignored,
)
from chat.ask import Admitted, Ask
from chat.auth import KEY_AUTH
from chat.errors import BadRequest, ChatError, StoreUnavailable
from chat.live import LiveTurn
from chat.remote_media import fetch_file, is_remote
from chat.requests import HubRequest, count, header, hub_request
from chat.response_id import ResponseId
from chat.responses import Found
from chat.responses_schemas import ResponseRequest
from chat.runtime import chat
from chat.schemas import ERRORS
from chat.shield import WholeAnswer
from chat.wire.media import check_count
from chat.wire.openai_errors import as_http
from chat.wire.responses_answer import Json, as_response, echo_of, envelope, error_of, kept_response
from chat.wire.responses_items import input_items
from chat.wire.responses_output import Output
from chat.wire.responses_request import has_answers, ignored_parameters, session_id_of, to_turn
from chat.wire.responses_stream import ResponseWriter
from chat.wire.sse import as_sse
from providers.errors import JsonUnsupported, MediaUnsupported, ProtocolBroken, ProviderError
from providers.json_depth import MOST_LEVELS, is_deeper

MAX_PAGE = 100
OWN_PARAMS: dict[type[Exception], str] = {JsonUnsupported: "text.format", MediaUnsupported: "input"}

Id = Annotated[str, Field(pattern=r"^resp_[A-Za-z0-9._:-]{1,200}$")]

# The document says that only false will do; true is refused in words.
Unstreamed = Annotated[bool, Field(json_schema_extra={"const": False})]

router = Router(auth=KEY_AUTH, tags=["responses"])


@router.post(
    "/responses",
    response={200: responses_bodies.ResponseBody, **ERRORS},
    openapi_extra={"parameters": HEADERS, "responses": STREAMED},
)
async def create_response(request: HttpRequest, body: ResponseRequest) -> HttpResponse:
    """Answer one turn in the shape of OpenAI's Responses API: whole, streamed, or in the background."""
    asked = hub_request(request)
    asked.auth.require("chat")
    with _own_names():
        if is_deeper(body.model_dump(include={"metadata"}), MOST_LEVELS):  # it is repeated in the answer
            raise BadRequest(f"metadata is nested at most {MOST_LEVELS} levels deep", param="metadata")
        await _fetch_files(body)
        ask = _to_ask(asked, body)
        if body.stream:
            return await _stream(asked, ask, body)
        make = _apart if body.background else _whole
        return await answer_whole(request, lambda: make(asked, ask, body))


@contextmanager
def _own_names() -> Iterator[None]:
    """Errors name fields as chat completions call them; here some are called otherwise."""
    try:
        yield
    except ChatError as error:
        error.param = "input" if error.param == "messages" else error.param
        raise
    except ProviderError as error:
        vars(error)["param"] = OWN_PARAMS.get(type(error))
        raise


async def _fetch_files(body: ResponseRequest) -> None:
    """Put the files at web addresses into the request. Raises Unsupported, BadRequest."""
    named = [
        (part, part.image_url, f"input[{index}].{name}[{place}].image_url")
        for index, item in enumerate(body.input if isinstance(body.input, list) else ())
        for name, content in (("content", item.content), ("output", item.output))
        for place, part in enumerate(content if isinstance(content, list) else ())
        if part.image_url is not None and is_remote(part.image_url)
    ]
    check_count(len(named), media_limits())
    for part, url, where in named:
        part.image_url = await fetch_file(url, where)


def _to_ask(request: HubRequest, body: ResponseRequest) -> Ask:
    return Ask(
        turn=to_turn(body, media_limits()),
        provider=body.provider or "",
        model=body.model or "",
        session_id=header(request, "X-Session-ID").strip() or session_id_of(body),
        mode=mode_of(request),
        has_answers=has_answers(body),
        request_id=request.request_id,
        fallback=tuple(body.fallback) if isinstance(body.fallback, list) else body.fallback,
        is_stored=body.store is not False,
    )


async def _whole(request: HubRequest, ask: Ask, body: ResponseRequest) -> WholeAnswer:
    planned = await responses.plan(request.auth, ask, body.previous_response_id or "")
    async with aclosing(responses.answer(request.auth, planned)) as events:
        begun = await begin(request, events, partial(_ignored, request, body), is_streamed=False)
        response = await as_response(_base(begun, body), _output(begun, ask), events)
    return WholeAnswer(orjson.dumps(response), dict(request.answer_headers))


async def _stream(request: HubRequest, ask: Ask, body: ResponseRequest) -> HttpResponse:
    planned = await responses.plan(request.auth, ask, body.previous_response_id or "")
    events = responses.answer(request.auth, planned)
    try:
        # Waiting for the first event before answering: until then a failure still has a status.
        begun = await begin(request, events, partial(_ignored, request, body), is_streamed=True)
    except BaseException:
        await events.aclose()
        raise
    writer = ResponseWriter(_base(begun, body), _output(begun, ask))
    chunks = as_sse(events, writer, describe_error=lambda error: as_http(error).body, write_error=writer.fail)
    return EventStreamResponse(chunks, events)  # type: ignore[return-value]


def _base(begun: Begun, body: ResponseRequest) -> Json:
    response_id = ResponseId(begun.admitted.turn_id, begun.admitted.session_id)
    started = begun.started
    return envelope(response_id, status="in_progress", model=started.model, provider=started.provider, **echo_of(body))


def _output(begun: Begun, ask: Ask) -> Output:
    return Output(begun.admitted.turn_id, is_json=bool(ask.turn.json_schema))


def _ignored(request: HubRequest, body: ResponseRequest, unsupported: tuple[str, ...]) -> list[str]:
    is_named_twice = body.conversation is not None and bool(header(request, "X-Session-ID").strip())
    return ignored_parameters(body, unsupported) + ["conversation"] * is_named_twice


async def _apart(request: HubRequest, ask: Ask, body: ResponseRequest) -> WholeAnswer:
    """Start the turn in the background, once it is admitted: until then a failure still has a status."""
    request.auth.require("sessions")  # else nobody could fetch the answer
    planned = await responses.plan(request.auth, ask, body.previous_response_id or "")
    events = responses.answer(request.auth, planned)
    try:
        admitted = await _admitted(request, events)
    except BaseException:
        await events.aclose()
        raise
    note_ignored(request, _ignored(request, body, ()))
    live = chat().live.start(request.auth.owner, admitted.session_id, events, turn_id=admitted.turn_id)
    live.model = ask.model
    response_id = ResponseId(admitted.turn_id, admitted.session_id, is_background=True)
    response = envelope(response_id, status="queued", model=ask.model, provider="", **echo_of(body))
    return WholeAnswer(orjson.dumps(response), dict(request.answer_headers))


async def _admitted(request: HubRequest, events: Events) -> Admitted:
    async for event in events:
        if isinstance(event, Admitted):
            note_admitted(request, event)
            if event.session_id:
                return event
            if event.turn_id:
                raise StoreUnavailable("there is nowhere to keep an answer in the background just now")
    raise ProtocolBroken("the turn ended before it began")


# --- later -----------------------------------------------------------------------------------------------------------


@router.get("/responses/{response_id}", response={200: responses_bodies.ResponseBody, **ERRORS})
async def get_response(request: HttpRequest, response_id: Path[Id], stream: Unstreamed = False) -> HttpResponse:
    """An answer as its session keeps it, or how far one in the background is."""
    await count(request, "sessions")
    if stream:
        raise BadRequest("a response can be streamed only as it is made; GET it whole", param="stream")
    return _json(_described(await responses.find(hub_request(request).auth, response_id)))


@router.post("/responses/{response_id}/cancel", response={200: responses_bodies.ResponseBody, **ERRORS})
async def cancel_response(request: HttpRequest, response_id: Path[Id]) -> HttpResponse:
    """Stop an answer in the background. One that is over already stays as it is."""
    await count(request, "sessions")
    return _json(_described(await responses.cancel(hub_request(request).auth, response_id)))


@router.delete("/responses/{response_id}", response={200: responses_bodies.ResponseDeleted, **ERRORS})
async def delete_response(request: HttpRequest, response_id: Path[Id]) -> responses_bodies.ResponseDeleted:
    """Erase an answer with its question, unless others belong to the same conversation."""
    await count(request, "sessions")
    await responses.delete(hub_request(request).auth, response_id)
    return responses_bodies.ResponseDeleted(id=response_id, object="response", deleted=True)


@router.get("/responses/{response_id}/input_items", response={200: responses_bodies.InputItemList, **ERRORS})
async def list_input_items(
    request: HttpRequest,
    response_id: Path[Id],
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str, Field(max_length=200, description="The last item's id of the page before.")] = "",
) -> responses_bodies.InputItemList:
    """What was asked in the answer's own turn, the last item first."""
    await count(request, "sessions")
    found = await responses.find(hub_request(request).auth, response_id)
    if found.session is None:
        raise BadRequest("this response has no items as long as it is not complete", param="response_id")
    items = input_items(found.id.turn_id, found.asked)
    items = items[::-1] if order == "desc" else items
    rest = items[1 + next((place for place, it in enumerate(items) if it["id"] == after), -1) :]
    page = rest[:limit]
    return responses_bodies.InputItemList(
        object="list",
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(rest) > limit,
    )


def _described(found: Found) -> Json:
    if found.session is not None and found.answer is not None:
        return kept_response(found.id, found.answer, system=found.session.head.system)
    live = found.live
    if live is None:
        return envelope(found.id, status="in_progress", model="", provider="")
    base = envelope(found.id, status=_status(live), model=live.model, provider=live.provider)
    return base if live.error is None else {**base, "error": error_of(as_http(live.error).body)}


def _status(live: LiveTurn) -> responses_bodies.Status:
    match live.status:
        case "failed" | "cancelled":
            return live.status
    return "in_progress" if live.provider else "queued"


def _json(body: Json) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), content_type="application/json")
