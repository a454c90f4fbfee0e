from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from chat.admin.base import is_confirmed, shown_model, shown_time
from chat.admin.filters import OwnerFilter, ProviderFilter
from chat.admin.live_pages import ERASE_NOTES, TITLE, LivePages
from chat.admin.transcript import About, ArchivedLines, export
from chat.models import Session


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("live", "live"), ("expired", "expired"), ("deleted", "deleted")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Session]) -> QuerySet[Session]:
        asked = {
            "live": Q(deleted_at=None, expires_at__gt=timezone.now()),
            "expired": Q(deleted_at=None, expires_at__lte=timezone.now()),
            "deleted": Q(deleted_at__isnull=False),
        }
        return queryset.filter(asked.get(self.value() or "", Q()))


@admin.register(Session)
class SessionAdmin(LivePages):
    """The archive; where it is off, what Redis holds."""

    list_display = ("shown_title", "session_id", "owner", "answered_by", "messages", "state", "updated", "expires")
    list_filter = (StateFilter, ProviderFilter, ("updated_at", admin.DateFieldListFilter), OwnerFilter)
    search_fields = ("session_id", "title")
    search_help_text = "How the session id or the title begins, or the whole name of an owner."
    sortable_by = ("updated",)
    actions = ("erase",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        # A system prompt may be long, and the list does not show it.
        return super().get_queryset(request).defer("system")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Session], search_term: str
    ) -> tuple[QuerySet[Session], bool]:
        word = search_term.strip()
        if word:
            begins = Q(session_id__startswith=word) | Q(title__istartswith=word)
            queryset = queryset.filter(begins | Q(owner=word) | Q(pk=word))
        return queryset, False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.export_view)
        export_url = path("<path:object_id>/export/", view, name="chat_session_export")
        return [*self.live_urls(), export_url, *super().get_urls()]

    # --- what is shown

    @admin.display(description="title")
    def shown_title(self, row: Session) -> str:
        return row.title or ("(erased)" if row.deleted_at else row.session_id)

    @admin.display(description="state")
    def state(self, row: Session) -> str:
        if row.deleted_at:
            return "deleted"
        return "live" if row.expires_at > timezone.now() else "expired"

    @admin.display(description="provider, model")
    def answered_by(self, row: Session) -> str:
        return shown_model(row)

    @admin.display(description="messages")
    def messages(self, row: Session) -> int:
        return row.message_count

    @admin.display(description="updated", ordering="updated_at")
    def updated(self, row: Session) -> str | None:
        return shown_time(row.updated_at)

    @admin.display(description="expires")
    def expires(self, row: Session) -> str | None:
        return shown_time(row.expires_at)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        is_off = not settings.HUB_SESSION_ARCHIVE
        if is_off and request.method == "GET" and not Session.objects.exists():
            return self.live_list(request)
        return super().changelist_view(request, {"archive_is_off": is_off, **(extra_context or {})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The conversation, which nobody may change."""
        row = self._row(request, object_id)
        if row is None:
            return self.gone(request)
        urls = {name: self.url(name, row.pk) for name in ("export", "history", "delete")}
        turns = f"{reverse(f'{self.admin_site.name}:chat_turnrecord_changelist')}?{urlencode({'q': row.pk})}"
        context = {"about": About.of_row(row), "state": self.state(row), **urls, "turns": turns}
        return self.transcript(request, ArchivedLines(row), context)

    def export_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        row = self._row(request, object_id)
        return export(request, About.of_row(row), ArchivedLines(row)) if row else self.gone(request)

    def _row(self, request: HttpRequest, object_id: str) -> Session | None:
        self.require(request, "view")
        return Session.objects.filter(pk=unquote(object_id)).first()

    # --- erasing

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The question only: what it sends is the list's action."""
        self.require(request, "delete")
        rows = list(Session.objects.filter(pk=unquote(object_id), deleted_at=None))
        return self.ask(request, "erase", rows, title=TITLE, notes=ERASE_NOTES) if rows else self.gone(request)

    @admin.action(description="Erase: delete the text for good", permissions=["delete"])
    def erase(self, request: HttpRequest, queryset: QuerySet[Session]) -> HttpResponse | None:
        chosen = self.chosen(request, queryset)
        rows = [row for row in chosen if row.deleted_at is None]
        if rows and not is_confirmed(request):
            return self.ask(request, "erase", rows, title=TITLE, notes=ERASE_NOTES)
        if chosen:
            self.erase_all(request, [(row.owner, row.session_id) for row in rows])
        return None
