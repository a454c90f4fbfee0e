"""A decision and what was tried, as told to callers and written into a turn's record."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from providers.route import Attempt, Choice, Decision
from providers.telling import describe, explain


def choice_of(decision: Decision, provider: str) -> Choice | None:
    """The choice that stands for a provider; None if there is none."""
    return next((choice for choice in decision.choices if choice.provider.name == provider), None)


def route_text(decision: Decision, *, answered: str = "") -> str:
    """The decision on a line, with the provider first that answered."""
    return describe(decision, answered if choice_of(decision, answered) else "")


def route_headers(decision: Decision, attempts: Iterable[Attempt], *, answered: str = "") -> dict[str, str]:
    """X-Hub-Route and X-Hub-Attempts; `answered` is the provider that did."""
    told = ", ".join(f"{it.provider}={it.code or 'ok'} {it.ms}ms" for it in attempts)
    return {"X-Hub-Route": route_text(decision, answered=answered), "X-Hub-Attempts": told}


def as_record(decision: Decision, attempts: Iterable[Attempt]) -> str:
    """The whole of it, as JSON."""
    tried = [{"provider": it.provider, "model": it.model, "code": it.code or "ok", "ms": it.ms} for it in attempts]
    return orjson.dumps({**explain(decision), "attempts": tried}).decode()
