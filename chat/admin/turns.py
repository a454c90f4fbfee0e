from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from chat.admin.base import RecordAdmin, shown_model
from chat.admin.decisions import lines, name, parts
from chat.admin.filters import KeyFilter, OutcomeFilter, ProviderFilter
from chat.admin.paging import PageList
from chat.models import Session, TurnRecord

TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


class _Listed(Protocol):
    """What the list knows of a turn besides its row."""

    has_session: bool


class TurnList(PageList):
    def look_up(self, rows: Sequence[TurnRecord]) -> None:
        _find_sessions(rows)


def _find_sessions(rows: Sequence[TurnRecord]) -> None:
    uids = {row.session_uid for row in rows if row.session_uid}
    kept = set(Session.objects.filter(pk__in=uids).values_list("pk", flat=True)) if uids else set()
    for row in rows:
        cast(_Listed, row).has_session = row.session_uid in kept


@admin.register(TurnRecord)
class TurnRecordAdmin(RecordAdmin[TurnRecord]):
    list_display = (
        *("started", "outcome", "key", "owner", "answered_by", "start"),
        *("tokens", "cost", "took", "session"),
    )
    list_filter = (OutcomeFilter, ProviderFilter, ("started_at", admin.DateFieldListFilter), KeyFilter)
    list_select_related = ("key",)
    search_fields = ("id", "request_id", "session_uid")
    search_help_text = "The whole id of a turn, of a request (x-request-id) or of a session in the archive."
    sortable_by = ("started",)
    fieldsets = (
        (None, {"fields": ("started", "outcome", "key", "owner", "session", "id", "request_id", "session_uid")}),
        ("Where it went", {"fields": ("provider", "model", "route", "start", "tried", "order", "rejected")}),
        ("Time", {"fields": ("first_token_ms", "total_ms")}),
        (
            "Use",
            {"fields": (*TOKENS, "is_estimated", "cost_usd")},
        ),
    )
    readonly_fields = ("started", "session", "tried", "order", "rejected")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TurnList]:
        return TurnList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> TurnRecord | None:
        turn = super().get_object(request, object_id, from_field)
        _find_sessions([turn] if turn else [])
        return turn

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[TurnRecord], search_term: str
    ) -> tuple[QuerySet[TurnRecord], bool]:
        word = search_term.strip()
        if word:
            queryset = queryset.filter(Q(pk=word) | Q(request_id=word) | Q(session_uid=word))
        return queryset, False

    def has_delete_permission(self, request: HttpRequest, obj: TurnRecord | None = None) -> bool:
        return False

    @admin.display(description="time (UTC)", ordering="started_at")
    def started(self, turn: TurnRecord) -> str:
        return f"{turn.started_at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="provider, model")
    def answered_by(self, turn: TurnRecord) -> str:
        return shown_model(turn)

    @admin.display(description="first token / total ms")
    def took(self, turn: TurnRecord) -> str:
        first = "-" if turn.first_token_ms is None else f"{turn.first_token_ms:,}"
        return f"{first} / {turn.total_ms:,}"

    @admin.display(description="tokens in / out")
    def tokens(self, turn: TurnRecord) -> str:
        about = "~" if turn.is_estimated else ""
        return f"{about}{turn.input_tokens:,} / {turn.output_tokens:,}"

    @admin.display(description="cost", empty_value="unknown")
    def cost(self, turn: TurnRecord) -> str | None:
        return None if turn.cost_usd is None else f"${turn.cost_usd:.4f}"

    @admin.display(description="tried")
    def tried(self, turn: TurnRecord) -> str | None:
        return lines(f"{name(it)}: {it['code']} after {it['ms']} ms" for it in parts(turn, "attempts"))

    @admin.display(description="chosen, in this order")
    def order(self, turn: TurnRecord) -> str | None:
        return lines(name(it) for it in parts(turn, "choices"))

    @admin.display(description="rejected")
    def rejected(self, turn: TurnRecord) -> str | None:
        return lines(f"{it['name']}: {it['why']}" for it in parts(turn, "rejected"))

    @admin.display(description="session")
    def session(self, turn: TurnRecord) -> str | None:
        if not cast(_Listed, turn).has_session:
            return None
        url = reverse(f"{self.admin_site.name}:chat_session_change", args=(turn.session_uid,))
        return format_html('<a href="{}">open</a>', url)
