"""The owner's rules: which requests they are for, and who is to answer these.

A rule is for a request of which every condition holds that it sets. It says nothing about a request that names its
provider; about one that names a model only if it sets a condition on models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zlib import crc32
from zoneinfo import ZoneInfo

from providers.route import AUTO, Nature, Wish

# Instead of a provider's name, for a conversation that has no answer yet.
NEW = "new"
# Instead of a model's name, for the one that answers short questions quickest.
SMALL = "small"

HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
DAY_MINUTES = 24 * 60
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Target:
    """Who is to answer. An empty `model` is the provider's default, `small` its small one.

    Of several targets one is drawn by `weight`; one of weight 0 comes only after all others.
    """

    provider: str
    model: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions that are None or empty are not set.

    `models` are names or, with `*` at their end, beginnings of names; `keys` the labels of callers' keys.
    `session_providers` hold who answered in the session last, or `new`. `hours` are `HH:MM-HH:MM` in `time_zone`, on
    `days` (0 is Monday); hours over midnight belong to the day they begin on. `fallback` is the chain of providers
    (or `provider/model`) after the targets, empty for the one that holds for all.
    """

    name: str
    targets: tuple[Target, ...] = ()
    fallback: tuple[str, ...] = ()
    is_enabled: bool = True
    least_tokens: int | None = None
    most_tokens: int | None = None
    is_code: bool | None = None
    languages: tuple[str, ...] = ()
    has_images: bool | None = None
    has_tools: bool | None = None
    wants_json: bool | None = None
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    session_providers: tuple[str, ...] = ()
    hours: str = ""
    time_zone: str = "UTC"
    days: tuple[int, ...] = ()


def matches(rule: Rule, wish: Wish, nature: Nature, now: datetime) -> bool:
    """Whether a rule is for this request; `now` needs a time zone."""
    return not why_not(rule, wish, nature, now)


def why_not(rule: Rule, wish: Wish, nature: Nature, now: datetime) -> str:
    """The first condition that does not hold, in words; empty if the rule is for this request."""
    if not rule.is_enabled:
        return "it is switched off"
    return _by_wish(rule, wish) or _by_nature(rule, nature) or _by_time(rule, now)


def try_rules(rules: tuple[Rule, ...], wish: Wish, nature: Nature, now: datetime) -> list[tuple[Rule, str]]:
    """Every rule with why it is not for this request, empty if it is. The first of these decides, if it can."""
    return [(rule, why_not(rule, wish, nature, now)) for rule in rules]


def need_languages(rules: tuple[Rule, ...]) -> bool:
    """Whether any rule has to know the languages of a text."""
    return any(rule.is_enabled and rule.languages for rule in rules)


def in_drawn_order(rule: Rule, drawn: float) -> list[Target]:
    """The rule's targets, the one drawn first; `drawn` is 0 to below 1. Those of weight 0 come last."""
    weighted = [target for target in rule.targets if target.weight > 0]
    left = drawn * sum(target.weight for target in weighted)
    for target in weighted:
        left -= target.weight
        if left < 0:
            return [target, *(it for it in weighted if it is not target), *_last(rule)]
    return [*weighted, *_last(rule)]


def drawn_for(label: str) -> float:
    """0 to below 1, always the same for a label."""
    return crc32(label.encode(errors="replace")) / 2**32


def _last(rule: Rule) -> list[Target]:
    return [target for target in rule.targets if target.weight <= 0]


# --- the conditions --------------------------------------------------------------------------------------------------


def _by_wish(rule: Rule, wish: Wish) -> str:
    if wish.provider not in ("", AUTO):
        return "the request names its provider"
    if wish.model not in ("", AUTO) and not rule.models:
        return "the request names its model"
    if rule.models and not _is_meant(wish.model or AUTO, rule.models):
        return f"the model is {wish.model or AUTO}, not {_any_of(rule.models)}"
    if rule.keys and wish.key not in rule.keys:
        return f"it is not for the key {wish.key or 'none'}"  # whose it is, is told to no other key
    if rule.session_providers and (wish.stays_with or NEW) not in rule.session_providers:
        return f"the session is {_session(wish.stays_with)}, not {_any_of(map(_session, rule.session_providers))}"
    return ""


def _by_nature(rule: Rule, nature: Nature) -> str:
    if rule.least_tokens is not None and nature.tokens < rule.least_tokens:
        return f"about {nature.tokens} tokens are less than {rule.least_tokens}"
    if rule.most_tokens is not None and nature.tokens > rule.most_tokens:
        return f"about {nature.tokens} tokens are more than {rule.most_tokens}"
    if rule.is_code is not None and rule.is_code != nature.is_code:
        return "it is code" if nature.is_code else "it is no code"
    if rule.has_images is not None and rule.has_images != nature.has_images:
        return "it has images" if nature.has_images else "it has no images"
    if rule.has_tools is not None and rule.has_tools != nature.has_tools:
        return "it has tools" if nature.has_tools else "it has no tools"
    if rule.wants_json is not None and rule.wants_json != nature.wants_json:
        return "it wants JSON" if nature.wants_json else "it does not want JSON"
    if rule.languages and not any(it in rule.languages for it in nature.languages):
        return f"its language is {_any_of(nature.languages) or 'not known'}, not {_any_of(rule.languages)}"
    return ""


def _by_time(rule: Rule, now: datetime) -> str:
    if not rule.hours and not rule.days:
        return ""
    try:
        local = _local(now, rule.time_zone)
        begins, ends = read_hours(rule.hours) if rule.hours else (0, DAY_MINUTES)
    except ValueError as error:  # a row that was written past the checks
        return f"its hours can't be read: {error}"
    minute = local.hour * 60 + local.minute
    is_after_midnight = ends <= begins and minute < ends
    if not (begins <= minute < ends or (ends <= begins and (minute >= begins or is_after_midnight))):
        return f"it is {local:%H:%M} in {rule.time_zone}, not {rule.hours}"
    day = (local - timedelta(days=is_after_midnight)).weekday()
    if rule.days and day not in rule.days:
        return f"it is {DAYS[day]} in {rule.time_zone}"
    return ""


@lru_cache(maxsize=256)
def read_hours(hours: str) -> tuple[int, int]:
    """`HH:MM-HH:MM` as minutes of the day, `24:00` its end. Raises ValueError."""
    found = HOURS.fullmatch(hours)
    if found is None:
        raise ValueError(f"{hours[:40]!r} is not of the form HH:MM-HH:MM")
    first_hour, first_minute, last_hour, last_minute = map(int, found.groups())
    begins, ends = first_hour * 60 + first_minute, last_hour * 60 + last_minute
    if ends > DAY_MINUTES or begins == ends:
        raise ValueError(f"{hours!r} is no part of a day")
    return begins, ends


@lru_cache(maxsize=64)
def _local(now: datetime, zone: str) -> datetime:
    """Remembered, because all rules of a decision ask for the same moment."""
    return now.astimezone(zone_of(zone))


def zone_of(name: str) -> tzinfo:
    """Raises ValueError."""
    if name == "UTC":  # also where the system has no time zones
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise ValueError(f"there is no time zone {name[:40]!r}") from exc


def _is_meant(model: str, patterns: tuple[str, ...]) -> bool:
    if model in patterns:
        return True
    return any(pattern[-1:] == "*" and model.startswith(pattern[:-1]) for pattern in patterns)


def _session(provider: str) -> str:
    return NEW if provider in ("", NEW) else f"with {provider}"


def _any_of(words: Iterable[str]) -> str:
    return " or ".join(words)
