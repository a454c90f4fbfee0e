"""A decision as it is told: on a line, and as JSON."""

from __future__ import annotations

import re
from typing import Any

from providers.route import Decision, Nature

TOKEN = re.compile(r"[A-Za-z0-9._-]+")
# Read one by one: `asdict` copies every value, and each turn is explained.
NATURE_FIELDS = tuple(Nature.__dataclass_fields__)


def describe(decision: Decision, provider: str = "") -> str:
    """The decision in a line: `claude; rule=code`, `gemini; score`, `claude; rule="long context"`.

    `provider` is who answered, if that is not the first choice.
    """
    kind, _, name = decision.reason.partition("=")
    reason = f"{kind}={_quoted(name)}" if name else kind
    return f"{provider or decision.first.provider.name}; {reason}"


def _quoted(name: str) -> str:
    """A rule's name, which is the owner's text, so that it ends where it ends."""
    if TOKEN.fullmatch(name):
        return name
    return '"' + re.sub(r'[\x00-\x1f\x7f"\\]', "'", name).encode("ascii", "replace").decode() + '"'


def explain(decision: Decision) -> dict[str, Any]:
    """The whole decision as JSON, without anything the caller wrote but the model's name."""
    return {
        "provider": decision.first.provider.name,
        "model": decision.first.model or decision.first.provider.default_model,
        "reason": decision.reason,
        "choices": [
            {"provider": it.provider.name, "model": it.model or it.provider.default_model} for it in decision.choices
        ],
        "rejected": [{"name": name, "why": why} for name, why in decision.rejected],
        "nature": {name: getattr(decision.nature, name) for name in NATURE_FIELDS},
    }
