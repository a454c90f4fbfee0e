"""The page that tells which rule a request would hit, by what the form says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.utils import timezone

from providers.events import Message, Turn
from providers.nature import nature_of
from providers.route import Nature, Wish
from providers.rows import read_rows
from providers.rules import Rule, need_languages, try_rules

MAX_PROMPT = 2_000_000
MAX_NAME = 200


class TryForm(forms.Form):
    prompt = forms.CharField(
        label="Prompt", max_length=MAX_PROMPT, required=False, widget=forms.Textarea(attrs={"rows": 8, "cols": 100})
    )
    tokens = forms.IntegerField(
        label="Tokens", required=False, min_value=0, help_text="Empty: as long as the prompt above."
    )
    provider = forms.CharField(max_length=MAX_NAME, required=False, help_text="What the request names; empty: auto.")
    model = forms.CharField(max_length=MAX_NAME, required=False, help_text="What the request names; empty: auto.")
    key = forms.CharField(max_length=MAX_NAME, required=False, help_text="The name of the caller's key.")
    session_provider = forms.CharField(
        label="Session's provider", max_length=MAX_NAME, required=False, help_text="Empty: a new session."
    )
    has_images = forms.BooleanField(label="With images", required=False)
    has_tools = forms.BooleanField(label="With tools", required=False)
    wants_json = forms.BooleanField(label="JSON output", required=False)
    time = forms.DateTimeField(
        label="Time (UTC)",
        required=False,
        help_text="Empty: now.",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was asked: each rule with why it is not for the request. `hit` is the first that is."""

    nature: Nature
    rules: tuple[tuple[Rule, str], ...]
    now: datetime
    hit: Rule | None


def outcome_of(asked: Mapping[str, Any]) -> Outcome:
    rules = read_rows().rules
    nature = _nature(asked, with_languages=need_languages(rules))
    wish = Wish(asked["provider"], asked["model"], stays_with=asked["session_provider"], key=asked["key"])
    now = asked["time"] or timezone.now().astimezone(UTC)
    tried = tuple(try_rules(rules, wish, nature, now))
    return Outcome(nature, tried, now, next((rule for rule, why in tried if not why), None))


def _nature(asked: Mapping[str, Any], *, with_languages: bool) -> Nature:
    found = nature_of(Turn((Message("user", (asked["prompt"],)),)), with_languages=with_languages)
    tokens = found.tokens if asked["tokens"] is None else asked["tokens"]
    return replace(
        found,
        tokens=tokens,
        has_images=asked["has_images"],
        has_tools=asked["has_tools"],
        wants_json=asked["wants_json"],
    )
