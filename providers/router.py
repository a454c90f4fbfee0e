"""Which provider takes a turn: the one that is named, the one that has the model, or the first that is ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from providers.engine import Engine
from providers.errors import ModelUnknown, ProviderUnavailable
from providers.provider import Provider

AUTO = "auto"


class NoProviderReady(ProviderUnavailable):
    code = "no_provider_ready"


@dataclass(frozen=True, slots=True)
class Route:
    """The decision; `model` is None for the provider's default."""

    provider: Provider
    model: str | None


def choose(
    engine: Engine, *, provider: str = "", model: str = "", may_use: Callable[[str], bool] = lambda name: True
) -> Route:
    """Decide by what the caller named; empty or `auto` leaves the choice among the providers it may use.

    Raises ProviderUnknown, ModelUnknown, or NoProviderReady when nothing was named and nothing is usable.
    """
    if "/" in model and model.split("/", 1)[0] in engine.providers:
        prefix, model = model.split("/", 1)
        if provider not in ("", AUTO, prefix):
            raise ModelUnknown(f"the model is one of {prefix}, the provider asked for is {provider[:50]}")
        provider = prefix
    if provider not in ("", AUTO):
        return _with_model(engine.provider(provider), model)
    if model in ("", AUTO):
        return Route(_first_ready(engine, may_use), None)
    if model in engine.providers:
        return Route(engine.provider(model), None)
    return _with_model(_owner_of(engine, model), model)


def listed_models(engine: Engine) -> dict[str, str]:
    """Every name `model` accepts without a `provider`, with the provider it leads to; `auto` leads to none by name."""
    names = {AUTO: AUTO}
    for provider in engine.providers.values():
        names.setdefault(provider.name, provider.name)
        for model in provider.info.models:
            names.setdefault(f"{provider.name}/{model}", provider.name)
            names.setdefault(model, provider.name)
    return names


def _with_model(provider: Provider, model: str) -> Route:
    if model in ("", AUTO, provider.name):
        return Route(provider, None)
    others_are_vendors = bool(provider.info.model_prefixes)
    if not others_are_vendors and model not in provider.info.models:
        raise ModelUnknown(f"{provider.name} has no model {model[:80]!r}; it has: {', '.join(provider.info.models)}")
    return Route(provider, model)


def _owner_of(engine: Engine, model: str) -> Provider:
    for provider in engine.providers.values():
        if model in provider.info.models or model.startswith(provider.info.model_prefixes or ("\0",)):
            return provider
    raise ModelUnknown(f"no provider has a model {model[:80]!r}; GET /v1/models lists what there is")


def _first_ready(engine: Engine, may_use: Callable[[str], bool]) -> Provider:
    candidates = [it for it in engine.providers.values() if not it.info.by_name_only and may_use(it.name)]
    usable = [provider for provider in candidates if provider.may_be_tried]
    if usable:
        return min(usable, key=lambda provider: provider.state != "ready")
    states = "; ".join(f"{it.name}: {it.state.replace('_', ' ')} ({it.mend})" for it in candidates)
    message = f"no provider is ready: {states or 'none is enabled that answers without being named'}"
    raise NoProviderReady(message)
