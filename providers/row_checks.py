"""What a provider's or a rule's row may hold: asked by forms, by the REST API, and again when rows are loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeGuard

from django.conf import settings
from django.core.exceptions import ValidationError

from providers.names import is_env, is_link, is_model, is_provider
from providers.programs import is_never_passed
from providers.registry import adapters_by_name
from providers.rules import NEW, read_hours, zone_of

if TYPE_CHECKING:
    from providers.models import ProviderRow, RouteRule

LANGUAGE = re.compile(r"[a-z]{2,3}")
RULE_NAME = re.compile(r"[\w][\w .,:+-]{0,59}")

MOST_WORDS = 200
MOST_WORKERS = 1_000
MOST_MB = 1_048_576
MOST_TOKENS = 100_000_000
MOST_WEIGHT = 1_000_000

Faults = Iterator[tuple[str, str]]
Fits = Callable[[str], bool]

# By column the least and the most it may be, both included.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "context_tokens": (1, MOST_TOKENS),
    "floor": (0, MOST_WORKERS),
    "ceiling": (1, MOST_WORKERS),
    "memory_mb": (0, MOST_MB),
    "rss_mb": (0, MOST_MB),
    "nice": (0, 19),
    "cpu_weight": (0, 10_000),
    "cpu_s": (0, 10_000_000),
    "max_processes": (0, 10_000),
    "memory_max_mb": (0, MOST_MB),
    "ready_s": (0.1, 600),
    "first_event_s": (0.1, 3_600),
    "silence_s": (0.1, 3_600),
    "turn_s": (0.1, 86_400),
    "requests_per_minute": (0, 1_000_000),
    "concurrent_turns": (0, 100_000),
}


def check_provider(row: ProviderRow) -> None:
    """Raises ValidationError, with the columns that can't be as they are."""
    _raise(_provider_faults(row))


def check_rule(row: RouteRule) -> None:
    """Raises ValidationError, with the columns that can't be as they are."""
    _raise(_rule_faults(row))


def _raise(faults: Faults) -> None:
    found: dict[str, list[str]] = {}
    for column, why in faults:
        found.setdefault(column, []).append(why)
    if found:
        raise ValidationError(found)


# --- providers -------------------------------------------------------------------------------------------------------


def _provider_faults(row: ProviderRow) -> Faults:
    if not is_provider(row.name) or row.name == NEW:
        yield "name", "A small letter, then small letters, digits, - and _, 32 in all; `auto` and `new` are taken."
    if row.adapter not in adapters_by_name():
        yield "adapter", f"There is no such adapter; there are {', '.join(adapters_by_name())}."
    yield from _program_faults(row)
    yield from _word_faults("extra_env", row.extra_env, is_allowed_env, "is not in HUB_ALLOWED_ENV")
    if row.default_model and not is_model(row.default_model):
        yield "default_model", "That is no model's name."
    yield from _word_faults("model_names", row.model_names, is_model, "is no model's name")
    yield from _alias_faults(row.aliases)
    for column, (least, most) in BOUNDS.items():
        yield from _bound_faults(column, getattr(row, column), least, most)
    if _is_number(row.floor) and _is_number(row.ceiling) and row.floor > row.ceiling:
        yield "floor", "More workers would be kept ready than there may be."


def _program_faults(row: ProviderRow) -> Faults:
    adapter = adapters_by_name().get(row.adapter)
    allowed = settings.HUB_PROVIDER_SETTINGS.allowed_commands
    if row.binary and (row.binary,) not in allowed:
        yield "binary", "It is not in HUB_ALLOWED_COMMANDS."
    if row.binary and adapter and (adapter.info.needs_command or not adapter.info.program):
        yield "binary", "This adapter has no program of its own."
    if not is_words(row.command):
        yield "command", "It is a list of words."
    elif row.command and tuple(row.command) not in allowed:
        yield "command", "This command line, word for word, is not in HUB_ALLOWED_COMMANDS."
    elif row.command and adapter and not adapter.info.needs_command:
        yield "command", "This adapter runs its own program: name it as binary."


def is_allowed_env(name: str) -> bool:
    allowed = settings.HUB_PROVIDER_SETTINGS.allowed_env
    return is_env(name) and name in allowed and not is_never_passed(name)


def is_words(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) <= MOST_WORDS and all(isinstance(it, str) for it in value)


def _word_faults(column: str, value: object, fits: Fits, problem: str) -> Faults:
    if not is_words(value):
        yield column, f"It is a list of at most {MOST_WORDS} words."
        return
    for word in value:
        if not fits(word):
            yield column, f"{_shown(word)} {problem}."
            return


def _alias_faults(value: object) -> Faults:
    if not isinstance(value, dict) or len(value) > MOST_WORDS:
        yield "aliases", f"It is a map of at most {MOST_WORDS} names to models."
        return
    for alias, model in value.items():
        if not (isinstance(alias, str) and is_model(alias) and isinstance(model, str) and is_model(model)):
            yield "aliases", f"{_shown(alias)}: {_shown(model)} are no models' names."
            return


def _bound_faults(column: str, value: object, least: float, most: float) -> Faults:
    if value is not None and not (_is_number(value) and least <= value <= most):
        yield column, f"It is a number of {least:g} to {most:g}, or empty."


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(word: object) -> str:
    return repr(word)[:60]


# --- rules -----------------------------------------------------------------------------------------------------------


def _rule_faults(row: RouteRule) -> Faults:
    if not RULE_NAME.fullmatch(row.name):
        yield "name", "Letters, digits, blanks and . , : + - _, 60 in all: it is sent in a header."
    yield from _target_faults(row.targets)
    yield from _word_faults("fallback", row.fallback, is_link, "is no provider, nor a provider/model")
    for column in ("least_tokens", "most_tokens"):
        yield from _bound_faults(column, getattr(row, column), 0, MOST_TOKENS)
    if _is_number(row.least_tokens) and _is_number(row.most_tokens) and row.least_tokens > row.most_tokens:
        yield "most_tokens", "No request has so many tokens at least, and so many at most."
    for column in ("is_code", "has_images", "has_tools", "wants_json"):
        if getattr(row, column) not in (None, True, False):
            yield column, "It is true, false or empty."
    yield from _word_faults("languages", row.languages, _is_language, "is no ISO 639-1 code, such as en")
    yield from _word_faults("model_names", row.model_names, _is_pattern, "is no model's name, nor the beginning of one")
    yield from _word_faults("keys", row.keys, _is_label, "is no key's name")
    yield from _word_faults("session_providers", row.session_providers, is_provider, f"is no provider, nor `{NEW}`")
    yield from _time_faults(row)


def _target_faults(value: object) -> Faults:
    if not isinstance(value, list) or not 0 < len(value) <= MOST_WORDS:
        yield "targets", "A rule needs a target."
        return
    for target in value:
        if not _is_target(target):
            yield "targets", f"{_shown(target)} is no target: provider, model, weight."
            return


def _is_target(value: object) -> bool:
    match value:
        case {"provider": str(provider), "model": str(model), "weight": int(weight), **rest} if not rest:
            return is_provider(provider) and (not model or is_model(model)) and 0 <= weight <= MOST_WEIGHT
    return False


def _is_language(word: str) -> bool:
    return bool(LANGUAGE.fullmatch(word))


def _is_pattern(word: str) -> bool:
    # Where it ends a beginning is cut, often behind a dash: `gpt-*`.
    return word == "*" or is_model(f"{word[:-1]}x" if word.endswith("*") else word)


def _is_label(word: str) -> bool:
    return word.isprintable() and 0 < len(word) <= 100


def _time_faults(row: RouteRule) -> Faults:
    try:
        if row.hours:
            read_hours(row.hours)
    except ValueError as error:
        yield "hours", f"{error}."
    try:
        zone_of(row.time_zone or "UTC")
    except ValueError as error:
        yield "time_zone", f"{error}."
    days = row.days
    if not isinstance(days, list) or not all(type(it) is int and 0 <= it <= 6 for it in days):
        yield "days", "Days are numbers from 0 (Monday) to 6."
