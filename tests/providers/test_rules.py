"""Which requests a rule is for, and what it says when it is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from providers.default_rules import DEFAULT_RULES
from providers.route import Nature, Wish
from providers.rules import (
    Rule,
    Target,
    drawn_for,
    in_drawn_order,
    matches,
    need_languages,
    read_hours,
    try_rules,
    why_not,
)

# A Wednesday.
NOW = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)


def is_for(rule: dict[str, Any], wish: Wish | None = None, nature: Nature | None = None, now: datetime = NOW) -> bool:
    return matches(Rule("it", **rule), wish or Wish(), nature or Nature(), now)


def test_rule_without_conditions_is_for_all_that_names_nothing() -> None:
    assert is_for({})
    assert is_for({}, Wish(provider="auto", model="auto"))


@pytest.mark.parametrize("wish", [Wish(provider="one"), Wish(model="opus"), Wish(provider="one", model="opus")])
def test_rule_without_a_model_is_not_for_what_is_named(wish: Wish) -> None:
    assert not is_for({}, wish)


def test_rule_that_is_off_is_for_nothing() -> None:
    assert why_not(Rule("it", is_enabled=False), Wish(), Nature(), NOW) == "it is switched off"


@pytest.mark.parametrize(
    ("rule", "is_hit"),
    [
        ({"least_tokens": 100}, True),
        ({"least_tokens": 101}, False),
        ({"most_tokens": 100}, True),
        ({"most_tokens": 99}, False),
        ({"most_tokens": 0}, False),
        ({"is_code": True}, True),
        ({"is_code": False}, False),
        ({"languages": ("fr", "de")}, True),
        ({"languages": ("en",)}, True),
        ({"languages": ("fr",)}, False),
        ({"has_images": False}, True),
        ({"has_images": True}, False),
        ({"has_tools": True}, True),
        ({"has_tools": False}, False),
        ({"wants_json": False}, True),
        ({"wants_json": True}, False),
        ({"least_tokens": 50, "is_code": True, "languages": ("de",)}, True),
        ({"least_tokens": 50, "is_code": True, "languages": ("fr",)}, False),
    ],
)
def test_conditions_on_the_request(rule: dict[str, Any], is_hit: bool) -> None:
    nature = Nature(tokens=100, is_code=True, languages=("de", "en"), has_tools=True)
    assert is_for(rule, nature=nature) is is_hit


@pytest.mark.parametrize(
    ("patterns", "model", "is_hit"),
    [
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-*",), "gpt-4o-mini", True),
        (("gpt-*",), "my-gpt-4", False),
        (("*",), "whatever", True),
        (("*",), "", True),
        (("auto",), "", True),
        (("auto",), "gpt-4o", False),
        (("opus", "sonnet"), "sonnet", True),
        (("a.c",), "abc", False),
    ],
)
def test_condition_on_the_model(patterns: tuple[str, ...], model: str, is_hit: bool) -> None:
    assert is_for({"models": patterns}, Wish(model=model)) is is_hit


def test_condition_on_the_key() -> None:
    assert is_for({"keys": ("n8n", "cron")}, Wish(key="cron"))
    assert not is_for({"keys": ("n8n", "cron")}, Wish(key="alice"))


def test_condition_on_who_answered_in_the_session() -> None:
    assert is_for({"session_providers": ("one",)}, Wish(stays_with="one"))
    assert not is_for({"session_providers": ("one",)}, Wish(stays_with="two"))
    assert not is_for({"session_providers": ("one",)})
    assert is_for({"session_providers": ("new",)})
    assert not is_for({"session_providers": ("new",)}, Wish(stays_with="two"))


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "zone", "at", "is_hit"),
    [
        ("08:00-18:00", "UTC", (4, 8, 0), True),
        ("08:00-18:00", "UTC", (4, 17, 59), True),
        ("08:00-18:00", "UTC", (4, 18, 0), False),
        ("08:00-18:00", "UTC", (4, 7, 59), False),
        ("22:00-06:00", "UTC", (4, 22, 0), True),
        ("22:00-06:00", "UTC", (4, 0, 0), True),
        ("22:00-06:00", "UTC", (4, 5, 59), True),
        ("22:00-06:00", "UTC", (4, 6, 0), False),
        ("22:00-06:00", "UTC", (4, 21, 59), False),
        ("18:00-24:00", "UTC", (4, 23, 59), True),
        ("18:00-24:00", "UTC", (4, 0, 0), False),
        ("00:00-24:00", "UTC", (4, 0, 0), True),
        ("13:00-14:00", "Europe/Berlin", (4, 12, 30), True),
        ("12:00-13:00", "Europe/Berlin", (4, 12, 30), False),
        ("07:00-08:00", "America/New_York", (4, 12, 30), True),
    ],
)
def test_hours_of_the_day(hours: str, zone: str, at: tuple[int, int, int], is_hit: bool) -> None:
    now = datetime(2026, 3, *at, tzinfo=UTC)
    assert is_for({"hours": hours, "time_zone": zone}, now=now) is is_hit


def test_hours_follow_daylight_saving() -> None:
    rule = {"hours": "13:00-14:00", "time_zone": "Europe/Berlin"}
    assert not is_for(rule, now=datetime(2026, 7, 1, 12, 30, tzinfo=UTC))
    assert is_for(rule, now=datetime(2026, 7, 1, 11, 30, tzinfo=UTC))


def test_days_are_those_of_the_time_zone() -> None:
    late = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)
    assert is_for({"days": (2,)}, now=late)
    assert is_for({"days": (3,), "time_zone": "Europe/Berlin"}, now=late)
    assert not is_for({"days": (5, 6)}, now=late)


def test_hours_over_midnight_belong_to_the_day_they_begin_on() -> None:
    rule = {"hours": "22:00-06:00", "days": (2,)}
    assert is_for(rule, now=datetime(2026, 3, 4, 23, 0, tzinfo=UTC))
    assert is_for(rule, now=datetime(2026, 3, 5, 5, 0, tzinfo=UTC))
    assert not is_for(rule, now=datetime(2026, 3, 4, 5, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    "hours", ["", "8-18", "08:00", "24:30-25:00", "08:00-08:00", "24:00-01:00", "08:60-09:00", "x"]
)
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(ValueError):
        read_hours(hours)


@pytest.mark.parametrize(
    "rule", [{"hours": "soon"}, {"days": (1,), "time_zone": "Moon/Base"}, {"days": (1,), "time_zone": "/"}]
)
def test_rule_with_a_time_nobody_can_read_is_for_nothing(rule: dict[str, Any]) -> None:
    """A row written past the checks must not fail every request."""
    assert "can't be read" in why_not(Rule("it", **rule), Wish(), Nature(), NOW)


# --- telling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"least_tokens": 5}, "about 3 tokens are less than 5"),
        ({"most_tokens": 2}, "about 3 tokens are more than 2"),
        ({"is_code": True}, "it is no code"),
        ({"has_images": True}, "it has no images"),
        ({"languages": ("de", "fr")}, "its language is en, not de or fr"),
        ({"models": ("gpt-*",)}, "the model is auto, not gpt-*"),
        ({"keys": ("n8n",)}, "it is not for the key alice"),
        ({"session_providers": ("one",)}, "the session is new, not with one"),
        ({"hours": "22:00-06:00"}, "it is 12:30 in UTC, not 22:00-06:00"),
        ({"days": (5, 6)}, "it is Wednesday in UTC"),
        ({"is_code": True, "least_tokens": 5}, "about 3 tokens are less than 5"),
    ],
)
def test_first_condition_that_fails_is_told(rule: dict[str, Any], words: str) -> None:
    nature = Nature(tokens=3, languages=("en",))
    assert why_not(Rule("it", **rule), Wish(key="alice"), nature, NOW) == words


def test_every_rule_is_tried() -> None:
    rules = (Rule("code", is_code=True), Rule("long", least_tokens=10), Rule("all"))
    told = try_rules(rules, Wish(), Nature(is_code=True), NOW)
    assert [(rule.name, why) for rule, why in told] == [
        ("code", ""),
        ("long", "about 0 tokens are less than 10"),
        ("all", ""),
    ]


def test_languages_are_needed_only_by_rules_that_are_on() -> None:
    rule = Rule("it", languages=("de",))
    assert need_languages((Rule("other"), rule))
    assert not need_languages((Rule("other"), replace(rule, is_enabled=False)))


# --- targets ---------------------------------------------------------------------------------------------------------


def names(rule: Rule, drawn: float) -> list[str]:
    return [target.provider for target in in_drawn_order(rule, drawn)]


def test_targets_are_drawn_by_weight() -> None:
    rule = Rule("it", (Target("one", weight=3), Target("two", weight=1)))
    drawn = Counter(names(rule, at / 1_000)[0] for at in range(1_000))
    assert drawn == {"one": 750, "two": 250}


def test_whoever_is_not_drawn_comes_after_and_weight_nought_last() -> None:
    rule = Rule("it", (Target("last", weight=0), Target("one"), Target("two")))
    assert names(rule, 0.0) == ["one", "two", "last"]
    assert names(rule, 0.99) == ["two", "one", "last"]
    assert names(Rule("it", (Target("only", weight=0),)), 0.5) == ["only"]
    assert names(Rule("it"), 0.5) == []


def test_a_label_always_draws_the_same_and_labels_spread() -> None:
    assert drawn_for("session-1") == drawn_for("session-1")
    drawn = [drawn_for(f"session-{at}") for at in range(1_000)]
    assert 400 < sum(it < 0.5 for it in drawn) < 600
    assert all(0 <= it < 1 for it in drawn)


def test_default_rules_can_be_told_apart_and_read() -> None:
    assert len({rule.name for rule in DEFAULT_RULES}) == len(DEFAULT_RULES)
    assert all(rule.is_enabled and rule.targets for rule in DEFAULT_RULES)


@pytest.mark.parametrize(
    ("nature", "name"),
    [
        (Nature(tokens=500_000), "long context"),
        (Nature(tokens=500_000, has_images=True), "images"),
        (Nature(tokens=2_000, is_code=True), "code"),
        (Nature(tokens=20), "short"),
        (Nature(tokens=2_000), ""),
    ],
)
def test_default_rules_are_for_what_they_say(nature: Nature, name: str) -> None:
    hits = [rule.name for rule, why in try_rules(DEFAULT_RULES, Wish(), nature, NOW) if not why]
    assert (hits or [""])[0] == name
