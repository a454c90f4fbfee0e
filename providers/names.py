"""How the names may look that owners give to providers, models and variables, wherever they are written."""

from __future__ import annotations

import re

from providers.route import AUTO

PROVIDER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# A model's name ends up in a protocol's message, for some CLIs on a command line: it can't begin like a switch.
MODEL = re.compile(r"[\w][\w.:/@+\[\] -]{0,198}[\w\]]|\w", re.ASCII)


def is_provider(word: str) -> bool:
    return bool(PROVIDER.fullmatch(word)) and word != AUTO


def is_model(word: str) -> bool:
    return bool(MODEL.fullmatch(word))


def is_env(word: str) -> bool:
    return bool(ENV.fullmatch(word))


def is_link(word: str) -> bool:
    """Whether it can be a part of a chain: `provider`, or `provider/model`."""
    provider, slash, model = word.partition("/")
    return is_provider(provider) and (is_model(model) if slash else True)
