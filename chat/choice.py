"""What a caller may choose from, and who answers it."""

from __future__ import annotations

from chat.ask import Ask
from chat.database import WAIT_S
from chat.errors import ModelNotAllowed
from chat.keys import Caller
from chat.runtime import chat
from providers import runtime
from providers.provider import Provider
from providers.router import AUTO, NoProviderReady, Route, choose, listed_models


async def route(caller: Caller, ask: Ask) -> Route:
    """Decide who answers. Raises ProviderError, NotAllowed, DatabaseUnavailable."""
    engine = runtime.engine()
    # `auto` passes over providers whose default model is not for this key, unless that leaves none.
    fitting = {it.name for it in engine.providers.values() if _may_use(caller, it, it.default_model)}
    may_use = fitting.__contains__ if fitting else caller.may_use_provider
    try:
        chosen = choose(engine, provider=ask.provider, model=ask.model, may_use=may_use)
    except NoProviderReady:
        await engine.find_programs()
        chosen = choose(engine, provider=ask.provider, model=ask.model, may_use=may_use)
    caller.check_provider(chosen.provider.name)
    model = chosen.model or chosen.provider.default_model
    caller.check_model(model)
    if caller.limits.has_budget and not chosen.provider.info.reports_cost:
        await _require_price(chosen.provider.name, model)
    return chosen


def _may_use(caller: Caller, provider: Provider, model: str) -> bool:
    try:
        caller.check_model(model)
    except ModelNotAllowed:
        return False
    return caller.may_use_provider(provider.name)


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
