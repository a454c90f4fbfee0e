"""The form of an API key. What the columns hold as JSON is ticked or listed here."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError
from django.utils import timezone

from chat.models import SCOPES, ApiKey, default_scopes
from providers.rows import provider_names

if TYPE_CHECKING:
    KeyModelForm = forms.ModelForm[ApiKey]
else:
    KeyModelForm = forms.ModelForm

MAX_COUNT = 2**31 - 1  # what every database's column takes
MAX_TTL_S = 31_536_000
MAX_PATTERN_CHARS = 200

SCOPE_LABELS = {
    "chat": "chat: ask models, by REST and WebSocket",
    "sessions": "sessions: read, list and delete the owner's conversations",
    "mcp": "mcp: the MCP server's tools",
    "admin": "admin: what concerns the whole hub, not this owner alone",
}


class PatternsField(forms.CharField):
    """A list of texts, written with commas between them."""

    def prepare_value(self, value: Any) -> str:
        return ", ".join(as_list(value)) if isinstance(value, list) else str(value or "")

    def to_python(self, value: Any) -> Any:
        words = str(value or "").replace("\n", ",").split(",")
        return list(dict.fromkeys(word.strip() for word in words if word.strip()))

    def validate(self, value: Any) -> None:
        if too_long := [word for word in value if len(word) > MAX_PATTERN_CHARS]:
            raise ValidationError(f"A model's name has at most {MAX_PATTERN_CHARS} characters: {too_long[0][:40]}...")

    def run_validators(self, value: Any) -> None:
        """They are for single texts."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(as_list(initial) != self.to_python(data))


def as_list(value: object) -> list[str]:
    """As the key ring reads such a column: what is no list must not read as an empty one, which would allow all."""
    if isinstance(value, list):
        return [str(it) for it in value]
    return [str(value)] if value else []


def _ticks(label: str, help_text: str, *, required: bool = False) -> forms.MultipleChoiceField:
    return forms.MultipleChoiceField(
        label=label, help_text=help_text, required=required, widget=forms.CheckboxSelectMultiple
    )


def _count(label: str, help_text: str, *, least: int = 0, most: int = MAX_COUNT) -> forms.IntegerField:
    return forms.IntegerField(label=label, help_text=help_text, required=False, min_value=least, max_value=most)


def _dollars(label: str, what: str) -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        help_text=f"US dollars per {what} (UTC). Empty: no limit. 0: nothing may be spent. "
        "A budget also refuses turns whose price is unknown.",
        required=False,
        min_value=Decimal(0),
        max_digits=12,
        decimal_places=4,
    )


class LabelledSplitDateTime(AdminSplitDateTime):
    """Its two fields have no label of their own that a screen reader would find."""

    def __init__(self, label: str) -> None:
        super().__init__()
        for widget, part in zip(self.widgets, ("date", "time"), strict=True):
            widget.attrs["aria-label"] = f"{label}, {part}"


class KeyForm(KeyModelForm):
    """Its choices are the scopes and providers there are, and those the key already has."""

    expires_at = forms.SplitDateTimeField(
        label="Expires",
        required=False,
        widget=LabelledSplitDateTime("Expires"),
        help_text="UTC. From then on the key is refused. Empty: never.",
    )
    scopes = _ticks("Scopes", "What the key opens.", required=True)
    allowed_providers = _ticks("Providers", "None ticked: all, also those that are added later.")
    allowed_models = PatternsField(
        label="Models",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "cols": 80}),
        help_text="Commas between them; * stands for any characters: <code>sonnet, gemini-*</code>. Empty: all models.",
    )
    requests_per_minute = _count("Requests per minute", "")
    tokens_per_minute = _count("Tokens per minute", "Prompt and answer together. Empty or 0: no limit.")
    tokens_per_day = _count(
        "Tokens per day", "Prompt and answer together, by the calendar day (UTC). Empty or 0: none."
    )
    concurrent_turns = _count("Concurrent turns", "Questions under way at the same time. Empty or 0: no limit.")
    budget_day_usd = _dollars("Budget per day", "calendar day")
    budget_month_usd = _dollars("Budget per month", "calendar month")
    session_ttl_s = _count("Session lifetime", "", least=1, most=MAX_TTL_S)
    fallback = forms.BooleanField(
        label="Fallback",
        required=False,
        help_text="Where a request names a provider that fails before its first word, another one may answer. "
        "A request may say otherwise; without a provider's name others may always answer.",
    )

    may_give_admin = False  # by whoever fills it in

    class Meta:
        model = ApiKey
        fields = (
            *("name", "owner", "expires_at", "scopes", "allowed_providers", "allowed_models", "fallback"),
            *("requests_per_minute", "concurrent_turns", "tokens_per_minute", "tokens_per_day"),
            *("budget_day_usd", "budget_month_usd", "session_ttl_s"),
        )
        help_texts = {
            "name": "What the key is for, for example n8n.",
            "owner": "Keys of one owner share sessions; all others don't see them. It stays as it is.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._offer("scopes", [it for it in SCOPES if it != "admin" or self.may_give_admin], SCOPE_LABELS)
        self._offer("allowed_providers", provider_names(), {})
        if "session_ttl_s" in self.fields:
            per_minute = settings.HUB_KEY_REQUESTS_PER_MINUTE or "no limit"
            self.fields[
                "requests_per_minute"
            ].help_text = f"Empty: the hub's setting, HUB_KEY_REQUESTS_PER_MINUTE ({per_minute}). 0: no limit."
            self.fields["session_ttl_s"].help_text = (
                "Seconds a conversation stays open after its last turn. "
                f"Empty: the hub's setting, HUB_SESSION_TTL_S ({settings.HUB_SESSION_TTL_S})."
            )

    def _offer(self, name: str, words: Iterable[str], labels: dict[str, str]) -> None:
        """A word that is no longer known stays offered: without it, saving would drop it, and none means all."""
        field = self.fields.get(name)
        if not isinstance(field, forms.MultipleChoiceField):
            return
        self.initial[name] = as_list(self.initial.get(name, default_scopes() if name == "scopes" else []))
        known = dict.fromkeys([*words, *self.initial[name]])
        field.choices = [(word, labels.get(word, word)) for word in known]

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and self.instance._state.adding and expires_at <= timezone.now():
            raise ValidationError("A new key can't have expired already.")
        return expires_at
