"""What the pages have in common: records nobody may edit, and a question before what can't be undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

from chat.admin.paging import BoundedPaginator
from chat.models import Session, TurnRecord

M = TypeVar("M", bound=Model)

if TYPE_CHECKING:

    class BaseAdmin(admin.ModelAdmin[M]): ...

    Actions = dict[str, tuple[Callable[..., str], str, str] | None]
else:
    from unfold.admin import ModelAdmin

    class BaseAdmin(ModelAdmin):
        def __class_getitem__(cls, model: type[Model]) -> type[BaseAdmin]:
            return cls


# What an action may do at a time, so that its request comes to an end.
MOST_AT_ONCE = 500


class ListAdmin(BaseAdmin[M]):
    """Lists that stay fast whatever there is."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    list_max_show_all = 0

    def get_actions(self, request: HttpRequest) -> Actions:
        actions: Actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        """A page of this model beside Django's own."""
        request.current_app = self.admin_site.name
        whole = {**self.admin_site.each_context(request), "opts": self.opts, **context}
        return TemplateResponse(request, f"admin/chat/{template}", whole)

    def changelist_url(self) -> str:
        return reverse(f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def chosen(self, request: HttpRequest, rows: QuerySet[M]) -> list[M]:
        """The rows an action is for; none, with a message, if they are too many for one request."""
        found = list(rows[: MOST_AT_ONCE + 1])
        if len(found) <= MOST_AT_ONCE:
            return found
        self.message_user(request, f"Choose at most {MOST_AT_ONCE} at a time. Nothing was done.", messages.ERROR)
        return []

    def ask(
        self, request: HttpRequest, action: str, rows: Sequence[Model], *, title: str, notes: Sequence[str]
    ) -> TemplateResponse:
        """Have an action confirmed: the page sends it once more."""
        is_list = request.method == "POST" and request.path == self.changelist_url()
        target = request.get_full_path() if is_list else self.changelist_url()
        hidden = [("action", action), *((ACTION_CHECKBOX_NAME, str(row.pk)) for row in rows)]
        context = {"title": title, "notes": notes, "rows": rows, "hidden": hidden, "target": target}
        return self.page(request, "confirm.html", context)


class RecordAdmin(ListAdmin[M]):
    """Rows that the hub alone writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False


def shown_time(moment: datetime | None) -> str | None:
    """Short, in UTC like all times here, so that a list has room for it."""
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def shown_model(row: Session | TurnRecord) -> str:
    return ", ".join(filter(None, (row.provider, row.model)))


def is_confirmed(request: HttpRequest) -> bool:
    return request.POST.get("confirmed") == "yes"
