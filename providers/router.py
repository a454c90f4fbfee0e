"""Which provider takes a turn, who is asked if that one fails, and why: named, by a rule, by its session, by score."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from providers.engine import Engine
from providers.errors import ModelUnknown, ProviderError, ProviderUnavailable
from providers.provider import Provider
from providers.route import AUTO, Choice, Decision, Nature, Wish
from providers.rules import SMALL, Rule, Target, drawn_for, in_drawn_order, matches
from providers.score import score

MayUse = Callable[[str, str], bool]


class NoProviderReady(ProviderUnavailable):
    code = "no_provider_ready"


def decide(
    engine: Engine,
    wish: Wish,
    nature: Nature,
    *,
    may_use: MayUse = lambda provider, model: True,
    now: datetime | None = None,
    tried: Collection[str] = (),
    label: str = "",
) -> Decision:
    """Decide who answers, and who does if that one fails before its first word.

    What is named is taken whatever its state; whether the caller may use it is for the caller of this to check. All
    others have to be of use for this request: of those `may_use(provider, model)` allows and that are not `tried` yet.
    `label` (a session) has the same target of a rule drawn each time. Raises ProviderUnknown, ModelUnknown. When
    nothing was named and nothing is of use it raises NoProviderReady, or ParameterUnsupported if nobody ever could.
    """
    asked = read_wish(engine, wish)
    return _Router(engine, asked, nature, may_use, now or datetime.now(UTC), tried, label).decide()


def read_wish(engine: Engine, wish: Wish) -> Wish:
    """The wish with `auto` left out and a provider's name, or one before a slash, taken out of the model's.

    Raises ModelUnknown where both name providers and differ.
    """
    provider = "" if wish.provider == AUTO else wish.provider
    model = "" if wish.model == AUTO else wish.model
    prefix, slash, rest = model.partition("/")
    if slash and prefix in engine.providers:
        if provider not in ("", prefix):
            raise ModelUnknown(f"the model is one of {prefix}, the provider asked for is {provider[:50]}")
        provider, model = prefix, rest
    elif not provider and model in engine.providers:
        provider = model
    return replace(wish, provider=provider, model="" if model in (AUTO, provider) else model)


def listed_models(engine: Engine) -> dict[str, str]:
    """Every name `model` accepts without a `provider`, with the provider it leads to; `auto` leads to none by name."""
    names = {AUTO: AUTO}
    for provider in engine.providers.values():
        names.setdefault(provider.name, provider.name)
        for model in (*provider.models, *provider.aliases):
            names.setdefault(f"{provider.name}/{model}", provider.name)
            names.setdefault(model, provider.name)
    return names


@dataclass(slots=True)
class _Router:
    """One decision while it is made. `rejected` tells of each that was passed over the first reason there was."""

    engine: Engine
    wish: Wish
    nature: Nature
    may_use: MayUse
    now: datetime
    tried: Collection[str]
    label: str
    rejected: dict[str, str] = field(default_factory=dict)
    _obstacles: dict[tuple[str, str], ProviderError | None] = field(default_factory=dict)

    def decide(self) -> Decision:
        self._check_fallback()
        if self.wish.provider:
            return self._named()
        for rule in self.engine.rules:
            if matches(rule, self.wish, self.nature, self.now) and (choices := self._targets(rule)):
                return self._decided(choices, f"rule={rule.name}", rule.fallback)
        if self.wish.model:
            return self._by_model()
        stays_with = self.engine.providers.get(self.wish.stays_with)
        if stays_with is not None and self._is_of_use(stays_with, None):
            return self._decided([Choice(stays_with)], "session")
        return self._decided([self._best()], "score")

    def _check_fallback(self) -> None:
        """A name of the caller's that nobody has is a mistake to be told. Raises ProviderUnknown."""
        for word in self.wish.fallback if isinstance(self.wish.fallback, tuple) else ():
            self.engine.provider(_split(word)[0])

    # --- the first choice ------------------------------------------------------------------------------------------

    def _named(self) -> Decision:
        provider = self.engine.provider(self.wish.provider)
        first = Choice(provider, _model_of(provider, self.wish.model))
        chain = self._chain([first]) if self.wish.fallback else []
        return self._made([first, *chain], "named")

    def _by_model(self) -> Decision:
        model = self.wish.model
        having = [it for it in self.engine.providers.values() if _has(it, model)]
        having = having or [it for it in self.engine.providers.values() if _claims(it, model)]
        if not having:
            raise ModelUnknown(f"no provider has a model {model[:80]!r}; GET /v1/models lists what there is")
        ranked = [it for it in _by_score(having) if self._is_of_use(it, _model_of(it, model), is_named=True)]
        first, *others = [Choice(it, _model_of(it, model)) for it in ranked or having[:1]]
        if self.wish.fallback is True:
            return self._made([first, *others], "model")
        return self._made([first, *(self._chain([first]) if self.wish.fallback else [])], "model")

    def _targets(self, rule: Rule) -> list[Choice]:
        """Those of a rule's targets that are of use now; none passes the rule over."""
        # Drawn, not kept secret.
        drawn = drawn_for(f"{rule.name}\0{self.label}") if self.label else random.random()  # noqa: S311
        targets = in_drawn_order(rule, drawn)
        choices = self._useful([(target.provider, self._target_model(target)) for target in targets])
        if not choices:
            self.rejected[f"rule={rule.name}"] = "none of its targets is of use now"
        return choices

    def _target_model(self, target: Target) -> str:
        provider = self.engine.providers.get(target.provider)
        return provider.info.small_model if provider is not None and target.model == SMALL else target.model

    def _best(self) -> Choice:
        """The provider with the best score of those that are of use."""
        if ranked := self._ranked():
            return Choice(ranked[0])
        # The length is a guess: whoever takes most may yet take it.
        able = [it for it in self._candidates() if self._obstacle(it, None) is None and it.name not in self.tried]
        able = [it for it in able if it.info.lack(self.nature.needs) is None]
        if able:
            return Choice(max(able, key=lambda provider: provider.context_tokens))
        raise self._nobody()

    def _candidates(self) -> list[Provider]:
        providers = self.engine.providers.values()
        return [it for it in providers if not it.info.by_name_only and self.may_use(it.name, it.default_model)]

    def _ranked(self) -> list[Provider]:
        useful = [it for it in self.engine.providers.values() if self._is_of_use(it, None)]
        return _by_score(useful)

    def _nobody(self) -> ProviderError:
        candidates = self._candidates()
        lacks = [it.info.lack(self.nature.needs) for it in candidates]
        if lacks and lacks[0] is not None and all(lacks):
            return lacks[0]
        states = "; ".join(f"{it.name}: {it.state.replace('_', ' ')} ({it.mend})" for it in candidates)
        obstacles = [self._obstacle(it, None) for it in candidates]
        waits_s = [it.retry_after_s for it in obstacles if it is not None and it.retry_after_s is not None]
        message = f"no provider is ready: {states or 'none is enabled that answers without being named'}"
        return NoProviderReady(message, retry_after_s=min(waits_s, default=None))

    # --- who comes after it ----------------------------------------------------------------------------------------

    def _decided(self, first: list[Choice], reason: str, chain: tuple[str, ...] = ()) -> Decision:
        """A decision of the hub's own: others may answer, unless the caller wants none."""
        if self.wish.fallback is False:
            return self._made(first[:1], reason)
        return self._made([*first, *self._chain(first, chain)], reason)

    def _chain(self, first: list[Choice], chain: tuple[str, ...] = ()) -> list[Choice]:
        """Who else is asked: those the caller names, else the rule's or the hub's chain, else all by their score."""
        if isinstance(self.wish.fallback, tuple):
            return self._useful([_split(word) for word in self.wish.fallback], first, is_named=True)
        if names := chain or self.engine.fallback_chain:
            return self._useful([_split(word) for word in names], first)
        return self._useful([(it.name, "") for it in self._ranked()], first)

    def _useful(
        self, words: Iterable[tuple[str, str]], first: Iterable[Choice] = (), *, is_named: bool = False
    ) -> list[Choice]:
        """Those of use among (provider, model), without whom is there already."""
        present, choices = list(first), []
        for name, model in words:
            choice = self._choice(name, model)
            if choice is None or _is_among(choice, present):
                continue
            if self._is_of_use(choice.provider, choice.model, is_named=is_named):
                choices.append(choice)
                present.append(choice)
        return choices

    def _choice(self, name: str, model: str) -> Choice | None:
        provider = self.engine.providers.get(name)
        if provider is None:
            self.rejected.setdefault(name, "there is no such provider")
            return None
        if not model and _has(provider, self.wish.model):
            model = self.wish.model
        try:
            return Choice(provider, _model_of(provider, model))
        except ModelUnknown as error:
            self.rejected.setdefault(f"{name}/{model}", error.message)
            return None

    # --- who is of use ---------------------------------------------------------------------------------------------

    def _is_of_use(self, provider: Provider, model: str | None, *, is_named: bool = False) -> bool:
        why_not = self._why_not(provider, model, is_named=is_named)
        if why_not:
            self.rejected.setdefault(f"{provider.name}/{model}" if model else provider.name, why_not)
        return not why_not

    def _why_not(self, provider: Provider, model: str | None, *, is_named: bool) -> str:
        if provider.name in self.tried:
            return "it was tried already"
        if provider.info.by_name_only and not is_named:
            return "it answers only by name"
        if not self.may_use(provider.name, model or provider.default_model):
            return "this key may not use it"
        if (lack := provider.info.lack(self.nature.needs)) is not None:
            return lack.message
        if (obstacle := self._obstacle(provider, model)) is not None:
            return obstacle.message
        if self.nature.tokens > provider.context_tokens:
            return f"about {self.nature.tokens} tokens are more than the {provider.context_tokens} it takes"
        return ""

    def _obstacle(self, provider: Provider, model: str | None) -> ProviderError | None:
        """Looked for once: rule, score and chain may all ask for it."""
        asked = (provider.name, model or provider.default_model)
        if asked not in self._obstacles:
            self._obstacles[asked] = provider.obstacle(asked[1])
        return self._obstacles[asked]

    def _made(self, choices: list[Choice], reason: str) -> Decision:
        return Decision(tuple(choices), reason, tuple(self.rejected.items()), self.nature)


def _by_score(providers: list[Provider]) -> list[Provider]:
    """The best first; of equals the one that comes first in the hub's order."""
    return sorted(providers, key=lambda it: score(it.stats, load=it.load, used_quota=it.used_quota, state=it.state))


def _model_of(provider: Provider, model: str) -> str | None:
    """A model's name as its provider knows it; None for the default. Raises ModelUnknown."""
    if model in ("", AUTO, provider.name):
        return None
    if _has(provider, model):
        return provider.aliases.get(model, model)
    if not provider.info.model_prefixes:  # with them, a vendor has more models than the hub knows of
        raise ModelUnknown(f"{provider.name} has no model {model[:80]!r}; it has: {', '.join(provider.models)}")
    return model


def _has(provider: Provider, model: str) -> bool:
    return model in provider.models or model in provider.aliases


def _claims(provider: Provider, model: str) -> bool:
    return bool(provider.info.model_prefixes) and model.startswith(provider.info.model_prefixes)


def _is_among(choice: Choice, present: list[Choice]) -> bool:
    """Whether a provider is there already; with a model of its own it may be there twice."""
    return any(it.provider is choice.provider and choice.model in (None, it.model) for it in present)


def _split(word: str) -> tuple[str, str]:
    provider, _, model = word.partition("/")
    return provider, model
