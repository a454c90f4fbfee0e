from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers

from chat.admin.base import ListAdmin, is_confirmed, shown_time
from chat.admin.filters import OwnerFilter
from chat.admin.key_forms import KeyForm, as_list
from chat.admin.key_usage import KeyList, last_use_of, look_up_usage, usage_of, with_last_use
from chat.keys import CannotRotate, KeyTerms, create_key, digest_of, revoke_key, rotate_key
from chat.models import ApiKey, TurnRecord
from chat.roles import may_give

REVOKE_NOTES = (
    "They are refused within a second, and for good: a revoked key can't be given back.",
    "A secret that was replaced and is still in its grace time ends with its key. Conversations and figures stay.",
)
ROTATE_NOTES = (
    "The key gets a new secret, shown once on the next page. Its limits, figures and conversations stay.",
    "The present secret holds on for 24 hours; one that was replaced before ends now.",
)


class Secrets(HttpRequest):
    """A request that has made a key: its secret is on its way to the answer and nowhere else."""

    new_secret: str


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("active", "active"), ("expired", "expired"), ("revoked", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        ended = Q(expires_at__lte=timezone.now())
        asked = {
            "active": Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now())),
            "expired": Q(revoked_at=None) & ended,
            "revoked": Q(revoked_at__isnull=False),
        }
        return queryset.filter(asked.get(self.value() or "", Q()))


@admin.register(ApiKey)
class ApiKeyAdmin(ListAdmin[ApiKey]):
    form = KeyForm
    list_display = (
        *("name", "owner", "shown_prefix", "state", "shown_scopes"),
        *("used_today", "last_used", "expires"),
    )
    list_filter = (StateFilter, OwnerFilter)
    search_fields = ("name", "owner", "^prefix", "^previous_prefix")
    search_help_text = "Name, owner, or how the key begins."
    sortable_by = ("name", "owner", "expires")
    actions = ("rotate", "revoke")
    readonly_fields = ("shown_prefix", "state", "revoked_at", "replaced", "created_at", "last_used", "used_today")
    fieldsets = (
        (None, {"fields": ("name", "owner", "expires_at")}),
        ("What it may use", {"fields": ("scopes", "allowed_providers", "allowed_models", "fallback")}),
        (
            "How much",
            {"fields": ("requests_per_minute", "concurrent_turns", "tokens_per_minute", "tokens_per_day")},
        ),
        ("Money", {"fields": ("budget_day_usd", "budget_month_usd")}),
        ("Sessions", {"fields": ("session_ttl_s",)}),
    )
    about = ("About this key", {"fields": readonly_fields})

    # --- what is shown

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return with_last_use(super().get_queryset(request))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[KeyList]:
        return KeyList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> ApiKey | None:
        key = super().get_object(request, object_id, from_field)
        look_up_usage([key] if key else [])
        return key

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        return (*self.fieldsets, self.about) if obj else self.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        # Under another owner the key would see that one's conversations, and lose its own.
        return (*self.readonly_fields, "owner") if obj else ()

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> type[KeyForm]:
        form = cast(type[KeyForm], super().get_form(request, *args, **kwargs))
        form.may_give_admin = may_give(request.user, ["admin"])
        return form

    @admin.display(description="key", ordering="prefix")
    def shown_prefix(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return "revoked"
        return "expired" if key.expires_at and key.expires_at <= timezone.now() else "active"

    @admin.display(description="replaced secret")
    def replaced(self, key: ApiKey) -> str | None:
        ends_at = key.previous_expires_at
        if ends_at is None or key.revoked_at:
            return None
        word = "holds on until" if ends_at > timezone.now() else "ended"
        return f"{key.previous_prefix}… {word} {shown_time(ends_at)} UTC"

    @admin.display(description="scopes")
    def shown_scopes(self, key: ApiKey) -> str:
        return ", ".join(as_list(key.scopes))

    @admin.display(description="today: turns / tokens / cost")
    def used_today(self, key: ApiKey) -> str:
        usage = usage_of(key)
        cost = "-" if usage.cost_usd is None else f"${usage.cost_usd:.4f}"
        return f"{usage.turns:,} / {usage.tokens:,} / {cost}"

    @admin.display(description="last used")
    def last_used(self, key: ApiKey) -> str | None:
        return shown_time(last_use_of(key))

    @admin.display(description="expires", ordering="expires_at")
    def expires(self, key: ApiKey) -> str | None:
        return shown_time(key.expires_at)

    # --- making and changing

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            # Only these: the key may have been rotated or revoked since the form was shown.
            obj.save(update_fields=form.changed_data)
            return
        terms = KeyTerms(**{it.name: form.cleaned_data[it.name] for it in fields(KeyTerms)})
        secret = create_key(obj.name, owner=obj.owner, terms=terms)
        obj.pk = ApiKey.objects.get(digest=digest_of(secret)).pk
        obj.refresh_from_db()
        cast(Secrets, request).new_secret = secret

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # The answer shows the key's value: there is nothing to go on with from here.
        hidden = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, {**hidden, **(extra_context or {})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        tools = [("rotate", "Rotate"), ("revoke", "Revoke")]
        return super().change_view(request, object_id, form_url, {"key_actions": tools, **(extra_context or {})})

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        return self._show_once(request, [(obj, cast(Secrets, request).new_secret)], title="The new key")

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """A key with turns is part of the record: it is revoked, not deleted."""
        if not getattr(request.user, "is_superuser", False) or not super().has_delete_permission(request, obj):
            return False
        return obj is None or not TurnRecord.objects.filter(key=obj).exists()

    # --- actions

    @admin.action(description="Rotate: give a new secret", permissions=["change"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        keys = [it for it in self._active(request, queryset) if self._may_rotate(request, it)]
        if not keys:
            return None
        if not is_confirmed(request):
            return self.ask(request, "rotate", keys, title="Rotate these keys?", notes=ROTATE_NOTES)
        made = [(key, secret) for key in keys if (secret := self._rotated(request, key))]
        return self._show_once(request, made, title="The new secret") if made else None

    def _may_rotate(self, request: HttpRequest, key: ApiKey) -> bool:
        if may_give(request.user, as_list(key.scopes)):
            return True
        self.message_user(request, f"{key} has the scope admin, which is not yours to give.", messages.ERROR)
        return False

    def _rotated(self, request: HttpRequest, key: ApiKey) -> str | None:
        try:
            secret = rotate_key(key)
        except CannotRotate as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
        self.log_change(request, key, "Rotated.")
        return secret

    @admin.action(description="Revoke: end for good", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        keys = self._active(request, queryset, or_expired=True)
        if keys and not is_confirmed(request):
            return self.ask(request, "revoke", keys, title="Revoke these keys?", notes=REVOKE_NOTES)
        for key in keys:
            revoke_key(key)
            self.log_change(request, key, "Revoked.")
        if keys:
            self.message_user(request, f"Revoked: {', '.join(map(str, keys))}.", messages.SUCCESS)
        return None

    def _active(self, request: HttpRequest, rows: QuerySet[ApiKey], *, or_expired: bool = False) -> list[ApiKey]:
        chosen = self.chosen(request, rows)
        keys = [it for it in chosen if it.revoked_at is None and (or_expired or self.state(it) == "active")]
        if chosen and not keys:
            self.message_user(request, "None of these keys is active.", messages.WARNING)
        return keys

    def _show_once(self, request: HttpRequest, made: Sequence[tuple[ApiKey, str]], *, title: str) -> TemplateResponse:
        """The one page that ever holds a secret: not by way of a redirect, which would have to store it."""
        response = self.page(request, "apikey/shown_once.html", {"title": title, "made": made})
        add_never_cache_headers(response)
        return response
