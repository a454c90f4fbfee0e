"""The REST door to routing: which provider a request would get, and why, without running anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from django.http import HttpRequest
from ninja import Router
from pydantic import BaseModel

from chat import choice, conversations, schemas
from chat.answering import HEADERS
from chat.api import to_ask
from chat.ask import Ask
from chat.auth import KEY_AUTH
from chat.errors import SessionNotFound
from chat.keys import Caller
from chat.requests import count, hub_request
from chat.running import RunningTurn
from chat.schemas import ERRORS
from providers import runtime
from providers.events import Turn
from providers.route import Decision, Nature, Wish
from providers.router import NoProviderReady, read_wish
from providers.rules import try_rules
from providers.telling import describe, explain

router = Router(auth=KEY_AUTH, tags=["routing"])


class RouteChoice(BaseModel):
    provider: str
    model: str


class RouteRejected(BaseModel):
    """Who was passed over: a provider, one with its model (`provider/model`) or a rule (`rule=NAME`)."""

    name: str
    why: str


class RouteNature(BaseModel):
    """What the request is like; `tokens` is an estimate of its prompt with all that the session remembers."""

    tokens: int
    is_code: bool
    languages: list[str]
    has_images: bool
    has_tools: bool
    wants_json: bool


class RouteRule(BaseModel):
    """One rule, in the order they are asked. `is_hit`: its conditions hold; else `why_not` is the first that fails."""

    name: str
    is_hit: bool
    why_not: str


class RouteBody(BaseModel):
    """`choices` are asked in their order, each only if the one before fails. `route` is what X-Hub-Route would say.

    Where nobody could answer now there is no provider, and `problem` says why.
    """

    object: Literal["route"]
    provider: str | None
    model: str | None
    reason: str
    route: str
    problem: str
    choices: list[RouteChoice]
    rejected: list[RouteRejected]
    nature: RouteNature
    rules: list[RouteRule]


@dataclass(frozen=True, slots=True)
class _About:
    """What is told of a request whoever gets it."""

    nature: Nature
    rules: list[RouteRule]


@router.post("/route", response={200: RouteBody, **ERRORS}, openapi_extra={"parameters": HEADERS[:2]})
async def explain_route(request: HttpRequest, body: schemas.ChatCompletionRequest) -> RouteBody:
    """Tell which provider this request would get and why. Takes what /chat/completions takes; nothing is run."""
    await count(request, "chat")
    asked = hub_request(request)
    ask = to_ask(asked, body)
    turn, stays_with = await _with_session(asked.auth, ask)
    nature = await choice.find_nature(turn, with_languages=True)
    about = _About(nature, _tried(choice.wish_of(asked.auth, ask, stays_with=stays_with), nature))
    try:
        return _decided(await choice.decide_for(asked.auth, ask, turn, stays_with=stays_with), about)
    except NoProviderReady as error:
        return _nobody(error, about)


async def _with_session(caller: Caller, ask: Ask) -> tuple[Turn, str]:
    """The turn with what its session remembers, and who answered there last."""
    if not ask.session_id:
        return ask.turn, ""
    try:
        before = await conversations.get_session(caller, ask.session_id)
    except SessionNotFound:
        return ask.turn, ""
    running = RunningTurn(caller.key_id, caller.owner, ask.request_id, ask.turn)
    running.remember(before, ask.mode, has_answers=ask.has_answers, ttl_s=caller.session_ttl_s)
    return running.turn, before.head.provider


def _tried(wish: Wish, nature: Nature) -> list[RouteRule]:
    engine = runtime.engine()
    tried = try_rules(engine.rules, read_wish(engine, wish), nature, datetime.now(UTC))
    return [RouteRule(name=rule.name, is_hit=not why_not, why_not=why_not) for rule, why_not in tried]


def _decided(decision: Decision, about: _About) -> RouteBody:
    told = explain(decision) | {"nature": asdict(about.nature)}
    return RouteBody(object="route", route=describe(decision), problem="", rules=about.rules, **told)


def _nobody(error: NoProviderReady, about: _About) -> RouteBody:
    told: dict[str, Any] = {"nature": asdict(about.nature), "choices": [], "rejected": []}
    return RouteBody(
        object="route",
        provider=None,
        model=None,
        reason="",
        route="",
        problem=error.message,
        rules=about.rules,
        **told,
    )
