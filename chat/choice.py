"""What a caller may choose from, and who answers it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from chat.ask import Ask
from chat.database import WAIT_S
from chat.errors import ModelNotAllowed, NotAllowed
from chat.keys import Caller
from chat.runtime import chat
from providers import runtime
from providers.engine import Engine
from providers.events import Turn
from providers.nature import load_languages, nature_of
from providers.provider import Provider
from providers.route import AUTO, Choice, Decision, Nature, Wish
from providers.router import NoProviderReady, decide, listed_models
from providers.rules import need_languages


async def decide_for(caller: Caller, ask: Ask, turn: Turn, *, stays_with: str = "") -> Decision:
    """Decide who answers a turn, all that its session remembers included; `stays_with` answered in it last.

    Raises ProviderError, NotAllowed, DatabaseUnavailable.
    """
    engine = runtime.engine()
    nature = await find_nature(turn, with_languages=need_languages(engine.rules))
    wish, may_use = wish_of(caller, ask, stays_with=stays_with), _Allowed(caller, engine)
    try:
        decision = decide(engine, wish, nature, may_use=may_use, label=ask.session_id)
    except NoProviderReady:
        await engine.find_programs()
        _check_any(caller, engine)
        decision = decide(engine, wish, nature, may_use=may_use, label=ask.session_id)
    _check(caller, decision.first)
    return await _affordable(decision) if caller.limits.has_budget else decision


async def find_nature(turn: Turn, *, with_languages: bool) -> Nature:
    """What a turn is like. The first time languages are asked for, their model is loaded beside other requests."""
    if with_languages and not load_languages.cache_info().currsize:
        await asyncio.to_thread(load_languages)
    return nature_of(turn, with_languages=with_languages)


def wish_of(caller: Caller, ask: Ask, *, stays_with: str = "") -> Wish:
    fallback = ask.fallback if ask.fallback is not None else (caller.fallback or None)
    return Wish(ask.provider, ask.model, fallback, stays_with=stays_with, key=caller.name)


@dataclass(frozen=True, slots=True)
class _Allowed:
    """Whether a key may use a provider's model."""

    caller: Caller
    engine: Engine

    def __call__(self, provider: str, model: str) -> bool:
        return _may_use(self.caller, self.engine.provider(provider), model)


def _check_any(caller: Caller, engine: Engine) -> None:
    """Raises ModelNotAllowed where that is why nobody may answer: no provider's own model is for this key."""
    own = [it for it in engine.providers.values() if not it.info.by_name_only and caller.may_use_provider(it.name)]
    if own and not any(_may_use(caller, it, it.default_model) for it in own):
        _check(caller, Choice(own[0]))


def _may_use(caller: Caller, provider: Provider, model: str) -> bool:
    try:
        _check(caller, Choice(provider, model))
    except NotAllowed:
        return False
    return True


def _check(caller: Caller, choice: Choice) -> None:
    """Raises ProviderNotAllowed, ModelNotAllowed."""
    caller.check_provider(choice.provider.name)
    caller.check_model(choice.provider.named(choice.model))


async def _affordable(decision: Decision) -> Decision:
    """The decision without those of whom nobody knows what they cost. Raises ModelNotAllowed if none is left."""
    kept, rejected, trouble = [], list(decision.rejected), None
    for choice in decision.choices:
        try:
            await _check_price(choice)
            kept.append(choice)
        except ModelNotAllowed as error:
            trouble = trouble or error
            rejected.append((choice.provider.name, error.message))
    if trouble is not None and not kept:
        raise trouble
    # Whoever takes the place of what was named is not what was named.
    reason = "fallback" if decision.is_named and kept[0] is not decision.first else decision.reason
    return replace(decision, choices=tuple(kept), rejected=tuple(rejected), reason=reason)


async def _check_price(choice: Choice) -> None:
    if not choice.provider.info.reports_cost:
        await _require_price(choice.provider.name, choice.provider.named(choice.model))


async def _require_price(provider: str, model: str) -> None:
    if await chat().prices.find(provider, model, wait_s=WAIT_S) is None:
        message = f"this key has a budget, and {provider}'s model {model[:80]!r} has no price (set one in admin)"
        raise ModelNotAllowed(message, param="model")


def list_models(caller: Caller) -> dict[str, str]:
    """Every name the field `model` accepts from this caller, with the provider it leads to."""
    names = listed_models(runtime.engine())
    return {name: owner for name, owner in names.items() if owner == AUTO or _may_name(caller, name, owner)}


def _may_name(caller: Caller, name: str, owner: str) -> bool:
    provider, model = runtime.engine().provider(owner), name.removeprefix(f"{owner}/")
    return _may_use(caller, provider, provider.default_model if model == owner else model)


async def list_providers(caller: Caller) -> list[Provider]:
    """The providers this caller may use, looked for again if their program was not there."""
    engine = runtime.engine()
    await engine.find_programs()
    return [provider for provider in engine.providers.values() if caller.may_use_provider(provider.name)]
